/* SPDX-License-Identifier: Apache-2.0 */
#include "tpm2_mark.h"

#include "sha256.h"
#include "tpm2_nv.h"
#include "tpm2_policy.h"
#include "tpm2_seal.h"

#include <string.h>

enum {
    CC_NV_UNDEFINE_SPACE = 0x122,
    CC_NV_WRITE = 0x137,
};

/* Nobody but who satisfies the policy writes it; everybody reads it, and wrong passwords lock nothing. */
#define MARK_ATTRIBUTES (NV_POLICY_WRITE | NV_OWNER_READ | NV_AUTH_READ | NV_NO_DA)

/* A mark as it ought to be. */
struct mark {
    struct nv_index index; /* once it is written */
    uint8_t blob[SHA256_SIZE];
};

/* Reads `HANDLE BLOB_FILE POLICY`. */
static void read_mark(char **arguments, struct mark *mark) {
    struct sha256 hash;
    struct blob blob;

    *mark = (struct mark){
        .index = {
            .handle = nv_handle(arguments[0]),
            .name_algorithm = ALG_SHA256,
            .attributes = MARK_ATTRIBUTES | NV_WRITTEN,
            .policy_size = DIGEST_SIZE,
            .size = SHA256_SIZE,
        },
    };
    if (!from_hex(arguments[2], mark->index.policy, DIGEST_SIZE)) {
        stop(MALFORMED, "the digest is not %d bytes in lower-case hex", DIGEST_SIZE);
    }
    read_blob(arguments[1], &blob);
    sha256_begin(&hash);
    sha256_add(&hash, blob.data, blob.size);
    sha256_end(&hash, mark->blob);
}

/* Whether two public areas, and so the names over them, are the same. */
static bool same_public(const struct nv_index *one, const struct nv_index *other) {
    return one->handle == other->handle && one->name_algorithm == other->name_algorithm &&
           one->attributes == other->attributes && one->policy_size == other->policy_size &&
           !memcmp(one->policy, other->policy, one->policy_size) && one->size == other->size;
}

/* Ends the program unless a written index is the mark. */
static void check_mark(const struct nv_index *found, const struct mark *mark) {
    uint8_t content[SHA256_SIZE];

    if (!same_public(found, &mark->index)) {
        stop(DENIED, "this is not the volume that this TPM formatted: the policy and attributes %#x of mark %#x are not"
             " of this image; the disk was exchanged", found->attributes, found->handle);
    }
    if (nv_read(found, content, sizeof content) != sizeof content || memcmp(content, mark->blob, sizeof content)) {
        stop(DENIED, "this is not the volume that this TPM formatted: mark %#x is of another one; the disk was"
             " exchanged", found->handle);
    }
}

static void undefine(uint32_t handle) {
    tpm_begin(CC_NV_UNDEFINE_SPACE, "NV_UndefineSpace");
    put32(RH_OWNER);
    put32(handle);
    put_password();
    tpm_do(NULL, NULL);
}

static void write_mark(const struct mark *mark, uint32_t session, const struct proof *proof) {
    tpm_begin(CC_NV_WRITE, "NV_Write");
    put32(mark->index.handle);
    put32(mark->index.handle);
    put_sessions(&session, 1);
    put_sized(mark->blob, sizeof mark->blob);
    put16(0);
    uint32_t code = tpm_try(NULL, NULL);
    check_proof(code, proof, "the mark is bound");
    if (code) tpm_refused(code);
}

void mark(char **arguments) {
    struct mark mark;
    struct proof proof;
    struct nv_index found;

    read_mark(arguments, &mark);
    read_proof(&proof, arguments + 3);
    tpm_open();
    uint32_t session = proof_session(&proof);
    bool there = nv_public(mark.index.handle, &found);
    if (!there || !(found.attributes & NV_WRITTEN)) {
        /* One that was never written remembers nothing: the power was cut, or somebody else defined it, with a password
         * that nobody knows. */
        if (there) undefine(mark.index.handle);
        struct nv_index empty = mark.index;
        empty.attributes &= ~NV_WRITTEN;
        nv_define(&empty);
        write_mark(&mark, session, &proof);
        if (!nv_public(mark.index.handle, &found)) stop(BROKEN, "mark %s is gone again", arguments[0]);
    }
    tpm_flush(session);
    check_mark(&found, &mark);
}

void marked(char **arguments) {
    struct mark mark;
    struct nv_index found;

    read_mark(arguments, &mark);
    tpm_open();
    if (!nv_public(mark.index.handle, &found) || !(found.attributes & NV_WRITTEN)) {
        stop(DENIED, "this TPM has no mark of the volume in %s: the disk is another machine's, or the mark was deleted",
             arguments[0]);
    }
    check_mark(&found, &mark);
}

void unmarked(char **arguments) {
    struct nv_index found;
    uint32_t handle = nv_handle(arguments[0]);

    tpm_open();
    if (nv_public(handle, &found) && found.attributes & NV_WRITTEN) {
        stop(DENIED, "this TPM has mark %s: it has formatted a volume", arguments[0]);
    }
}
