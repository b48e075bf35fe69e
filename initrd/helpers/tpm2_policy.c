/* SPDX-License-Identifier: Apache-2.0 */
#include "tpm2_policy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum {
    CC_POLICY_NV = 0x149,
    CC_LOAD_EXTERNAL = 0x167,
    CC_POLICY_AUTHORIZE = 0x16A,
    CC_START_AUTH_SESSION = 0x176,
    CC_VERIFY_SIGNATURE = 0x177,
    CC_GET_CAPABILITY = 0x17A,
    CC_HASH = 0x17D,
    CC_POLICY_PCR = 0x17F,
    CC_POLICY_GET_DIGEST = 0x189,
    CAP_PCRS = 5,         /* part 2 section 6.12 */
    EO_UNSIGNED_LE = 9,   /* part 2 section 6.8 */
    NONCE_SIZE = 32,      /* at least 16: part 3 section 11.1 */
    ST_VERIFIED = 0x8022, /* part 2 section 6.9 */
    TICKET_MAX = 64,      /* an HMAC of at most SHA-512 */
    MAX_ALLOCATED = 16,   /* part 2: HASH_COUNT is far below */
};

bool is_about_input(uint32_t code) {
    return (code & ~0xFFu) == 0 && code & 0x80;
}

void random_bytes(uint8_t *to, size_t size) {
    /* Up to 256 bytes come whole once the kernel's generator is seeded (getrandom(2)). */
    if (getrandom(to, size, 0) != (ssize_t)size) stop(BROKEN, "getrandom: %s", strerror(errno));
}

void policy_bank(struct policy *policy, const char *bank) {
    memset(policy, 0, sizeof *policy);
    policy->registers.bank = bank_algorithm(bank, strlen(bank));
    snprintf(policy->shown, sizeof policy->shown, "%s:", bank);
}

void policy_registers(struct policy *policy, const char *list) {
    size_t used = strlen(policy->shown);
    const char *comma = policy->shown[used - 1] == ':' ? "" : ",";

    add_registers(&policy->registers, list);
    snprintf(policy->shown + used, sizeof policy->shown - used, "%s%s", comma, list);
}

char **policy_counter(struct policy *policy, char **arguments) {
    if (!arguments[0] || strcmp(arguments[0], "counter")) return arguments;
    if (!arguments[1] || !arguments[2]) stop(MALFORMED, "counter takes a handle and a release");
    policy->counter = arguments[1];
    policy->handle = nv_handle(arguments[1]);
    policy->release = number(arguments[2], UINT64_MAX, "the release");
    return arguments + 3;
}

static char **read_approval(char **arguments, struct approval *approval) {
    uint8_t file[2 + PUBLIC_MAX];

    for (size_t i = 0; i < 3; i++) {
        if (!arguments[i]) stop(MALFORMED, "signed takes a policy and the files of a signature and a key");
    }
    if (!from_hex(arguments[0], approval->digest, DIGEST_SIZE)) {
        stop(MALFORMED, "the signed policy is not %d bytes in lower-case hex", DIGEST_SIZE);
    }
    approval->signature_size = read_base64(arguments[1], approval->signature, sizeof approval->signature, DENIED);
    size_t size = read_file(arguments[2], file, sizeof file, MALFORMED);
    const uint8_t *area = only_sized(file, size, &approval->public_size);
    if (!area) stop(MALFORMED, "%s: not one TPM2B_PUBLIC", arguments[2]);
    memcpy(approval->public_area, area, approval->public_size);
    return arguments + 3;
}

void read_proof(struct proof *proof, char **arguments) {
    char **rest = arguments + 2;

    policy_bank(&proof->policy, arguments[0]);
    policy_registers(&proof->policy, arguments[1]);
    proof->is_signed = *rest && !strcmp(*rest, "signed");
    if (proof->is_signed) rest = read_approval(rest + 1, &proof->approval);
    if (*policy_counter(&proof->policy, rest)) stop(MALFORMED, "neither 'signed' nor 'counter' follows the registers");
}

