/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tpm2_quote.h"

#include "tpm2_nv.h"
#include "tpm2_policy.h"

#include <limits.h>
#include <string.h>

enum {
    CC_CREATE_PRIMARY = 0x131,
    CC_ACTIVATE_CREDENTIAL = 0x147,
    CC_POLICY_SECRET = 0x151,
    CC_QUOTE = 0x158,
    NONCE_MAX = 64,        /* TPM2B_DATA holds a TPMT_HA: part 2 section 10.4.3 */
    RSA_SECRET_SIZE = 256, /* of an encrypted seed for RSA-2048 */
    CERTIFICATE_MAX = 2048,
};

/* Template L-1 is RSA-2048, L-2 is P-256. */
#define NV_RSA_CERTIFICATE 0x01C00002u
#define NV_ECC_CERTIFICATE 0x01C0000Au

/* TPMA_OBJECT, part 2 section 8.3. */
#define KEY_OF_THIS_TPM 0x32u /* fixedTPM, fixedParent, sensitiveDataOrigin */
#define USER_WITH_AUTH 0x40u
#define NO_DA 0x400u
#define ADMIN_WITH_POLICY 0x80u
#define RESTRICTED 0x10000u
#define DECRYPT 0x20000u
#define SIGN 0x40000u

/* PolicySecret(TPM_RH_ENDORSEMENT): EK Credential Profile section B.6.2. */
static const uint8_t ENDORSEMENT_POLICY[DIGEST_SIZE] = {
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xB3, 0xF8, 0x1A, 0x90, 0xCC, 0x8D, 0x46, 0xA5, 0xD7, 0x24,
    0xFD, 0x52, 0xD7, 0x6E, 0x06, 0x52, 0x0B, 0x64, 0xF2, 0xA1, 0xDA, 0x1B, 0x33, 0x14, 0x69, 0xAA};

/* Begins a primary key of the endorsement hierarchy; its public area follows. */
static size_t begin_primary(void) {
    tpm_begin(CC_CREATE_PRIMARY, "CreatePrimary");
    put32(RH_ENDORSEMENT);
    put_password();
    size_t sensitive = put_open();
    put_sized(NULL, 0);
    put_sized(NULL, 0);
    put_close(sensitive);
    return put_open();
}

static uint32_t end_primary(size_t area, struct answer *answer) {
    uint32_t key;

    put_close(area);
    put_sized(NULL, 0);
    put32(0);
    tpm_do(&key, answer);
    return key;
}

/* A restricted key that signs what the TPM itself made, and nothing else. It is a function of the endorsement seed, so
 * it is the same in every boot. A machine that is switched off hard must not lock it (noDA): the TPM takes that for a
 * guess at the password of every other key that was used. Gives its public area, too, when `area` is not NULL. */
static uint32_t attestation_key(uint8_t *area, size_t *size) {
    struct answer answer;
    size_t place = begin_primary();

    put16(ALG_ECC);
    put16(ALG_SHA256);
    put32(KEY_OF_THIS_TPM | USER_WITH_AUTH | NO_DA | RESTRICTED | SIGN);
    put_sized(NULL, 0);
    put16(ALG_NULL);
    put16(ALG_ECDSA);
    put16(ALG_SHA256);
    put16(CURVE_P256);
    put16(ALG_NULL);
    put_sized(NULL, 0);
    put_sized(NULL, 0);
    uint32_t key = end_primary(place, &answer);
    if (area) *size = take_sized(&answer, area, PUBLIC_MAX);
    return key;
}

/* The endorsement key of template L-1 or L-2, whose certificate the TPM's maker has put into NV. */
static uint32_t endorsement_key(bool rsa) {
    static const uint8_t ZERO[256];
    size_t place = begin_primary();

    put16(rsa ? ALG_RSA : ALG_ECC);
    put16(ALG_SHA256);
    put32(KEY_OF_THIS_TPM | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT);
    put_sized(ENDORSEMENT_POLICY, sizeof ENDORSEMENT_POLICY);
    put16(ALG_AES);
    put16(128);
    put16(ALG_CFB);
    put16(ALG_NULL);
    if (rsa) {
        put16(2048);
        put32(0);
        put_sized(ZERO, 256);
    } else {
        put16(CURVE_P256);
        put16(ALG_NULL);
        put_sized(ZERO, 32);
        put_sized(ZERO, 32);
    }
    return end_primary(place, NULL);
}

