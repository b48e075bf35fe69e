"""Structures of FAT32 and where its regions lie; shared by the writer and the reader.

Spec: Microsoft FAT32 File System Specification 1.03 (fatgen103), sections "Boot Sector and BPB", "FAT Data
Structure", "FAT32 FSInfo Sector Structure", "FAT Directory Structure".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..binary import Struct, raw, u8, u16, u32
from ..errors import FormatError
from ..units import MIB, SECTOR_SIZE

SPEC = "fatgen103"

# Fewer clusters make it FAT16 by definition; fatgen103 advises to stay 16 away from the limit.
MIN_CLUSTERS = 65525
_CLUSTER_MARGIN = 16
# The largest count whose cluster numbers stay below the bad-cluster mark.
MAX_CLUSTERS = 0x0FFFFFF5

ENTRY_MASK = 0x0FFFFFFF
END_OF_CHAIN = 0x0FFFFFFF
# Every value from here on ends a chain.
END_OF_CHAIN_MIN = 0x0FFFFFF8
FIRST_CLUSTER = 2
MEDIA_FIXED = 0xF8

RESERVED_SECTORS = 32
FAT_COPIES = 2
ROOT_CLUSTER = 2
FSINFO_SECTOR = 1
BACKUP_BOOT_SECTOR = 6
BOOT_SIGNATURE = 0xAA55
EXTENDED_BOOT_SIGNATURE = 0x29

ATTRIBUTE_VOLUME_ID = 0x08
ATTRIBUTE_DIRECTORY = 0x10
ATTRIBUTE_ARCHIVE = 0x20
ATTRIBUTE_LONG_NAME = 0x0F
ATTRIBUTE_MASK = 0x3F

# A directory is at most this long; a file has a 32-bit length.
DIRECTORY_LIMIT = 2 * MIB
FILE_LIMIT = (1 << 32) - 1


class BootSector(Struct):
    """Sector 0 and its copy: BIOS parameter block and FAT32 fields."""

    jump: Annotated[bytes, raw(3)]
    oem_name: Annotated[bytes, raw(8)]
    bytes_per_sector: u16
    sectors_per_cluster: u8
    reserved_sectors: u16
    fat_copies: u8
    root_entries: u16
    total_sectors_16: u16
    media: u8
    fat_sectors_16: u16
    sectors_per_track: u16
    heads: u16
    hidden_sectors: u32
    total_sectors: u32
    fat_sectors: u32
    extended_flags: u16
    version: u16
    root_cluster: u32
    fsinfo_sector: u16
    backup_boot_sector: u16
    reserved_0x34: Annotated[bytes, raw(12)]
    drive_number: u8
    reserved_0x41: u8
    extended_signature: u8
    volume_id: u32
    label: Annotated[bytes, raw(11)]
    file_system_type: Annotated[bytes, raw(8)]
    boot_code: Annotated[bytes, raw(420)]
    signature: u16


class FsInfo(Struct):
    """Sector 1 and its copy: hints about free clusters."""

    lead_signature: u32
    reserved_0x4: Annotated[bytes, raw(480)]
    structure_signature: u32
    free_clusters: u32
    next_free_cluster: u32
    reserved_0x1f0: Annotated[bytes, raw(12)]
    trail_signature: u32


class DirectoryEntry(Struct):
    """A short directory entry, 32 bytes."""

    name: Annotated[bytes, raw(11)]
    attributes: u8
    name_case: u8
    creation_time_tenth: u8
    creation_time: u16
    creation_date: u16
    access_date: u16
    first_cluster_high: u16
    write_time: u16
    write_date: u16
    first_cluster_low: u16
    size: u32


class LongNameEntry(Struct):
    """Thirteen UTF-16 units of a long name, 32 bytes."""

    order: u8
    name1: Annotated[bytes, raw(10)]
    attributes: u8
    type: u8
    checksum: u8
    name2: Annotated[bytes, raw(12)]
    first_cluster: u16
    name3: Annotated[bytes, raw(4)]


@dataclass(frozen=True)
class Geometry:
    """Where the regions of a file system lie, in units as named.

    Attributes:
        fat_sectors: length of one copy of the FAT.
        clusters: how many data clusters there are; their numbers start at 2.
    """

    total_sectors: int
    bytes_per_sector: int
    sectors_per_cluster: int
    reserved_sectors: int
    fat_copies: int
    fat_sectors: int
    clusters: int

    @property
    def cluster_size(self) -> int:
        """Bytes in one cluster."""
        return self.sectors_per_cluster * self.bytes_per_sector

    @property
    def fat_offset(self) -> int:
        """Where the first FAT starts, in bytes."""
        return self.reserved_sectors * self.bytes_per_sector

    @property
    def data_offset(self) -> int:
        """Where cluster 2 starts, in bytes."""
        return self.fat_offset + self.fat_copies * self.fat_sectors * self.bytes_per_sector

    def cluster_offset(self, cluster: int) -> int:
        """Where a cluster starts, in bytes."""
        return self.data_offset + (cluster - FIRST_CLUSTER) * self.cluster_size

    def clusters_for(self, size: int) -> int:
        """How many clusters hold ``size`` bytes."""
        return -(-size // self.cluster_size)


def choose_geometry(size: int) -> Geometry:
    """The geometry of a new file system of ``size`` bytes.

    The largest clusters up to 4 KiB, one page, that leave enough of them for FAT32: 512 bytes at 64 MiB,
    2 KiB at 256 MiB, 4 KiB from 260 MiB on. Larger clusters only waste room on an ESP.

    Raises:
        FormatError: ``size`` is no multiple of 512, too small for FAT32, or too large.
    """
    if size % SECTOR_SIZE:
        raise FormatError("fat", f"size {size} is not a multiple of {SECTOR_SIZE}; round it up")
    for sectors_per_cluster in (8, 4, 2, 1):
        geometry = _geometry(size // SECTOR_SIZE, sectors_per_cluster)
        if geometry.clusters >= MIN_CLUSTERS + _CLUSTER_MARGIN:
            break
    else:
        what = f"size {size} gives {max(geometry.clusters, 0)} clusters; FAT32 needs 34 MiB or more"
        raise FormatError("fat", what, spec=SPEC)
    if geometry.clusters > MAX_CLUSTERS or geometry.total_sectors >= 1 << 32:
        raise FormatError("fat", f"size {size} is too large; at most 1 TiB less one cluster fits", spec=SPEC)
    return geometry


def _geometry(total_sectors: int, sectors_per_cluster: int) -> Geometry:
    """The shortest FAT that describes every cluster behind it."""
    free = total_sectors - RESERVED_SECTORS
    # n clusters take n * sectors_per_cluster sectors and (n + 2) * 4 bytes in each copy of the FAT.
    entries = SECTOR_SIZE // 4
    fat_sectors = -(-(free + 2 * sectors_per_cluster) // (entries * sectors_per_cluster + FAT_COPIES))
    clusters = (free - FAT_COPIES * fat_sectors) // sectors_per_cluster
    return Geometry(
        total_sectors, SECTOR_SIZE, sectors_per_cluster, RESERVED_SECTORS, FAT_COPIES, fat_sectors, clusters
    )
