"""ACPI tables as QEMU hands them to firmware: the linker/loader's script, and the tables of a file.

Spec: QEMU 10.0 hw/acpi/bios-linker-loader.c; ACPI 6.5, sections 5.2.5 (RSDP), 5.2.6
(header) and 5.2.10 (FACS).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from ..binary import Struct, raw, u8, u32
from ..errors import FormatError

COMMAND_SIZE = 128
"""Bytes of a command (BiosLinkerLoaderEntry)."""

# Ours: QEMU pads the script to 4 KiB, 32 commands; machines with many devices need some hundreds.
_MAX_COMMANDS = 4096
_NAME_SIZE = 56
_MAX_ALIGNMENT = 1 << 20
# Lengths that the smallest table can have: FACS 64, others their header.
_MIN_TABLE = 36


class LoaderCommandType(IntEnum):
    """What a command does."""

    ALLOCATE = 1
    ADD_POINTER = 2
    ADD_CHECKSUM = 3
    WRITE_POINTER = 4


class LoaderZone(IntEnum):
    """Where a file goes: anywhere, or where firmware is scanned for it (below 1 MiB)."""

    HIGH = 1
    FSEG = 2


@dataclass(frozen=True, kw_only=True)
class LoaderCommand:
    """One command of the script.

    Attributes:
        index: its place in the script, from 0.
        file: the file that it allocates, or changes.
        other: the file whose address is written (pointers), else empty.
        offset: in ``file``, of what is changed.
        start: first byte of what is summed up; of a written pointer, what is added to it.
        length: bytes that are changed, or summed up.
        alignment: of an allocated file.
        zone: of an allocated file.
    """

    index: int
    type: LoaderCommandType
    file: str
    other: str = ""
    offset: int = 0
    start: int = 0
    length: int = 0
    alignment: int = 0
    zone: LoaderZone | None = None

    def __str__(self) -> str:
        """The command in a few words."""
        match self.type:
            case LoaderCommandType.ALLOCATE:
                zone = self.zone.name if self.zone else "?"
                return f"{self.file} in zone {zone}, aligned to {self.alignment}"
            case LoaderCommandType.ADD_CHECKSUM:
                return f"{self.file}+{self.offset:#x} of {self.length} bytes from {self.start:#x}"
        return f"{self.file}+{self.offset:#x} of {self.length} bytes to {self.other}"


@dataclass(frozen=True)
class AcpiTable:
    """A table in a file.

    Attributes:
        name: its signature, ``DSDT``; ``padding`` for the zero bytes behind the last one.
        offset: in the file.
        size: bytes.
    """

    name: str
    offset: int
    size: int


class _Allocate(Struct):
    file: Annotated[bytes, raw(_NAME_SIZE)]
    alignment: u32
    zone: u8


class _AddPointer(Struct):
    file: Annotated[bytes, raw(_NAME_SIZE)]
    other: Annotated[bytes, raw(_NAME_SIZE)]
    offset: u32
    size: u8


class _AddChecksum(Struct):
    file: Annotated[bytes, raw(_NAME_SIZE)]
    offset: u32
    start: u32
    length: u32


class _WritePointer(Struct):
    file: Annotated[bytes, raw(_NAME_SIZE)]
    other: Annotated[bytes, raw(_NAME_SIZE)]
    offset: u32
    start: u32
    size: u8


class _Head(Struct):
    signature: Annotated[bytes, raw(4)]
    length: u32


def parse_loader(data: bytes, source: str = "etc/table-loader") -> tuple[LoaderCommand, ...]:
    """The commands of a script; empty ones, which pad it, are left out.

    Raises:
        FormatError: no whole commands, or one that is none of QEMU's.
    """
    if len(data) % COMMAND_SIZE or len(data) > _MAX_COMMANDS * COMMAND_SIZE:
        what = f"{len(data)} bytes are not up to {_MAX_COMMANDS} commands of {COMMAND_SIZE}"
        raise FormatError(source, f"{what}; capture the file again")
    commands = (_command(data, index, source) for index in range(len(data) // COMMAND_SIZE))
    return tuple(command for command in commands if command is not None)


def split_tables(data: bytes) -> tuple[AcpiTable, ...]:
    """The tables that a file is made of, one behind the other; together they are the whole file.

    The pointer to them (RSDP) has a file of its own. What does not look like a table becomes one piece with
    an empty name.
    """
    if data.startswith(b"RSD PTR "):
        return (AcpiTable("RSDP", 0, len(data)),)
    found, offset = [], 0
    while len(data) - offset >= _MIN_TABLE:
        head = _Head.unpack(data, offset)
        ends = offset + head.length
        if head.length < _MIN_TABLE or ends > len(data) or not _is_signature(head.signature):
            break
        found.append(AcpiTable(head.signature.decode("ascii"), offset, head.length))
        offset = ends
    if offset < len(data):
        name = "" if any(data[offset:]) else "padding"
        found.append(AcpiTable(name, offset, len(data) - offset))
    return tuple(found)


def _is_signature(value: bytes) -> bool:
    # Spec: ACPI 6.5, table 5.4: capital letters, digits (SSDT2 has none; OEM0 and DBG2 have).
    return all(char in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_" for char in value)


def _command(data: bytes, index: int, source: str) -> LoaderCommand | None:
    start = index * COMMAND_SIZE
    number, body = int.from_bytes(data[start : start + 4], "little"), start + 4
    place = f"{source}: command {index}"
    match number:
        case 0:
            return None
        case LoaderCommandType.ALLOCATE:
            return _allocate(_Allocate.unpack(data, body, source=place), index, place)
        case LoaderCommandType.ADD_POINTER:
            pointer = _AddPointer.unpack(data, body, source=place)
            return LoaderCommand(
                index=index,
                type=LoaderCommandType.ADD_POINTER,
                file=_name(pointer.file, place),
                other=_name(pointer.other, place),
                offset=pointer.offset,
                length=_pointer_size(pointer.size, place),
            )
        case LoaderCommandType.ADD_CHECKSUM:
            checksum = _AddChecksum.unpack(data, body, source=place)
            return LoaderCommand(
                index=index,
                type=LoaderCommandType.ADD_CHECKSUM,
                file=_name(checksum.file, place),
                offset=checksum.offset,
                start=checksum.start,
                length=checksum.length,
            )
        case LoaderCommandType.WRITE_POINTER:
            written = _WritePointer.unpack(data, body, source=place)
            return LoaderCommand(
                index=index,
                type=LoaderCommandType.WRITE_POINTER,
                file=_name(written.file, place),
                other=_name(written.other, place),
                offset=written.offset,
                start=written.start,
                length=_pointer_size(written.size, place),
            )
    known = ", ".join(f"{item.name} {item.value}" for item in LoaderCommandType)
    raise FormatError(place, f"type {number:#x} is none of {known}; capture the file from QEMU itself")


def _allocate(item: _Allocate, index: int, place: str) -> LoaderCommand:
    alignment = item.alignment
    if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise FormatError(place, f"alignment {alignment} is no power of two up to {_MAX_ALIGNMENT}")
    if item.zone not in list(LoaderZone):
        raise FormatError(place, f"zone {item.zone} is neither HIGH (1) nor FSEG (2)")
    return LoaderCommand(
        index=index,
        type=LoaderCommandType.ALLOCATE,
        file=_name(item.file, place),
        alignment=alignment,
        zone=LoaderZone(item.zone),
    )


def _name(field: bytes, place: str) -> str:
    name, end, _ = field.partition(b"\0")
    if not end or not name or not name.isascii() or not name.decode("ascii").isprintable():
        raise FormatError(place, f"{field[:16]!r}... is no file name that ends in a zero byte")
    return name.decode("ascii")


def _pointer_size(size: int, place: str) -> int:
    if size not in (1, 2, 4, 8):
        raise FormatError(place, f"a pointer has 1, 2, 4 or 8 bytes, not {size}")
    return size
