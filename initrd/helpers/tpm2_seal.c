/* SPDX-License-Identifier: Apache-2.0 */
#include "tpm2_seal.h"

#include "tpm2_policy.h"

#include <stdio.h>
#include <string.h>

enum {
    CC_CREATE_PRIMARY = 0x131,
    CC_DICTIONARY_ATTACK_LOCK_RESET = 0x139,
    CC_CREATE = 0x153,
    CC_LOAD = 0x157,
    CC_UNSEAL = 0x15E,
    CC_GET_CAPABILITY = 0x17A,
    CC_GET_RANDOM = 0x17B,
    CAP_TPM_PROPERTIES = 6, /* part 2 section 6.12 */
    PT_PERMANENT = 0x200,   /* part 2 section 6.13 */
    SECRET_SIZE = 32, /* what systemd seals; its base64 is the passphrase */
};

/* TPMA_OBJECT, part 2 section 8.3. */
#define FIXED_TPM 0x2u
#define FIXED_PARENT 0x10u
#define SENSITIVE_DATA_ORIGIN 0x20u
#define USER_WITH_AUTH 0x40u
#define RESTRICTED 0x10000u
#define DECRYPT 0x20000u

/* TPMA_PERMANENT, part 2 section 8.6, and a handle of section 7.4. */
#define LOCKOUT_AUTH_SET 0x4u
#define IN_LOCKOUT 0x200u
#define RH_LOCKOUT 0x4000000Au

static struct {
    uint8_t raw[SECRET_SIZE];
    uint8_t from_tpm[SECRET_SIZE];
    char text[BASE64_SIZE(SECRET_SIZE)];
} secret;

/* The TPM alone, or the machine alone, does not determine it. */
static void draw_secret(void) {
    struct answer answer;
    size_t size = 0;

    random_bytes(secret.raw, SECRET_SIZE);
    while (size < SECRET_SIZE) { /* a TPM may give fewer than it is asked for */
        tpm_begin(CC_GET_RANDOM, "GetRandom");
        put16((uint16_t)(SECRET_SIZE - size));
        tpm_do(NULL, &answer);
        size_t got = take_sized(&answer, secret.from_tpm + size, SECRET_SIZE - size);
        if (!got) stop(BROKEN, "the TPM has no random numbers");
        size += got;
    }
    for (size_t i = 0; i < SECRET_SIZE; i++) secret.raw[i] ^= secret.from_tpm[i];
}

static void write_secret(void) {
    to_base64(secret.raw, SECRET_SIZE, secret.text);
    write_key(secret.text, sizeof secret.text);
}

/* Ends a lockout that machines switched off hard have led to: the TPM counts each as a guess at the storage key's
 * password (part 1 section 19.8.5), which is empty, and systemd's template has no noDA. Where the owner has set a
 * password for it the lockout is the owner's to end; a wrong one would lock that too. */
static void leave_lockout(void) {
    struct answer answer;

    tpm_begin(CC_GET_CAPABILITY, "GetCapability");
    put32(CAP_TPM_PROPERTIES);
    put32(PT_PERMANENT);
    put32(1);
    tpm_do(NULL, &answer);
    take8(&answer);
    if (take32(&answer) != CAP_TPM_PROPERTIES || take32(&answer) != 1 || take32(&answer) != PT_PERMANENT) {
        stop(BROKEN, "another capability was answered; the TPM is broken");
    }
    uint32_t state = take32(&answer);
    if (!(state & IN_LOCKOUT) || state & LOCKOUT_AUTH_SET) return;
    tpm_begin(CC_DICTIONARY_ATTACK_LOCK_RESET, "DictionaryAttackLockReset");
    put32(RH_LOCKOUT);
    put_password();
    tpm_try(NULL, NULL);
}

/* The storage key that systemd makes anew for every use: primary_template_ecc in src/shared/tpm2-util.c (v252; later
 * the "legacy" template). It is a function of the TPM's owner seed, so nothing of it is stored. */
static uint32_t storage_primary(void) {
    uint32_t primary;

    leave_lockout();
    tpm_begin(CC_CREATE_PRIMARY, "CreatePrimary");
    put32(RH_OWNER);
    put_password();
    size_t sensitive = put_open();
    put_sized(NULL, 0);
    put_sized(NULL, 0);
    put_close(sensitive);
    size_t area = put_open();
    put16(ALG_ECC);
    put16(ALG_SHA256);
    put32(RESTRICTED | DECRYPT | FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH);
    put_sized(NULL, 0);
    put16(ALG_AES);
    put16(128);
    put16(ALG_CFB);
    put16(ALG_NULL);
    put16(CURVE_P256);
    put16(ALG_NULL);
    put_sized(NULL, 0);
    put_sized(NULL, 0);
    put_close(area);
    put_sized(NULL, 0);
    put32(0);
    tpm_do(&primary, NULL);
    return primary;
}

/* Seals `secret` under a policy; gives the size of TPM2B_PRIVATE || TPM2B_PUBLIC in `blob`. The attributes are those
 * of tpm2_seal() in the same file: no password opens it, only the policy. */
