"""A streamOptimized VMDK as VM Import reads it: header, descriptor, and from the end footer and directory.

Spec: VMware, Virtual Disk Format 5.0, sections Hosted Sparse Extent Header, The Descriptor File and
Stream-Optimized Compressed Sparse Extents; AWS, VM Import/Export User Guide, "System requirements".
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from ..disks.vmdk import (
    END_OF_STREAM,
    FOOTER,
    GRAIN,
    GRAIN_DIRECTORY,
    GRAIN_SECTORS,
    MAX_SIZE,
    SPEC,
    TABLE_ENTRIES,
    Header,
)
from ..units import KIB, SECTOR_SIZE
from .cloud import Finding, size_text

_MAGIC = b"KDMV"
_COMPRESSED, _MARKERS = 1 << 16, 1 << 17  # Hosted Sparse Extent Header, flags
_DEFLATE = 1
_AT_END = 0xFFFFFFFFFFFFFFFF  # GD_AT_END
_NO_PARENT = "ffffffff"
_MAX_DESCRIPTOR = 64 * KIB
_ANSWER = "aws answers that disk validation failed"
_REMAKE = "make the disk again in format vmdk"
_TAIL = 3 * SECTOR_SIZE  # marker and footer, and the end of the stream


def findings(file: BinaryIO, disk_size: int) -> tuple[Finding, ...]:
    """What is wrong with a VMDK that should hold a disk of ``disk_size`` bytes; less than 1 MiB is read."""
    size = file.seek(0, os.SEEK_END)
    if size % SECTOR_SIZE or size < Header.SIZE + _TAIL:
        what = f"{size_text(size)} are not the whole sectors of a header and a footer; was it cut short?"
        return (Finding("file", f"{what} {_ANSWER}; {_REMAKE}", SPEC),)
    header = _header(file, 0)
    if header.magic != _MAGIC:
        what = f"it starts with {header.magic!r}, not with {_MAGIC!r}; {_ANSWER}; {_REMAKE}"
        return (Finding("header", what, SPEC),)
    wrong = tuple(_header_findings(header, disk_size))
    wrong += tuple(_descriptor_findings(file, header, size))
    return (*wrong, *_end_findings(file, header, size))


def _header(file: BinaryIO, offset: int) -> Header:
    file.seek(offset)
    return Header.unpack(file.read(Header.SIZE).ljust(Header.SIZE, b"\0"), source="header")


def _wrong(subject: str, what: str) -> Finding:
    return Finding(subject, f"{what}; {_ANSWER}; {_REMAKE}", SPEC)


def _header_findings(header: Header, disk_size: int) -> Iterator[Finding]:
    if header.version not in (1, 2, 3):
        yield _wrong("header", f"the format has version {header.version}, expected 3")
    needed = _COMPRESSED | _MARKERS
    if header.flags & needed != needed or header.compress_algorithm != _DEFLATE:
        what = (
            f"flags {header.flags:#x} and compression {header.compress_algorithm}, expected {needed:#x} and 1"
        )
        yield _wrong("header", f"it is no compressed stream: {what}")
    if header.newlines != b"\n \r\n":
        yield _wrong("header", f"line ends are {header.newlines!r}; the file was changed as if it were text")
    if header.unclean_shutdown:
        yield _wrong("header", "it was not closed by what wrote it")
    if (header.grain_size, header.table_entries) != (GRAIN_SECTORS, TABLE_ENTRIES):
        what = f"grains of {header.grain_size} sectors, {header.table_entries} in a table, expected"
        yield _wrong("header", f"{what} {GRAIN_SECTORS} and {TABLE_ENTRIES}")
    held = header.capacity * SECTOR_SIZE
    if held != disk_size:
        what = f"it holds a disk of {size_text(held)}, and {size_text(disk_size)} were to be shipped"
        yield Finding("disk", f"{what}; {_REMAKE}")


def _descriptor_findings(file: BinaryIO, header: Header, size: int) -> Iterator[Finding]:
    start, length = header.descriptor_offset * SECTOR_SIZE, header.descriptor_size * SECTOR_SIZE
    if not start or not 0 < length <= _MAX_DESCRIPTOR or start + length > size:
        what = f"it has {header.descriptor_size} sectors from sector {header.descriptor_offset}"
        yield _wrong("descriptor", f"{what}, which cannot be right in a file of {size} bytes")
        return
    file.seek(start)
    text = file.read(length).rstrip(b"\0").decode("latin-1")
    kind = _setting(text, "createType")
    if kind != "streamOptimized":
        yield _wrong("descriptor", f"createType is {kind!r}, expected 'streamOptimized'")
    parent = _setting(text, "parentCID")
    if parent != _NO_PARENT:
        yield _wrong("descriptor", f"parentCID is {parent!r}, expected {_NO_PARENT!r}: it needs another disk")
    extents = re.findall(r"^RW ([0-9]{1,20}) ([A-Z]{1,16}) ", text, re.MULTILINE)
    if extents != [(str(header.capacity), "SPARSE")]:
        noted = ", ".join(f"{sectors} {word}" for sectors, word in extents[:4]) or "none"
        yield _wrong("descriptor", f"extents are {noted}, expected {header.capacity} SPARSE as in the header")


def _setting(text: str, name: str) -> str:
    match = re.search(rf'^{name}\s*=\s*"?([^"\r\n]{{0,80}})"?', text, re.MULTILINE)
    return match[1].strip() if match else ""


def _end_findings(file: BinaryIO, header: Header, size: int) -> Iterator[Finding]:
    """The stream's end, the footer in front of it, and the directory that the footer points to."""
    file.seek(size - SECTOR_SIZE)
    if any(file.read(SECTOR_SIZE)):
        yield _wrong("end", "the last sector is not the end-of-stream marker; was the file cut short?")
        return
    if header.directory_offset != _AT_END:
        yield from _directory_findings(file, header, size)
        return
    marker = _marker(file, size - _TAIL)
    footer = _header(file, size - _TAIL + SECTOR_SIZE)
    if marker != (1, 0, FOOTER) or footer.magic != _MAGIC:
        yield _wrong("footer", f"there is none in front of the end: marker {marker}, {footer.magic!r}")
        return
    if footer.capacity != header.capacity or footer.directory_offset == _AT_END:
        what = f"capacity {footer.capacity} and directory at sector {footer.directory_offset:#x}"
        yield _wrong("footer", f"{what} do not go with a header of capacity {header.capacity}")
        return
    yield from _directory_findings(file, footer, size)


