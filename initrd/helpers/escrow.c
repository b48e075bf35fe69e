/* SPDX-License-Identifier: Apache-2.0 */
/*: sources process.c */
/*: libraries crypto */
/*
 * Encrypts a key to an operator's public key, so that a volume can be opened when its machine is gone.
 *
 *   escrow PEM <KEY
 *
 * PEM holds one RSA public key of 2048 to 4096 bits ("BEGIN PUBLIC KEY"). One line comes out: RSA-OAEP-SHA256: and
 * the base64 of the ciphertext; SHA-256 is also the hash of OAEP's mask function, and the label is empty
 * (RFC 8017 section 7.1). The operator decodes the base64 and opens it with
 *   openssl pkeyutl -decrypt -inkey KEY -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256
 *
 * Ends with 0; 40 when the PEM file or the key is not what it should be; 1 when reading, encrypting or writing fails.
 */
#define _DEFAULT_SOURCE
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GIVEN = 0, FAILED = 1, MALFORMED = 40 };

enum {
    PEM_MAX = 16384,
    KEY_MAX = 512,
    RSA_MIN_BITS = 2048,
    /* The driver shows the line in the kernel's log, which takes 1024 bytes at once (Linux 6.12 devkmsg_write), and 976
     * before 6.4: a larger key's line would be refused there. */
    RSA_MAX_BITS = 4096,
    OAEP_OVERHEAD = 2 * 32 + 2, /* RFC 8017 section 7.1.1: two digests and two bytes */
};

static const char BEGIN[] = "-----BEGIN PUBLIC KEY-----";
static const char ADVICE[] = "give the RSA public key that `openssl pkey -in KEY -pubout` writes";

static int complain(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int complain(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("escrow: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return code;
}

/* Reads up to `room` bytes and to the end; `room` bytes mean that there may be more. Returns -1 with errno. */
static ssize_t read_all(int file, void *buffer, size_t room) {
    size_t size = 0;
    while (size < room) {
        ssize_t count = read(file, (char *)buffer + size, room - size);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return -1;
        }
        if (!count) {
            break;
        }
        size += (size_t)count;
    }
    return (ssize_t)size;
}

/* Whether a PEM file is one public key and nothing else; a private one in its place gets words of its own. */
static int check_text(const char *path, const char *text, size_t size) {
    if (strlen(text) != size) {
        return complain(MALFORMED, "%s: has a NUL byte; %s", path, ADVICE);
    }
    if (strstr(text, "PRIVATE KEY")) {
        return complain(MALFORMED, "%s: is a private key, which belongs nowhere but to its owner; %s", path, ADVICE);
    }
    const char *begin = strstr(text, "-----BEGIN ");
    if (!begin || strncmp(begin, BEGIN, sizeof BEGIN - 1) || strspn(text, " \t\r\n") != (size_t)(begin - text)) {
        return complain(MALFORMED, "%s: does not begin with %s; %s", path, BEGIN, ADVICE);
    }
    const char *end = strstr(begin, "-----END PUBLIC KEY-----");
    if (!end || end[24 + strspn(end + 24, " \t\r\n")]) {
        return complain(MALFORMED, "%s: does not end with the end of its public key; %s", path, ADVICE);
    }
    return GIVEN;
}

/* Reads the public key; *key is the caller's to free. */
static int read_public_key(const char *path, EVP_PKEY **key) {
    char text[PEM_MAX + 1];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read_all(file, text, PEM_MAX);
    int error = errno;
    if (file >= 0) {
        close(file);
    }
    if (size < 0) {
        return complain(MALFORMED, "%s: %s; %s", path, strerror(error), ADVICE);
    }
    if (size == PEM_MAX) {
        return complain(MALFORMED, "%s: is longer than %d bytes; %s", path, PEM_MAX - 1, ADVICE);
    }
    text[size] = 0;
    int code = check_text(path, text, (size_t)size);
    BIO *bio = code == GIVEN ? BIO_new_mem_buf(strstr(text, BEGIN), -1) : NULL;
    char *name = NULL, *header = NULL;
    unsigned char *der = NULL;
    long length = 0;
    if (bio && PEM_read_bio(bio, &name, &header, &der, &length) == 1 && !*header) {
        const unsigned char *rest = der;
        *key = d2i_PUBKEY_ex(NULL, &rest, length, NULL, NULL);
        if (*key && rest != der + length) {
            EVP_PKEY_free(*key);
            *key = NULL;
        }
    }
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(der);
    BIO_free(bio);
    /* It may have been a private key. */
    explicit_bzero(text, sizeof text);
    if (code == GIVEN && !*key) {
        return complain(MALFORMED, "%s: is no public key in PEM; %s", path, ADVICE);
    }
    return code;
}

/* Whether a key is one that this program encrypts to. */
static int check_public_key(const char *path, EVP_PKEY *key) {
    if (!EVP_PKEY_is_a(key, "RSA")) {
        const char *type = EVP_PKEY_get0_type_name(key);
        return complain(MALFORMED, "%s: is a key of type %s, not RSA; %s", path, type ? type : "unknown", ADVICE);
    }
    int bits = EVP_PKEY_get_bits(key);
    if (bits < RSA_MIN_BITS || bits > RSA_MAX_BITS) {
        return complain(MALFORMED, "%s: is an RSA key of %d bits, not %d to %d; make another", path, bits, RSA_MIN_BITS,
                        RSA_MAX_BITS);
    }
    /* An exponent of 1, or a modulus without two large factors, would put the key on the console as good as plain. */
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    int sound = context && EVP_PKEY_public_check(context) == 1;
    EVP_PKEY_CTX_free(context);
    return sound ? GIVEN : complain(MALFORMED, "%s: is an RSA key with a bad modulus or exponent; make another", path);
}

static int encrypt(EVP_PKEY *key, const unsigned char *plain, size_t size, unsigned char *out, size_t *out_size) {
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    int done = context && EVP_PKEY_encrypt_init(context) == 1 &&
               EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING) == 1 &&
               EVP_PKEY_CTX_set_rsa_oaep_md(context, EVP_sha256()) == 1 &&
               EVP_PKEY_CTX_set_rsa_mgf1_md(context, EVP_sha256()) == 1 &&
               EVP_PKEY_encrypt(context, out, out_size, plain, size) == 1;
    EVP_PKEY_CTX_free(context);
    return done ? GIVEN : complain(FAILED, "the encryption failed; this is a bug, or the machine has no memory left");
}

