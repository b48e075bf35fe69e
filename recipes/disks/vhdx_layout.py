"""The structures of a VHDX file, and everything in it that is neither the block table nor a block.

Spec: Microsoft, [MS-VHDX] Virtual Hard Disk v2 (VHDX) File Format, version 7.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from ..binary import Struct, guid, raw, u16, u32, u64
from ..formats.crc32c import crc32c
from ..record import replace
from ..units import KIB, MIB
from .format import derived_uuid

# Section 2.2: five areas of 64 KiB; everything behind them is whole MiB.
AREA = 64 * KIB
HEADER_OFFSETS = (1 * AREA, 2 * AREA)
REGION_TABLE_OFFSETS = (3 * AREA, 4 * AREA)
LOG_OFFSET = MIB
METADATA_OFFSET = 2 * MIB
BAT_OFFSET = 3 * MIB
REGION = MIB  # length of the log and of the metadata

LOGICAL_SECTOR = 512
_PHYSICAL_SECTOR = 4096
_HEADER_SIZE = 4 * KIB
_CREATOR = "Goldsmith"
_NONE = UUID(int=0)

# Section 2.2.3.2.
_BAT_REGION = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA_REGION = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_REGION_REQUIRED = 1

# Section 2.6.1.2: IsVirtualDisk, IsRequired.
_VIRTUAL_DISK, _REQUIRED = 2, 4
# Section 2.6.2.
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_VIRTUAL_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_VIRTUAL_DISK_ID = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
_LOGICAL_SECTOR_SIZE = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PHYSICAL_SECTOR_SIZE = UUID("cda348c7-445d-4471-9cc9-e9885251c556")


class FileIdentifier(Struct):
    """Section 2.2.1; the creator is UTF-16 and for people."""

    signature: Annotated[bytes, raw(8)]
    creator: Annotated[bytes, raw(512)]


class Header(Struct):
    """Section 2.2.2; what follows up to 4 KiB is zero, and summed too."""

    signature: Annotated[bytes, raw(4)]
    checksum: u32
    sequence_number: u64
    file_write_guid: guid
    data_write_guid: guid
    log_guid: guid
    log_version: u16
    version: u16
    log_length: u32
    log_offset: u64


class RegionTableHeader(Struct):
    """Section 2.2.3.1; the checksum is over all 64 KiB of the table."""

    signature: Annotated[bytes, raw(4)]
    checksum: u32
    entry_count: u32
    reserved_0x0c: u32


class RegionTableEntry(Struct):
    """Section 2.2.3.2."""

    guid: guid
    file_offset: u64
    length: u32
    required: u32


class MetadataTableHeader(Struct):
    """Section 2.6.1.1."""

    signature: Annotated[bytes, raw(8)]
    reserved_0x08: u16
    entry_count: u16
    reserved_0x0c: Annotated[bytes, raw(20)]


class MetadataTableEntry(Struct):
    """Section 2.6.1.2; the offset counts from the start of the region."""

    item_id: guid
    offset: u32
    length: u32
    flags: u32
    reserved_0x1c: u32


def parts(*, size: int, block_size: int, bat_size: int, seed: bytes) -> Sequence[tuple[int, bytes]]:
    """What stands in front of the block table, as (offset, bytes); the log between is empty, all zeros.

    Args:
        size: bytes of the virtual disk.
        bat_size: bytes of the region of the block table, whole MiB.
        seed: what the identifiers are derived from.
    """
    identifier = FileIdentifier(
        signature=b"vhdxfile", creator=_CREATOR.encode("utf-16-le").ljust(512, b"\0")
    ).pack()
    regions = _region_table(bat_size)
    return (
        (0, identifier),
        # Of two valid headers the one with the higher number is current: section 2.2.2.
        *((place, _header(number, seed)) for number, place in enumerate(HEADER_OFFSETS, 1)),
        *((place, regions) for place in REGION_TABLE_OFFSETS),
        (METADATA_OFFSET, _metadata(size, block_size, derived_uuid(seed, "vhdx disk"))),
    )


def _header(number: int, seed: bytes) -> bytes:
    plain = Header(
        signature=b"head",
        checksum=0,
        sequence_number=number,
        file_write_guid=derived_uuid(seed, "vhdx file write"),
        data_write_guid=derived_uuid(seed, "vhdx data write"),
        log_guid=_NONE,  # nothing to replay
        log_version=0,
        version=1,
        log_length=REGION,
        log_offset=LOG_OFFSET,
    )
    value = crc32c(plain.pack().ljust(_HEADER_SIZE, b"\0"))
    return replace(plain, checksum=value).pack().ljust(_HEADER_SIZE, b"\0")


def _region_table(bat_size: int) -> bytes:
    regions = ((_BAT_REGION, BAT_OFFSET, bat_size), (_METADATA_REGION, METADATA_OFFSET, REGION))
    entries = b"".join(
        RegionTableEntry(guid=which, file_offset=offset, length=length, required=_REGION_REQUIRED).pack()
        for which, offset, length in regions
    )
    plain = RegionTableHeader(signature=b"regi", checksum=0, entry_count=len(regions), reserved_0x0c=0)
    value = crc32c((plain.pack() + entries).ljust(AREA, b"\0"))
    return (replace(plain, checksum=value).pack() + entries).ljust(AREA, b"\0")


def _metadata(size: int, block_size: int, disk_id: UUID) -> bytes:
    """The metadata table, and at 64 KiB, where it ends, the items one behind the other."""
    disk = _REQUIRED | _VIRTUAL_DISK
    items = (
        # The second word: neither fully provisioned nor with a parent.
        (_FILE_PARAMETERS, block_size.to_bytes(4, "little") + bytes(4), _REQUIRED),
        (_VIRTUAL_DISK_SIZE, size.to_bytes(8, "little"), disk),
        (_VIRTUAL_DISK_ID, disk_id.bytes_le, disk),
        (_LOGICAL_SECTOR_SIZE, LOGICAL_SECTOR.to_bytes(4, "little"), disk),
        (_PHYSICAL_SECTOR_SIZE, _PHYSICAL_SECTOR.to_bytes(4, "little"), disk),
    )
    table = MetadataTableHeader(
        signature=b"metadata", reserved_0x08=0, entry_count=len(items), reserved_0x0c=bytes(20)
    ).pack()
    values = b""
    for item_id, value, flags in items:
        offset = AREA + len(values)
        entry = MetadataTableEntry(
            item_id=item_id, offset=offset, length=len(value), flags=flags, reserved_0x1c=0
        )
        table += entry.pack()
        values += value
    return table.ljust(AREA, b"\0") + values
