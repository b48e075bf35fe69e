/* SPDX-License-Identifier: Apache-2.0 */
/* What every program does that has a key in its memory. */
#include "process.h"

#include <sys/prctl.h>
#include <sys/resource.h>

void keep_private(void) {
    static const struct rlimit none = {0, 0};

    /* No other process of this user looks into this one, and the kernel writes no dump of it (proc(5), core(5)). The
     * sanitizer's search for leaks traces the process that it is in, and programs that are built with it are tests. */
#ifndef __SANITIZE_ADDRESS__
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
    /* What it starts is dumpable again (execve(2)), and inherits this. */
    setrlimit(RLIMIT_CORE, &none);
}
