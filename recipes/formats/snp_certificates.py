"""What vouches for the report of an AMD SEV-SNP guest: certificates of keys, and a host's table of them.

Spec: AMD 57230, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification, section 3
(extensions); AMD 56421, SEV-ES Guest-Hypervisor Communication Block revision 2.03 section 4.1.8.1 (SNP
Extended Guest Request, the table).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated

from ..binary import Struct, raw, u32
from ..errors import FormatError
from . import der
from .pss_certificate import Certificate, read_certificate
from .snp_report import SigningKey, Tcb

# SEV_FW_BLOB_MAX_SIZE. Spec: Linux include/uapi/linux/psp-sev.h.
MAX_TABLE = 16 * 1024
# Ours: six kinds are defined. Spec: 56421 section 4.1.8.1.
_MAX_ENTRIES = 32

# Extensions of the keys that sign reports. Spec: 57230 section 3.1 table 8 (VCEK), section 3.2 (VLEK).
_AMD = "1.3.6.1.4.1.3704.1"
_PRODUCT, _HARDWARE_ID, _CSP_ID = (der.encode_oid(f"{_AMD}.{arc}") for arc in (2, 4, 5))
_BOOTLOADER, _TEE, _SNP, _SPL4, _SPL5, _SPL6, _SPL7, _MICROCODE, _FMC = (
    der.encode_oid(f"{_AMD}.3.{arc}") for arc in range(1, 10)
)
_TURIN = "Turin"
_IA5_STRING = 0x16  # universal tag; X.680 section 8.6
# Bytes of a chip's identity: a digest, or since Turin a number. Spec: 57230 section 3.1, HWID.
_HARDWARE_ID_SIZES = (64, 8)


@dataclass(frozen=True, kw_only=True)
class Endorsement:
    """What the certificate of a key that signs reports says about its chip.

    Attributes:
        kind: VCEK, of one chip; or VLEK, of a provider's chips.
        product: Milan, Genoa or Turin, without the stepping that Milan's has.
        hardware_id: identity of the chip, padded to 64 bytes as reports have it; empty for a VLEK.
    """

    certificate: Certificate
    kind: SigningKey
    product: str
    tcb: Tcb
    hardware_id: bytes


def is_endorsement(certificate: Certificate) -> bool:
    """Whether a certificate says of itself that its key signs reports."""
    return _PRODUCT in certificate.extensions


def read_endorsement(certificate: Certificate) -> Endorsement:
    """What a certificate says about the chip whose key signs reports.

    Raises:
        FormatError: it is no such certificate, or lacks something.
    """
    product = _text(certificate, _PRODUCT, "product name").partition("-")[0]
    turin = product == _TURIN
    # The parts of a TCB_VERSION that are reserved are in the certificate too.
    reserved = (_SPL5, _SPL6, _SPL7) if turin else (_SPL4, _SPL5, _SPL6, _SPL7)
    if any(_level(certificate, identifier, "of a reserved level") for identifier in reserved):
        raise FormatError(certificate.source, "a reserved security patch level is not zero", spec="AMD 57230")
    tcb = Tcb(
        fmc=_level(certificate, _FMC, "fmc") if turin else None,
        bootloader=_level(certificate, _BOOTLOADER, "bootloader"),
        tee=_level(certificate, _TEE, "tee"),
        snp=_level(certificate, _SNP, "snp"),
        microcode=_level(certificate, _MICROCODE, "microcode"),
    )
    hardware_id = certificate.extensions.get(_HARDWARE_ID, b"")
    if (hardware_id == b"") == (_CSP_ID not in certificate.extensions):
        what = "has to name either a chip (VCEK) or a provider (VLEK)"
        raise FormatError(certificate.source, what, spec="AMD 57230")
    if hardware_id and len(hardware_id) not in _HARDWARE_ID_SIZES:
        what = f"a chip's identity of {len(hardware_id)} bytes, expected 64 or 8"
        raise FormatError(certificate.source, what, spec="AMD 57230")
    return Endorsement(
        certificate=certificate,
        kind=SigningKey.VCEK if hardware_id else SigningKey.VLEK,
        product=product,
        tcb=tcb,
        hardware_id=hardware_id.ljust(64, b"\0") if hardware_id else b"",
    )


def _value(certificate: Certificate, identifier: bytes, what: str) -> der.Element:
    value = certificate.extensions.get(identifier)
    if value is None:
        raise FormatError(certificate.source, f"lacks the extension {what}", spec="AMD 57230")
    return der.read(value, certificate.source)


def _level(certificate: Certificate, identifier: bytes, what: str) -> int:
    level = _value(certificate, identifier, what).integer(what)
    if level not in range(256):
        raise FormatError(certificate.source, f"security patch level {what} is {level}, no byte")
    return level


def _text(certificate: Certificate, identifier: bytes, what: str) -> str:
    content = _value(certificate, identifier, what).expect(_IA5_STRING, what).content
    if not content.isascii() or not content.decode("ascii").isprintable():
        raise FormatError(certificate.source, f"{what} {content[:20]!r} is no plain text")
    return content.decode("ascii")


# Kinds of entries that sign reports. Spec: 56421 revision 2.03 section 4.1.8.1.
_VCEK = uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd")
_VLEK = uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
_NO_KIND = bytes(16)


class TableEntry(Struct):
    """An entry of the table; the kind's bytes stand in the order of its text."""

    kind: Annotated[bytes, raw(16)]
    offset: u32
    length: u32


def read_endorsement_table(data: bytes, source: str) -> tuple[Certificate, ...]:
    """The certificates of keys that sign reports, out of a host's table; other kinds are passed over.

    Raises:
        FormatError: the table has no end, an entry leads out of it, or a certificate does not parse.
    """
    if len(data) > MAX_TABLE:
        raise FormatError(source, f"{len(data)} bytes; at most {MAX_TABLE} are read")
    entries = _entries(data, source) if data else []
    found = []
    for entry in entries:
        end = entry.offset + entry.length
        if entry.offset < (len(entries) + 1) * TableEntry.SIZE or end > len(data):
            what = (
                f"an entry from {entry.offset:#x} to {end:#x} is in the table or ends behind {len(data):#x}"
            )
            raise FormatError(source, what, spec="AMD 56421 section 4.1.8.1")
        if uuid.UUID(bytes=entry.kind) in (_VCEK, _VLEK):
            found.append(read_certificate(data[entry.offset : end], source))
    return tuple(found)


def _entries(data: bytes, source: str) -> list[TableEntry]:
    found: list[TableEntry] = []
    for number in range(_MAX_ENTRIES):
        entry = TableEntry.unpack(data, number * TableEntry.SIZE, source=source)
        if entry.kind == _NO_KIND:
            return found
        found.append(entry)
    raise FormatError(source, f"more than {_MAX_ENTRIES} entries", spec="AMD 56421 section 4.1.8.1")
