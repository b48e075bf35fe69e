"""The table at the end of x86 firmware that tells a VMM how to launch it, and the SEV metadata it points to.

    ... | data | u16 size | guid | ... | u16 table size | footer guid | 32 bytes of reset vector | end = 4 GiB

The table is read from its end backwards, each entry's data lies before its size and GUID. OVMF, Oak's stage0
and COCONUT-SVSM carry it.

Spec: edk2-stable202508 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm and X64/OvmfSevMetadata.asm; QEMU 10.0
hw/i386/pc_sysfw_ovmf.c pc_system_parse_ovmf_flash(), target/i386/sev.c parse_sev_metadata_offset().
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from itertools import pairwise

from ..errors import FormatError
from ..record import dataclass
from ..units import PAGE_SIZE, format_size
from .guid import guid_bytes, guid_text

_SPEC = "edk2-stable202508 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm"
_METADATA_SPEC = "edk2-stable202508 OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm"
# Between the table and the end of the file. Spec: ResetVectorVtf0.asm, the code at 4 GiB - 0x20.
RESET_VECTOR_SIZE = 32
# GUIDs of the table. Spec: edk2-stable202508 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm; the last one
# is of COCONUT-SVSM's stage1.
FOOTER = guid_bytes("96b582de-1fb2-45f7-baea-a366c55a082d")
SEV_ES_RESET_BLOCK = guid_bytes("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_SECRET_BLOCK = guid_bytes("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
SEV_HASHES_TABLE = guid_bytes("7255371f-3a3b-4b04-927b-1da6efa8d454")
SEV_METADATA = guid_bytes("dc886566-984a-4798-a75e-5585a7bf67cc")
TDX_METADATA = guid_bytes("e47a6535-984a-4798-865e-4685a7bf8ec2")
SVSM_INFO = guid_bytes("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")
_KNOWN = (SEV_ES_RESET_BLOCK, SEV_SECRET_BLOCK, SEV_HASHES_TABLE, SEV_METADATA, TDX_METADATA, SVSM_INFO)
# Spec: OvmfSevMetadata.asm.
_METADATA_SIGNATURE = b"ASEV"
_METADATA_VERSION = 1
# Addresses are 32 bits wide, and firmware ends where they do.
FOUR_GIB = 1 << 32


class SectionType(IntEnum):
    """What a section of the SEV metadata is for. Spec: OvmfSevMetadata.asm; QEMU 10.0 hw/i386/pc.h."""

    SNP_SEC_MEM = 1
    SNP_SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    SNP_KERNEL_HASHES = 0x10


# The launch uses one page of these. Spec: QEMU 10.0 target/i386/sev.c snp_launch_update_cpuid(),
# snp_launch_update_kernel_hashes(); AMD SEV-SNP ABI 56860, SNP_LAUNCH_UPDATE (secrets page).
_ONE_PAGE = (SectionType.SNP_SECRETS, SectionType.CPUID, SectionType.SNP_KERNEL_HASHES)


# Plain codecs: a command that measures one launch would spend more on four classes than on the file.
_ENTRY = struct.Struct("<H16s")  # (0) size with this, (2) GUID; the data lies before it
_AREA = struct.Struct("<II")  # (0) base, (4) size
_METADATA = struct.Struct("<4sIII")  # (0) signature, (4) size, (8) version, (12) number of sections
_SECTION = struct.Struct("<III")  # (0) guest address, (4) size, (8) type


@dataclass(frozen=True)
class SevSection:
    """A range of guest memory that the launch prepares; whole pages.

    Attributes:
        address: guest address.
        size: bytes.
    """

    address: int
    size: int
    type: SectionType


@dataclass(frozen=True)
class Area:
    """A range of guest memory."""

    base: int
    size: int


@dataclass(frozen=True, kw_only=True)
class OvmfFooter:
    """What firmware tells its VMM.

    Attributes:
        size: bytes of the firmware file.
        reset_eip: where application processors start under SEV-ES and SEV-SNP.
        secrets: where plain SEV puts a launch secret.
        hashes: where the table of kernel hashes goes.
        sections: SEV metadata in file order; None where there is none.
        tdx_metadata: offset of the TDX metadata in the file.
        svsm_entry: offset in the file where an SVSM starts.
    """

    size: int
    reset_eip: int | None = None
    secrets: Area | None = None
    hashes: Area | None = None
    sections: tuple[SevSection, ...] | None = None
    tdx_metadata: int | None = None
    svsm_entry: int | None = None


def parse_footer(data: bytes | memoryview, source: str, *, size: int | None = None) -> OvmfFooter:
    """What a firmware file's table says.

    Args:
        data: the whole file, or its end; offsets of complaints are those of the file.
        size: of the whole file, in bytes.

    Raises:
        FormatError: it has no such table, or one that does not hold together or points out of ``data``.
    """
    whole = len(data) if size is None else size
    try:
        return _parse(data, source, whole)
    except FormatError as error:
        if error.offset is None:
            raise
        offset = error.offset + whole - len(data)
        raise FormatError(source, error.what, offset=offset, spec=error.spec) from None


def _parse(data: bytes | memoryview, source: str, whole: int) -> OvmfFooter:
    entries = _entries(data, source)
    metadata = _from_end(whole, entries, SEV_METADATA, source)
    if metadata is not None:
        metadata -= whole - len(data)
        if metadata < 0:
            what = f"points {len(data) - metadata} bytes before the end"
            limit = f"more than {format_size(len(data))} before the end is not read"
            fix = "give a build that has its metadata nearer"
            raise FormatError(
                source, f"table entry {guid_text(SEV_METADATA)} {what}, {limit}; {fix}", spec=_SPEC
            )
    return OvmfFooter(
        size=whole,
        reset_eip=_value(entries, SEV_ES_RESET_BLOCK, source),
        secrets=_area(entries, SEV_SECRET_BLOCK, source),
        hashes=_area(entries, SEV_HASHES_TABLE, source),
        sections=None if metadata is None else _sections(data, metadata, source),
        tdx_metadata=_from_end(whole, entries, TDX_METADATA, source),
        svsm_entry=_value(entries, SVSM_INFO, source),
    )


def _entries(data: bytes | memoryview, source: str) -> Mapping[bytes, bytes]:
    """Data of the table's known entries."""
    at = len(data) - RESET_VECTOR_SIZE - _ENTRY.size
    if at < 0:
        what = f"{len(data)} bytes are too few for a firmware table; give an OVMF, stage0 or SVSM build"
        raise FormatError(source, what, spec=_SPEC)
    table, name = _entry(data, at)
    if name != FOOTER:
        found, expected = guid_text(name), guid_text(FOOTER)
        what = f"no table of OVMF's ends here (GUID {found}, expected {expected}); give an x86 OVMF build"
        raise FormatError(source, what, offset=at + 2, spec=_SPEC)
    start = at + _ENTRY.size - table
    if table < _ENTRY.size or start < 0:
        what = f"a table of {table} bytes, from {_ENTRY.size} to {at + _ENTRY.size} are possible"
        raise FormatError(source, what, offset=at, spec=_SPEC)
    entries: dict[bytes, bytes] = {}
    for identifier, content, offset in _backwards(data, start, at, source):
        if identifier in entries:
            what = f"the table has {guid_text(identifier)} twice"
            raise FormatError(source, what, offset=offset, spec=_SPEC)
        if identifier in _KNOWN:
            entries[identifier] = content
    return entries