static size_t create(uint32_t primary, const uint8_t policy[DIGEST_SIZE], uint8_t *blob) {
    struct answer answer;
    size_t size = 0;

    tpm_begin(CC_CREATE, "Create");
    put32(primary);
    put_password();
    size_t sensitive = put_open();
    put_sized(NULL, 0);
    put_sized(secret.raw, SECRET_SIZE);
    put_close(sensitive);
    size_t area = put_open();
    put16(ALG_KEYEDHASH);
    put16(ALG_SHA256);
    put32(FIXED_TPM | FIXED_PARENT);
    put_sized(policy, DIGEST_SIZE);
    put16(ALG_NULL);
    put_sized(NULL, 0);
    put_close(area);
    put_sized(NULL, 0);
    put32(0);
    tpm_do(NULL, &answer);
    for (size_t part = 0; part < 2; part++) {
        size_t inner = take_sized(&answer, blob + size + 2, part ? PUBLIC_MAX - 2 : PRIVATE_MAX - 2);
        blob[size] = (uint8_t)(inner >> 8);
        blob[size + 1] = (uint8_t)inner;
        size += 2 + inner;
    }
    return size;
}

void seal(char **arguments) {
    static const uint8_t NO_POLICY[DIGEST_SIZE];
    uint8_t policy[DIGEST_SIZE], blob[PRIVATE_MAX + PUBLIC_MAX];
    char text[BASE64_SIZE(sizeof blob)];

    if (!from_hex(arguments[0], policy, sizeof policy)) {
        stop(MALFORMED, "the digest is not %d bytes in lower-case hex", DIGEST_SIZE);
    }
    /* It is what a session has before its first command, so it would open for everybody. */
    if (!memcmp(policy, NO_POLICY, sizeof policy)) stop(MALFORMED, "the digest is zero, which binds nothing");
    check_key_fd();
    wipe_at_end(&secret, sizeof secret);
    tpm_open();
    draw_secret();
    uint32_t primary = storage_primary();
    size_t size = create(primary, policy, blob);
    tpm_flush(primary);
    to_base64(blob, size, text);
    printf("%.*s\n", (int)BASE64_SIZE(size), text);
    if (fflush(stdout)) stop(BROKEN, "the blob was not written");
    write_secret();
}

void read_blob(const char *path, struct blob *blob) {
    size_t inner;

    blob->size = read_base64(path, blob->data, sizeof blob->data, DENIED);
    if (blob->size >= 2) {
        blob->private_size = 2 + ((size_t)blob->data[0] << 8 | blob->data[1]);
        if (blob->private_size < blob->size &&
            only_sized(blob->data + blob->private_size, blob->size - blob->private_size, &inner)) {
            return;
        }
    }
    stop(DENIED, "%s: the sealed blob is damaged; the disk was tampered with", path);
}

static uint32_t load(uint32_t primary, const struct blob *blob) {
    uint32_t object;

    tpm_begin(CC_LOAD, "Load");
    put32(primary);
    put_password();
    put_bytes(blob->data, blob->size);
    uint32_t code = tpm_try(&object, NULL);
    if (code == RC_INTEGRITY) stop(DENIED, "the blob was sealed by another TPM, or by this one before it was cleared");
    if (is_about_input(code)) stop(DENIED, "the TPM does not load the blob (%#x); the disk was tampered with", code);
    if (code) tpm_refused(code);
    return object;
}

static void unseal_object(uint32_t object, uint32_t session, const struct proof *proof) {
    struct answer answer;

    tpm_begin(CC_UNSEAL, "Unseal");
    put32(object);
    put_sessions(&session, 1);
    uint32_t code = tpm_try(NULL, &answer);
    check_proof(code, proof, "the key was sealed");
    if (code) tpm_refused(code);
    if (take_sized(&answer, secret.raw, SECRET_SIZE) != SECRET_SIZE) {
        stop(DENIED, "what is sealed is not %d bytes; the disk was tampered with", SECRET_SIZE);
    }
}

void unseal(char **arguments) {
    struct proof proof;
    struct blob blob;

    read_proof(&proof, arguments + 1);
    read_blob(arguments[0], &blob);
    check_key_fd();
    wipe_at_end(&secret, sizeof secret);
    tpm_open();
    /* The policy first: it is quick and says most about what is wrong. */
    uint32_t session = proof_session(&proof);
    uint32_t primary = storage_primary();
    uint32_t object = load(primary, &blob);
    tpm_flush(primary);
    unseal_object(object, session, &proof);
    tpm_flush(object);
    tpm_flush(session);
    write_secret();
}

void digest(char **arguments) {
    struct policy policy;
    uint8_t found[DIGEST_SIZE];

    policy_bank(&policy, *arguments++);
    do {
        policy_registers(&policy, *arguments++);
    } while (*arguments && strcmp(*arguments, "counter"));
    if (*policy_counter(&policy, arguments)) stop(MALFORMED, "nothing may follow the counter's release");
    tpm_open();
    check_allocated(&policy);
    uint32_t session = policy_session(SE_TRIAL, &policy);
    policy_digest(session, found);
    tpm_flush(session);
    print_hex(found, sizeof found);
}
