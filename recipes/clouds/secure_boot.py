"""Secure Boot keys in the shape that each cloud takes, and the PCR 7 that they lead to there.

Every cloud gets certificates as DER and PEM, and for machines of one's own signature lists and signed
writes; beside them Azure the security profile of an image version, and AWS the variables of an AMI. Google
Cloud takes the DER files as they are.

Spec: UEFI 2.10 sections 32.3 and 32.4.1; Microsoft Learn, "Secure Boot UEFI keys", Scenario 1; gcloud compute
images create, --platform-key-file and the two beside it; Amazon EC2 API Reference, RegisterImage, UefiData.
"""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

from ..errors import FormatError, SpecError, suggestion
from ..formats import aws_uefi_data, der, efi_auth, varstore
from ..formats.efi import Variable
from ..measure import secureboot, tpm, uefi
from ..measure.secureboot import LoadedImage
from ..measure.trace import Established, HashAlgorithm, Trace
from ..record import dataclass
from .aws import MAX_UEFI_DATA
from .cloud import Finding

ROLES = ("PK", "KEK", "db")
UEFI_DATA = "uefi-data.txt"
SECURITY_PROFILE = "security-profile.json"
# Whose key signs the write of which variable. Spec: UEFI 2.10 section 32.3.
_SIGNED_BY = {"PK": "PK", "KEK": "PK", "db": "KEK"}

# Who is noted as the owner of certificates that are handed over without one.
# Azure: microsoft/openvmm, vm/devices/firmware, uefi_specs hyperv/nvram.rs MSFT_SECURE_BOOT_PRODUCTION_GUID
# and its use in firmware_uefi service/nvram/mod.rs. Google Cloud: event logs of its machines, with an image's
# own certificates and with the usual ones (tests/vectors/eventlogs: cos-101-amd-sev, rhel8-uefi).
AZURE_OWNER = UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")
GCP_OWNER = UUID("d281fad2-8d88-47a4-9792-5baa47bb1b89")

_SAME_FIRMWARE = (
    "the firmware measures SecureBoot, PK, KEK, db and dbx in this order, then a separator, then the db entry"
    " that verified an image, and nothing else (TCG PFP 1.06 section 3.3.4.8)"
)
_ASSUMED = {
    "azure": (
        "the image version has signature template NoSignatureTemplate and no dbx, and azure adds none",
        "each certificate becomes a signature list of its own with Microsoft's owner GUID, as openvmm has it",
        "the firmware measures no further event, such as one on protection from DMA",
    ),
    "gcp": (
        "no dbx is given and none is added; the usual dbx of Google Cloud would change the value",
        "each certificate becomes a signature list of its own with the owner GUID that event logs show",
    ),
    "aws": (
        "the variables are those of the uefi data, which has no dbx; an update from inside changes the value",
        "PCR 7 follows the rule by which the NitroTPM-Tools of AWS compute it from signature lists",
    ),
}

Sign = Callable[[str, bytes], bytes]


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """The certificates of one platform owner, each DER."""

    pk: bytes
    kek: bytes
    db: bytes


@dataclass(frozen=True)
class Pcr7:
    """PCR 7 of machines of one cloud that boot with these keys.

    Attributes:
        cloud: its name.
        owner: GUID in the signature lists that are measured.
        trace: complete from reset.
        established: how far this was proved: not at all, no machine of that cloud was asked.
        assumptions: what has to hold; where one does not, the value is another.
    """

    cloud: str
    owner: UUID
    trace: Trace
    established: Established
    assumptions: tuple[str, ...]

    def value(self, algorithm: HashAlgorithm) -> bytes:
        """The register in one bank."""
        return tpm.fold(self.trace, algorithm)


def material(
    cloud: str, keys: Certificates, owner: UUID, sign: Sign | None = None
) -> tuple[tuple[str, bytes], ...]:
    """The files for a cloud: (name, content), ordered by name.

    Args:
        cloud: its name.
        owner: GUID that goes with the keys where that is ours to say.
        sign: gives the RSA PKCS #1 v1.5 SHA-256 signature with the key of a role, ``PK`` or ``KEK``, of what
            it is handed; without it there are no signed writes.

    Raises:
        SpecError: there is no such cloud.
        FormatError: a certificate is not DER, a signature is not of its key, or the variables are too many
            for AWS.
    """
    _check(cloud)
    variables = _variables(keys, owner)
    files: dict[str, bytes] = {}
    for role, certificate in _by_role(keys).items():
        der.read(certificate, f"certificate {role}").expect(der.SEQUENCE, "a certificate")
        files[f"{role}.der"] = certificate
        files[f"{role}.pem"] = _pem(certificate)
    for variable in variables:
        files[f"{variable.name}.esl"] = variable.data
        if sign is not None:
            files[f"{variable.name}.auth"] = _auth(variable, keys, sign)
    if cloud == "azure":
        files[SECURITY_PROFILE] = _security_profile(keys)
    if cloud == "aws":
        files[UEFI_DATA] = _uefi_data(variables)
    return tuple(sorted(files.items()))


