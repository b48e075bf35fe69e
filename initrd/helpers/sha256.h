/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256, HMAC and HKDF for helpers that do without libcrypto, which is larger than everything else they need. */
#ifndef GOLDSMITH_SHA256_H
#define GOLDSMITH_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_SIZE = 32, SHA256_BLOCK = 64 };

/* A digest that is being computed. */
struct sha256 {
    uint32_t state[8];
    uint64_t length; /* bytes so far; those behind the last whole block wait in `block` */
    uint8_t block[SHA256_BLOCK];
};

void sha256_begin(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *data, size_t size);
/* Writes the digest and wipes the state. */
void sha256_end(struct sha256 *hash, uint8_t digest[SHA256_SIZE]);

/* An HMAC that is being computed: the two digests of RFC 2104. */
struct hmac_sha256 {
    struct sha256 inner, outer;
};

void hmac_sha256_begin(struct hmac_sha256 *mac, const void *key, size_t size);
void hmac_sha256_add(struct hmac_sha256 *mac, const void *data, size_t size);
/* Writes the tag and wipes the state. */
void hmac_sha256_end(struct hmac_sha256 *mac, uint8_t tag[SHA256_SIZE]);

/* RFC 5869, extract and expand. Returns 0, or -1 when more than 255 digests of output are asked for. */
int hkdf_sha256(const void *salt, size_t salt_size, const void *secret, size_t secret_size, const void *info,
                size_t info_size, uint8_t *out, size_t out_size);

#endif
