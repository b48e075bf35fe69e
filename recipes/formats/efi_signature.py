"""Signature databases: the values of PK, KEK, db and dbx.

    EFI_SIGNATURE_LIST   type GUID | u32 list size | u32 header size | u32 signature size | header | ...
    EFI_SIGNATURE_DATA   owner GUID | data

Spec: UEFI 2.10 section 32.4.1. Lists without a signature are refused: they say nothing and pack to no size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from ..binary import Struct, guid, u32
from ..errors import FormatError
from .efi import (
    EFI_CERT_RSA2048_GUID,
    EFI_CERT_SHA1_GUID,
    EFI_CERT_SHA256_GUID,
    EFI_CERT_SHA384_GUID,
    EFI_CERT_SHA512_GUID,
    EFI_CERT_X509_SHA256_GUID,
)

# Bytes of signature data per type, for the types of one size. Spec: UEFI 2.10 section 32.4.1.
_SIGNATURE_SIZES = {
    EFI_CERT_SHA1_GUID: 20,
    EFI_CERT_SHA256_GUID: 32,
    EFI_CERT_SHA384_GUID: 48,
    EFI_CERT_SHA512_GUID: 64,
    EFI_CERT_RSA2048_GUID: 256,
    EFI_CERT_X509_SHA256_GUID: 48,
}
_OWNER_SIZE = 16


@dataclass(frozen=True)
class SignatureData:
    """One EFI_SIGNATURE_DATA: who put it there, and a hash or a DER certificate."""

    owner: UUID
    data: bytes

    def pack(self) -> bytes:
        """The bytes as they stand in a list, and as PCR 7 authority events hash them."""
        return self.owner.bytes_le + self.data


@dataclass(frozen=True)
class SignatureList:
    """One EFI_SIGNATURE_LIST: at least one signature, all of one type and size.

    Attributes:
        type: what the signatures are, ``EFI_CERT_X509_GUID`` ...
        header: SignatureHeader; empty for every type that UEFI defines.
    """

    type: UUID
    header: bytes
    signatures: tuple[SignatureData, ...]


class SignatureListHeader(Struct):
    """The fixed start of EFI_SIGNATURE_LIST. Spec: UEFI 2.10 section 32.4.1."""

    signature_type: guid
    signature_list_size: u32
    signature_header_size: u32
    signature_size: u32


def pack_signature_lists(lists: Sequence[SignatureList]) -> bytes:
    """The value of a signature database (PK, KEK, db, dbx).

    Raises:
        FormatError: a list is empty, or its signatures differ in size or do not fit its type.
    """
    return b"".join(_pack_list(item) for item in lists)


def _pack_list(item: SignatureList) -> bytes:
    sizes = sorted({len(signature.data) for signature in item.signatures})
    if len(sizes) != 1:
        what = f"signatures of {sizes} bytes in one list; a list holds at least one and all are of one size"
        raise FormatError("signature list", what, spec="UEFI 2.10 section 32.4.1")
    _check_signature_size(item.type, sizes[0], "signature list", None)
    body = item.header + b"".join(signature.pack() for signature in item.signatures)
    head = SignatureListHeader(
        signature_type=item.type,
        signature_list_size=SignatureListHeader.SIZE + len(body),
        signature_header_size=len(item.header),
        signature_size=_OWNER_SIZE + sizes[0],
    )
    return head.pack() + body


def parse_signature_lists(data: bytes, source: str) -> tuple[SignatureList, ...]:
    """The lists of a signature database; no bytes give no lists.

    Raises:
        FormatError: a size does not fit its list, the data or the signature's type.
    """
    lists = []
    offset = 0
    while offset < len(data):
        head = SignatureListHeader.unpack(data, offset, source=source)
        lists.append(_parse_list(head, data, offset, source))
        offset += head.signature_list_size
    return tuple(lists)


def _parse_list(head: SignatureListHeader, data: bytes, offset: int, source: str) -> SignatureList:
    spec = "UEFI 2.10 section 32.4.1"
    room = head.signature_list_size - head.SIZE - head.signature_header_size
    if head.signature_list_size > len(data) - offset:
        what = f"signature list of {head.signature_list_size} bytes, {len(data) - offset} are left"
        raise FormatError(source, f"{what}; the data is truncated", offset=offset, spec=spec)
    if head.signature_size < _OWNER_SIZE or room <= 0 or room % head.signature_size:
        what = (
            f"signature list of {head.signature_list_size} bytes with a header of"
            f" {head.signature_header_size} does not hold whole signatures of {head.signature_size}"
        )
        raise FormatError(source, what, offset=offset, spec=spec)
    _check_signature_size(head.signature_type, head.signature_size - _OWNER_SIZE, source, offset)
    start = offset + head.SIZE
    first = start + head.signature_header_size
    signatures = tuple(
        SignatureData(
            UUID(bytes_le=data[at : at + _OWNER_SIZE]), data[at + _OWNER_SIZE : at + head.signature_size]
        )
        for at in range(first, first + room, head.signature_size)
    )
    return SignatureList(head.signature_type, data[start:first], signatures)


def _check_signature_size(kind: UUID, size: int, source: str, offset: int | None) -> None:
    want = _SIGNATURE_SIZES.get(kind, size)
    if size != want or size == 0:
        what = f"signature of {size} bytes in a list of type {kind}, expected {want or 'some'}"
        raise FormatError(source, what, offset=offset, spec="UEFI 2.10 section 32.4.1")