uint32_t bare_session(enum session_type type) {
    uint32_t session;
    uint8_t nonce[NONCE_SIZE];

    random_bytes(nonce, sizeof nonce);
    tpm_begin(CC_START_AUTH_SESSION, "StartAuthSession");
    put32(RH_NULL);
    put32(RH_NULL);
    put_sized(nonce, sizeof nonce);
    put_sized(NULL, 0);
    put8((uint8_t)type);
    put16(ALG_NULL);
    put16(ALG_SHA256);
    tpm_do(&session, NULL);
    return session;
}

/* counter <= release. The index itself authorizes its reading, so the owner's password is nobody's business. */
static void policy_nv(uint32_t session, const struct policy *policy) {
    tpm_begin(CC_POLICY_NV, "PolicyNV");
    put32(policy->handle);
    put32(policy->handle);
    put32(session);
    put_password();
    size_t operand = put_open();
    put64(policy->release);
    put_close(operand);
    put16(0);
    put16(EO_UNSIGNED_LE);
    uint32_t code = tpm_try(NULL, NULL);
    switch (code) {
    case 0:
        return;
    case RC_POLICY:
        stop(DENIED,
             "counter %s is above %llu: this release is older than one that has run here; boot the newer one",
             policy->counter, (unsigned long long)policy->release);
    case RC_HANDLE:
    case RC_NV_UNINITIALIZED:
        stop(DENIED, "counter %s is not in this TPM: it is another TPM, or it was cleared", policy->counter);
    case RC_NV_LOCKED:
        stop(DENIED, "counter %s is locked until the machine is reset", policy->counter);
    default:
        tpm_refused(code);
    }
}

static void policy_pcr(uint32_t session, const struct policy *policy) {
    tpm_begin(CC_POLICY_PCR, "PolicyPCR");
    put32(session);
    put_sized(NULL, 0); /* whatever the registers hold now */
    put_selections(&policy->registers, 1);
    tpm_do(NULL, NULL);
}

uint32_t policy_session(enum session_type type, const struct policy *policy) {
    uint32_t session = bare_session(type);

    if (policy->counter) policy_nv(session, policy);
    policy_pcr(session, policy);
    return session;
}

void policy_digest(uint32_t session, uint8_t digest[DIGEST_SIZE]) {
    struct answer answer;

    tpm_begin(CC_POLICY_GET_DIGEST, "PolicyGetDigest");
    put32(session);
    tpm_do(NULL, &answer);
    if (take_sized(&answer, digest, DIGEST_SIZE) != DIGEST_SIZE) {
        stop(BROKEN, "the policy's digest is not of %d bytes; the TPM is broken", DIGEST_SIZE);
    }
}

/* What a key signs to approve a policy: the hash of the policy and of an empty reference (part 3 section 23.16). */
static void hash(const uint8_t data[DIGEST_SIZE], uint8_t digest[DIGEST_SIZE]) {
    struct answer answer;

    tpm_begin(CC_HASH, "Hash");
    put_sized(data, DIGEST_SIZE);
    put16(ALG_SHA256);
    put32(RH_NULL);
    tpm_do(NULL, &answer);
    if (take_sized(&answer, digest, DIGEST_SIZE) != DIGEST_SIZE) {
        stop(BROKEN, "a SHA-256 is not of %d bytes; the TPM is broken", DIGEST_SIZE);
    }
}

struct ticket {
    uint32_t hierarchy;
    uint8_t digest[TICKET_MAX];
    size_t size;
};

