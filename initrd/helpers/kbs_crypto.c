/* SPDX-License-Identifier: Apache-2.0 */
/* The key pair of one request and what the broker's answer hides: P-256, HKDF-SHA256, AES-256-GCM.
 * Spec: recipes/broker/protocol.py; SEC 1 section 2.3.3 (points), RFC 5869 (HKDF), NIST SP 800-38D (GCM). */
#include "kbs.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>

enum { SHARED_SIZE = 32, SECRET_SIZE = 32, IV_SIZE = 12 };

static const char LABEL[] = "goldsmith key release 1";

EVP_PKEY *ephemeral_new(unsigned char point[POINT_SIZE])
{
    EVP_PKEY *own = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    unsigned char *encoded = NULL;
    size_t size = own ? EVP_PKEY_get1_encoded_public_key(own, &encoded) : 0;

    if (size == POINT_SIZE && encoded[0] == 0x04) {
        memcpy(point, encoded, POINT_SIZE);
    } else {
        EVP_PKEY_free(own);
        own = NULL;
    }
    OPENSSL_free(encoded);
    return own;
}

int bind_quote(const unsigned char nonce[NONCE_SIZE], const unsigned char point[POINT_SIZE], const char *volume,
               unsigned char digest[DIGEST_SIZE])
{
    unsigned char data[NONCE_SIZE + POINT_SIZE + MAX_VOLUME];
    size_t size = strlen(volume);

    if (size > MAX_VOLUME)
        return MALFORMED;
    memcpy(data, nonce, NONCE_SIZE);
    memcpy(data + NONCE_SIZE, point, POINT_SIZE);
    memcpy(data + NONCE_SIZE + POINT_SIZE, volume, size);
    return EVP_Digest(data, NONCE_SIZE + POINT_SIZE + size, digest, NULL, EVP_sha256(), NULL) == 1 ? DONE : DENIED;
}

/* x coordinate of ECDH with the point; a point that is not on the curve is refused. */
static bool exchange(EVP_PKEY *own, const unsigned char *theirs, unsigned char shared[SHARED_SIZE])
{
    EVP_PKEY *peer = EVP_PKEY_new();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, own, NULL);
    size_t size = SHARED_SIZE;

    bool fine = peer != NULL && context != NULL && theirs[0] == 0x04 && EVP_PKEY_copy_parameters(peer, own) == 1 &&
                EVP_PKEY_set1_encoded_public_key(peer, theirs, POINT_SIZE) == 1 &&
                EVP_PKEY_derive_init(context) == 1 && EVP_PKEY_derive_set_peer_ex(context, peer, 1) == 1 &&
                EVP_PKEY_derive(context, shared, &size) == 1 && size == SHARED_SIZE;
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(peer);
    return fine;
}

static bool derive(const struct sealed *sealed, unsigned char shared[SHARED_SIZE],
                   unsigned char okm[SECRET_SIZE + IV_SIZE])
{
    unsigned char info[sizeof LABEL - 1 + 2 * POINT_SIZE];
    unsigned char salt[NONCE_SIZE];
    char digest[] = "SHA256";

    memcpy(info, LABEL, sizeof LABEL - 1);
    memcpy(info + sizeof LABEL - 1, sealed->theirs, POINT_SIZE);
    memcpy(info + sizeof LABEL - 1 + POINT_SIZE, sealed->mine, POINT_SIZE);
    /* A copy, because a parameter is no pointer to constant bytes. */
    memcpy(salt, sealed->nonce, sizeof salt);
    OSSL_PARAM with[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt, sizeof salt),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, shared, SHARED_SIZE),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof info),
        OSSL_PARAM_construct_end(),
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *context = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    bool fine = context != NULL && EVP_KDF_derive(context, okm, SECRET_SIZE + IV_SIZE, with) == 1;

    EVP_KDF_CTX_free(context);
    EVP_KDF_free(kdf);
    return fine;
}

static bool decrypt(const struct sealed *sealed, const unsigned char okm[SECRET_SIZE + IV_SIZE], unsigned char *key)
{
    unsigned char tag[TAG_SIZE];
    size_t size = sealed->size - TAG_SIZE;
    int done = 0, rest = 0;

    memcpy(tag, sealed->data + size, TAG_SIZE);
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    /* The IV has the size that GCM has when nothing else is said, 12 bytes. */
    bool fine =
        cipher != NULL && context != NULL &&
        EVP_DecryptInit_ex2(context, cipher, okm, okm + SECRET_SIZE, NULL) == 1 &&
        EVP_DecryptUpdate(context, NULL, &done, (const unsigned char *)sealed->session, SESSION_SIZE) == 1 &&
        EVP_DecryptUpdate(context, NULL, &done, (const unsigned char *)sealed->volume, (int)strlen(sealed->volume)) ==
            1 &&
        EVP_DecryptUpdate(context, NULL, &done, sealed->nonce, NONCE_SIZE) == 1 &&
        EVP_DecryptUpdate(context, key, &done, sealed->data, (int)size) == 1 &&
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, tag) == 1 &&
        EVP_DecryptFinal_ex(context, key + done, &rest) == 1 && (size_t)done + (size_t)rest == size;

    EVP_CIPHER_CTX_free(context);
    EVP_CIPHER_free(cipher);
    return fine;
}

bool unseal(EVP_PKEY *own, const struct sealed *sealed, unsigned char *key)
{
    unsigned char shared[SHARED_SIZE], okm[SECRET_SIZE + IV_SIZE];

    if (sealed->size < KEY_MIN + TAG_SIZE || sealed->size > KEY_MAX + TAG_SIZE)
        return false;
    bool fine = exchange(own, sealed->theirs, shared) && derive(sealed, shared, okm) && decrypt(sealed, okm, key);
    explicit_bzero(shared, sizeof shared);
    explicit_bzero(okm, sizeof okm);
    /* What does not authenticate was written there all the same. */
    if (!fine)
        explicit_bzero(key, sealed->size - TAG_SIZE);
    return fine;
}
