/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 (FIPS 180-4), HMAC (RFC 2104) and HKDF (RFC 5869). What was computed from a secret is wiped. */
#define _DEFAULT_SOURCE
#include "sha256.h"

#include <string.h>

/* FIPS 180-4 section 4.2.2. */
static const uint32_t ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* FIPS 180-4 section 5.3.3. */
static const uint32_t INITIAL[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static uint32_t rotate(uint32_t word, unsigned count) {
    return word >> count | word << (32 - count);
}

static uint32_t load(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void store(uint8_t *bytes, uint32_t word) {
    for (int index = 0; index < 4; index++) {
        bytes[index] = (uint8_t)(word >> (24 - 8 * index));
    }
}

/* FIPS 180-4 section 6.2.2. */
static void compress(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64], v[8];
    for (int t = 0; t < 16; t++) {
        w[t] = load(block + 4 * t);
    }
    for (int t = 16; t < 64; t++) {
        uint32_t low = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t high = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + low + w[t - 7] + high;
    }
    memcpy(v, state, sizeof v);
    for (int t = 0; t < 64; t++) {
        uint32_t a = v[0], e = v[4];
        uint32_t choose = (e & v[5]) ^ (~e & v[6]);
        uint32_t majority = (a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]);
        uint32_t first = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + choose + ROUND[t] + w[t];
        uint32_t second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + majority;
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += first;
        v[0] = first + second;
    }
    for (int index = 0; index < 8; index++) {
        state[index] += v[index];
    }
    explicit_bzero(w, sizeof w);
    explicit_bzero(v, sizeof v);
}

void sha256_begin(struct sha256 *hash) {
    memcpy(hash->state, INITIAL, sizeof hash->state);
    hash->length = 0;
}

void sha256_add(struct sha256 *hash, const void *data, size_t size) {
    const uint8_t *bytes = data;
    while (size) {
        size_t used = hash->length % SHA256_BLOCK;
        size_t count = SHA256_BLOCK - used < size ? SHA256_BLOCK - used : size;
        memcpy(hash->block + used, bytes, count);
        hash->length += count;
        bytes += count;
        size -= count;
        if (used + count == SHA256_BLOCK) {
            compress(hash->state, hash->block);
        }
    }
}

void sha256_end(struct sha256 *hash, uint8_t digest[SHA256_SIZE]) {
    /* FIPS 180-4 section 5.1.1: a one bit, zeros up to 8 bytes before a block's end, the length in bits. */
    static const uint8_t padding[SHA256_BLOCK] = {0x80};
    uint8_t length[8];
    store(length, (uint32_t)(hash->length >> 29));
    store(length + 4, (uint32_t)(hash->length << 3));
    size_t used = hash->length % SHA256_BLOCK;
    sha256_add(hash, padding, (used < 56 ? 56 : 120) - used);
    sha256_add(hash, length, sizeof length);
    for (int index = 0; index < 8; index++) {
        store(digest + 4 * index, hash->state[index]);
    }
    explicit_bzero(hash, sizeof *hash);
}

void hmac_sha256_begin(struct hmac_sha256 *mac, const void *key, size_t size) {
    uint8_t block[SHA256_BLOCK] = {0};
    if (size > sizeof block) {
        struct sha256 hash;
        sha256_begin(&hash);
        sha256_add(&hash, key, size);
        sha256_end(&hash, block);
    } else if (size) {
        memcpy(block, key, size);
    }
    for (size_t index = 0; index < sizeof block; index++) {
        block[index] ^= 0x36;
    }
    sha256_begin(&mac->inner);
    sha256_add(&mac->inner, block, sizeof block);
    for (size_t index = 0; index < sizeof block; index++) {
        block[index] ^= 0x36 ^ 0x5c;
    }
    sha256_begin(&mac->outer);
    sha256_add(&mac->outer, block, sizeof block);
    explicit_bzero(block, sizeof block);
}

void hmac_sha256_add(struct hmac_sha256 *mac, const void *data, size_t size) {
    sha256_add(&mac->inner, data, size);
}

void hmac_sha256_end(struct hmac_sha256 *mac, uint8_t tag[SHA256_SIZE]) {
    uint8_t digest[SHA256_SIZE];
    sha256_end(&mac->inner, digest);
    sha256_add(&mac->outer, digest, sizeof digest);
    sha256_end(&mac->outer, tag);
    explicit_bzero(digest, sizeof digest);
}

int hkdf_sha256(const void *salt, size_t salt_size, const void *secret, size_t secret_size, const void *info,
                size_t info_size, uint8_t *out, size_t out_size) {
    struct hmac_sha256 mac;
    uint8_t extracted[SHA256_SIZE], piece[SHA256_SIZE], counter = 0;
    if (out_size > 255 * SHA256_SIZE) {
        return -1;
    }
    hmac_sha256_begin(&mac, salt, salt_size);
    hmac_sha256_add(&mac, secret, secret_size);
    hmac_sha256_end(&mac, extracted);
    for (size_t done = 0; done < out_size;) {
        size_t count = out_size - done < sizeof piece ? out_size - done : sizeof piece;
        hmac_sha256_begin(&mac, extracted, sizeof extracted);
        if (counter) {
            hmac_sha256_add(&mac, piece, sizeof piece);
        }
        hmac_sha256_add(&mac, info, info_size);
        counter++;
        hmac_sha256_add(&mac, &counter, 1);
        hmac_sha256_end(&mac, piece);
        memcpy(out + done, piece, count);
        done += count;
    }
    explicit_bzero(extracted, sizeof extracted);
    explicit_bzero(piece, sizeof piece);
    return 0;
}
