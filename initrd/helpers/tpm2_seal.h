/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets sealed in the TPM as systemd seals them, so that either opens what the other has sealed. */
#ifndef GOLDSMITH_TPM2_SEAL_H
#define GOLDSMITH_TPM2_SEAL_H

#include "tpm2_text.h"

/* The two structures of a blob, TPM2B_PRIVATE and TPM2B_PUBLIC, which came from a disk. */
struct blob {
    uint8_t data[PRIVATE_MAX + PUBLIC_MAX];
    size_t private_size; /* with its own two bytes of size */
    size_t size;
};

/* Reads a file of base64, and ends the program unless it is the two structures and nothing more. */
void read_blob(const char *path, struct blob *blob);

void seal(char **arguments);
void unseal(char **arguments);
void digest(char **arguments);

#endif
