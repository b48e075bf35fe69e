"""A disk as it ships: grown to what a format asks for, with its partition table made right for that size.

The primary header names the sector of its backup and the last usable sector, so a longer disk has another
table, and firmware measures another one.
"""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from ..units import SECTOR_SIZE
from .source import RawDisk


class _Reader(io.RawIOBase):
    """A disk as a file that is read."""

    def __init__(self, disk: RawDisk) -> None:
        super().__init__()
        self._disk = disk
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._disk.size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(self._disk.size - self._position, 0)
        data = self._disk.read(self._position, left if size < 0 else min(size, left))
        self._position += len(data)
        return data


def open_disk(disk: RawDisk) -> BinaryIO:
    """The disk as a file to read, patches and growth included."""
    return cast("BinaryIO", _Reader(disk))


def shipped(disk: RawDisk, size: int) -> RawDisk:
    """The disk with ``size`` bytes, and both copies of its partition table as they belong there.

    The backup stands at the new end and nowhere else. Partitions stay as they are, byte for byte.

    Raises:
        FormatError: it would shrink, ``size`` is not whole sectors, or the partition table cannot be read.
    """
    from ..formats import (
        gpt,
    )  # whoever lists the formats loads this module too, and needs no partition tables

    grown = disk.grown(size)
    table = gpt.read(open_disk(disk), disk.name)
    if table.sectors * SECTOR_SIZE == size:
        return grown
    longer = gpt.grow(table, size // SECTOR_SIZE)
    length = gpt.BACKUP_SECTORS * SECTOR_SIZE
    old, new = table.sectors * SECTOR_SIZE - length, size - length
    # Where the two overlap, the new copy goes over the zeros.
    cleared = bytes(min(length, new - old))
    return grown.patched(0, longer.primary()).patched(old, cleared).patched(new, longer.backup())


def gpt_event(disk: RawDisk) -> bytes:
    """What firmware measures of the disk's partition table into PCR 5.

    Raises:
        FormatError: the primary table cannot be read.
    """
    from ..formats import gpt

    return gpt.event_data(open_disk(disk), disk.name)
