/* SPDX-License-Identifier: Apache-2.0 */
/* NV indexes: the counter that forbids rollback, and defining and reading any of them.
 *
 * Spec: TCG TPM 2.0 Library part 3 section 31 "Non-volatile Storage", part 2 section 13.
 */
#ifndef GOLDSMITH_TPM2_NV_H
#define GOLDSMITH_TPM2_NV_H

#include "tpm2_text.h"

void counter_show(char **arguments);
void counter_raise(char **arguments);

/* TPMA_NV, part 2 section 13.4. */
#define NV_OWNER_WRITE 0x2u
#define NV_POLICY_WRITE 0x8u
#define NV_COUNTER 0x10u
#define NV_OWNER_READ 0x20000u
#define NV_AUTH_READ 0x40000u
#define NV_NO_DA 0x2000000u
#define NV_WRITTEN 0x20000000u

/* What TPMS_NV_PUBLIC says of an index. */
struct nv_index {
    uint32_t handle;
    uint16_t name_algorithm;
    uint32_t attributes;
    uint8_t policy[64]; /* of at most SHA-512 */
    size_t policy_size;
    size_t size;
};

/* Defines an index whose name is a SHA-256; its size is in `index`. */
void nv_define(const struct nv_index *index);
/* False when the TPM has no such index. */
bool nv_public(uint32_t handle, struct nv_index *index);
/* All of its data, at most `room` bytes of it; gives 0 when it was never written. */
size_t nv_read(const struct nv_index *index, uint8_t *to, size_t room);

#endif
