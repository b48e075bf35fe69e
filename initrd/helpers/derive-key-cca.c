/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sealing key of an Arm CCA realm under Islet's monitor; no part of Arm's RMM specification.
 *
 * Spec: islet-project/linux-rsi rsi.h and rsi.c (the device, its requests and its errors), islet-project/islet
 * rmm/src/rsi/sealing.rs and the document on sealing keys (RSI_ISLET_REALM_SEALING_KEY: flags, SVN, 32 bytes).
 */
#define _DEFAULT_SOURCE
#include "derive-key.h"

#include <errno.h>
#include <linux/ioctl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* RsiIsletSealingFlags. The realm's signing key is always mixed in, or its RIM when it has no metadata. */
enum {
    KEY = 1 << 0, /* of the firmware's measurements, not of its maker */
    RIM = 1 << 1,
    REALM_ID = 1 << 2,
    SVN = 1 << 3,
};

struct sealing_key {
    uint64_t flags;
    uint64_t svn;
    uint8_t key[SOURCE_SIZE];
};

#define GET_SEALING_KEY _IOWR('x', 200, struct sealing_key)

_Static_assert(sizeof(struct sealing_key) == 48, "struct rsi_sealing_key");

/* rsi.c, rsi_ret_to_errno: EFAULT stands for RSI_ERROR_INPUT, EBADF for RSI_ERROR_STATE, ENXIO for anything else. */
static enum ending no_answer(int error) {
    switch (error) {
        case EAGAIN:
        case EBUSY:
        case EINTR:
        case ENOMEM:
            complain("rsi: the driver is busy (%s)", strerror(error));
            return TEMPORARY;
        case EINVAL:
        case ENOTTY:
        case ENXIO:
            complain("rsi: the driver or the monitor has no sealing keys (%s); they need Islet's", strerror(error));
            return NOT_APPLICABLE;
        default:
            complain("rsi: the monitor refuses a key (%s); is the SVN above that of the realm's metadata?",
                     strerror(error));
            return DENIED;
    }
}

enum ending cca_key(const char *flags, uint8_t key[SOURCE_SIZE]) {
    struct sealing_key call = {0};
    const struct choice choices[] = {
        {.name = "key", .bit = KEY},
        {.name = "rim", .bit = RIM},
        {.name = "realm-id", .bit = REALM_ID},
        /* The document refuses an SVN of 0, the monitor's code does not; none of ours has it. */
        {.name = "svn", .bit = SVN, .number = &call.svn, .least = 1, .most = UINT64_MAX},
    };
    if (strcmp(flags, "none") &&
        read_choices("FLAGS", flags, choices, sizeof choices / sizeof *choices, &call.flags)) {
        return MALFORMED;
    }
    int device = open_device("GOLDSMITH_RSI", "/dev/rsi");
    if (device < 0) {
        return no_device("/dev/rsi", "realms of Islet");
    }
    errno = 0;
    int result = ioctl(device, GET_SEALING_KEY, &call);
    /* The driver returns the number of bytes that it could not copy as it is. */
    enum ending ending = result ? no_answer(result < 0 ? errno : EIO) : GIVEN;
    if (ending == GIVEN) {
        memcpy(key, call.key, SOURCE_SIZE);
    }
    close(device);
    explicit_bzero(&call, sizeof call);
    return ending;
}
