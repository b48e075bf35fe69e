"""VHDX: the blocks that are not all zero, found through a table; taken by Hyper-V and AWS.

In order: identifier, two headers, two region tables, an empty log, metadata, the block allocation table, the
blocks as they follow on the disk.

Spec: Microsoft, [MS-VHDX] Virtual Hard Disk v2 (VHDX) File Format, version 7.0.
"""

from __future__ import annotations

import sys
from array import array
from typing import BinaryIO

from ..record import dataclass
from ..units import KIB, MIB, align_up
from . import vhdx_layout as layout
from .content import write_content
from .format import ANY_ARCHITECTURE, ANY_FIRMWARE, DiskFormat, aligned_size
from .source import Progress, RawDisk

TIB = 1 << 40
# Section 2.5.1.1. A block that is "not present" may hold anything; one in this state is zero.
_ZERO, _FULLY_PRESENT = 2, 6
_CHUNK_SECTORS = 1 << 23  # sectors whose bitmap is one sector bitmap block: section 2.3
_GRANULE = 64 * KIB


@dataclass(frozen=True)
class Vhdx:
    """Only blocks with content; zeros inside them are holes."""

    name: str = "vhdx"
    suffix: str = ".vhdx"
    summary: str = "VHDX; Hyper-V, AWS"
    architectures: frozenset[str] = ANY_ARCHITECTURE
    firmware: frozenset[str] = ANY_FIRMWARE
    max_size: int = 64 * TIB  # section 2.6.2.2
    alignment: int = MIB

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        """Writes the file; the table comes last, when the place of every block is known.

        Raises:
            FormatError: too large, or the raw image was changed while it was read.
        """
        disk = disk.grown(aligned_size(self, disk.size))
        block_size = block_size_of(disk.size)
        ratio = _CHUNK_SECTORS * layout.LOGICAL_SECTOR // block_size
        table = _empty_table(-(-disk.size // block_size), ratio)
        bat_size = align_up(table.itemsize * len(table), MIB)
        end = layout.BAT_OFFSET + bat_size
        current, base = -1, 0

        def place_of(offset: int, _: int) -> int:
            nonlocal current, base, end
            block, inside = divmod(offset, block_size)
            if block != current:
                current, base, end = block, end, end + block_size
                # The offset counts in MiB from bit 20, so it is the offset itself: section 2.5.1.
                table[block + block // ratio] = base | _FULLY_PRESENT
            return base + inside

        write_content(disk, out, _GRANULE, place_of, progress)
        out.truncate(end)
        for place, part in layout.parts(size=disk.size, block_size=block_size, bat_size=bat_size, seed=seed):
            out.seek(place)
            out.write(part)
        if sys.byteorder == "big":
            table.byteswap()
        out.seek(layout.BAT_OFFSET)
        out.write(table)


def block_size_of(size: int) -> int:
    """Bytes in a block: small ones waste less, but the table of a very large disk has to stay small."""
    return 2 * MIB if size <= 2 * TIB else 32 * MIB


def _empty_table(blocks: int, ratio: int) -> array[int]:
    """All blocks zero; behind every ``ratio`` of them, if any follow, an entry for a bitmap there is not.

    Spec: section 2.5.
    """
    bitmaps = (blocks - 1) // ratio
    table = array("Q", [_ZERO]) * (blocks + bitmaps)
    for bitmap in range(bitmaps):
        table[bitmap * (ratio + 1) + ratio] = 0
    return table


FORMATS: tuple[DiskFormat, ...] = (Vhdx(),)
