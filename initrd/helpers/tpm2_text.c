/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tpm2_text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char DIGITS[] = "0123456789abcdef";

/* Where a character stands in an alphabet, or -1; the NUL at its end is none of them. */
static int place(const char *alphabet, char character) {
    const char *found = character ? strchr(alphabet, character) : NULL;
    return found ? (int)(found - alphabet) : -1;
}

bool from_hex(const char *text, uint8_t *to, size_t size) {
    if (strlen(text) != 2 * size) return false;
    for (size_t i = 0; i < size; i++) {
        int high = place(DIGITS, text[2 * i]), low = place(DIGITS, text[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        to[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

void print_hex(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < size; i++) printf("%02x", (unsigned)data[i]);
    putchar('\n');
}

void to_base64(const uint8_t *data, size_t size, char *text) {
    for (size_t i = 0; i < size; i += 3) {
        size_t more = size - i;
        uint32_t group = (uint32_t)data[i] << 16;
        if (more > 1) group |= (uint32_t)data[i + 1] << 8;
        if (more > 2) group |= data[i + 2];
        *text++ = ALPHABET[group >> 18];
        *text++ = ALPHABET[group >> 12 & 63];
        *text++ = more > 1 ? ALPHABET[group >> 6 & 63] : '=';
        *text++ = more > 2 ? ALPHABET[group & 63] : '=';
    }
}

bool from_base64(const char *text, size_t length, uint8_t *to, size_t room, size_t *size) {
    *size = 0;
    if (!length || length % 4) return false;
    for (size_t i = 0; i < length; i += 4) {
        uint32_t group = 0;
        size_t missing = 0; /* only the last group has padding, one or two */
        if (i + 4 == length) missing = (text[i + 3] == '=') + (size_t)(text[i + 3] == '=' && text[i + 2] == '=');
        for (size_t j = 0; j < 4; j++) {
            int value = j < 4 - missing ? place(ALPHABET, text[i + j]) : 0;
            if (value < 0) return false;
            group = group << 6 | (uint32_t)value;
        }
        /* Bits that no encoder sets: one content has one spelling. */
        if (group & ((1u << 8 * missing) - 1)) return false;
        for (size_t j = 0; j < 3 - missing; j++) {
            if (*size == room) return false;
            to[(*size)++] = (uint8_t)(group >> (16 - 8 * j));
        }
    }
    return true;
}

uint64_t number(const char *text, uint64_t most, const char *what) {
    uint64_t value = 0;
    bool good = *text != '\0';

    for (const char *digit = text; good && *digit; digit++) {
        int each = place("0123456789", *digit);
        good = each >= 0 && (uint64_t)each <= most && value <= (most - (uint64_t)each) / 10;
        if (good) value = 10 * value + (uint64_t)each;
    }
    if (!good) stop(MALFORMED, "%s is not a whole number up to %llu", what, (unsigned long long)most);
    return value;
}

uint32_t nv_handle(const char *text) {
    uint8_t bytes[4];
    char digits[9] = "00000000";
    size_t length = strlen(text);

    if (length > 2 && length <= 10 && text[0] == '0' && text[1] == 'x') {
        memcpy(digits + 10 - length, text + 2, length - 2);
        if (from_hex(digits, bytes, sizeof bytes) && bytes[0] == 1) {
            return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
        }
    }
    stop(MALFORMED, "the handle is not one of an NV index, 0x1000000 to 0x1ffffff in lower case");
}

uint16_t bank_algorithm(const char *name, size_t length) {
    static const struct {
        const char *name;
        uint16_t algorithm;
    } BANKS[] = {{"sha1", ALG_SHA1}, {"sha256", ALG_SHA256}, {"sha384", ALG_SHA384}, {"sha512", ALG_SHA512}};

    for (size_t i = 0; i < sizeof BANKS / sizeof *BANKS; i++) {
        if (length == strlen(BANKS[i].name) && !memcmp(name, BANKS[i].name, length)) return BANKS[i].algorithm;
    }
    stop(MALFORMED, "the bank is not one of sha1, sha256, sha384, sha512");
}

/* One register in decimal, up to the comma, plus sign or end at `end`. */
static unsigned one_register(const char *text, const char **end) {
    unsigned value = 0;
    size_t digits = 0;

    for (; place("0123456789", text[digits]) >= 0 && digits < 3; digits++) {
        value = 10 * value + (unsigned)place("0123456789", text[digits]);
    }
    *end = text + digits;
    if (!digits || value >= PCR_COUNT) stop(MALFORMED, "a register is not a number from 0 to %d", PCR_COUNT - 1);
    return value;
}

/* Adds registers until something else than a comma follows, and gives where that is. */
static const char *registers(struct selection *selection, const char *list) {
    for (;; list++) {
        unsigned value = one_register(list, &list);
        uint8_t bit = (uint8_t)(1u << value % 8);
        if (selection->bits[value / 8] & bit) stop(MALFORMED, "PCR %u is named twice", value);
        selection->bits[value / 8] |= bit;
        if (*list != ',') return list;
    }
}

void add_registers(struct selection *selection, const char *list) {
    if (*registers(selection, list)) stop(MALFORMED, "the registers are not numbers with commas between them");
}

size_t selections(const char *text, struct selection *found) {
    for (size_t count = 0; count < MAX_BANKS;) {
        struct selection *each = &found[count++];
        const char *colon = strchr(text, ':');
        if (!colon) break;
        memset(each, 0, sizeof *each);
        each->bank = bank_algorithm(text, (size_t)(colon - text));
        text = registers(each, colon + 1);
        if (!*text) return count;
        if (*text++ != '+') break;
    }
    stop(MALFORMED, "the selection is not like sha256:0,4,7+sha384:11");
}

void put_selections(const struct selection *selections, size_t count) {
    put32((uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        put16(selections[i].bank);
        put8(SELECT_SIZE);
        put_bytes(selections[i].bits, SELECT_SIZE);
    }
}

size_t read_file(const char *path, uint8_t *to, size_t room, enum status code) {
    size_t size = 0;
    ssize_t got = 1;
    uint8_t more;
    int file = open(path, O_RDONLY | O_CLOEXEC);

    if (file < 0) stop(code, "%s: %s", path, strerror(errno));
    while (size < room && got > 0) {
        got = read(file, to + size, room - size);
        if (got > 0) size += (size_t)got;
    }
    if (got > 0) got = read(file, &more, 1) > 0 ? -2 : 0;
    if (got == -1) stop(code, "%s: %s", path, strerror(errno));
    if (got < 0 || !size) stop(code, "%s: not 1 to %zu bytes", path, room);
    close(file);
    return size;
}

size_t read_base64(const char *path, uint8_t *to, size_t room, enum status code) {
    uint8_t text[BASE64_SIZE(PRIVATE_MAX + PUBLIC_MAX) + 1];
    size_t size, length = read_file(path, text, sizeof text, code);

    if (text[length - 1] == '\n') length--;
    if (!from_base64((const char *)text, length, to, room, &size)) {
        stop(code, "%s: not base64 of 1 to %zu bytes", path, room);
    }
    return size;
}

const uint8_t *only_sized(const uint8_t *data, size_t size, size_t *inner) {
    if (size < 2) return NULL;
    *inner = (size_t)data[0] << 8 | data[1];
    return *inner == size - 2 ? data + 2 : NULL;
}

void join_path(char *to, size_t room, const char *folder, const char *name) {
    int length = snprintf(to, room, "%s/%s", folder, name);

    if (length < 0 || (size_t)length >= room) stop(MALFORMED, "the folder's name is too long");
}

static void write_all(int file, const void *data, size_t size, const char *where) {
    const uint8_t *from = data;

    while (size) {
        ssize_t wrote = write(file, from, size);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) stop(BROKEN, "%s: %s", where, strerror(errno));
        from += wrote;
        size -= (size_t)wrote;
    }
}

void write_file(const char *folder, const char *name, const uint8_t *data, size_t size) {
    char path[PATH_MAX];

    join_path(path, sizeof path, folder, name);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) stop(BROKEN, "%s: %s", path, strerror(errno));
    write_all(file, data, size, path);
    if (close(file)) stop(BROKEN, "%s: %s", path, strerror(errno));
}

void check_key_fd(void) {
    if (fcntl(KEY_FD, F_GETFD) < 0) stop(MALFORMED, "descriptor 3 is closed; the key goes there");
}

void write_key(const char *text, size_t size) {
    write_all(KEY_FD, text, size, "descriptor 3");
}
