"""What fixed and dynamic VHD files have in common: the footer with its checksum and its geometry.

Spec: Microsoft, Virtual Hard Disk Image Format Specification, version 1.0 (October 2006), "Hard Disk Footer
Format" and "Appendix: CHS Calculation".
"""

from __future__ import annotations

from typing import Annotated

from ..binary import Struct, raw, u8, u16, u32, u64
from ..record import replace
from ..units import GIB, MIB, SECTOR_SIZE
from .format import derived_uuid

COOKIE = b"conectix"
VERSION = 0x00010000
NOWHERE = 0xFFFFFFFFFFFFFFFF  # no structure follows
FIXED, DYNAMIC = 2, 3

# Disks are whole MiB: Microsoft Learn, "Prepare a Windows VHD to upload to Azure".
ALIGNMENT = MIB
# The largest that Hyper-V and QEMU take; sector numbers of dynamic disks have 32 bits. QEMU 7.2 block/vpc.c,
# VHD_MAX_SECTORS.
MAX_SIZE = 2040 * GIB

_FEATURES = 0x00000002  # a reserved bit that is always set
# Readers take the size from the geometry, which is only nearly right, unless they know the creator as one
# that means the current size: QEMU 7.2 block/vpc.c, vpc_open.
_CREATOR = b"qem2"
_CREATOR_HOST = b"Wi2k"
_MAX_CHS = 65535 * 16 * 255


class Footer(Struct, endian=">"):
    """The last 512 bytes of every VHD file; a dynamic one begins with a copy."""

    cookie: Annotated[bytes, raw(8)]
    features: u32
    file_format_version: u32
    data_offset: u64
    time_stamp: u32
    creator_application: Annotated[bytes, raw(4)]
    creator_version: u32
    creator_host_os: Annotated[bytes, raw(4)]
    original_size: u64
    current_size: u64
    cylinders: u16
    heads: u8
    sectors_per_track: u8
    disk_type: u32
    checksum: u32
    unique_id: Annotated[bytes, raw(16)]
    saved_state: u8
    reserved_0x55: Annotated[bytes, raw(427)]


def footer(size: int, *, disk_type: int, data_offset: int, seed: bytes) -> bytes:
    """The 512 bytes for a disk of ``size`` bytes.

    Args:
        data_offset: where the dynamic disk header is, or NOWHERE.
        seed: what the identifier is derived from.
    """
    cylinders, heads, sectors = geometry(size // SECTOR_SIZE)
    plain = Footer(
        cookie=COOKIE,
        features=_FEATURES,
        file_format_version=VERSION,
        data_offset=data_offset,
        time_stamp=0,  # seconds since the start of the year 2000
        creator_application=_CREATOR,
        creator_version=VERSION,
        creator_host_os=_CREATOR_HOST,
        original_size=size,
        current_size=size,
        cylinders=cylinders,
        heads=heads,
        sectors_per_track=sectors,
        disk_type=disk_type,
        checksum=0,
        unique_id=derived_uuid(seed, f"vhd {disk_type}").bytes,
        saved_state=0,
        reserved_0x55=bytes(427),
    )
    return replace(plain, checksum=checksum(plain.pack())).pack()


def checksum(data: bytes) -> int:
    """The ones' complement of the sum of all bytes, taken while the checksum itself is zero."""
    return ~sum(data) & 0xFFFFFFFF


def geometry(sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors per track, together at most ``sectors``. Spec: "CHS Calculation"."""
    sectors = min(sectors, _MAX_CHS)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    tracks = sectors // 17
    heads = max((tracks + 1023) // 1024, 4)
    if tracks < heads * 1024 and heads <= 16:
        return tracks // heads, heads, 17
    tracks = sectors // 31
    if tracks < 16 * 1024:
        return tracks // 16, 16, 31
    return sectors // 63 // 16, 16, 63
