"""Whether the report of an AMD SEV-SNP guest vouches for a TPM's attestation key.

What it proves: that code at an allowed privilege level (VMPL), in a guest with an allowed launch measurement,
on a processor of AMD's with firmware of the least level or above, had a digest of this attestation key
signed. What it does not prove: that the key's TPM is in that guest. It is only where the launch measurement

* covers the TPM: that of an SVSM or a paravisor does which has the TPM inside. Any other guest, measured to
  the last byte, may be given the host's software TPM, whose registers say what the host likes;
* covers all code that can ask for a report of that level. Behind an SVSM a kernel at VMPL 2 is measured by
  the TPM alone, and any kernel can ask there for a report over any key. So VMPL 0 is the usual one.

Nor is the report new: it may be of any time since the guest's launch. The quote is over this request's nonce.
An SVSM's own attestation of its TPM (a manifest with the endorsement key) is not read here.

Signatures, certificates and TCB versions are tried on reports of four real processors. A guest that asks for
its report is spec-only: no such hardware was there.

Spec: AMD 56860 section 7.3 (ATTESTATION_REPORT), section 4.3 (guest policy); AMD 57230 section 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from ..errors import FormatError
from ..formats.snp_certificates import Endorsement, read_endorsement, read_endorsement_table
from ..formats.snp_report import Policy, SigningKey, SnpReport, TcbLayout, read_report
from ..formats.tpm2 import sized
from ..formats.tpm2_public import Public
from .refusal import RefusedError
from .tee_policy import TeePolicy
from .tee_roots import TeeRoots

# The first half of REPORT_DATA as it is, and not hashed with the key: an SVSM has reports of VMPL 0 signed
# over SHA-512(nonce || manifest) for whatever kernel asks. Of a label within a hash its caller could make a
# nonce, and of the manifest the end of a key of his own. No digest begins with text that somebody chose.
LABEL = b"goldsmith attestation key 2".ljust(32, b"\0")
# VMPL of a report that the host asked for. Spec: 56860 section 7.3.
_HOST_VMPL = 0xFFFFFFFF
_TURIN = "Turin"


def report_data(key: Public) -> bytes:
    """What REPORT_DATA has to be; ``protocol.PROTOCOL`` says so too."""
    return LABEL + hashlib.sha256(sized(key.pack())).digest()


def verify_report(
    report: bytes, table: bytes, key: Public, roots: TeeRoots, policy: TeePolicy, now: datetime
) -> SnpReport:
    """The report, if it is AMD's word for an allowed guest that vouches for ``key``.

    Args:
        table: the certificates that came with it, as the host gives them to its guest; may be empty.

    Raises:
        RefusedError: it does not parse (400), or is not to be believed (403).
    """
    found, endorsement = _read(report, table, roots)
    roots.verify(endorsement, now)
    _check_chip(found, endorsement)
    _check_signature(found, endorsement)
    _check_guest(found, policy)
    _check_minimum(found, endorsement, policy)
    expected = report_data(key)
    if found.report_data != expected:
        what = f"it is {found.report_data.hex()}, for this attestation key it would be {expected.hex()}"
        raise _refused("REPORT_DATA", what)
    return found


def _read(report: bytes, table: bytes, roots: TeeRoots) -> tuple[SnpReport, Endorsement]:
    try:
        found = read_report(report, "report")
    except FormatError as error:
        raise RefusedError(400, "report", _place(error)) from None
    try:
        offered = [read_endorsement(each) for each in read_endorsement_table(table, "report_certificates")]
    except FormatError as error:
        raise RefusedError(400, "report_certificates", _place(error)) from None
    if found.signing_key is SigningKey.NONE or found.is_key_masked:
        raise _refused("SIGNING_KEY", "no key has signed it; the host has to let its chip's key do so")
    return found, _choose(found, offered, roots.endorsements)


def _place(error: FormatError) -> str:
    return error.what if error.offset is None else f"offset {error.offset:#x}: {error.what}"


def _choose(found: SnpReport, offered: Sequence[Endorsement], kept: Sequence[Endorsement]) -> Endorsement:
    """The certificate for the key that signed: a host may hand out one of before its last update."""
    kind = found.signing_key
    tcb = found.tcb("reported_tcb")
    of_kind = [each for each in (*offered, *kept) if each.kind is kind]
    for each in of_kind:
        if each.tcb == tcb and each.hardware_id in (b"", found.chip_id):
            return each
    if any(each.kind is kind for each in offered):
        return of_kind[0]
    chip = f" for chip {found.chip_id.hex()}" if kind is SigningKey.VCEK else ""
    raise _refused(kind.name, f"no certificate of it came along, and the operator has none{chip} at {tcb}")


def _check_chip(found: SnpReport, endorsement: Endorsement) -> None:
    """The certificate is of the chip and the firmware that the report speaks of."""
    if (endorsement.product == _TURIN) != (found.layout is TcbLayout.TURIN):
        what = f"the report is of a {found.layout.value} processor, its certificate of {endorsement.product}"
        raise _refused("CPUID_FAM_ID", what)
    if endorsement.kind is SigningKey.VCEK and endorsement.hardware_id != found.chip_id:
        what = f"it is {found.chip_id.hex()}, its certificate is for {endorsement.hardware_id.hex()}"
        masked = "the host masks it (MASK_CHIP_ID), so that no certificate can be compared"
        raise _refused("CHIP_ID", what if any(found.chip_id) else masked)
    tcb = found.tcb("reported_tcb")
    if endorsement.tcb != tcb:
        raise _refused("REPORTED_TCB", f"it is {tcb}, its certificate is for {endorsement.tcb}")


def _check_signature(found: SnpReport, endorsement: Endorsement) -> None:
    name = endorsement.kind.name
    try:
        key = serialization.load_der_public_key(endorsement.certificate.public_key)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _refused(name, "its key is not on P-384")
    signature = utils.encode_dss_signature(*found.signature)
    try:
        key.verify(signature, found.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise _refused("SIGNATURE", f"the {name} has not made it") from None


def _check_guest(found: SnpReport, policy: TeePolicy) -> None:
    if found.flags & Policy.DEBUG:
        raise _refused("POLICY", "it allows debugging (bit 19): the host may read the guest's memory")
    if found.flags & Policy.MIGRATE_MA:
        raise _refused("POLICY", "it allows a migration agent (bit 18), which may copy the guest elsewhere")
    if found.vmpl != policy.vmpl:
        whose = " (the host asked for the report)" if found.vmpl == _HOST_VMPL else ""
        raise _refused("VMPL", f"it is {found.vmpl}{whose}, expected {policy.vmpl}")
    if found.measurement not in policy.measurements:
        raise _refused("MEASUREMENT", f"{found.measurement.hex()} is not in the operator's list")


def _check_minimum(found: SnpReport, endorsement: Endorsement, policy: TeePolicy) -> None:
    """Neither now nor at its launch was the guest under firmware with known holes."""
    if not policy.minimum:
        return
    minimum = next((each for each in policy.minimum if each.product == endorsement.product), None)
    if minimum is None:
        raise _refused("REPORTED_TCB", f"the operator has named no minimum for {endorsement.product}")
    for field in ("reported_tcb", "launch_tcb"):
        low = minimum.below(found.tcb(field))
        if low:
            raise _refused(field.upper(), f"{found.tcb(field)} is below the minimum {low}")


def _refused(field: str, what: str) -> RefusedError:
    return RefusedError(403, "report", f"{field}: {what}")
