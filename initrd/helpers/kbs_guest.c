/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's side of an attestation: files, and the helper that talks to the TPM. */
#include "kbs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_PATH = 512 };

extern char **environ;

/* `folder/name`, or `folder` alone where there is no name. */
static bool join(char path[MAX_PATH], const char *folder, const char *name)
{
    int size = name ? snprintf(path, MAX_PATH, "%s/%s", folder, name) : snprintf(path, MAX_PATH, "%s", folder);

    return size > 0 && size < MAX_PATH;
}

int file_read(const char *folder, const char *name, void *data, size_t limit, size_t *size)
{
    char path[MAX_PATH];

    *size = 0;
    if (!join(path, folder, name))
        return MALFORMED;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (file < 0)
        return errno == ENOENT ? ABSENT : DENIED;
    /* Files of the kernel have no size before they are read, so the end is where nothing comes any more. */
    int outcome = DONE;
    for (;;) {
        unsigned char beyond;
        bool room = *size < limit;
        ssize_t some = read(file, room ? (unsigned char *)data + *size : &beyond, room ? limit - *size : 1);
        if (some < 0 && errno == EINTR)
            continue;
        if (some < 0 || (some > 0 && !room))
            outcome = DENIED;
        if (some <= 0 || outcome != DONE)
            break;
        *size += (size_t)some;
    }
    close(file);
    return outcome;
}

int file_write(const char *folder, const char *name, const void *data, size_t size)
{
    char path[MAX_PATH];

    if (!join(path, folder, name))
        return MALFORMED;
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool fine = file >= 0 && write(file, data, size) == (ssize_t)size;
    if (file >= 0 && close(file) != 0)
        fine = false;
    return fine ? DONE : DENIED;
}

/* Exit code of a child; what is no code of the contract counts as a refusal. */
static int judge_child(const char *what, int status)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

    switch (code) {
    case DONE:
        return DONE;
    case LATER:
    case DENIED:
    case ABSENT:
    case MALFORMED:
        say("tpm2 %s ended with %d", what, code);
        return code;
    }
    if (WIFSIGNALED(status))
        say("tpm2 %s was ended by signal %d", what, WTERMSIG(status));
    else
        say("tpm2 %s ended with %d, which means nothing here", what, code);
    return DENIED;
}

/* Waits for a child until the deadline, then ends it. */
static int wait_child(int64_t deadline, const char *what, pid_t child)
{
    int status = 0, ready;
    struct pollfd watched = {.fd = pidfd_open(child, 0), .events = POLLIN};

    /* Without the descriptor poll() just waits, and the child has run out of time at the end. */
    do {
        ready = poll(&watched, 1, left_ms(deadline));
    } while (ready < 0 && errno == EINTR);
    if (ready <= 0)
        kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (watched.fd >= 0)
        close(watched.fd);
    if (ready <= 0) {
        say("tpm2 %s did not end in time; see whether the TPM answers", what);
        return LATER;
    }
    return judge_child(what, status);
}

int tpm2_run(int64_t deadline, const char *const arguments[])
{
    const char *folder = getenv("GOLDSMITH_LIB");
    char path[MAX_PATH], *argv[8] = {path};
    posix_spawn_file_actions_t files;
    pid_t child;

    if (!join(path, folder ? folder : "/usr/lib/goldsmith", "tpm2"))
        return MALFORMED;
    for (size_t at = 0; arguments[at] != NULL && at < 6; at++)
        argv[at + 1] = (char *)(uintptr_t)arguments[at];
    /* Standard output is nobody's here, and descriptor 3 closes by itself: the key's way out is not the child's. */
    if (posix_spawn_file_actions_init(&files) != 0)
        return LATER;
    int error = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    if (error == 0)
        error = posix_spawn_file_actions_adddup2(&files, 2, 1);
    if (error == 0)
        error = posix_spawn(&child, path, &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    if (error != 0) {
        say("%s does not start: %s; build the image again", path, strerror(error));
        return MALFORMED;
    }
    return wait_child(deadline, arguments[0], child);
}

size_t certificates_split(const unsigned char *data, size_t size, const unsigned char *parts[], size_t sizes[])
{
    size_t count = 0;

    /* A SEQUENCE with its length in two bytes: every certificate is longer than 255 bytes. What follows the last one is
     * the padding of an NV index. Spec: X.690 section 8.1.3; TCG EK Credential Profile 2.5 section 2.2.1.4. */
    while (count < MAX_CERTIFICATES && size >= 4 && data[0] == 0x30 && data[1] == 0x82) {
        size_t whole = 4 + ((size_t)data[2] << 8 | data[3]);
        if (whole > size || whole > MAX_CERTIFICATE)
            break;
        parts[count] = data;
        sizes[count++] = whole;
        data += whole;
        size -= whole;
    }
    return count;
}
