"""PE32+ images as UEFI loads them: headers, sections and the certificate table, every bound checked.

Spec: Microsoft PE Format (2024), sections "COFF File Header", "Optional Header", "Section Table"; UEFI 2.10
section 2.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Annotated

from ..binary import Struct, raw, u8, u16, u32, u64
from ..errors import FormatError
from ..units import MIB

SPEC = "Microsoft PE Format"

DOS_MAGIC = b"MZ"
PE_MAGIC = b"PE\0\0"
PE32_PLUS = 0x20B
# Place of e_lfanew in the DOS header; the rest of that header means nothing to UEFI.
_LFANEW = 0x3C
# Place of the fields that Authenticode skips, from the start of the optional header.
_CHECKSUM = 64
_DIRECTORIES = 112
_CERTIFICATE_DIRECTORY = 4
_DIRECTORY_SIZE = 8

_FILE_LIMIT = 1 << 32

# Ours: the most zero bytes that are made up behind the stored bytes of one section.
ZERO_FILL_LIMIT = 64 * MIB


class Machine(IntEnum):
    """CPU types with a UEFI PE32+ image. Spec: Microsoft PE Format, "Machine Types"."""

    X86_64 = 0x8664
    AARCH64 = 0xAA64


class CoffHeader(Struct):
    """COFF file header."""

    machine: u16
    number_of_sections: u16
    time_date_stamp: u32
    pointer_to_symbol_table: u32
    number_of_symbols: u32
    size_of_optional_header: u16
    characteristics: u16


class OptionalHeader(Struct):
    """PE32+ optional header without the data directories."""

    magic: u16
    major_linker_version: u8
    minor_linker_version: u8
    size_of_code: u32
    size_of_initialized_data: u32
    size_of_uninitialized_data: u32
    address_of_entry_point: u32
    base_of_code: u32
    image_base: u64
    section_alignment: u32
    file_alignment: u32
    major_operating_system_version: u16
    minor_operating_system_version: u16
    major_image_version: u16
    minor_image_version: u16
    major_subsystem_version: u16
    minor_subsystem_version: u16
    win32_version_value: u32
    size_of_image: u32
    size_of_headers: u32
    check_sum: u32
    subsystem: u16
    dll_characteristics: u16
    size_of_stack_reserve: u64
    size_of_stack_commit: u64
    size_of_heap_reserve: u64
    size_of_heap_commit: u64
    loader_flags: u32
    number_of_rva_and_sizes: u32


class SectionHeader(Struct):
    """One row of the section table."""

    name: Annotated[bytes, raw(8)]
    virtual_size: u32
    virtual_address: u32
    size_of_raw_data: u32
    pointer_to_raw_data: u32
    pointer_to_relocations: u32
    pointer_to_line_numbers: u32
    number_of_relocations: u16
    number_of_line_numbers: u16
    characteristics: u32


class DataDirectory(Struct):
    """One data directory; for the certificate table the address is a file offset."""

    address: u32
    size: u32


@dataclass(frozen=True)
class Section:
    """One section; ``name`` is its header's name up to the first NUL."""

    name: str
    header: SectionHeader

    @property
    def virtual_end(self) -> int:
        """First address behind the section in memory, relative to the image base."""
        return self.header.virtual_address + max(self.header.virtual_size, self.header.size_of_raw_data)

    @property
    def raw_range(self) -> range:
        """The file offsets of the stored bytes; empty where nothing is stored."""
        start = self.header.pointer_to_raw_data if self.header.size_of_raw_data else 0
        return range(start, start + self.header.size_of_raw_data)


