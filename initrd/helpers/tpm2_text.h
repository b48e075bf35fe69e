/* SPDX-License-Identifier: Apache-2.0 */
/* Text and files: what comes in as an argument, what goes out. */
#ifndef GOLDSMITH_TPM2_TEXT_H
#define GOLDSMITH_TPM2_TEXT_H

#include "tpm2_io.h"

enum {
    PCR_COUNT = 24, /* TCG PC Client Platform TPM Profile 1.05 section 4.6 */
    SELECT_SIZE = PCR_COUNT / 8,
    MAX_BANKS = 4,
    KEY_FD = 3, /* where secrets go, and nowhere else */
};

/* Characters of base64 that `size` bytes take (RFC 4648 section 4). */
#define BASE64_SIZE(size) (((size) + 2) / 3 * 4)

/* Some PCRs of one bank: TPMS_PCR_SELECTION. */
struct selection {
    uint16_t bank;
    uint8_t bits[SELECT_SIZE];
};

/* True when `text` is exactly `size` bytes in lower-case hex. */
bool from_hex(const char *text, uint8_t *to, size_t size);
void print_hex(const uint8_t *data, size_t size);
/* Writes BASE64_SIZE(size) characters. */
void to_base64(const uint8_t *data, size_t size, char *text);
/* Decodes padded base64 in its one usual spelling; false when it is none, or more than `room` bytes. */
bool from_base64(const char *text, size_t length, uint8_t *to, size_t room, size_t *size);

/* A whole number in decimal, at most `most`. */
uint64_t number(const char *text, uint64_t most, const char *what);
/* A handle of an NV index, 0x01000000 to 0x01ffffff (part 2 section 7.2). */
uint32_t nv_handle(const char *text);
uint16_t bank_algorithm(const char *name, size_t length);
/* Adds PCRs as `0,4,7` to a selection. */
void add_registers(struct selection *selection, const char *list);
/* `sha256:0,4,7+sha384:11`, as tpm2-tools write it; gives the number of banks. */
size_t selections(const char *text, struct selection *found);
void put_selections(const struct selection *selections, size_t count);

/* The whole file; it ends the program with `code` when that is missing, empty or over `room` bytes. */
size_t read_file(const char *path, uint8_t *to, size_t room, enum status code);
/* The bytes that a file of base64 holds, one line end allowed. */
size_t read_base64(const char *path, uint8_t *to, size_t room, enum status code);
/* The content of the TPM2B that is all of `data`; NULL when it is none. */
const uint8_t *only_sized(const uint8_t *data, size_t size, size_t *inner);
void join_path(char *to, size_t room, const char *folder, const char *name);
void write_file(const char *folder, const char *name, const uint8_t *data, size_t size);
/* Ends the program unless somebody takes a key on descriptor 3. Before any file is opened: it could be that one. */
void check_key_fd(void);
void write_key(const char *text, size_t size);

#endif
