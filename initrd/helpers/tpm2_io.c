/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tpm2_io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ST_NO_SESSIONS = 0x8001,
    ST_SESSIONS = 0x8002,
    HEADER_SIZE = 10, /* tag, size, code: of a command and of a response */
    CC_FLUSH_CONTEXT = 0x165,
    /* Longest time that a TPM may think: RSA keys take tens of seconds on slow ones. The driver's own limit on a
     * provider is shorter, this one is for a device that never answers. */
    PATIENCE_MS = 120000,
    /* TPM_RC_RETRY asks for the same command again. Linux sends it again by itself; a bare TPM is asked this often. */
    MAX_RETRIES = 40,
    RETRY_MS = 50,
    RC_RETRY = 0x922,
    RC_LOCKOUT = 0x921,
    MAX_LOADED = 8,
    MAX_WIPED = 4,
};

static struct {
    int fd;
    bool dead; /* it gave no proper response, so it is not spoken to any more */
    uint32_t loaded[MAX_LOADED];
    size_t loaded_count;
} device = {.fd = -1};

static struct {
    uint8_t data[BUFFER_SIZE];
    size_t size;
} response;

static struct {
    void *memory;
    size_t size;
} wiped[MAX_WIPED];

void wipe_at_end(void *memory, size_t size) {
    for (size_t i = 0; i < MAX_WIPED; i++) {
        if (!wiped[i].memory) {
            wiped[i].memory = memory;
            wiped[i].size = size;
            return;
        }
    }
    stop(BROKEN, "more secrets than places to remember them; this is a bug");
}

/* Waits for something to read; NULL, or what is wrong. */
static const char *wait_answer(void) {
    struct pollfd waiting = {.fd = device.fd, .events = POLLIN};
    int ready;

    do {
        ready = poll(&waiting, 1, PATIENCE_MS);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) return "no answer within 120 s";
    return ready < 0 ? strerror(errno) : NULL;
}

/* One command out of `command`, one response into `response`; NULL, or what is wrong. The device wants a command in
 * one write; a response usually comes in one read, and over a terminal in several. */
