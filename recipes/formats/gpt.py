"""GUID partition tables on 512-byte sectors: written, read, laid out and grown.

Spec: UEFI 2.10 chapter 5 (section 5.2.3 protective MBR, 5.3.2 header, 5.3.3 entries).
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, BinaryIO

from ..binary import Struct, guid, raw, u8, u16, u32, u64
from ..errors import FormatError
from ..units import MIB, SECTOR_SIZE, align_up

SPEC = "UEFI 2.10 section 5.3"

SIGNATURE = b"EFI PART"
REVISION = 0x00010000
HEADER_SIZE = 92
ENTRY_COUNT = 128
ENTRY_SIZE = 128
_ENTRY_BYTES = ENTRY_COUNT * ENTRY_SIZE
_ENTRY_SECTORS = _ENTRY_BYTES // SECTOR_SIZE

# MBR, header and entries; header and entries at the end of the disk.
PRIMARY_SECTORS = 2 + _ENTRY_SECTORS
BACKUP_SECTORS = 1 + _ENTRY_SECTORS
ALIGNMENT = MIB // SECTOR_SIZE
NAME_UNITS = 36

# Spec: UEFI 2.10 table 5.7 (ESP); UAPI Discoverable Partitions Specification, "Defined Partition Type UUIDs".
TYPE_ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
TYPE_ROOT_X86_64 = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
TYPE_ROOT_ARM64 = uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae")
TYPE_ROOT_VERITY_X86_64 = uuid.UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")
TYPE_ROOT_VERITY_ARM64 = uuid.UUID("df3300ce-d69f-4c92-978c-9bfb0f38d820")
TYPE_VAR = uuid.UUID("4d21b016-b534-45c2-a9fb-5c16e091fd2d")
TYPE_LINUX_GENERIC = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")

_UNUSED = uuid.UUID(int=0)
_MBR_SIGNATURE = 0xAA55
_MBR_GPT = 0xEE
_LBA_LIMIT = 1 << 63


class MbrRecord(Struct):
    """One of the four partition records of an MBR. Spec: UEFI 2.10 table 5.2."""

    boot_indicator: u8
    starting_chs: Annotated[bytes, raw(3)]
    os_type: u8
    ending_chs: Annotated[bytes, raw(3)]
    starting_lba: u32
    size_in_lba: u32


class Mbr(Struct):
    """The first sector. Spec: UEFI 2.10 table 5.3."""

    boot_code: Annotated[bytes, raw(440)]
    unique_mbr_signature: u32
    reserved_0x1bc: u16
    records: Annotated[bytes, raw(64)]
    signature: u16


class GptHeader(Struct):
    """Header at LBA 1 and at the last LBA; the rest of the sector is zero. Spec: UEFI 2.10 table 5.5."""

    signature: Annotated[bytes, raw(8)]
    revision: u32
    header_size: u32
    header_crc32: u32
    reserved_0x14: u32
    my_lba: u64
    alternate_lba: u64
    first_usable_lba: u64
    last_usable_lba: u64
    disk_guid: guid
    partition_entry_lba: u64
    number_of_partition_entries: u32
    size_of_partition_entry: u32
    partition_entry_array_crc32: u32


class GptEntry(Struct):
    """One partition entry. Spec: UEFI 2.10 table 5.6."""

    partition_type_guid: guid
    unique_partition_guid: guid
    starting_lba: u64
    ending_lba: u64
    attributes: u64
    partition_name: Annotated[bytes, raw(72)]


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition; ``last_lba`` is inclusive.

    Attributes:
        number: place in the entry array, counted from 1 as Linux does.
        attributes: the entry's attribute bits as stored.
    """

    number: int
    name: str
    type_guid: uuid.UUID
    guid: uuid.UUID
    first_lba: int
    last_lba: int
    attributes: int = 0

    @property
    def offset(self) -> int:
        """Where the partition starts, in bytes."""
        return self.first_lba * SECTOR_SIZE

    @property
    def size(self) -> int:
        """Length in bytes."""
        return (self.last_lba - self.first_lba + 1) * SECTOR_SIZE


