/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of commands and responses: big endian, unpadded, a TPM2B being a 16-bit size and so many bytes.
 *
 * Spec: TCG TPM 2.0 Library part 1 section 18 (command and response), part 2 sections 5 and 10.4 (TPM2B) and 10.13
 * (authorization areas).
 */
#ifndef GOLDSMITH_TPM2_BYTES_H
#define GOLDSMITH_TPM2_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What Linux takes and gives at once: TPM_BUFSIZE in drivers/char/tpm/tpm.h. */
enum { BUFFER_SIZE = 4096 };

/* The one command there is; tpm2_io.c sends it. */
extern struct command {
    uint8_t data[BUFFER_SIZE];
    size_t size;
    bool full;     /* something did not fit */
    bool sessions; /* it has an authorization area */
    const char *name;
} command;

uint16_t read16(const uint8_t *data);
uint32_t read32(const uint8_t *data);

/* A command: begun with its code and name; handles first, then authorizations, then parameters. */
void tpm_begin(uint32_t code, const char *name);
void put8(uint8_t value);
void put16(uint16_t value);
void put32(uint32_t value);
void put64(uint64_t value);
void put_bytes(const void *data, size_t size);
void put_sized(const void *data, size_t size);
/* A TPM2B whose size is not known yet: the place of its size, to be closed after its content. */
size_t put_open(void);
void put_close(size_t place);
/* The authorization area: one session for each handle that needs one, RS_PW being an empty password. */
void put_sessions(const uint32_t *sessions, size_t count);
void put_password(void);

/* The parameters of a response; they live until the next command. */
struct answer {
    const uint8_t *data;
    size_t left;
};
uint8_t take8(struct answer *answer);
uint16_t take16(struct answer *answer);
uint32_t take32(struct answer *answer);
/* Copies the content of a TPM2B of at most `room` bytes and gives its size; `to` may be NULL to step over it. */
size_t take_sized(struct answer *answer, void *to, size_t room);
/* Ends the program: a response has less than it says. */
_Noreturn void cut_short(void);

#endif
