/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The derived key of an AMD SEV-SNP guest.
 *
 * Spec: AMD 56860, SEV Secure Nested Paging Firmware ABI, section 7.2 (MSG_KEY_REQ, GUEST_FIELD_SELECT, MSG_KEY_RSP);
 * Linux include/uapi/linux/sev-guest.h and drivers/virt/coco/sev-guest/sev-guest.c.
 */
#define _DEFAULT_SOURCE
#include "derive-key.h"

#include <errno.h>
#include <linux/sev-guest.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* ABI 7.2, GUEST_FIELD_SELECT. */
enum {
    POLICY = 1 << 0,
    IMAGE_ID = 1 << 1,
    FAMILY_ID = 1 << 2,
    MEASUREMENT = 1 << 3,
    GUEST_SVN = 1 << 4,
    TCB_VERSION = 1 << 5,
};

/* ABI 7.2, MSG_KEY_RSP: a status, 28 reserved bytes, the key. */
enum { STATUS_OFFSET = 0x00, KEY_OFFSET = 0x20, STATUS_SUCCESS = 0x00, STATUS_PARAMETERS = 0x16, STATUS_KEY = 0x27 };

/* The first message format; the second adds a field that we do not mix in. */
enum { MESSAGE_VERSION = 1 };

_Static_assert(sizeof(struct snp_derived_key_req) == 32, "MSG_KEY_REQ, version 1");
_Static_assert(sizeof(struct snp_derived_key_resp) == KEY_OFFSET + SOURCE_SIZE, "MSG_KEY_RSP");

static enum ending read_request(const char *fields, const char *root, const char *vmpl,
                                struct snp_derived_key_req *request) {
    uint64_t svn = 0, tcb = 0, level = 0, bits = 0;
    const struct choice choices[] = {
        {.name = "policy", .bit = POLICY},
        {.name = "image-id", .bit = IMAGE_ID},
        {.name = "family-id", .bit = FAMILY_ID},
        {.name = "measurement", .bit = MEASUREMENT},
        {.name = "guest-svn", .bit = GUEST_SVN, .number = &svn, .least = 1, .most = UINT32_MAX},
        {.name = "tcb-version", .bit = TCB_VERSION, .number = &tcb, .least = 1, .most = UINT64_MAX},
    };
    if (read_choices("FIELDS", fields, choices, sizeof choices / sizeof *choices, &bits)) {
        return MALFORMED;
    }
    /* Image, family and SVN come from an ID block. Whoever starts the guest signs that with a key of his own, and no
     * field stands for this key, so a host gives its own image the same ones. The policy is in no measurement: the
     * same image under a policy with debugging has the same measurement and no secrets. Only both together bind. */
    if (!(bits & MEASUREMENT) || !(bits & POLICY)) {
        complain("FIELDS: '%.60s' lacks measurement or policy, so the host could get the same key; name both", fields);
        return MALFORMED;
    }
    if (strcmp(root, "vcek") && strcmp(root, "vmrk")) {
        complain("ROOT: '%.20s' is not known; write vcek or vmrk", root);
        return MALFORMED;
    }
    if (read_number(vmpl, strlen(vmpl), 0, 3, &level)) {
        complain("VMPL: '%.20s' is not a privilege level; write 0 to 3", vmpl);
        return MALFORMED;
    }
    /* ROOT_KEY_SELECT 0 is the VCEK, or the VLEK in a machine whose host has loaded one. */
    request->root_key_select = !strcmp(root, "vmrk");
    request->guest_field_select = bits;
    request->vmpl = (uint32_t)level;
    request->guest_svn = (uint32_t)svn;
    request->tcb_version = tcb;
    return GIVEN;
}

static enum ending no_answer(int error, const struct snp_guest_request_ioctl *call) {
    if (call->vmm_error == SNP_GUEST_VMM_ERR_BUSY || error == EAGAIN || error == EBUSY || error == ETIMEDOUT ||
        error == EINTR || error == ENOMEM) {
        complain("sev-guest: the host or the secure processor is busy (%s)", strerror(error));
        return TEMPORARY;
    }
    if (error == ENOTTY) {
        /* The driver forgets the key of its messages after any fault, so that no nonce is used twice. */
        complain("sev-guest: the kernel has given up the channel to the secure processor; start the machine again");
        return DENIED;
    }
    complain("sev-guest: no key: %s, firmware error 0x%x, hypervisor error 0x%x; see the kernel log", strerror(error),
             call->fw_error, call->vmm_error);
    return DENIED;
}

static enum ending read_response(const uint8_t *data, uint8_t key[SOURCE_SIZE]) {
    uint32_t status = 0;
    for (int index = 0; index < 4; index++) {
        status |= (uint32_t)data[STATUS_OFFSET + index] << 8 * index;
    }
    switch (status) {
        case STATUS_SUCCESS:
            memcpy(key, data + KEY_OFFSET, SOURCE_SIZE);
            return GIVEN;
        case STATUS_PARAMETERS:
            complain("sev-guest: the firmware refuses the request (0x16): the VMPL is below the guest's own, "
                     "or the SVN or TCB version is above the machine's");
            return DENIED;
        case STATUS_KEY:
            complain("sev-guest: the firmware has no such root key (0x27); use vcek");
            return DENIED;
        default:
            complain("sev-guest: the firmware refuses with status 0x%x; see AMD 56860, MSG_KEY_RSP", status);
            return DENIED;
    }
}

enum ending snp_key(const char *fields, const char *root, const char *vmpl, uint8_t key[SOURCE_SIZE]) {
    struct snp_derived_key_req request = {0};
    struct snp_derived_key_resp response = {0};
    struct snp_guest_request_ioctl call = {.msg_version = MESSAGE_VERSION,
                                           .req_data = (uintptr_t)&request,
                                           .resp_data = (uintptr_t)&response};
    enum ending ending = read_request(fields, root, vmpl, &request);
    if (ending != GIVEN) {
        return ending;
    }
    int device = open_device("GOLDSMITH_SEV_GUEST", "/dev/sev-guest");
    if (device < 0) {
        return no_device("/dev/sev-guest", "SEV-SNP guests");
    }
    ending = ioctl(device, SNP_GET_DERIVED_KEY, &call) ? no_answer(errno, &call) : read_response(response.data, key);
    close(device);
    explicit_bzero(&response, sizeof response);
    return ending;
}
