"""The disk as it is: what QEMU, OpenStack and ``dd`` take."""

from __future__ import annotations

from typing import BinaryIO

from ..record import dataclass
from ..units import KIB, SECTOR_SIZE
from .content import write_content
from .format import ANY_ARCHITECTURE, ANY_FIRMWARE, DiskFormat, aligned_size
from .source import Progress, RawDisk

# Smaller holes save little, and every piece costs a system call.
GRANULE = 64 * KIB


@dataclass(frozen=True)
class Raw:
    """The sectors and nothing else; zeros are holes."""

    name: str = "raw"
    suffix: str = ".raw"
    summary: str = "sectors as they are; QEMU, OpenStack, dd"
    architectures: frozenset[str] = ANY_ARCHITECTURE
    firmware: frozenset[str] = ANY_FIRMWARE
    max_size: int = (1 << 63) - SECTOR_SIZE  # offsets in a file are signed: POSIX.1-2017 off_t
    alignment: int = SECTOR_SIZE

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        """Writes the disk; ``seed`` is for nothing here.

        Raises:
            FormatError: the raw image was changed while it was read.
        """
        disk = disk.grown(aligned_size(self, disk.size))
        write_sectors(disk, out, progress)
        out.truncate(disk.size)


def write_sectors(disk: RawDisk, out: BinaryIO, progress: Progress | None) -> None:
    """Writes what is not zero where it belongs in ``out``, which is empty.

    Raises:
        FormatError: the raw image was changed while it was read.
    """
    write_content(disk, out, GRANULE, lambda offset, _: offset, progress)


FORMATS: tuple[DiskFormat, ...] = (Raw(),)