def _marker(file: BinaryIO, offset: int) -> tuple[int, int, int]:
    """Sectors, size and type of a marker: section Stream-Optimized Compressed Sparse Extents."""
    file.seek(offset)
    sectors, size, kind = struct.unpack("<QII", file.read(16).ljust(16, b"\xff"))
    return sectors, size, kind


def _directory_findings(file: BinaryIO, header: Header, size: int) -> Iterator[Finding]:
    if header.capacity * SECTOR_SIZE > MAX_SIZE:
        yield _wrong("header", f"a capacity of {header.capacity} sectors is more than 2 TiB")
        return
    entries = -(-header.capacity * SECTOR_SIZE // (GRAIN * TABLE_ENTRIES))
    start = header.directory_offset * SECTOR_SIZE
    if not SECTOR_SIZE < start <= size - 4 * entries:
        yield _wrong("directory", f"it starts at sector {header.directory_offset}, outside the file")
        return
    marker = _marker(file, start - SECTOR_SIZE)
    if marker[1:] != (END_OF_STREAM, GRAIN_DIRECTORY):
        yield _wrong("directory", f"at sector {header.directory_offset} is none: marker {marker}")
        return
    file.seek(start)
    tables = struct.unpack(f"<{entries}I", file.read(4 * entries).ljust(4 * entries, b"\0"))
    last = (start - SECTOR_SIZE) // SECTOR_SIZE
    beyond = [table for table in tables if table and not header.overhead <= table < last]
    if beyond:
        yield _wrong("directory", f"a grain table is at sector {beyond[0]}, and the directory at {last + 1}")
