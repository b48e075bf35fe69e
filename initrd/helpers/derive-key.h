/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of derive-key share. */
#ifndef GOLDSMITH_DERIVE_KEY_H
#define GOLDSMITH_DERIVE_KEY_H

#include <stddef.h>
#include <stdint.h>

/* How an unlock provider ends; the driver acts on it. */
enum ending { GIVEN = 0, TEMPORARY = 10, DENIED = 20, NOT_APPLICABLE = 30, MALFORMED = 40 };

/* Both sources give 32 bytes. */
enum { SOURCE_SIZE = 32 };

/* Asks the processor of an SEV-SNP guest for a key. */
enum ending snp_key(const char *fields, const char *root, const char *vmpl, uint8_t key[SOURCE_SIZE]);

/* Asks the monitor of an Arm CCA realm for its sealing key, an extension of Islet's. */
enum ending cca_key(const char *flags, uint8_t key[SOURCE_SIZE]);

/* One line for people on standard error. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A word that may stand in a list: a bit, and where its number goes when it has one (`word=NUMBER`). */
struct choice {
    const char *name;
    uint64_t bit;
    uint64_t *number;
    uint64_t least, most;
};

/* Reads a list of words with commas in between. Returns 0, or -1 after a complaint about what `where` is. */
int read_choices(const char *where, const char *text, const struct choice *choices, size_t count, uint64_t *bits);

/* Reads a whole number, decimal or 0x and hexadecimal digits. Returns 0, or -1 without a word. */
int read_number(const char *text, size_t size, uint64_t least, uint64_t most, uint64_t *number);

/* Opens a device; `variable` names the environment variable with which tests put a file in its place. */
int open_device(const char *variable, const char *path);

/* How to end when that failed: the message, with `who` has such a device, and the code. Reads errno. */
enum ending no_device(const char *path, const char *who);

/* Whether a key has a byte that is not zero: a key of zeros is no secret. */
int is_set(const uint8_t key[SOURCE_SIZE]);

#endif