/* The TPM's word that the key signed. The key must be in a hierarchy: the null one gives no ticket that counts. */
static void verify(const struct approval *approval, struct ticket *ticket, uint8_t *name, size_t *name_size) {
    uint32_t key, code;
    uint8_t digest[DIGEST_SIZE];
    struct answer answer;

    hash(approval->digest, digest);
    tpm_begin(CC_LOAD_EXTERNAL, "LoadExternal");
    put_sized(NULL, 0);
    put_sized(approval->public_area, approval->public_size);
    put32(RH_OWNER);
    code = tpm_try(&key, &answer);
    if (is_about_input(code)) stop(MALFORMED, "the TPM does not take the image's public key (%#x)", code);
    if (code) tpm_refused(code);
    *name_size = take_sized(&answer, name, NAME_MAX_SIZE);

    tpm_begin(CC_VERIFY_SIGNATURE, "VerifySignature");
    put32(key);
    put_sized(digest, sizeof digest);
    put16(ALG_RSASSA);
    put16(ALG_SHA256);
    put_sized(approval->signature, approval->signature_size);
    code = tpm_try(NULL, &answer);
    if (is_about_input(code)) {
        stop(DENIED, "the policy's signature was not made with the image's key; sign the UKI anew");
    }
    if (code) tpm_refused(code);
    if (take16(&answer) != ST_VERIFIED) stop(BROKEN, "the signature's ticket is none; the TPM is broken");
    ticket->hierarchy = take32(&answer);
    ticket->size = take_sized(&answer, ticket->digest, sizeof ticket->digest);
    tpm_flush(key);
}

/* PolicyAuthorize: from here on the session stands for the key instead of the registers. */
static void policy_authorize(uint32_t session, const struct policy *policy, const struct approval *approval) {
    struct ticket ticket;
    uint8_t name[NAME_MAX_SIZE], now[DIGEST_SIZE];
    size_t name_size;

    policy_digest(session, now);
    if (memcmp(now, approval->digest, sizeof now)) {
        stop(DENIED, "the signature is for another boot: %s does not hold what was signed", policy->shown);
    }
    verify(approval, &ticket, name, &name_size);
    tpm_begin(CC_POLICY_AUTHORIZE, "PolicyAuthorize");
    put32(session);
    put_sized(approval->digest, DIGEST_SIZE);
    put_sized(NULL, 0);
    put_sized(name, name_size);
    put16(ST_VERIFIED);
    put32(ticket.hierarchy);
    put_sized(ticket.digest, ticket.size);
    uint32_t code = tpm_try(NULL, NULL);
    if (is_about_input(code)) stop(DENIED, "the TPM does not take the approval of %s (%#x)", policy->shown, code);
    if (code) tpm_refused(code);
}

uint32_t proof_session(const struct proof *proof) {
    uint32_t session = policy_session(SE_POLICY, &proof->policy);

    if (proof->is_signed) policy_authorize(session, &proof->policy, &proof->approval);
    return session;
}

void check_proof(uint32_t code, const struct proof *proof, const char *what) {
    if (code == RC_POLICY_FAIL || code == RC_PCR_CHANGED || is_about_input(code)) {
        stop(DENIED, "%s does not hold what %s to (%#x); boot what that was made for", proof->policy.shown, what,
             code);
    }
}

void check_allocated(const struct policy *policy) {
    const struct selection *wanted = &policy->registers;
    struct answer answer;

    tpm_begin(CC_GET_CAPABILITY, "GetCapability");
    put32(CAP_PCRS);
    put32(0);
    put32(1);
    tpm_do(NULL, &answer);
    take8(&answer);
    if (take32(&answer) != CAP_PCRS) stop(BROKEN, "another capability was answered; the TPM is broken");
    uint32_t banks = take32(&answer);
    for (uint32_t i = 0; i < banks && i < MAX_ALLOCATED; i++) {
        bool same = take16(&answer) == wanted->bank;
        size_t size = take8(&answer);
        for (size_t j = 0; j < size; j++) {
            uint8_t bits = take8(&answer);
            if (j < SELECT_SIZE && wanted->bits[j] & ~bits) same = false;
        }
        if (same && size >= SELECT_SIZE) return;
    }
    stop(DENIED, "this TPM does not have %s; allocate the bank, or use another", policy->shown);
}
