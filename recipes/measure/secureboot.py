"""Secure Boot as firmware decides it: whether it is on, and which db entry lets an image run.

Spec: UEFI 2.10 sections 32.3 and 32.5; edk2-stable202502 SecurityPkg/Library:
AuthVariableLib/AuthVariableLib.c and DxeImageVerificationLib/DxeImageVerificationLib.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import FormatError, MeasureError, VerifyError
from ..formats.authenticode import image_digest
from ..formats.authenticode_verify import read_signatures, verify
from ..formats.efi import (
    EFI_CERT_RSA2048_GUID,
    EFI_CERT_SHA1_GUID,
    EFI_CERT_SHA256_GUID,
    EFI_CERT_SHA384_GUID,
    EFI_CERT_SHA512_GUID,
    EFI_CERT_TYPE_PKCS7_GUID,
    EFI_CERT_X509_GUID,
    EFI_CERT_X509_SHA256_GUID,
    EFI_GLOBAL_VARIABLE,
    EFI_IMAGE_SECURITY_DATABASE,
    EFI_SECURE_BOOT_ENABLE_DISABLE,
    Variable,
)
from ..formats.efi_signature import SignatureData, parse_signature_lists
from ..formats.pe import PeImage
from . import uefi
from .trace import Step

# Value of SecureBootEnable. Spec: edk2-stable202502 MdeModulePkg/Include/Guid/AuthenticatedVariableFormat.h.
_SECURE_BOOT_ENABLE = b"\x01"

# Types of signature lists that are modelled, and names of those that are not. Spec: UEFI 2.10 section 32.4.1.
_MODELLED = (EFI_CERT_X509_GUID, EFI_CERT_SHA256_GUID)
_TYPE_NAMES = {
    EFI_CERT_RSA2048_GUID: "EFI_CERT_RSA2048",
    EFI_CERT_SHA1_GUID: "EFI_CERT_SHA1",
    EFI_CERT_SHA384_GUID: "EFI_CERT_SHA384",
    EFI_CERT_SHA512_GUID: "EFI_CERT_SHA512",
    EFI_CERT_TYPE_PKCS7_GUID: "EFI_CERT_TYPE_PKCS7",
    EFI_CERT_X509_SHA256_GUID: "EFI_CERT_X509_SHA256",
}


@dataclass(frozen=True)
class LoadedImage:
    """An image that firmware's LoadImage is called for, with the name it has in messages."""

    name: str
    data: bytes


def is_enforced(variables: Sequence[Variable]) -> bool:
    """Whether firmware that can do Secure Boot enforces it with this store.

    A platform key puts it in user mode; there only ``SecureBootEnable`` = 0 turns enforcement off, and a
    missing one counts as 1 (InitSecureBootVariables in AuthVariableLib.c).
    """
    if not _value(variables, "PK"):
        return False
    for item in variables:
        if (item.name, item.vendor) == ("SecureBootEnable", EFI_SECURE_BOOT_ENABLE_DISABLE):
            return item.data == _SECURE_BOOT_ENABLE
    return True


def authority_steps(
    variables: Sequence[Variable], images: Sequence[LoadedImage], source: str
) -> tuple[tuple[Step, ...], ...]:
    """For each image the PCR 7 steps of verifying it: one for a db entry not used before, else none.

    Args:
        variables: of the store.
        images: in the order they are loaded.
        source: name of the variable store.

    Raises:
        MeasureError: firmware would refuse an image, or db holds something whose use is not modelled.
        FormatError: db, dbx or an image does not parse.
    """
    for name in ("db", "dbx"):
        _check_types(variables, name, source)
    entries = _certificates(variables, "db", source)
    used: list[bytes] = []
    found: list[tuple[Step, ...]] = []
    for image in images:
        _refuse_forbidden(image, variables, source)
        _refuse_by_hash(image, variables, source)
        entry, certificate = _authority(image, entries)
        packed = entry.pack()
        new = packed not in used
        name = certificate.subject.rfc4514_string()
        found.append((uefi.authority_step(packed, source, name),) if new else ())
        used.append(packed)
    return tuple(found)


def _check_types(variables: Sequence[Variable], name: str, source: str) -> None:
    """Stops at an entry that could allow or forbid an image by a rule that is not modelled."""
    for each in parse_signature_lists(_value(variables, name), f"{source} {name}"):
        if each.type not in _MODELLED:
            kind = _TYPE_NAMES.get(each.type, str(each.type))
            what = f"it holds entries of type {kind}, and what they allow or forbid is not modelled"
            advice = "keep only EFI_CERT_X509 and EFI_CERT_SHA256 entries"
            raise MeasureError(f"{source} {name}: {what}; {advice}")


def _authority(
    image: LoadedImage, entries: Sequence[tuple[SignatureData, x509.Certificate]]
) -> tuple[SignatureData, x509.Certificate]:
    try:
        certificate = verify(image.data, [each for _, each in entries], source=image.name)
    except VerifyError as error:
        raise MeasureError(f"{error}; under Secure Boot firmware refuses to load it") from None
    return next(pair for pair in entries if pair[1] == certificate)


def _refuse_by_hash(image: LoadedImage, variables: Sequence[Variable], source: str) -> None:
    """Only a signature is modelled as the reason to trust an image, not its digest in db."""
    if _is_listed(image, variables, "db", source):
        what = "its digest is in db, and which entry firmware then measures is not modelled"
        raise MeasureError(f"{image.name}: {what}; sign the image and remove the digest")


def _is_listed(image: LoadedImage, variables: Sequence[Variable], name: str, source: str) -> bool:
    digests = {
        item.data
        for each in parse_signature_lists(_value(variables, name), f"{source} {name}")
        if each.type == EFI_CERT_SHA256_GUID
        for item in each.signatures
    }
    return bool(digests) and image_digest(image.data, "sha256", source=image.name) in digests


def _refuse_forbidden(image: LoadedImage, variables: Sequence[Variable], source: str) -> None:
    if _is_listed(image, variables, "dbx", source):
        raise MeasureError(f"{image.name}: its digest is in dbx, so firmware refuses to load it; rebuild it")
    forbidden = {der for _, der in _x509_entries(variables, "dbx", source)}
    for signature in read_signatures(PeImage.parse(image.data, image.name)):
        if {each.public_bytes(Encoding.DER) for each in signature.chain} & forbidden:
            what = "it is signed through a certificate in dbx, so firmware refuses to load it"
            raise MeasureError(f"{image.name}: {what}; sign it with another key")


def _certificates(
    variables: Sequence[Variable], name: str, source: str
) -> tuple[tuple[SignatureData, x509.Certificate], ...]:
    return tuple(
        (entry, _load(der, f"{source} {name}")) for entry, der in _x509_entries(variables, name, source)
    )


def _x509_entries(variables: Sequence[Variable], name: str, source: str) -> list[tuple[SignatureData, bytes]]:
    return [
        (entry, entry.data)
        for each in parse_signature_lists(_value(variables, name), f"{source} {name}")
        if each.type == EFI_CERT_X509_GUID
        for entry in each.signatures
    ]


def _load(der: bytes, source: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError(source, f"a certificate cannot be read ({error})") from None


def _value(variables: Sequence[Variable], name: str) -> bytes:
    vendor = EFI_IMAGE_SECURITY_DATABASE if name in ("db", "dbx") else EFI_GLOBAL_VARIABLE
    return next((item.data for item in variables if (item.name, item.vendor) == (name, vendor)), b"")
