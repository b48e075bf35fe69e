/* SPDX-License-Identifier: Apache-2.0 */
/*: sources tpm2_io.c tpm2_bytes.c tpm2_text.c tpm2_policy.c tpm2_seal.c tpm2_nv.c tpm2_mark.c tpm2_quote.c sha256.c process.c */
/* What a machine that boots asks of its TPM 2.0, as raw commands: no TSS, no cryptography of its own.
 *
 *   tpm2 seal DIGEST               a new secret as base64 on descriptor 3, the sealed blob as base64 on standard output
 *   tpm2 unseal BLOB_FILE BANK PCRS [signed POLICY SIGNATURE_FILE PUBLIC_FILE] [counter HANDLE RELEASE]
 *                                  the secret as base64 on descriptor 3
 *   tpm2 digest BANK PCR... [counter HANDLE RELEASE]
 *                                  the policy that the registers have now, in hex
 *   tpm2 counter HANDLE            the value of a counter
 *   tpm2 raise HANDLE VALUE        makes the counter if need be, and raises it to VALUE
 *   tpm2 mark HANDLE BLOB_FILE DIGEST BANK PCRS [signed POLICY SIGNATURE_FILE PUBLIC_FILE] [counter HANDLE RELEASE]
 *                                  remembers the blob, which is sealed to DIGEST; refuses when it has another one
 *   tpm2 marked HANDLE BLOB_FILE DIGEST
 *                                  ends with 0 if that is what was remembered, with 20 if not
 *   tpm2 unmarked HANDLE           ends with 0 if nothing is remembered, with 20 if something is
 *   tpm2 quote SELECTION NONCE FOLDER
 *                                  files quote, signature, ak_public
 *   tpm2 ek FOLDER                 file ek_certificate
 *   tpm2 activate FOLDER           from file credential, file activation
 *
 * Digests are SHA-256 in lower-case hex, handles 0x1500016, PCRS 0,4,7, SELECTION sha256:0,4,7+sha384:11, and files
 * of blob and signature are base64. It ends with
 *    0  done
 *    1  the TPM or the machine does not work as it should
 *   10  not now: the TPM is busy or in lockout
 *   20  denied: the TPM, or what was measured, is not the one it should be
 *   30  not here: no TPM, no such index
 *   40  the arguments are malformed
 * and one line on standard error unless with 0.
 *
 * Sessions are neither salted nor encrypted: the TPM of a virtual machine has no wires, and whoever emulates it knows
 * the secrets anyway.
 */
#include "process.h"
#include "tpm2_mark.h"
#include "tpm2_nv.h"
#include "tpm2_quote.h"
#include "tpm2_seal.h"

#include <string.h>

/* The commands, and how many arguments each of them takes. */
static const struct {
    const char *name;
    int least, most;
    void (*run)(char **arguments);
} COMMANDS[] = {
    {"seal", 1, 1, seal},
    {"unseal", 3, 10, unseal},
    {"digest", 2, 1 + PCR_COUNT + 3, digest},
    {"counter", 1, 1, counter_show},
    {"raise", 2, 2, counter_raise},
    {"mark", 5, 12, mark},
    {"marked", 3, 3, marked},
    {"unmarked", 1, 1, unmarked},
    {"quote", 3, 3, quote},
    {"ek", 1, 1, ek_certificate},
    {"activate", 1, 1, activate},
};

int main(int argc, char **argv) {
    keep_private();
    for (size_t i = 0; argc > 1 && i < sizeof COMMANDS / sizeof *COMMANDS; i++) {
        if (strcmp(argv[1], COMMANDS[i].name)) continue;
        if (argc - 2 < COMMANDS[i].least || argc - 2 > COMMANDS[i].most) break;
        COMMANDS[i].run(argv + 2);
        finish();
    }
    stop(MALFORMED, "usage: tpm2 seal|unseal|digest|counter|raise|mark|marked|unmarked|quote|ek|activate ARGUMENTS;"
         " see tpm2.c");
}