void quote(char **arguments) {
    struct selection wanted[MAX_BANKS];
    uint8_t nonce[NONCE_MAX], area[2 + PUBLIC_MAX], message[BUFFER_SIZE];
    size_t count = selections(arguments[0], wanted), nonce_size = strlen(arguments[1]) / 2, area_size;
    struct answer answer;

    if (!nonce_size || nonce_size > sizeof nonce || !from_hex(arguments[1], nonce, nonce_size)) {
        stop(MALFORMED, "the nonce is not 1 to %d bytes in lower-case hex", NONCE_MAX);
    }
    tpm_open();
    uint32_t key = attestation_key(area + 2, &area_size);
    area[0] = (uint8_t)(area_size >> 8);
    area[1] = (uint8_t)area_size;
    tpm_begin(CC_QUOTE, "Quote");
    put32(key);
    put_password();
    put_sized(nonce, nonce_size);
    put16(ALG_NULL); /* the key's own scheme */
    put_selections(wanted, count);
    tpm_do(NULL, &answer);
    size_t size = take_sized(&answer, message, sizeof message);
    if (!size || !answer.left) stop(BROKEN, "the quote is empty; the TPM is broken");
    write_file(arguments[2], "quote", message, size);
    write_file(arguments[2], "signature", answer.data, answer.left);
    write_file(arguments[2], "ak_public", area, 2 + area_size);
    tpm_flush(key);
}

/* The size that a DER sequence of 256 to 65535 bytes gives itself; NV behind it is padding. 0 when it is none. */
static size_t der_size(const uint8_t *data, size_t size) {
    if (size < 4 || data[0] != 0x30 || data[1] != 0x82) return 0;
    size_t whole = 4 + ((size_t)data[2] << 8 | data[3]);
    return whole <= size ? whole : 0;
}

void ek_certificate(char **arguments) {
    /* The elliptic key first: a TPM makes it in a moment, the other one in seconds. */
    static const uint32_t HANDLES[] = {NV_ECC_CERTIFICATE, NV_RSA_CERTIFICATE};
    uint8_t data[CERTIFICATE_MAX];

    tpm_open();
    for (size_t i = 0; i < 2; i++) {
        struct nv_index index;
        if (!nv_public(HANDLES[i], &index)) continue;
        size_t size = der_size(data, nv_read(&index, data, sizeof data));
        if (!size) stop(BROKEN, "NV index %#x holds no certificate", HANDLES[i]);
        write_file(arguments[0], "ek_certificate", data, size);
        return;
    }
    stop(NOT_HERE, "this TPM has no certificate of an RSA-2048 or P-256 endorsement key");
}

static void policy_secret(uint32_t session) {
    tpm_begin(CC_POLICY_SECRET, "PolicySecret");
    put32(RH_ENDORSEMENT);
    put32(session);
    put_password();
    put_sized(NULL, 0); /* nonceTPM: not bound to this session */
    put_sized(NULL, 0); /* cpHashA */
    put_sized(NULL, 0); /* policyRef */
    put32(0);           /* expiration: no ticket is needed */
    tpm_do(NULL, NULL);
}

void activate(char **arguments) {
    static uint8_t secret[DIGEST_SIZE * 2];
    char path[PATH_MAX];
    uint8_t file[1024];
    size_t blob_size, seed_size;
    struct answer answer;

    join_path(path, sizeof path, arguments[0], "credential");
    size_t size = read_file(path, file, sizeof file, DENIED);
    size_t blob = size < 2 ? size : 2 + ((size_t)file[0] << 8 | file[1]);
    if (blob >= size || !only_sized(file, blob, &blob_size) || !only_sized(file + blob, size - blob, &seed_size)) {
        stop(DENIED, "%s: not a TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET", path);
    }
    wipe_at_end(secret, sizeof secret);
    tpm_open();
    uint32_t attestation = attestation_key(NULL, NULL);
    uint32_t endorsement = endorsement_key(seed_size == RSA_SECRET_SIZE);
    uint32_t session = bare_session(SE_POLICY);
    policy_secret(session);
    tpm_begin(CC_ACTIVATE_CREDENTIAL, "ActivateCredential");
    put32(attestation);
    put32(endorsement);
    put_sessions((const uint32_t[]){RS_PW, session}, 2);
    put_bytes(file, size);
    uint32_t code = tpm_try(NULL, &answer);
    /* The reference implementation says FAILURE when a seed does not decrypt with the RSA key. */
    if (is_about_input(code) || code == RC_FAILURE) {
        stop(DENIED, "the credential is not for this TPM and its attestation key (%#x)", code);
    }
    if (code) tpm_refused(code);
    size = take_sized(&answer, secret, sizeof secret);
    tpm_flush(session);
    tpm_flush(endorsement);
    tpm_flush(attestation);
    write_file(arguments[0], "activation", secret, size);
}