def _backwards(
    data: bytes | memoryview, start: int, end: int, source: str
) -> Iterator[tuple[bytes, bytes, int]]:
    """GUID, data and offset of each entry between two offsets, from the last to the first."""
    while end > start:
        at = end - _ENTRY.size
        if at < start:
            what = f"{end - start} bytes are left of the table, an entry has at least {_ENTRY.size}"
            raise FormatError(source, what, offset=start, spec=_SPEC)
        size, name = _entry(data, at)
        if not _ENTRY.size <= size <= end - start:
            what = f"an entry of {size} bytes, {_ENTRY.size} to {end - start} are possible"
            raise FormatError(source, what, offset=at, spec=_SPEC)
        end -= size
        yield name, bytes(data[end:at]), end


def _entry(data: bytes | memoryview, at: int) -> tuple[int, bytes]:
    """Size and GUID of an entry that is known to be inside of the file."""
    size, name = _ENTRY.unpack_from(data, at)
    return size, name


def _value(entries: Mapping[bytes, bytes], identifier: bytes, source: str) -> int | None:
    """The 32-bit number at the start of an entry's data; None where there is no such entry."""
    content = entries.get(identifier)
    if content is None:
        return None
    if len(content) < 4:
        raise _short(identifier, content, 4, source)
    return int.from_bytes(content[:4], "little")


