/* SPDX-License-Identifier: Apache-2.0 */
/* The mark: what this TPM remembers of the volume that was formatted, so that neither a wiped disk nor another one is
 * taken for it.
 *
 * Whoever has the TPM can seal a secret of theirs to a policy that is public, and so make a volume that opens here. The
 * mark is an NV index with the hash of the blob that was sealed when the volume was formatted, and only a boot that
 * satisfies the policy of that blob can write it. The owner can delete it and define it anew, but then it is empty.
 *
 * Spec: TCG TPM 2.0 Library part 3 section 31 "Non-volatile Storage", part 1 section 37.
 */
#ifndef GOLDSMITH_TPM2_MARK_H
#define GOLDSMITH_TPM2_MARK_H

void mark(char **arguments);
void marked(char **arguments);
void unmarked(char **arguments);

#endif
