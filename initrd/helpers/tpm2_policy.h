/* SPDX-License-Identifier: Apache-2.0 */
/* Policy sessions: what must be so for a sealed object to open.
 *
 * Spec: TCG TPM 2.0 Library part 3 section 23 "Enhanced Authorization Commands", part 1 section 19.7.
 */
#ifndef GOLDSMITH_TPM2_POLICY_H
#define GOLDSMITH_TPM2_POLICY_H

#include "tpm2_text.h"

/* Part 2 section 6.11. A trial works out a digest and opens nothing. */
enum session_type { SE_POLICY = 1, SE_TRIAL = 3 };

/* Registers, and a counter that must not be above a release. */
struct policy {
    struct selection registers;
    const char *counter; /* its handle as it was written, or NULL */
    uint32_t handle;
    uint64_t release;
    char shown[96]; /* the registers, for messages: sha256:11 */
};

/* A key's approval of a policy. */
struct approval {
    uint8_t digest[DIGEST_SIZE];
    uint8_t signature[512]; /* RSA, up to 4096 bits */
    size_t signature_size;
    uint8_t public_area[PUBLIC_MAX]; /* TPMT_PUBLIC */
    size_t public_size;
};

/* How this boot satisfies the policy that something is bound to. */
struct proof {
    struct policy policy;
    bool is_signed; /* the policy is a key's approval of `policy`, else `policy` itself */
    struct approval approval;
};

/* Begins with a bank; registers are added by policy_registers(), as `4` or `4,7`. */
void policy_bank(struct policy *policy, const char *bank);
void policy_registers(struct policy *policy, const char *list);
/* Reads `counter HANDLE RELEASE` if that is what is there, and gives the place behind it. */
char **policy_counter(struct policy *policy, char **arguments);

/* Reads `BANK PCRS [signed POLICY SIGNATURE_FILE PUBLIC_FILE] [counter HANDLE RELEASE]`, and nothing may follow. */
void read_proof(struct proof *proof, char **arguments);

/* A session of SHA-256 without any command. */
uint32_t bare_session(enum session_type type);
/* One whose commands are PolicyNV if there is a counter, then PolicyPCR. */
uint32_t policy_session(enum session_type type, const struct policy *policy);
void policy_digest(uint32_t session, uint8_t digest[DIGEST_SIZE]);
/* One that satisfies a policy as far as this boot can; with a signature it stands for the key, not the registers. */
uint32_t proof_session(const struct proof *proof);
/* Ends the program when a code says that the session does not satisfy the policy that `what` ("the key was sealed"). */
void check_proof(uint32_t code, const struct proof *proof, const char *what);
/* Ends the program unless the TPM has all these registers: it leaves out those that it lacks and says nothing. */
void check_allocated(const struct policy *policy);

/* Whether a code is about what was given: format one, part 2 section 6.6.2. */
bool is_about_input(uint32_t code);
void random_bytes(uint8_t *to, size_t size);

#endif
