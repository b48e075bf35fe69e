/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into derive-key by its tests: answers ioctl in place of a driver that this machine has not.
 *
 *   SHIM_LOG       a file that gets a line for each call: the request in hex, the bytes of its argument up to the
 *                  answer, and for an SEV-SNP request those of the message that it points to
 *   SHIM_ERRNO     the number of the error to end with, or nothing
 *   SHIM_RESULT    what the call returns instead of 0
 *   SHIM_EXITINFO  what an SEV-SNP driver stores as exitinfo2
 *   SHIM_ANSWER    hex digits: the message an SEV-SNP guest gets, or a realm's sealing key
 *
 * Requests and layouts stand here as numbers, apart from the headers that the program is compiled with.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SNP_GET_DERIVED_KEY 0xc0205301ul /* 32 bytes, 'S', 1 */
#define RSIIO_SEALING_KEY 0xc03078c8ul   /* 48 bytes, 'x', 200 */

static void show(FILE *log, const uint8_t *bytes, size_t size) {
    fputc(' ', log);
    for (size_t index = 0; index < size; index++) {
        fprintf(log, "%02x", bytes[index]);
    }
}

static void answer(uint8_t *target, size_t room) {
    const char *digits = getenv("SHIM_ANSWER");
    for (size_t index = 0; digits && digits[2 * index] && index < room; index++) {
        unsigned byte = 0;
        sscanf(digits + 2 * index, "%2x", &byte);
        target[index] = (uint8_t)byte;
    }
}

static uint64_t word(const char *name) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : 0;
}

int ioctl(int device, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    uint8_t *argument = va_arg(rest, uint8_t *);
    va_end(rest);
    FILE *log = fopen(getenv("SHIM_LOG"), "a");
    if (!log || device < 0) {
        abort();
    }
    fprintf(log, "%08lx", request);
    int error = (int)word("SHIM_ERRNO");
    if (request == SNP_GET_DERIVED_KEY) {
        uint64_t addresses[2], exitinfo = word("SHIM_EXITINFO");
        memcpy(addresses, argument + 8, sizeof addresses);
        show(log, argument, 8);
        show(log, (const uint8_t *)(uintptr_t)addresses[0], 32);
        memcpy(argument + 24, &exitinfo, sizeof exitinfo);
        if (!error) {
            answer((uint8_t *)(uintptr_t)addresses[1], 64);
        }
    } else if (request == RSIIO_SEALING_KEY) {
        show(log, argument, 16);
        if (!error) {
            answer(argument + 16, 32);
        }
    } else {
        error = ENOTTY;
    }
    fputc('\n', log);
    fclose(log);
    if (error) {
        errno = error;
        return -1;
    }
    return (int)word("SHIM_RESULT");
}