@dataclass(frozen=True)
class PeImage:
    """A parsed PE32+ image, and the bytes it was parsed from.

    Attributes:
        coff_offset: file offset of the COFF header, behind the PE magic.
        certificates: certificate table as (file offset, size), (0, 0) when there is none.
    """

    data: memoryview
    source: str
    coff_offset: int
    coff: CoffHeader
    optional: OptionalHeader
    directories: tuple[DataDirectory, ...]
    sections: tuple[Section, ...]

    @classmethod
    def parse(cls, data: bytes | memoryview, source: str) -> PeImage:
        """The image that is the whole of ``data``.

        Raises:
            FormatError: not a PE32+ image, truncated, or with raw data, section table or certificate table
                out of bounds or overlapping.
        """
        view = memoryview(data)
        if len(view) >= _FILE_LIMIT:
            raise FormatError(
                source, f"{len(view)} bytes; file offsets in a PE image have 32 bits", spec=SPEC
            )
        coff_offset, coff, optional = _headers(view, source)
        start = coff_offset + CoffHeader.SIZE + OptionalHeader.SIZE
        directories = tuple(
            DataDirectory.unpack(view, start + index * _DIRECTORY_SIZE, source=source)
            for index in range(optional.number_of_rva_and_sizes)
        )
        image = cls(
            view, source, coff_offset, coff, optional, directories, _sections(view, source, coff_offset, coff)
        )
        _check_layout(image)
        return image

    @property
    def optional_offset(self) -> int:
        """File offset of the optional header."""
        return self.coff_offset + CoffHeader.SIZE

    @property
    def checksum_offset(self) -> int:
        """File offset of the CheckSum field, 4 bytes."""
        return self.optional_offset + _CHECKSUM

    @property
    def certificate_directory_offset(self) -> int | None:
        """File offset of the certificate table's data directory, 8 bytes; None where the header has none."""
        if len(self.directories) <= _CERTIFICATE_DIRECTORY:
            return None
        return self.optional_offset + _DIRECTORIES + _CERTIFICATE_DIRECTORY * _DIRECTORY_SIZE

    @property
    def section_table_offset(self) -> int:
        """File offset of the first section header."""
        return self.optional_offset + self.coff.size_of_optional_header

    @property
    def certificates(self) -> tuple[int, int]:
        """File offset and size of the certificate table, both 0 for an unsigned image."""
        if len(self.directories) <= _CERTIFICATE_DIRECTORY:
            return 0, 0
        directory = self.directories[_CERTIFICATE_DIRECTORY]
        return directory.address, directory.size

    def section(self, name: str) -> Section | None:
        """The first section of that name, or None."""
        return next((section for section in self.sections if section.name == name), None)

    def section_data(self, name: str) -> bytes:
        """A section as it lies in memory: VirtualSize bytes, zero-padded or cut.

        Raises:
            FormatError: there is no such section, or it is mostly made of zeros that are not stored.
        """
        section = self.section(name)
        if section is None:
            raise FormatError(self.source, f"there is no section {name}")
        size, stored = section.header.virtual_size, section.raw_range
        missing = max(size - len(stored), 0)
        if missing > ZERO_FILL_LIMIT:
            what = (
                f"section {name} has {missing} bytes that are not stored, at most {ZERO_FILL_LIMIT} are read"
            )
            raise FormatError(self.source, what)
        return bytes(self.data[stored.start : stored.start + min(size, len(stored))]) + bytes(missing)


