/* SPDX-License-Identifier: Apache-2.0 */
#include "tpm2_nv.h"

#include <stdio.h>

enum {
    CC_NV_DEFINE_SPACE = 0x12A,
    CC_NV_INCREMENT = 0x134,
    CC_NV_READ = 0x14E,
    CC_NV_READ_PUBLIC = 0x169,
    DATA_SIZE = 8,      /* of a counter: part 1 section 37.2 */
    READ_AT_ONCE = 512, /* ours: what one TPM2_NV_Read gives is limited, usually to 1024 (TPM_PT_NV_BUFFER_MAX) */
    MAX_STEPS = 1000,   /* ours: each one is a write to a memory that wears out */
};

/* The policy names the counter, and the name covers these. */
#define COUNTER_ATTRIBUTES (NV_OWNER_WRITE | NV_OWNER_READ | NV_AUTH_READ | NV_NO_DA | NV_COUNTER)

bool nv_public(uint32_t handle, struct nv_index *index) {
    struct answer answer;

    tpm_begin(CC_NV_READ_PUBLIC, "NV_ReadPublic");
    put32(handle);
    uint32_t code = tpm_try(NULL, &answer);
    if (code == RC_HANDLE || code == RC_VALUE) return false;
    if (code) tpm_refused(code);
    take16(&answer);
    index->handle = take32(&answer);
    index->name_algorithm = take16(&answer);
    index->attributes = take32(&answer);
    index->policy_size = take_sized(&answer, index->policy, sizeof index->policy);
    index->size = take16(&answer);
    if (index->handle != handle) stop(BROKEN, "NV index %#x was answered by another; the TPM is broken", handle);
    return true;
}

size_t nv_read(const struct nv_index *index, uint8_t *to, size_t room) {
    size_t have = 0;

    while (have < index->size && have < room) {
        struct answer answer;
        size_t left = index->size < room ? index->size - have : room - have;
        size_t part = left < READ_AT_ONCE ? left : READ_AT_ONCE;
        tpm_begin(CC_NV_READ, "NV_Read");
        put32(index->attributes & NV_AUTH_READ ? index->handle : RH_OWNER);
        put32(index->handle);
        put_password();
        put16((uint16_t)part);
        put16((uint16_t)have);
        uint32_t code = tpm_try(NULL, &answer);
        if (code == RC_NV_UNINITIALIZED) return 0;
        if (code) tpm_refused(code);
        if (take_sized(&answer, to + have, part) != part) stop(BROKEN, "NV_Read gave less than it has");
        have += part;
    }
    return have;
}

void nv_define(const struct nv_index *index) {
    tpm_begin(CC_NV_DEFINE_SPACE, "NV_DefineSpace");
    put32(RH_OWNER);
    put_password();
    put_sized(NULL, 0);
    size_t area = put_open();
    put32(index->handle);
    put16(ALG_SHA256);
    put32(index->attributes);
    put_sized(index->policy, index->policy_size);
    put16((uint16_t)index->size);
    put_close(area);
    tpm_do(NULL, NULL);
}

/* The value of a counter, false before its first increment. It ends the program when the index is another thing. */
static bool read_counter(const struct nv_index *index, uint64_t *value) {
    uint8_t data[DATA_SIZE];

    bool ours = (index->attributes & ~NV_WRITTEN) == COUNTER_ATTRIBUTES && index->size == DATA_SIZE;

    if (!ours || index->policy_size) {
        stop(DENIED, "NV index %#x is not a counter of ours (attributes %#x); choose another handle", index->handle,
             index->attributes);
    }
    if (nv_read(index, data, sizeof data) != sizeof data) return false;
    *value = 0;
    for (size_t i = 0; i < sizeof data; i++) *value = *value << 8 | data[i];
    return true;
}

static void increment(uint32_t handle) {
    tpm_begin(CC_NV_INCREMENT, "NV_Increment");
    put32(RH_OWNER);
    put32(handle);
    put_password();
    tpm_do(NULL, NULL);
}

void counter_show(char **arguments) {
    struct nv_index index;
    uint64_t value;
    uint32_t handle = nv_handle(arguments[0]);

    tpm_open();
    if (!nv_public(handle, &index)) stop(NOT_HERE, "counter %s is not defined in this TPM", arguments[0]);
    if (!read_counter(&index, &value)) stop(NOT_HERE, "counter %s was never raised", arguments[0]);
    printf("%llu\n", (unsigned long long)value);
}

void counter_raise(char **arguments) {
    struct nv_index index;
    uint64_t value;
    uint32_t handle = nv_handle(arguments[0]);
    uint64_t wanted = number(arguments[1], UINT64_MAX, "the value");

    tpm_open();
    if (!nv_public(handle, &index)) {
        nv_define(&(struct nv_index){.handle = handle, .attributes = COUNTER_ATTRIBUTES, .size = DATA_SIZE});
        if (!nv_public(handle, &index)) stop(BROKEN, "counter %s is gone again", arguments[0]);
    }
    if (!read_counter(&index, &value)) {
        /* The first step goes above the highest value of every counter that was deleted, so that making one anew does
         * not lower it (part 3 section 31.8). */
        increment(handle);
        if (!read_counter(&index, &value)) stop(BROKEN, "counter %s has no value", arguments[0]);
    }
    if (value > wanted) {
        stop(DENIED, "counter %s is %llu and cannot go back to %llu; build with a release of %llu or more",
             arguments[0], (unsigned long long)value, (unsigned long long)wanted, (unsigned long long)value);
    }
    if (wanted - value > MAX_STEPS) {
        stop(MALFORMED, "counter %s is %llu, and %llu is over %d steps away; number releases 1, 2, 3", arguments[0],
             (unsigned long long)value, (unsigned long long)wanted, MAX_STEPS);
    }
    for (; value < wanted; value++) increment(handle);
    if (!read_counter(&index, &value) || value != wanted) {
        stop(BROKEN, "counter %s is not %llu after all", arguments[0], (unsigned long long)wanted);
    }
}