def uefi_data_problems(text: bytes) -> tuple[Finding, ...]:
    """What AWS would refuse of the text for ``--uefi-data``, and what it would not: a store without keys."""
    return tuple(_uefi_data_findings(text))


def pcr7(cloud: str, keys: Certificates, owner: UUID, images: Sequence[LoadedImage]) -> Pcr7:
    """PCR 7 of a machine that boots ``images`` with these keys and no others.

    Args:
        images: in the order they are loaded: the UKI, then what its stub verifies.

    Raises:
        SpecError: there is no such cloud.
        MeasureError: firmware would refuse an image.
        FormatError: an image or a certificate does not parse.
    """
    _check(cloud)
    owner = {"azure": AZURE_OWNER, "gcp": GCP_OWNER}.get(cloud, owner)
    variables = _variables(keys, owner)
    policy = uefi.secure_boot_policy_steps(variables, secure_boot=True, source=cloud)
    authorities = secureboot.authority_steps(variables, images, cloud)
    steps = (*policy, *(step for found in authorities for step in found))
    assumptions = (_SAME_FIRMWARE, *_ASSUMED[cloud])
    return Pcr7(cloud, owner, Trace(tpm.register(7), steps), Established.SPEC_ONLY, assumptions)


def _check(cloud: str) -> None:
    if cloud not in _ASSUMED:
        raise SpecError(f"cloud {cloud!r} is not known{suggestion(cloud, _ASSUMED)}")


def _by_role(keys: Certificates) -> dict[str, bytes]:
    return dict(zip(ROLES, (keys.pk, keys.kek, keys.db), strict=True))


def _variables(keys: Certificates, owner: UUID) -> tuple[Variable, ...]:
    """PK, KEK and db; the others that varstore makes are private ones of edk2."""
    found = varstore.secure_boot_variables(owner, keys.pk, (keys.kek,), (keys.db,))
    return tuple(variable for variable in found if variable.name in ROLES)


def _auth(variable: Variable, keys: Certificates, sign: Sign) -> bytes:
    role = _SIGNED_BY[variable.name]
    return efi_auth.authenticated_write(variable, _by_role(keys)[role], lambda data: sign(role, data))


def _pem(certificate: bytes) -> bytes:
    """Spec: RFC 7468 sections 2 and 5."""
    lines = textwrap.wrap(base64.b64encode(certificate).decode("ascii"), 64)
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", "")).encode()


def _security_profile(keys: Certificates) -> bytes:
    """``securityProfile`` of an image version that has our keys and none of Microsoft's."""

    def signature(certificate: bytes) -> dict[str, object]:
        return {"type": "x509", "value": [base64.b64encode(certificate).decode("ascii")]}

    additional = {"pk": signature(keys.pk), "kek": [signature(keys.kek)], "db": [signature(keys.db)]}
    settings = {"signatureTemplateNames": ["NoSignatureTemplate"], "additionalSignatures": additional}
    return (json.dumps({"uefiSettings": settings}, indent=2) + "\n").encode()


def _uefi_data(variables: Sequence[Variable]) -> bytes:
    text = aws_uefi_data.write(variables)
    for finding in _uefi_data_findings(text):
        raise FormatError(finding.subject, finding.message, spec=finding.spec)
    return text


def _uefi_data_findings(text: bytes) -> Iterator[Finding]:
    if len(text) > MAX_UEFI_DATA:
        what = f"{len(text)} characters, and aws takes {MAX_UEFI_DATA}; use smaller certificates"
        yield Finding("uefi data", what, "Amazon EC2 API Reference, RegisterImage, UefiData")
    try:
        found = {variable.name: variable for variable in aws_uefi_data.read(text, "uefi data")}
    except FormatError as error:
        yield Finding(error.source, f"{error.what}; make it again", error.spec or "")
        return
    for role in ROLES:
        if role not in found or not found[role].data:
            what = f"{role} is missing, and Secure Boot would not be enforced or boot nothing; make it again"
            yield Finding("uefi data", what, "Amazon EC2 User Guide, How UEFI Secure Boot works")
