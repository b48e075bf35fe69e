/* SPDX-License-Identifier: Apache-2.0 */
#include "tpm2_io.h"

#include <string.h>

enum { CONTINUE_SESSION = 1 };

struct command command;

uint16_t read16(const uint8_t *data) {
    return (uint16_t)(data[0] << 8 | data[1]);
}

uint32_t read32(const uint8_t *data) {
    return (uint32_t)read16(data) << 16 | read16(data + 2);
}

void tpm_begin(uint32_t code, const char *name) {
    command.size = 0;
    command.full = false;
    command.sessions = false;
    command.name = name;
    put16(0); /* tag and size are known when it is sent */
    put32(0);
    put32(code);
}

void put_bytes(const void *data, size_t size) {
    if (size > sizeof command.data - command.size) {
        command.full = true;
        return;
    }
    if (size) memcpy(command.data + command.size, data, size);
    command.size += size;
}

void put8(uint8_t value) {
    put_bytes(&value, 1);
}

void put16(uint16_t value) {
    put8((uint8_t)(value >> 8));
    put8((uint8_t)value);
}

void put32(uint32_t value) {
    put16((uint16_t)(value >> 16));
    put16((uint16_t)value);
}

void put64(uint64_t value) {
    put32((uint32_t)(value >> 32));
    put32((uint32_t)value);
}

void put_sized(const void *data, size_t size) {
    if (size > UINT16_MAX) command.full = true;
    put16((uint16_t)size);
    put_bytes(data, size);
}

size_t put_open(void) {
    put16(0);
    return command.size;
}

void put_close(size_t place) {
    if (command.full) return;
    size_t size = command.size - place;
    command.data[place - 2] = (uint8_t)(size >> 8);
    command.data[place - 1] = (uint8_t)size;
}

void put_sessions(const uint32_t *sessions, size_t count) {
    command.sessions = true;
    put32((uint32_t)(9 * count));
    for (size_t i = 0; i < count; i++) {
        put32(sessions[i]);
        put_sized(NULL, 0); /* nonce: neither a password nor an unsalted policy session has anything to hide */
        put8(CONTINUE_SESSION);
        put_sized(NULL, 0); /* password or HMAC: empty */
    }
}

void put_password(void) {
    put_sessions(&(uint32_t){RS_PW}, 1);
}

void cut_short(void) {
    stop(BROKEN, "TPM2_%s: the response is cut short; the TPM is broken", command.name);
}

static const uint8_t *take(struct answer *answer, size_t size) {
    if (size > answer->left) cut_short();
    const uint8_t *taken = answer->data;
    answer->data += size;
    answer->left -= size;
    return taken;
}

uint8_t take8(struct answer *answer) {
    return *take(answer, 1);
}

uint16_t take16(struct answer *answer) {
    return read16(take(answer, 2));
}

uint32_t take32(struct answer *answer) {
    return read32(take(answer, 4));
}

size_t take_sized(struct answer *answer, void *to, size_t room) {
    size_t size = take16(answer);

    if (size > room) {
        stop(BROKEN, "TPM2_%s: %zu bytes in the response where %zu fit; the TPM is broken", command.name, size, room);
    }
    const uint8_t *data = take(answer, size);
    if (to && size) memcpy(to, data, size);
    return size;
}
