/* SPDX-License-Identifier: Apache-2.0 */
/* A TPM 2.0 as a file: one command is written, one response is read.
 *
 * There is one connection and one command at a time. Whatever goes wrong ends the program by stop(), which first
 * flushes what is loaded in the TPM and wipes what is secret; so no function here returns an error to look at.
 *
 * Spec: TCG TPM 2.0 Library part 1 section 18 (command and response), part 2 sections 6.6 (response codes), 7
 * (handles), 10.13 (authorization areas); version 1.59.
 */
#ifndef GOLDSMITH_TPM2_IO_H
#define GOLDSMITH_TPM2_IO_H

#include "tpm2_bytes.h"

/* How the program ends: the codes of the unlock driver, and BROKEN for what it has no word for. */
enum status { DONE = 0, BROKEN = 1, NOT_NOW = 10, DENIED = 20, NOT_HERE = 30, MALFORMED = 40 };

enum {
    ALG_RSA = 0x0001,
    ALG_SHA1 = 0x0004,
    ALG_AES = 0x0006,
    ALG_KEYEDHASH = 0x0008,
    ALG_SHA256 = 0x000B,
    ALG_SHA384 = 0x000C,
    ALG_SHA512 = 0x000D,
    ALG_NULL = 0x0010,
    ALG_RSASSA = 0x0014,
    ALG_ECDSA = 0x0018,
    ALG_ECC = 0x0023,
    ALG_CFB = 0x0043,
    CURVE_P256 = 0x0003,
};

#define RH_OWNER 0x40000001u
#define RH_NULL 0x40000007u
#define RS_PW 0x40000009u
#define RH_ENDORSEMENT 0x4000000Bu

/* Response codes, as tpm_try() gives them: without the bits that say which handle, session or parameter it was. */
enum {
    RC_VALUE = 0x084,
    RC_HANDLE = 0x08B,
    RC_POLICY_FAIL = 0x09D,
    RC_INTEGRITY = 0x09F,
    RC_BAD_AUTH = 0x0A2,
    RC_FAILURE = 0x101,
    RC_POLICY = 0x126,
    RC_PCR_CHANGED = 0x128,
    RC_NV_LOCKED = 0x148,
    RC_NV_UNINITIALIZED = 0x14A,
};

enum {
    DIGEST_SIZE = 32,  /* SHA-256, the hash of every name and policy here */
    PRIVATE_MAX = 512, /* ours: a TPM2B_PRIVATE of a sealed secret has some 160 bytes */
    PUBLIC_MAX = 1024, /* ours: an RSA-4096 key has some 540 bytes */
    NAME_MAX_SIZE = 2 + 64,
};

/* Ends the program: the message on standard error, the TPM flushed, secrets wiped. */
_Noreturn void stop(enum status code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends it well: nothing is loaded any more, nothing secret is left. */
_Noreturn void finish(void);
/* Memory that stop() and finish() wipe. */
void wipe_at_end(void *memory, size_t size);

/* Opens the TPM; GOLDSMITH_TPM names another path than /dev/tpmrm0. */
void tpm_open(void);

/* Sends the command. Without an error it gives 0, the handle that the response has when `handle` is not NULL (it is
 * flushed at the end if not before), and the parameters. Codes that mean "later" never come back. */
uint32_t tpm_try(uint32_t *handle, struct answer *answer);
/* The same, where every error ends the program. */
void tpm_do(uint32_t *handle, struct answer *answer);
/* Ends the program for a response code of the last command. */
_Noreturn void tpm_refused(uint32_t code);
void tpm_flush(uint32_t handle);

#endif