def _area(entries: Mapping[bytes, bytes], identifier: bytes, source: str) -> Area | None:
    content = entries.get(identifier)
    if content is None:
        return None
    if len(content) < _AREA.size:
        raise _short(identifier, content, _AREA.size, source)
    base, size = _AREA.unpack_from(content)
    # An address of zero: this build has no such area. Spec: OvmfPkg/ResetVector/ResetVector.nasmb.
    return Area(base, size) if base else None


def _short(identifier: bytes, content: bytes, needed: int, source: str) -> FormatError:
    what = f"table entry {guid_text(identifier)} has {len(content)} bytes of data, {needed} are needed"
    return FormatError(source, what, spec=_SPEC)


def _from_end(size: int, entries: Mapping[bytes, bytes], identifier: bytes, source: str) -> int | None:
    """The file offset that an entry gives as a distance from the end; None without such an entry."""
    distance = _value(entries, identifier, source)
    if distance is None:
        return None
    if not 0 < distance <= size:
        what = f"points {distance} bytes before the end of {size} bytes"
        raise FormatError(source, f"table entry {guid_text(identifier)} {what}", spec=_SPEC)
    return size - distance


def _sections(data: bytes | memoryview, at: int, source: str) -> tuple[SevSection, ...]:
    def wrong(what: str, offset: int = at) -> FormatError:
        return FormatError(source, f"SEV metadata: {what}", offset=offset, spec=_METADATA_SPEC)

    if len(data) - at < _METADATA.size:
        raise wrong(f"needs {_METADATA.size} bytes, {len(data) - at} are left; the file is truncated")
    signature, size, version, count = _METADATA.unpack_from(data, at)
    if signature != _METADATA_SIGNATURE:
        raise wrong(f"signature {signature!r}, expected {_METADATA_SIGNATURE!r}")
    if version != _METADATA_VERSION:
        raise wrong(f"version {version}, only {_METADATA_VERSION} is known")
    expected = _METADATA.size + count * _SECTION.size
    if size != expected or at + expected > len(data):
        room = f"which take {expected}; {len(data) - at} are left"
        raise wrong(f"{size} bytes with {count} sections, {room}")
    offsets = range(at + _METADATA.size, at + expected, _SECTION.size)
    sections = tuple(_section(data, offset, wrong) for offset in offsets)
    _check_apart(sections, wrong)
    return sections


def _section(data: bytes | memoryview, offset: int, wrong: Callable[[str, int], FormatError]) -> SevSection:
    address, size, number = _SECTION.unpack_from(data, offset)
    known = {item.value: item for item in SectionType}
    if number not in known:
        names = ", ".join(f"{item.value:#x} {item.name}" for item in SectionType)
        raise wrong(f"section of unknown type {number:#x}; known: {names}", offset)
    kind = known[number]
    where = f"{kind.name} at {address:#x}"
    if address % PAGE_SIZE or size % PAGE_SIZE or not size:
        raise wrong(f"{where} of {size:#x} bytes is not made of whole pages", offset)
    if address + size > FOUR_GIB:
        raise wrong(f"{where} of {size:#x} bytes ends above 4 GiB", offset)
    if kind in _ONE_PAGE and size != PAGE_SIZE:
        raise wrong(f"{where} has {size:#x} bytes, the launch fills one page", offset)
    return SevSection(address, size, kind)


def _check_apart(sections: tuple[SevSection, ...], wrong: Callable[[str], FormatError]) -> None:
    """A page is launched once.

    Spec: AMD SEV-SNP ABI 56860, SNP_LAUNCH_UPDATE: a page that is the guest's already is refused.
    """
    ordered = sorted(sections, key=lambda section: section.address)
    for one, other in pairwise(ordered):
        if one.address + one.size > other.address:
            raise wrong(
                f"sections overlap: {one.type.name} {one.address:#x}+{one.size:#x} and "
                f"{other.type.name} {other.address:#x}+{other.size:#x}; the firmware is damaged"
            )