@dataclass(frozen=True, kw_only=True)
class PartitionPlan:
    """A partition that has no place yet; ``size`` is in bytes and rounded up to whole sectors."""

    name: str
    type_guid: uuid.UUID
    guid: uuid.UUID
    size: int
    attributes: int = 0


@dataclass(frozen=True)
class PartitionTable:
    """A disk's partition table.

    Attributes:
        sectors: length of the disk in sectors of 512 bytes.
        partitions: in ascending order of their numbers.

    Raises:
        FormatError: partitions overlap, lie outside the usable sectors, share a number or GUID, or cannot be
            stored.
    """

    disk_guid: uuid.UUID
    sectors: int
    partitions: tuple[Partition, ...]

    def __post_init__(self) -> None:
        usable = range(PRIMARY_SECTORS, self.sectors - BACKUP_SECTORS)
        _check_table("partition table", self.sectors, self.disk_guid, self.partitions, usable)

    def primary(self) -> bytes:
        """The first 34 sectors: protective MBR, header and entries."""
        entries = self._entries()
        header = self._header(entries, my_lba=1, alternate_lba=self.sectors - 1, entry_lba=2)
        return _protective_mbr(self.sectors) + header + entries

    def backup(self) -> bytes:
        """The last 33 sectors: entries and header."""
        entries = self._entries()
        last = self.sectors - 1
        return entries + self._header(entries, my_lba=last, alternate_lba=1, entry_lba=last - _ENTRY_SECTORS)

    def _entries(self) -> bytes:
        out = bytearray(_ENTRY_BYTES)
        for partition in self.partitions:
            start = (partition.number - 1) * ENTRY_SIZE
            out[start : start + ENTRY_SIZE] = _entry(partition).pack()
        return bytes(out)

    def _header(self, entries: bytes, *, my_lba: int, alternate_lba: int, entry_lba: int) -> bytes:
        header = GptHeader(
            signature=SIGNATURE,
            revision=REVISION,
            header_size=HEADER_SIZE,
            header_crc32=0,
            reserved_0x14=0,
            my_lba=my_lba,
            alternate_lba=alternate_lba,
            first_usable_lba=PRIMARY_SECTORS,
            last_usable_lba=self.sectors - BACKUP_SECTORS - 1,
            disk_guid=self.disk_guid,
            partition_entry_lba=entry_lba,
            number_of_partition_entries=ENTRY_COUNT,
            size_of_partition_entry=ENTRY_SIZE,
            partition_entry_array_crc32=zlib.crc32(entries),
        )
        return replace(header, header_crc32=zlib.crc32(header.pack())).pack().ljust(SECTOR_SIZE, b"\0")


