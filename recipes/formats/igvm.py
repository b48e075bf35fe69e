"""IGVM files: a list of commands with which a VMM puts a guest into memory, and the pages that they name.

    fixed header | platforms | initialization | directives | file data

Each header of the list is ``u32 type | u32 length | content``, padded with zeros to 8 bytes. Headers say by a
mask for which platforms they are; page data is referred to by its place in the file and is not read here.

Spec: microsoft/igvm 0f363b7, igvm_defs/src/lib.rs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ..binary import Struct, u32
from ..errors import FormatError
from ..units import MIB, PAGE_SIZE
from .igvm_headers import (
    HEADERS,
    DirectiveType,
    GuestPolicy,
    Head,
    HeaderValue,
    InitializationType,
    PageData,
    ParameterArea,
    ParameterInsert,
    PlatformType,
    RequiredMemory,
    SnpIdBlock,
    SupportedPlatform,
    VpContext,
    check_value,
)

__all__ = [
    "DirectiveType",
    "FixedHeader",
    "GuestPolicy",
    "HeaderValue",
    "IgvmFile",
    "IgvmHeader",
    "InitializationType",
    "PageData",
    "ParameterArea",
    "ParameterInsert",
    "PlatformType",
    "RequiredMemory",
    "SnpIdBlock",
    "SupportedPlatform",
    "VpContext",
    "parse_fixed",
    "parse_igvm",
]

_MAGIC = int.from_bytes(b"IGVM", "little")
# Ours: headers of this many bytes place two hundred thousand pages, 800 MiB.
MAX_HEADERS = 8 * MIB
# The type's bit that allows a loader not to know it. Spec: igvm_defs, "Variable Header".
_OPTIONAL = 1 << 31
_USE = "give the IGVM file that the VMM loads"


class Section(IntEnum):
    """Parts of the list of headers, in the order in which they stand."""

    PLATFORM = 0
    INITIALIZATION = 1
    DIRECTIVE = 2


# Spec: igvm_defs, IGVM_VHT_RANGE_PLATFORM, _INIT and _DIRECTIVE.
_RANGES = {
    Section.PLATFORM: range(0x1, 0x101),
    Section.INITIALIZATION: range(0x101, 0x201),
    Section.DIRECTIVE: range(0x301, 0x401),
}


_SECTIONS = {kind: section for kind in HEADERS for section, known in _RANGES.items() if kind in known}


class FixedHeader(Struct):
    """What every IGVM file begins with. Spec: IGVM_FIXED_HEADER."""

    magic: u32
    format_version: u32
    variable_header_offset: u32
    variable_header_size: u32
    total_file_size: u32
    checksum: u32

    @property
    def headers_end(self) -> int:
        """Where the list of headers ends in the file."""
        return self.variable_header_offset + self.variable_header_size


class _Extension(Struct):
    """What version 2 adds to the fixed header. Spec: IGVM_FIXED_HEADER_V2."""

    architecture: u32
    page_size: u32


# The longest fixed header; as much is needed to know where the headers end.
FIXED_SIZE = FixedHeader.SIZE + _Extension.SIZE


class IgvmHeader(NamedTuple):
    """One header of the list.

    Attributes:
        type: its number, without the bit that allows a loader not to know it.
        number: in its section, from 0, as QEMU counts.
        offset: in the file.
        value: its content; None where nothing but its type matters here.
        optional: a loader that does not know it may leave it out.
    """

    type: int
    number: int
    offset: int
    value: HeaderValue | None
    optional: bool


@dataclass(frozen=True, kw_only=True)
class IgvmFile:
    """The headers of an IGVM file, section by section.

    Attributes:
        version: of the format, 1 or 2.
        size: bytes of the whole file.
    """

    version: int
    size: int
    platforms: tuple[SupportedPlatform, ...]
    initialization: tuple[IgvmHeader, ...]
    directives: tuple[IgvmHeader, ...]


def parse_fixed(data: bytes, source: str, *, size: int) -> FixedHeader:
    """The fixed header, which says how much there is to read.

    Args:
        data: the beginning of the file, ``FIXED_SIZE`` bytes where it has as many.
        size: of the whole file, in bytes.

    Raises:
        FormatError: it is no IGVM file for x86, or is cut off.
    """
    fixed = FixedHeader.unpack(data, source=source)
    if fixed.magic != _MAGIC:
        raise FormatError(source, f"magic {fixed.magic:#010x} is none of an IGVM file; {_USE}", offset=0)
    if fixed.format_version not in (1, 2):
        raise FormatError(
            source, f"format version {fixed.format_version} is not known; known: 1, 2", offset=4
        )
    if fixed.format_version == 2:
        _check_extension(_Extension.unpack(data, FixedHeader.SIZE, source=source), source)
    least = FixedHeader.SIZE if fixed.format_version == 1 else FIXED_SIZE
    if fixed.variable_header_offset < least or fixed.variable_header_offset % 8:
        what = f"variable headers at {fixed.variable_header_offset:#x} are not behind the fixed one"
        raise FormatError(source, f"{what}, in steps of 8; the file is damaged", offset=8)
    if fixed.total_file_size != size:
        what = f"says that the file has {fixed.total_file_size} bytes, it has {size}"
        raise FormatError(source, f"{what}; the file is cut off or damaged", offset=16)
    if fixed.headers_end > size or fixed.variable_header_size > MAX_HEADERS:
        what = f"{fixed.variable_header_size} bytes of headers in a file of {size}, at most {MAX_HEADERS}"
        raise FormatError(source, f"{what}; the file is damaged", offset=12)
    return fixed


def _check_extension(extension: _Extension, source: str) -> None:
    if extension.architecture != 0:
        what = f"architecture {extension.architecture} is not x64 (0)"
        raise FormatError(source, f"{what}; give a file for x64", offset=FixedHeader.SIZE)
    if extension.page_size != PAGE_SIZE:
        what = f"pages of {extension.page_size} bytes, x64 has {PAGE_SIZE}"
        raise FormatError(source, f"{what}; the file is damaged", offset=FixedHeader.SIZE + 4)


def parse_igvm(data: bytes, source: str, *, size: int) -> IgvmFile:
    """The headers of an IGVM file.

    Args:
        data: the file, or its beginning up to the end of the headers.
        size: of the whole file, in bytes.

    Raises:
        FormatError: it is no IGVM file for x86, or does not hold together.
    """
    fixed = parse_fixed(data, source, size=size)
    start, end = fixed.variable_header_offset, fixed.headers_end
    if len(data) < end:
        raise FormatError(source, f"headers end at {end:#x}, {len(data)} bytes are left; it is truncated")
    length = FixedHeader.SIZE if fixed.format_version == 1 else FIXED_SIZE
    checksum = zlib.crc32(data[start:end], zlib.crc32(data[:20] + bytes(4) + data[24:length]))
    if checksum != fixed.checksum:
        what = f"checksum {fixed.checksum:#010x} of the headers is not {checksum:#010x}"
        raise FormatError(source, f"{what}; the file is damaged", offset=20)
    sections: dict[Section, list[IgvmHeader]] = {section: [] for section in Section}
    now = Section.PLATFORM
    for found in _headers(data[:end], start, source):
        if found.section < now:
            what = f"a header of type {found.type:#x} stands behind those of a later section"
            raise FormatError(source, f"{what}; the file is damaged", offset=found.offset)
        now = found.section
        headers = sections[now]
        headers.append(IgvmHeader(found.type, len(headers), found.offset, found.value, found.optional))
        if found.value is not None:
            check_value(found.value, Head(source, found.offset, end, size))
    _check_areas(sections[Section.DIRECTIVE], source)
    return IgvmFile(
        version=fixed.format_version,
        size=size,
        platforms=tuple(_platforms(sections[Section.PLATFORM], source)),
        initialization=tuple(sections[Section.INITIALIZATION]),
        directives=tuple(sections[Section.DIRECTIVE]),
    )


# What each header begins with, (0) type, (4) length. Spec: IGVM_VHS_VARIABLE_HEADER.
_TAG = struct.Struct("<II")


class _Found(NamedTuple):
    """A header with its section."""

    section: Section
    type: int
    offset: int
    value: HeaderValue | None
    optional: bool


def _headers(data: bytes, at: int, source: str) -> Iterator[_Found]:
    """Every header with its section; those that no one has to know and we do not are left out."""
    while at < len(data):
        if len(data) - at < _TAG.size:
            what = f"{len(data) - at} bytes are left, a header has at least {_TAG.size}"
            raise FormatError(source, f"{what}; the file is damaged", offset=at)
        raw, length = _TAG.unpack_from(data, at)
        kind, start = raw & ~_OPTIONAL, at + _TAG.size
        end = start + length
        following = end + -end % 8
        if following > len(data):
            what = f"a header of type {raw:#x} has {length} bytes, {len(data) - start} are left"
            raise FormatError(source, f"{what}; the file is damaged", offset=at)
        if following > end and any(data[end:following]):
            raise FormatError(source, "the padding of a header is not zero; the file is damaged", offset=end)
        section = _SECTIONS.get(kind)
        if section is not None:
            yield _Found(section, kind, at, _value(data, start, length, kind, source), kind != raw)
        elif kind == raw:
            what = f"a header of type {raw:#x} is not known"
            raise FormatError(source, f"{what}; the file is damaged, or newer than this program", offset=at)
        at = following


def _value(data: bytes, at: int, length: int, kind: int, source: str) -> HeaderValue | None:
    size, layout = HEADERS[kind]
    if length != size:
        what = f"a header of type {kind:#x} has {length} bytes, {size} are right"
        raise FormatError(source, f"{what}; the file is damaged", offset=at)
    return layout.unpack(data, at, source=source) if layout else None


def _platforms(headers: list[IgvmHeader], source: str) -> Iterator[SupportedPlatform]:
    taken = 0
    for header in headers:
        if isinstance(header.value, SupportedPlatform):
            mask = header.value.compatibility_mask
            if mask.bit_count() != 1 or mask & taken:
                what = f"compatibility mask {mask:#x} of a platform is not one bit of its own"
                raise FormatError(source, f"{what}; the file is damaged", offset=header.offset)
            taken |= mask
            yield header.value


def _check_areas(headers: list[IgvmHeader], source: str) -> None:
    """Checks that each parameter area is there before it is inserted."""
    declared: set[int] = set()
    for header in headers:
        value = header.value
        if isinstance(value, ParameterArea):
            if value.parameter_area_index in declared:
                what = f"parameter area {value.parameter_area_index} is declared twice"
                raise FormatError(source, f"{what}; the file is damaged", offset=header.offset)
            declared.add(value.parameter_area_index)
        elif isinstance(value, ParameterInsert) and value.parameter_area_index not in declared:
            what = f"parameter area {value.parameter_area_index} is inserted, and never declared"
            raise FormatError(source, f"{what}; the file is damaged", offset=header.offset)
