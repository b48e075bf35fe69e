/* SPDX-License-Identifier: Apache-2.0 */
/*: sources derive-key-snp.c derive-key-cca.c process.c sha256.c */
/*
 * A volume key that needs no storage: the hardware derives it from a secret of its own and from what it measured.
 *
 *   derive-key snp FIELDS ROOT VMPL INFO
 *   derive-key cca FLAGS INFO
 *
 * Descriptor 3 gets 64 bytes: HKDF-SHA256 (RFC 5869, no salt) of what the hardware gave, with INFO, which is
 * different for each volume, behind a text of ours. The end codes are those of an unlock provider.
 *
 * Spec-only: written from documents and drivers' sources; neither kind of hardware was there to try it on.
 */
#define _DEFAULT_SOURCE
#include "derive-key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process.h"
#include "sha256.h"

enum { KEY_DESCRIPTOR = 3, VOLUME_KEY_SIZE = 64, INFO_MAX = 256 };

/* Changes when the derivation does: an old volume then stays closed instead of being read with another key. */
static const char PURPOSE[] = "goldsmith volume key 1";

void complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("derive-key: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

int read_number(const char *text, size_t size, uint64_t least, uint64_t most, uint64_t *number) {
    uint64_t base = 10, value = 0;
    if (size > 2 && text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
        size -= 2;
    }
    if (!size) {
        return -1;
    }
    for (size_t index = 0; index < size; index++) {
        static const char digits[] = "0123456789abcdef";
        const char *found = text[index] ? strchr(digits, text[index]) : NULL;
        if (!found || (uint64_t)(found - digits) >= base) {
            return -1;
        }
        uint64_t digit = (uint64_t)(found - digits);
        if (value > (UINT64_MAX - digit) / base) {
            return -1;
        }
        value = value * base + digit;
    }
    if (value < least || value > most) {
        return -1;
    }
    *number = value;
    return 0;
}

/* The choice that a word of a list names, or NULL. */
static const struct choice *find_choice(const char *word, size_t size, const struct choice *choices, size_t count) {
    for (size_t index = 0; index < count; index++) {
        if (strlen(choices[index].name) == size && !memcmp(choices[index].name, word, size)) {
            return choices + index;
        }
    }
    return NULL;
}

int read_choices(const char *where, const char *text, const struct choice *choices, size_t count, uint64_t *bits) {
    *bits = 0;
    for (;;) {
        size_t size = strcspn(text, ","), name = strcspn(text, ",=");
        int shown = size < 40 ? (int)size : 40;
        const struct choice *choice = find_choice(text, name, choices, count);
        if (!choice) {
            char known[128] = "";
            for (size_t index = 0, end = 0; index < count && end < sizeof known; index++) {
                end += (size_t)snprintf(known + end, sizeof known - end, " %s", choices[index].name);
            }
            complain("%s: '%.*s' is not known; known are%s", where, shown, text, known);
            return -1;
        }
        if (*bits & choice->bit) {
            complain("%s: %s is there twice; name it once", where, choice->name);
            return -1;
        }
        if (!choice->number && name != size) {
            complain("%s: %s takes no number; write %s alone", where, choice->name, choice->name);
            return -1;
        }
        if (choice->number && (name == size || read_number(text + name + 1, size - name - 1, choice->least,
                                                           choice->most, choice->number))) {
            complain("%s: '%.*s' lacks its number; write %s=NUMBER, %llu to %llu", where, shown, text, choice->name,
                     (unsigned long long)choice->least, (unsigned long long)choice->most);
            return -1;
        }
        *bits |= choice->bit;
        if (!text[size]) {
            return 0;
        }
        text += size + 1;
    }
}

int open_device(const char *variable, const char *path) {
    const char *other = getenv(variable);
    return open(other ? other : path, O_RDWR | O_CLOEXEC);
}

enum ending no_device(const char *path, const char *who) {
    /* A driver that serves one process at a time says so here. */
    enum ending ending = errno == EBUSY || errno == EINTR ? TEMPORARY : NOT_APPLICABLE;
    complain("%s: %s; this provider is for %s", path, strerror(errno), who);
    return ending;
}

int is_set(const uint8_t key[SOURCE_SIZE]) {
    uint8_t any = 0;
    for (size_t index = 0; index < SOURCE_SIZE; index++) {
        any |= key[index];
    }
    return any != 0;
}

static int write_key(const uint8_t *key, size_t size) {
    while (size) {
        ssize_t count = write(KEY_DESCRIPTOR, key, size);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            complain("descriptor 3: %s; open it for writing", strerror(errno));
            return -1;
        }
        key += count;
        size -= (size_t)count;
    }
    return 0;
}

/* Writes the volume key that follows from a key of the hardware. */
static enum ending expand(const uint8_t source[SOURCE_SIZE], const char *volume) {
    uint8_t key[VOLUME_KEY_SIZE];
    char info[sizeof PURPOSE + INFO_MAX];
    int length = snprintf(info, sizeof info, "%s%s", PURPOSE, volume);
    if (length < 0 || (size_t)length >= sizeof info ||
        hkdf_sha256(NULL, 0, source, SOURCE_SIZE, info, (size_t)length, key, sizeof key)) {
        complain("INFO: does not fit; give 1 to %d bytes", INFO_MAX);
        return MALFORMED;
    }
    int failed = write_key(key, sizeof key);
    explicit_bzero(key, sizeof key);
    return failed ? MALFORMED : GIVEN;
}

int main(int count, char **words) {
    keep_private();
    int snp = count == 6 && !strcmp(words[1], "snp");
    int cca = count == 4 && !strcmp(words[1], "cca");
    if (!snp && !cca) {
        complain("usage: derive-key snp FIELDS ROOT VMPL INFO | derive-key cca FLAGS INFO");
        return MALFORMED;
    }
    const char *info = words[count - 1];
    size_t length = strlen(info);
    if (!length || length > INFO_MAX) {
        complain("INFO: %zu bytes; give 1 to %d", length, INFO_MAX);
        return MALFORMED;
    }
    /* A closed descriptor 3 would become the device, and the key would be written to that. */
    if (fcntl(KEY_DESCRIPTOR, F_GETFD) < 0) {
        complain("descriptor 3: %s; open it for writing", strerror(errno));
        return MALFORMED;
    }
    uint8_t source[SOURCE_SIZE] = {0};
    enum ending ending = snp ? snp_key(words[2], words[3], words[4], source) : cca_key(words[2], source);
    if (ending == GIVEN && !is_set(source)) {
        complain("%s: the hardware gave a key of zeros, which is no secret; report it to its maker", words[1]);
        ending = DENIED;
    }
    if (ending == GIVEN) {
        ending = expand(source, info);
    }
    explicit_bzero(source, sizeof source);
    return (int)ending;
}