def lay_out(
    disk_guid: uuid.UUID, plans: Sequence[PartitionPlan], *, sectors: int | None = None
) -> PartitionTable:
    """A table with the partitions one behind the other, each at a multiple of 1 MiB, numbered from 1.

    Args:
        sectors: length of the disk; without it the shortest whole number of MiB that holds everything.

    Raises:
        FormatError: they do not fit the disk, or a plan cannot be stored.
    """
    partitions = []
    end = ALIGNMENT
    for number, plan in enumerate(plans, 1):
        if plan.size <= 0:
            raise FormatError(
                f"partition {plan.name!r}", f"size is {plan.size} bytes; give it at least one sector"
            )
        first = align_up(end, ALIGNMENT)
        end = first + -(-plan.size // SECTOR_SIZE)
        partitions.append(
            Partition(
                number=number,
                name=plan.name,
                type_guid=plan.type_guid,
                guid=plan.guid,
                first_lba=first,
                last_lba=end - 1,
                attributes=plan.attributes,
            )
        )
    shortest = align_up(end + BACKUP_SECTORS, ALIGNMENT)
    return PartitionTable(disk_guid, shortest if sectors is None else sectors, tuple(partitions))


def grow(table: PartitionTable, sectors: int) -> PartitionTable:
    """The same partitions on a longer disk; its ``primary`` and ``backup`` must both be written again.

    Raises:
        FormatError: the disk would shrink.
    """
    if sectors < table.sectors:
        what = f"{sectors} sectors are fewer than the {table.sectors} it has; a table only grows"
        raise FormatError("partition table", what)
    return replace(table, sectors=sectors)


def read(file: BinaryIO, source: str) -> PartitionTable:
    """The partition table of a disk, primary and backup both checked; ``sectors`` ends at the backup.

    Raises:
        FormatError: no protective MBR, a header, checksum, bound or GUID is wrong, or the copies differ.
    """
    length = file.seek(0, 2) // SECTOR_SIZE
    _check_mbr(_sectors(file, 0, 1, source), source)
    header, entries = _copy(file, 1, length, source)
    alternate = header.alternate_lba
    if not PRIMARY_SECTORS <= alternate < length:
        what = f"the backup table is at sector {alternate}, the disk has {length}; the image is truncated"
        raise FormatError(source, what, offset=SECTOR_SIZE, spec=SPEC)
    backup, backup_entries = _copy(file, alternate, length, source)
    expected = replace(
        header,
        my_lba=alternate,
        alternate_lba=1,
        partition_entry_lba=backup.partition_entry_lba,
        header_crc32=backup.header_crc32,
    )
    if backup != expected or backup_entries != entries:
        what = "the backup table differs from the primary one; repair it with sgdisk -e or a new build"
        raise FormatError(source, what, offset=alternate * SECTOR_SIZE, spec=SPEC)
    partitions = tuple(_partition(number, entry, source) for number, entry in _used(entries, source))
    if not PRIMARY_SECTORS <= header.first_usable_lba <= header.last_usable_lba < backup.partition_entry_lba:
        what = f"sectors {header.first_usable_lba} to {header.last_usable_lba} are not all between the tables"
        raise FormatError(source, what, offset=SECTOR_SIZE, spec=SPEC)
    usable = range(header.first_usable_lba, header.last_usable_lba + 1)
    _check_table(source, alternate + 1, header.disk_guid, partitions, usable)
    return PartitionTable(header.disk_guid, alternate + 1, partitions)


def event_data(file: BinaryIO, source: str) -> bytes:
    """What firmware measures into PCR 5 as EV_EFI_GPT_EVENT: header, number of used entries, used entries.

    Spec: TCG PC Client Platform Firmware Profile 1.06 section 10.2.5 (UEFI_GPT_DATA); edk2 stable202502,
    SecurityPkg/Library/DxeTpm2MeasureBootLib, Tcg2MeasureGptTable.

    Raises:
        FormatError: the primary table cannot be read.
    """
    length = file.seek(0, 2) // SECTOR_SIZE
    header, entries = _copy(file, 1, length, source)
    used = [entry.pack() for _, entry in _used(entries, source)]
    return header.pack() + len(used).to_bytes(8, "little") + b"".join(used)


def _protective_mbr(sectors: int) -> bytes:
    """One record over the whole disk. Spec: UEFI 2.10 table 5.4."""
    record = MbrRecord(
        boot_indicator=0,
        starting_chs=bytes((0x00, 0x02, 0x00)),
        os_type=_MBR_GPT,
        # Cylinder, head and sector of the last block; all ones where they cannot say it.
        ending_chs=_chs(sectors - 1),
        starting_lba=1,
        size_in_lba=min(sectors - 1, 0xFFFFFFFF),
    )
    mbr = Mbr(
        boot_code=bytes(440),
        unique_mbr_signature=0,
        reserved_0x1bc=0,
        records=record.pack().ljust(64, b"\0"),
        signature=_MBR_SIGNATURE,
    )
    return mbr.pack()


def _chs(lba: int) -> bytes:
    """Head, sector and cylinder bytes with 255 heads of 63 sectors."""
    cylinder, rest = divmod(lba, 255 * 63)
    head, sector = divmod(rest, 63)
    if cylinder > 1023:
        return b"\xff\xff\xff"
    return bytes((head, sector + 1 | cylinder >> 8 << 6, cylinder & 0xFF))


def _entry(partition: Partition) -> GptEntry:
    return GptEntry(
        partition_type_guid=partition.type_guid,
        unique_partition_guid=partition.guid,
        starting_lba=partition.first_lba,
        ending_lba=partition.last_lba,
        attributes=partition.attributes,
        partition_name=partition.name.encode("utf-16-le").ljust(NAME_UNITS * 2, b"\0"),
    )


def _check_table(
    source: str, sectors: int, disk_guid: uuid.UUID, partitions: tuple[Partition, ...], usable: range
) -> None:
    if not PRIMARY_SECTORS + BACKUP_SECTORS < sectors < _LBA_LIMIT:
        what = f"a disk of {sectors} sectors; both tables take {PRIMARY_SECTORS + BACKUP_SECTORS}"
        raise FormatError(source, what)
    if disk_guid == _UNUSED:
        raise FormatError(source, "the disk GUID is zero")
    numbers = [partition.number for partition in partitions]
    if numbers != sorted(set(numbers)) or not all(1 <= number <= ENTRY_COUNT for number in numbers):
        raise FormatError(
            source, f"partition numbers are {numbers}, expected ascending ones from 1 to {ENTRY_COUNT}"
        )
    seen: dict[uuid.UUID, int] = {}
    for partition in partitions:
        _check_partition(partition, source, usable)
        other = seen.setdefault(partition.guid, partition.number)
        if other != partition.number:
            what = f"partitions {other} and {partition.number} have the same GUID {partition.guid}"
            raise FormatError(source, what, spec=SPEC)
    for before, after in pairwise(sorted(partitions, key=lambda each: each.first_lba)):
        if after.first_lba <= before.last_lba:
            what = f"partition {after.number} starts at sector {after.first_lba}"
            what += f", partition {before.number} ends at {before.last_lba}; they overlap"
            raise FormatError(source, what, spec=SPEC)


def _check_partition(partition: Partition, source: str, usable: range) -> None:
    where = f"{source}: partition {partition.number}"
    if _UNUSED in {partition.type_guid, partition.guid}:
        raise FormatError(where, "its type or own GUID is zero", spec=SPEC)
    if not usable.start <= partition.first_lba <= partition.last_lba < usable.stop:
        what = f"sectors {partition.first_lba} to {partition.last_lba} are not within"
        raise FormatError(where, f"{what} the usable ones, {usable.start} to {usable.stop - 1}", spec=SPEC)
    if not 0 <= partition.attributes < 1 << 64:
        raise FormatError(where, f"attributes {partition.attributes:#x} do not fit 64 bits", spec=SPEC)
    try:
        units = len(partition.name.encode("utf-16-le")) // 2
    except UnicodeEncodeError:
        raise FormatError(where, f"name {partition.name!r} is not Unicode text", spec=SPEC) from None
    if units > NAME_UNITS or "\0" in partition.name:
        what = f"name {partition.name!r} has {units} UTF-16 units; at most {NAME_UNITS} and no NUL fit"
        raise FormatError(where, what, spec=SPEC)


def _check_mbr(data: bytes, source: str) -> None:
    mbr = Mbr.unpack(data, source=source)
    if mbr.signature != _MBR_SIGNATURE:
        what = (
            f"MBR signature is {mbr.signature:#06x}, expected {_MBR_SIGNATURE:#06x}; this is not a GPT disk"
        )
        raise FormatError(source, what, offset=510, spec="UEFI 2.10 section 5.2.3")
    records = [MbrRecord.unpack(mbr.records, start, source=source) for start in range(0, 64, MbrRecord.SIZE)]
    used = [record for record in records if record.os_type]
    if len(used) != 1 or used[0].os_type != _MBR_GPT or used[0].starting_lba != 1:
        types = " ".join(f"{record.os_type:#04x}" for record in used) or "none"
        what = f"MBR partition types are {types}, expected one 0xee at sector 1; this is no plain GPT disk"
        raise FormatError(source, what, offset=446, spec="UEFI 2.10 section 5.2.3")


def _sectors(file: BinaryIO, first: int, count: int, source: str) -> bytes:
    file.seek(first * SECTOR_SIZE)
    data = file.read(count * SECTOR_SIZE)
    if len(data) != count * SECTOR_SIZE:
        what = f"{count} sectors are needed, {len(data) // SECTOR_SIZE} are left; the image is truncated"
        raise FormatError(source, what, offset=first * SECTOR_SIZE)
    return data


def _copy(file: BinaryIO, lba: int, length: int, source: str) -> tuple[GptHeader, bytes]:
    """One copy of the table: the header at ``lba`` and its entry array, checksums verified."""

    def fail(what: str) -> FormatError:
        return FormatError(source, what, offset=lba * SECTOR_SIZE, spec=SPEC)

    header = GptHeader.unpack(_sectors(file, lba, 1, source), source=source)
    if header.signature != SIGNATURE:
        raise fail(
            f"signature is {header.signature!r}, expected {SIGNATURE!r}; there is no GPT on 512-byte sectors"
        )
    if header.revision != REVISION or header.header_size != HEADER_SIZE:
        raise fail(f"revision {header.revision:#x} with {header.header_size} bytes, expected 0x10000 with 92")
    computed = zlib.crc32(replace(header, header_crc32=0).pack())
    if header.header_crc32 != computed:
        raise fail(f"header checksum is {header.header_crc32:#010x}, computed {computed:#010x}")
    if header.my_lba != lba:
        raise fail(f"the header says that it is at sector {header.my_lba}, it is at {lba}")
    shape = (header.number_of_partition_entries, header.size_of_partition_entry)
    if shape != (ENTRY_COUNT, ENTRY_SIZE):
        raise fail(f"{shape[0]} entries of {shape[1]} bytes; only 128 of 128 bytes are supported")
    if not 2 <= header.partition_entry_lba <= length - _ENTRY_SECTORS:
        raise fail(f"entries at sector {header.partition_entry_lba} of a disk of {length}")
    entries = _sectors(file, header.partition_entry_lba, _ENTRY_SECTORS, source)
    computed = zlib.crc32(entries)
    if header.partition_entry_array_crc32 != computed:
        raise fail(f"entry checksum is {header.partition_entry_array_crc32:#010x}, computed {computed:#010x}")
    return header, entries


def _used(entries: bytes, source: str) -> list[tuple[int, GptEntry]]:
    """Number and entry of every used place."""
    found = []
    for number in range(1, ENTRY_COUNT + 1):
        entry = GptEntry.unpack(entries, (number - 1) * ENTRY_SIZE, source=source)
        if entry.partition_type_guid != _UNUSED:
            found.append((number, entry))
    return found


def _partition(number: int, entry: GptEntry, source: str) -> Partition:
    try:
        name = entry.partition_name.decode("utf-16-le").split("\0", 1)[0]
    except UnicodeDecodeError:
        raise FormatError(f"{source}: partition {number}", "its name is not UTF-16", spec=SPEC) from None
    return Partition(
        number=number,
        name=name,
        type_guid=entry.partition_type_guid,
        guid=entry.unique_partition_guid,
        first_lba=entry.starting_lba,
        last_lba=entry.ending_lba,
        attributes=entry.attributes,
    )
