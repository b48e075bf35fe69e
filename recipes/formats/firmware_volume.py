"""Firmware volumes: the flash file system that UEFI firmware images are made of.

    volume    EFI_FIRMWARE_VOLUME_HEADER | block map | extended header | files, each aligned to 8 bytes
    file      EFI_FFS_FILE_HEADER | sections, each aligned to 4 bytes
    section   u24 size | u8 type | data; an encapsulation section holds sections again, once decoded

Spec: UEFI PI 1.8 volume III sections 2.1 and 3.2. Read only. Not modelled: FFS2 volumes with another erase
polarity than ones (no flash of a virtual machine has it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated
from uuid import UUID

from ..binary import Struct, guid, raw, u8, u16, u32, u64
from ..errors import FormatError
from ..units import align_up

# Formats of a volume. Spec: UEFI PI 1.8 volume III section 3.2.2; edk2-stable202502 MdeModulePkg.dec.
EFI_FIRMWARE_FILE_SYSTEM2 = UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
EFI_FIRMWARE_FILE_SYSTEM3 = UUID("5473c07a-3dcb-4dca-bd6f-1e9689e7349a")
EFI_SYSTEM_NV_DATA_FV = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")

_SPEC_VOLUME = "UEFI PI 1.8 volume III section 3.2.1"
_SPEC_FILE = "UEFI PI 1.8 volume III section 3.2.3"
_SPEC_SECTION = "UEFI PI 1.8 volume III section 3.2.5"

EFI_FVB2_ERASE_POLARITY = 0x800
FFS_ATTRIB_LARGE_FILE = 0x01
FFS_ATTRIB_CHECKSUM = 0x40
# File checksum where FFS_ATTRIB_CHECKSUM is clear.
FFS_FIXED_CHECKSUM = 0xAA
# State of a whole and valid file (header construction, header valid, data valid), on an erase polarity of 1.
FFS_DATA_VALID = 0xF8
EFI_FV_FILETYPE_FIRMWARE_VOLUME_IMAGE = 0x0B
EFI_FV_FILETYPE_FFS_PAD = 0xF0
EFI_SECTION_GUID_DEFINED = 0x02
EFI_SECTION_RAW = 0x19
EFI_SECTION_FIRMWARE_VOLUME_IMAGE = 0x17


class FirmwareVolumeHeader(Struct):
    """EFI_FIRMWARE_VOLUME_HEADER up to its block map; the zero vector may hold reset code."""

    zero_vector: Annotated[bytes, raw(16)]
    file_system_guid: guid
    fv_length: u64
    signature: Annotated[bytes, raw(4)]
    attributes: u32
    header_length: u16
    checksum: u16
    ext_header_offset: u16
    reserved_0x36: u8
    revision: u8


class FirmwareVolumeExtHeader(Struct):
    """EFI_FIRMWARE_VOLUME_EXT_HEADER."""

    fv_name: guid
    ext_header_size: u32


class FfsFileHeader(Struct):
    """EFI_FFS_FILE_HEADER; a large file has a u64 size behind it."""

    name: guid
    header_checksum: u8
    file_checksum: u8
    type: u8
    attributes: u8
    size: Annotated[bytes, raw(3)]
    state: u8


class GuidDefinedSection(Struct):
    """EFI_GUID_DEFINED_SECTION behind its common header."""

    section_definition_guid: guid
    data_offset: u16
    attributes: u16


@dataclass(frozen=True)
class FirmwareFile:
    """A file of a volume: its name, its type (``EFI_FV_FILETYPE_*``) and its content."""

    name: UUID
    type: int
    data: memoryview


@dataclass(frozen=True)
class Section:
    """A section: its type, its data behind the common header, and where it starts, for messages."""

    type: int
    data: memoryview
    offset: int
    header_size: int


def volume_header(data: bytes | memoryview, offset: int, source: str) -> FirmwareVolumeHeader:
    """The checked header of the volume at ``offset``; the volume lies wholly in ``data``.

    Raises:
        FormatError: signature, revision, checksum or a length is wrong.
    """
    head = FirmwareVolumeHeader.unpack(data, offset, source=source)
    if head.signature != b"_FVH" or head.revision != 2:
        what = (
            f"signature {head.signature!r} revision {head.revision}, expected b'_FVH' and 2;"
            " this is not a firmware volume"
        )
        raise FormatError(source, what, offset=offset, spec=_SPEC_VOLUME)
    left = len(data) - offset
    # The smallest block map is one entry and the terminator, 16 bytes.
    if not (head.SIZE + 16 <= head.header_length <= head.fv_length <= left) or head.header_length % 8:
        what = f"volume of {head.fv_length} bytes with a header of {head.header_length}, {left} are left"
        raise FormatError(source, what, offset=offset, spec=_SPEC_VOLUME)
    words = bytes(data[offset : offset + head.header_length])
    total = sum(int.from_bytes(words[at : at + 2], "little") for at in range(0, len(words), 2)) & 0xFFFF
    if total:
        what = (
            f"volume header checksum is {head.checksum:#06x}, expected {head.checksum - total & 0xFFFF:#06x}"
        )
        raise FormatError(source, what, offset=offset, spec=_SPEC_VOLUME)
    return head


def files(volume: memoryview, source: str) -> Iterator[FirmwareFile]:
    """The valid files of a volume in order, pad files left out.

    Raises:
        FormatError: the volume, a file header, a size or a checksum is wrong.
    """
    head = volume_header(volume, 0, source)
    if head.file_system_guid not in (EFI_FIRMWARE_FILE_SYSTEM2, EFI_FIRMWARE_FILE_SYSTEM3):
        what = f"volume format is {head.file_system_guid}, expected a firmware file system 2 or 3"
        raise FormatError(source, what, offset=16, spec=_SPEC_VOLUME)
    if not head.attributes & EFI_FVB2_ERASE_POLARITY:
        what = f"volume attributes are {head.attributes:#x}: erased bytes of 0, expected of 0xff"
        raise FormatError(source, what, offset=0x2C, spec=_SPEC_VOLUME)
    volume = volume[: head.fv_length]
    offset = _first_file(volume, head, source)
    while offset + FfsFileHeader.SIZE <= len(volume):
        if volume[offset : offset + FfsFileHeader.SIZE] == b"\xff" * FfsFileHeader.SIZE:
            return
        file, size = _file(volume, offset, source)
        if file.type != EFI_FV_FILETYPE_FFS_PAD:
            yield file
        offset = align_up(offset + size, 8)


def _first_file(volume: memoryview, head: FirmwareVolumeHeader, source: str) -> int:
    if not head.ext_header_offset:
        return head.header_length
    ext = FirmwareVolumeExtHeader.unpack(volume, head.ext_header_offset, source=source)
    end = head.ext_header_offset + ext.ext_header_size
    if head.ext_header_offset < head.header_length or ext.ext_header_size < ext.SIZE or end > len(volume):
        what = f"extended header of {ext.ext_header_size} bytes at {head.ext_header_offset:#x} does not fit"
        raise FormatError(source, what, offset=head.ext_header_offset, spec=_SPEC_VOLUME)
    return align_up(end, 8)


def _file(volume: memoryview, offset: int, source: str) -> tuple[FirmwareFile, int]:
    head = FfsFileHeader.unpack(volume, offset, source=source)
    size, header_size = int.from_bytes(head.size, "little"), head.SIZE
    large = bool(head.attributes & FFS_ATTRIB_LARGE_FILE)
    if large:
        header_size += 8
        size = int.from_bytes(volume[offset + head.SIZE : offset + header_size], "little")
    if not header_size <= size <= len(volume) - offset:
        what = f"file {head.name} of {size} bytes, {len(volume) - offset} are left"
        raise FormatError(source, what, offset=offset, spec=_SPEC_FILE)
    # The header's sum counts the state and the file checksum as zero.
    header = replace(head, file_checksum=0, state=0).pack()
    if (sum(header) + sum(volume[offset + head.SIZE : offset + header_size])) & 0xFF:
        what = f"file {head.name}: header checksum {head.header_checksum:#04x} is wrong"
        raise FormatError(source, what, offset=offset, spec=_SPEC_FILE)
    body = volume[offset + header_size : offset + size]
    want = -sum(body) & 0xFF if head.attributes & FFS_ATTRIB_CHECKSUM else FFS_FIXED_CHECKSUM
    if head.file_checksum != want or head.state != FFS_DATA_VALID:
        what = (
            f"file {head.name}: checksum {head.file_checksum:#04x} and state {head.state:#04x},"
            f" expected {want:#04x} and {FFS_DATA_VALID:#04x}"
        )
        raise FormatError(source, what, offset=offset, spec=_SPEC_FILE)
    return FirmwareFile(head.name, head.type, body), size


def sections(data: memoryview, source: str) -> Iterator[Section]:
    """The sections of a file's content, or of a decoded encapsulation section, in order.

    Raises:
        FormatError: a size is below its header or beyond the data.
    """
    offset = 0
    while offset < len(data):
        left = len(data) - offset
        size = int.from_bytes(data[offset : offset + 3], "little")
        header_size = 4
        if size == 0xFFFFFF:
            header_size = 8
            size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        if not header_size <= size <= left:
            what = f"section of {size} bytes, expected {header_size} to {left}"
            raise FormatError(source, what, offset=offset, spec=_SPEC_SECTION)
        yield Section(data[offset + 3], data[offset + header_size : offset + size], offset, header_size)
        offset = align_up(offset + size, 4)


def guided_section(section: Section, source: str) -> tuple[UUID, memoryview]:
    """How a GUID-defined section is encoded, and its encoded data.

    Raises:
        FormatError: the data offset is outside the section.
    """
    head = GuidDefinedSection.unpack(section.data, source=source)
    start = head.data_offset - section.header_size
    if not head.SIZE <= start <= len(section.data):
        what = f"data offset {head.data_offset} of a GUID-defined section is outside of it"
        raise FormatError(source, what, offset=section.offset, spec=_SPEC_SECTION)
    return head.section_definition_guid, section.data[start:]
