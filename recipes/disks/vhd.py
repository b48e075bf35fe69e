"""Fixed VHD, the one format that Azure takes: all sectors, then a footer.

Spec: Microsoft, Virtual Hard Disk Image Format Specification, version 1.0, "Fixed Hard Disk Image".
"""

from __future__ import annotations

from typing import BinaryIO

from ..record import dataclass
from . import vhd_footer
from .format import ANY_ARCHITECTURE, ANY_FIRMWARE, DiskFormat, aligned_size
from .raw import write_sectors
from .source import Progress, RawDisk


@dataclass(frozen=True)
class FixedVhd:
    """The sectors, with zeros as holes, and 512 bytes behind them."""

    name: str = "vhd"
    suffix: str = ".vhd"
    summary: str = "fixed VHD; Azure"
    architectures: frozenset[str] = ANY_ARCHITECTURE
    firmware: frozenset[str] = ANY_FIRMWARE
    max_size: int = vhd_footer.MAX_SIZE
    alignment: int = vhd_footer.ALIGNMENT

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        """Writes the disk and its footer.

        Raises:
            FormatError: too large, or the raw image was changed while it was read.
        """
        disk = disk.grown(aligned_size(self, disk.size))
        write_sectors(disk, out, progress)
        out.seek(disk.size)
        kind, after = vhd_footer.FIXED, vhd_footer.NOWHERE
        out.write(vhd_footer.footer(disk.size, disk_type=kind, data_offset=after, seed=seed))


FORMATS: tuple[DiskFormat, ...] = (FixedVhd(),)