static const char *exchange(void) {
    size_t done = 0, have = 0, want = HEADER_SIZE;

    while (done < command.size) {
        ssize_t wrote = write(device.fd, command.data + done, command.size - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return strerror(errno);
        done += (size_t)wrote;
    }
    while (have < want) {
        const char *problem = wait_answer();
        if (problem) return problem;
        ssize_t got = read(device.fd, response.data + have, sizeof response.data - have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return strerror(errno);
        if (got == 0) return "a response that is cut short";
        have += (size_t)got;
        if (have >= HEADER_SIZE) want = read32(response.data + 2);
        if (want < HEADER_SIZE || want > sizeof response.data) return "a response with an impossible size";
    }
    if (have != want) return "more bytes than its response has";
    response.size = want;
    return NULL;
}

/* Puts the tag and the size into the header. */
static void seal_header(void) {
    uint16_t tag = command.sessions ? ST_SESSIONS : ST_NO_SESSIONS;

    command.data[0] = (uint8_t)(tag >> 8);
    command.data[1] = (uint8_t)tag;
    for (int i = 0; i < 4; i++) command.data[2 + i] = (uint8_t)(command.size >> (24 - 8 * i));
}

/* The same, again while the TPM asks for that. */
static const char *exchange_patiently(void) {
    const char *problem = exchange();

    for (int i = 0; i < MAX_RETRIES && !problem && read32(response.data + 6) == RC_RETRY; i++) {
        poll(NULL, 0, RETRY_MS);
        problem = exchange();
    }
    return problem;
}

static void release(void) {
    /* Linux flushes by itself when /dev/tpmrm0 is closed; a TPM without a resource manager does not. */
    while (device.fd >= 0 && !device.dead && device.loaded_count) {
        tpm_begin(CC_FLUSH_CONTEXT, "FlushContext");
        put32(device.loaded[--device.loaded_count]);
        seal_header();
        device.dead = exchange() != NULL;
    }
    explicit_bzero(command.data, sizeof command.data);
    explicit_bzero(response.data, sizeof response.data);
    for (size_t i = 0; i < MAX_WIPED; i++) {
        if (wiped[i].memory) explicit_bzero(wiped[i].memory, wiped[i].size);
    }
}

_Noreturn void stop(enum status code, const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    fputs("tpm2: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    release();
    exit(code);
}

_Noreturn void finish(void) {
    if (fflush(stdout)) stop(BROKEN, "standard output: %s", strerror(errno));
    release();
    exit(DONE);
}

void tpm_open(void) {
    const char *path = getenv("GOLDSMITH_TPM");

    if (!path || !*path) path = "/dev/tpmrm0";
    device.fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (device.fd >= 0) return;
    enum status code = errno == EBUSY ? NOT_NOW : NOT_HERE;
    stop(code, "%s: %s; give the machine a TPM 2.0", path, strerror(errno));
}

/* Format one has in bits 6 and 8 to 11 which parameter, handle or session it is about (part 2 section 6.6.2). */
static uint32_t plain_code(uint32_t code) {
    return code & 0x80 ? code & ~0xF40u : code;
}

/* Codes that mean: the same command may work later. Memory and contexts are others' to free. */
static bool is_later(uint32_t code) {
    switch (code) {
    case 0x901: /* TPM_RC_CONTEXT_GAP */
    case 0x902: /* TPM_RC_OBJECT_MEMORY */
    case 0x903: /* TPM_RC_SESSION_MEMORY */
    case 0x904: /* TPM_RC_MEMORY */
    case 0x905: /* TPM_RC_SESSION_HANDLES */
    case 0x906: /* TPM_RC_OBJECT_HANDLES */
    case 0x908: /* TPM_RC_YIELDED */
    case 0x909: /* TPM_RC_CANCELED */
    case 0x90A: /* TPM_RC_TESTING */
    case 0x920: /* TPM_RC_NV_RATE */
    case RC_LOCKOUT:
    case RC_RETRY:
    case 0x923: /* TPM_RC_NV_UNAVAILABLE */
        return true;
    default:
        return false;
    }
}

uint32_t tpm_try(uint32_t *handle, struct answer *answer) {
    static struct answer ignored;

    if (command.full) stop(MALFORMED, "TPM2_%s: a parameter is too large for a command", command.name);
    seal_header();
    const char *problem = exchange_patiently();
    if (problem) {
        device.dead = true;
        stop(BROKEN, "TPM2_%s: the TPM gave %s", command.name, problem);
    }
    uint32_t tag = read16(response.data), raw = read32(response.data + 6), code = plain_code(raw);
    if (code == RC_LOCKOUT) stop(NOT_NOW, "the TPM is in lockout after wrong passwords; wait, or reset it");
    if (is_later(code)) stop(NOT_NOW, "TPM2_%s: the TPM says not now (%#x)", command.name, raw);
    if (code) return code;
    if (tag != (command.sessions ? ST_SESSIONS : ST_NO_SESSIONS)) {
        stop(BROKEN, "TPM2_%s: the response has tag %#x; the TPM is broken", command.name, (unsigned)tag);
    }
    if (!answer) answer = &ignored;
    answer->data = response.data + HEADER_SIZE;
    answer->left = response.size - HEADER_SIZE;
    if (handle) {
        *handle = take32(answer);
        if (device.loaded_count == MAX_LOADED) stop(BROKEN, "too many objects are loaded; this is a bug");
        device.loaded[device.loaded_count++] = *handle;
    }
    if (command.sessions) {
        size_t size = take32(answer);
        if (size > answer->left) cut_short();
        answer->left = size; /* the authorizations behind them say nothing: no session here has a key */
    }
    return 0;
}

void tpm_refused(uint32_t code) {
    if (code == RC_BAD_AUTH) {
        stop(DENIED, "TPM2_%s: a hierarchy of this TPM has a password; clear the TPM", command.name);
    }
    stop(BROKEN, "TPM2_%s: the TPM answered %#x", command.name, code);
}

void tpm_do(uint32_t *handle, struct answer *answer) {
    uint32_t code = tpm_try(handle, answer);

    if (code) tpm_refused(code);
}

void tpm_flush(uint32_t handle) {
    for (size_t i = 0; i < device.loaded_count; i++) {
        if (device.loaded[i] != handle) continue;
        device.loaded[i] = device.loaded[--device.loaded_count];
        tpm_begin(CC_FLUSH_CONTEXT, "FlushContext");
        put32(handle);
        tpm_do(NULL, NULL);
        return;
    }
}