def _headers(data: memoryview, source: str) -> tuple[int, CoffHeader, OptionalHeader]:
    """File offset of the COFF header, that header, and the fixed part of the optional header."""
    if bytes(data[:2]) != DOS_MAGIC:
        what = f"magic is {bytes(data[:2]).hex() or 'missing'}, expected 4d5a; this is not a PE image"
        raise FormatError(source, what, offset=0, spec=SPEC)
    if len(data) < _LFANEW + 4:
        raise FormatError(
            source, f"{len(data)} bytes do not hold a DOS header; the data is truncated", offset=0
        )
    offset = int.from_bytes(data[_LFANEW : _LFANEW + 4], "little")
    if bytes(data[offset : offset + 4]) != PE_MAGIC:
        raise FormatError(source, "there is no PE magic; this is not a PE image", offset=offset, spec=SPEC)
    offset += len(PE_MAGIC)
    coff = CoffHeader.unpack(data, offset, source=source)
    optional = OptionalHeader.unpack(data, offset + CoffHeader.SIZE, source=source)
    where = offset + CoffHeader.SIZE
    if optional.magic != PE32_PLUS:
        what = f"optional header magic is {optional.magic:#x}, expected {PE32_PLUS:#x} (PE32+)"
        raise FormatError(source, what, offset=where, spec=SPEC)
    # UEFI loaders refuse an image whose header size and directory count disagree
    # (edk2 stable202502, MdePkg/Library/BasePeCoffLib/BasePeCoff.c, PeCoffLoaderGetPeHeader).
    directories = optional.number_of_rva_and_sizes
    if directories > 16 or coff.size_of_optional_header != _DIRECTORIES + directories * _DIRECTORY_SIZE:
        what = (
            f"optional header of {coff.size_of_optional_header} bytes does not fit {directories} directories"
        )
        raise FormatError(source, what, offset=where, spec=SPEC)
    return offset, coff, optional


def _sections(data: memoryview, source: str, coff_offset: int, coff: CoffHeader) -> tuple[Section, ...]:
    start = coff_offset + CoffHeader.SIZE + coff.size_of_optional_header
    found = []
    for index in range(coff.number_of_sections):
        offset = start + index * SectionHeader.SIZE
        header = SectionHeader.unpack(data, offset, source=source)
        name = header.name.split(b"\0", 1)[0]
        if not name.isascii():
            raise FormatError(source, f"section name {name!r} is not ASCII", offset=offset, spec=SPEC)
        found.append(Section(name.decode("ascii"), header))
    return tuple(found)


def _check_layout(image: PeImage) -> None:
    """Refuses what firmware and signing tools could read in different ways."""
    optional, source = image.optional, image.source
    for name, value in (("section", optional.section_alignment), ("file", optional.file_alignment)):
        if value == 0 or value & (value - 1):
            raise FormatError(source, f"{name} alignment {value:#x} is not a power of two", spec=SPEC)
    table_end = image.section_table_offset + len(image.sections) * SectionHeader.SIZE
    if not table_end <= optional.size_of_headers <= len(image.data):
        what = f"headers of {optional.size_of_headers:#x} bytes; the section table ends at {table_end:#x}"
        raise FormatError(source, f"{what} and the file at {len(image.data):#x}", spec=SPEC)
    stored = sorted(
        ((section.raw_range, section.name) for section in image.sections if section.raw_range),
        key=lambda item: item[0].start,
    )
    parts = [
        (range(optional.size_of_headers), "the headers"),
        *((span, f"section {name}") for span, name in stored),
    ]
    offset, size = image.certificates
    if bool(offset) != bool(size):
        raise FormatError(
            source, f"certificate table of {size} bytes at {offset:#x}; one of them is 0", spec=SPEC
        )
    if size:
        parts.append((range(offset, offset + size), "the certificate table"))
    for (before, name), (after, other) in pairwise(parts):
        if after.start < before.stop:
            what = f"{other} overlaps {name} ({after.start:#x} is before {before.stop:#x})"
            raise FormatError(source, what, offset=after.start, spec=SPEC)
    last, name = parts[-1]
    if last.stop > len(image.data):
        what = f"{name} ends at {last.stop:#x}, the file at {len(image.data):#x}; the data is truncated"
        raise FormatError(source, what, offset=last.start, spec=SPEC)
    if size and last.stop != len(image.data):
        # Firmware subtracts the table's size from the file's and does not look where the table lies.
        what = (
            f"{len(image.data) - last.stop} bytes follow the certificate table; a digest would be ambiguous"
        )
        raise FormatError(
            source, what, offset=last.stop, spec="Authenticode PE, section 'Calculating the PE Image Hash'"
        )
