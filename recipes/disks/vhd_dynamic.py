"""Dynamic VHD: the blocks of 2 MiB that are not all zero, found through a table.

In order: a copy of the footer, the dynamic disk header, the block allocation table, the blocks as they follow
on the disk, the footer.

Spec: Microsoft, Virtual Hard Disk Image Format Specification, version 1.0, "Dynamic Disk Header Format",
"Block Allocation Table and Data Blocks".
"""

from __future__ import annotations

import sys
from array import array
from typing import Annotated, BinaryIO

from ..binary import Struct, raw, u32, u64
from ..record import dataclass, replace
from ..units import KIB, MIB, SECTOR_SIZE, align_up
from . import vhd_footer
from .content import write_at, write_content
from .format import ANY_ARCHITECTURE, ANY_FIRMWARE, DiskFormat, aligned_size
from .source import Progress, RawDisk

COOKIE = b"cxsparse"
BLOCK = 2 * MIB  # the default of the specification
# A bit for each sector of the block, in whole sectors: all valid.
_BITMAP = b"\xff" * (BLOCK // SECTOR_SIZE // 8)
_TABLE_OFFSET = 512 + 1024  # behind the footer's copy and the header
_UNUSED = 0xFFFFFFFF
_GRANULE = 64 * KIB


class DynamicHeader(Struct, endian=">"):
    """The 1024 bytes behind the copy of the footer. Spec: "Dynamic Disk Header Format"."""

    cookie: Annotated[bytes, raw(8)]
    data_offset: u64
    table_offset: u64
    header_version: u32
    max_table_entries: u32
    block_size: u32
    checksum: u32
    parent_unique_id: Annotated[bytes, raw(16)]
    parent_time_stamp: u32
    reserved_0x3c: u32
    parent_unicode_name: Annotated[bytes, raw(512)]
    parent_locators: Annotated[bytes, raw(192)]
    reserved_0x300: Annotated[bytes, raw(256)]


@dataclass(frozen=True)
class DynamicVhd:
    """Only blocks with content; zeros inside them are holes."""

    name: str = "vhd-dynamic"
    suffix: str = ".dynamic.vhd"
    summary: str = "dynamic VHD; AWS, Hyper-V"
    architectures: frozenset[str] = ANY_ARCHITECTURE
    firmware: frozenset[str] = ANY_FIRMWARE
    max_size: int = vhd_footer.MAX_SIZE
    alignment: int = vhd_footer.ALIGNMENT

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        """Writes the file; the table comes last, when the place of every block is known.

        Raises:
            FormatError: too large, or the raw image was changed while it was read.
        """
        disk = disk.grown(aligned_size(self, disk.size))
        table = array("I", [_UNUSED]) * -(-disk.size // BLOCK)
        end = _TABLE_OFFSET + align_up(table.itemsize * len(table), SECTOR_SIZE)

        def place_of(offset: int, _: int) -> int:
            nonlocal end
            block, inside = divmod(offset, BLOCK)
            if table[block] == _UNUSED:
                table[block] = end // SECTOR_SIZE
                write_at(out.fileno(), _BITMAP, end)
                end += len(_BITMAP) + BLOCK
            return table[block] * SECTOR_SIZE + len(_BITMAP) + inside

        write_content(disk, out, _GRANULE, place_of, progress)
        footer = vhd_footer.footer(disk.size, disk_type=vhd_footer.DYNAMIC, data_offset=512, seed=seed)
        out.seek(end)
        out.write(footer)
        out.seek(0)
        out.write(footer + _header(len(table)) + _stored(table))


def _header(entries: int) -> bytes:
    plain = DynamicHeader(
        cookie=COOKIE,
        data_offset=vhd_footer.NOWHERE,
        table_offset=_TABLE_OFFSET,
        header_version=vhd_footer.VERSION,
        max_table_entries=entries,
        block_size=BLOCK,
        checksum=0,
        parent_unique_id=bytes(16),
        parent_time_stamp=0,
        reserved_0x3c=0,
        parent_unicode_name=bytes(512),
        parent_locators=bytes(192),
        reserved_0x300=bytes(256),
    )
    return replace(plain, checksum=vhd_footer.checksum(plain.pack())).pack()


def _stored(table: array[int]) -> bytes:
    """The table big endian, in whole sectors; what is behind its last entry is as unused as the rest."""
    table = table[:]
    if sys.byteorder == "little":
        table.byteswap()
    data = table.tobytes()
    return data.ljust(align_up(len(data), SECTOR_SIZE), b"\xff")


FORMATS: tuple[DiskFormat, ...] = (DynamicVhd(),)