/* Encrypts what comes in and writes the line. */
static int escrow(const char *path, EVP_PKEY *key) {
    unsigned char plain[KEY_MAX + 1], out[RSA_MAX_BITS / 8];
    unsigned char text[sizeof out / 3 * 4 + 5];
    size_t most = (size_t)EVP_PKEY_get_size(key) - OAEP_OVERHEAD, out_size = sizeof out;
    ssize_t size = read_all(STDIN_FILENO, plain, sizeof plain);
    int code = GIVEN;
    if (size < 0) {
        code = complain(FAILED, "standard input: %s; give the key there", strerror(errno));
    } else if (!size) {
        code = complain(MALFORMED, "standard input: is empty; give the key there");
    } else if (size > KEY_MAX) {
        code = complain(MALFORMED, "standard input: is longer than a key's %d bytes", KEY_MAX);
    } else if ((size_t)size > most) {
        code = complain(MALFORMED, "standard input: %zd bytes, an RSA key of %d bits takes %zu; %s: give a larger one",
                        size, EVP_PKEY_get_bits(key), most, path);
    } else {
        code = encrypt(key, plain, (size_t)size, out, &out_size);
    }
    explicit_bzero(plain, sizeof plain);
    if (code != GIVEN) {
        return code;
    }
    EVP_EncodeBlock(text, out, (int)out_size);
    if (printf("RSA-OAEP-SHA256:%s\n", (char *)text) < 0 || fflush(stdout)) {
        return complain(FAILED, "standard output: %s", strerror(errno));
    }
    return GIVEN;
}

int main(int count, char **words) {
    EVP_PKEY *key = NULL;
    keep_private();
    if (count != 2) {
        return complain(MALFORMED, "usage: escrow PEM <KEY");
    }
    /* Nothing but this program decides what its libraries do: no configuration file, none named by the environment. */
    if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1) {
        return complain(FAILED, "libcrypto does not start; the initramfs lacks a part of it");
    }
    int code = read_public_key(words[1], &key);
    if (code == GIVEN) {
        code = check_public_key(words[1], key);
    }
    if (code == GIVEN) {
        code = escrow(words[1], key);
    }
    EVP_PKEY_free(key);
    return code;
}
