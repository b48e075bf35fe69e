/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine shows to somebody else: a quote, its endorsement certificate, an activated credential.
 *
 * Spec: TCG TPM 2.0 Library part 3 sections 18.4 (Quote) and 12.5 (ActivateCredential), part 1 section 24; TCG EK
 * Credential Profile 2.5 sections 2.2.1 (NV indexes) and B.3 (templates).
 */
#ifndef GOLDSMITH_TPM2_QUOTE_H
#define GOLDSMITH_TPM2_QUOTE_H

void quote(char **arguments);
void ek_certificate(char **arguments);
void activate(char **arguments);

#endif
