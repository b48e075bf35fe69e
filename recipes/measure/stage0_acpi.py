"""What stage0 measures of ACPI: the loader's script, then each file that it allocates, as QEMU hands it out.

Spec: project-oak/oak stage0/src/acpi/mod.rs build_acpi_tables() (7c355e64), acpi/commands/allocate.rs and
write_pointer.rs (22733aa8), acpi/commands/mod.rs (d83ae4de), acpi/files.rs (1c0c7956).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import MeasureError
from ..formats.acpi import (
    COMMAND_SIZE,
    LoaderCommand,
    LoaderCommandType,
    LoaderZone,
    parse_loader,
    split_tables,
)
from ..units import KIB, MIB, format_size
from .trace import HashAlgorithm, Step, Trace

ACPI_TABLE = "acpi_table_sha256"
LOADER, RSDP, TABLES = "etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables"
"""Files of fw_cfg. Spec: QEMU 10.0 include/hw/acpi/aml-build.h."""

SPEC = "project-oak/oak stage0/src/acpi/mod.rs (7c355e64)"
_RSDP_SUFFIX = "acpi/rsdp"
# What stage0 has for files. Spec: acpi/mod.rs EBDA, HIGH_MEM_SIZE.
_ROOM = {LoaderZone.FSEG: 128 * KIB, LoaderZone.HIGH: MIB}


@dataclass(frozen=True, kw_only=True)
class AcpiTables:
    """Files of fw_cfg that QEMU builds ACPI tables in, as it hands them out.

    Attributes:
        table_loader: ``etc/table-loader``.
        rsdp: ``etc/acpi/rsdp``.
        tables: ``etc/acpi/tables``, the whole file.
        further: other files that the loader allocates, by name.
    """

    table_loader: bytes
    rsdp: bytes
    tables: bytes
    further: tuple[tuple[str, bytes], ...] = ()

    @property
    def files(self) -> dict[str, bytes]:
        """The files that the loader may name."""
        return {RSDP: self.rsdp, TABLES: self.tables, **dict(self.further)}


def acpi_trace(acpi: AcpiTables) -> Trace:
    """The digest, step by step: a command of the script each, then a table each; ``after`` of the last is it.

    Raises:
        FormatError: the script is malformed.
        MeasureError: stage0 would not go through with it, or a file is not given.
    """
    commands, files = parse_loader(acpi.table_loader, LOADER), acpi.files
    allocated = _checked(commands, files)
    state, steps = hashlib.sha256(), []
    for step, data in (*_script(acpi.table_loader, commands), *_contents(allocated, files)):
        state.update(data)
        steps.append(_step(step, data, state.digest()))
    return Trace(ACPI_TABLE, tuple(steps))


@dataclass(frozen=True)
class _Piece:
    """What is hashed next; ``count`` pieces are alike."""

    operation: str
    source: str
    description: str
    count: int = 1


def _script(loader: bytes, commands: tuple[LoaderCommand, ...]) -> Iterator[tuple[_Piece, bytes]]:
    known = {command.index: command for command in commands}
    index, count = 0, len(loader) // COMMAND_SIZE
    while index < count:
        start = index
        while index < count and index not in known:
            index += 1
        if index > start:
            empty = _Piece("EMPTY", LOADER, f"from command {start}", index - start)
            yield empty, loader[start * COMMAND_SIZE : index * COMMAND_SIZE]
            continue
        command = known[index]
        piece = _Piece(command.type.name, LOADER, f"command {index}: {command}")
        index += 1
        yield piece, loader[start * COMMAND_SIZE : index * COMMAND_SIZE]


def _contents(names: list[str], files: Mapping[str, bytes]) -> Iterator[tuple[_Piece, bytes]]:
    for name in names:
        data = files[name]
        for table in split_tables(data):
            description = f"{table.name or 'bytes'} at {table.offset:#x}"
            yield _Piece("READ_FILE", name, description), data[table.offset : table.offset + table.size]


def _step(piece: _Piece, data: bytes, after: bytes) -> Step:
    return Step(
        register=ACPI_TABLE,
        operation=piece.operation,
        digests={HashAlgorithm.SHA256: hashlib.sha256(data).digest()},
        size=len(data),
        source=piece.source,
        description=piece.description,
        spec=SPEC,
        count=piece.count,
        after=after,
    )


def _checked(commands: tuple[LoaderCommand, ...], files: Mapping[str, bytes]) -> list[str]:
    """The files in the order they are allocated, after every check that stage0 makes."""
    allocated: list[str] = []
    room = dict(_ROOM)
    for command in commands:
        place = f"{LOADER}: command {command.index}"
        if command.type is LoaderCommandType.WRITE_POINTER:
            what = f"WRITE_POINTER to {command.file}, at which stage0 stops"
            raise MeasureError(f"{place}: {what}; leave out the device that needs it, such as vmgenid")
        if command.type is LoaderCommandType.ALLOCATE:
            _check_allocation(command, allocated, files, place)
            _take(room, command, len(files[command.file]), place)
            allocated.append(command.file)
        else:
            _check_change(command, allocated, files, place)
    if not any(name.endswith(_RSDP_SUFFIX) for name in allocated):
        what = "allocates no RSDP, and stage0 stops without one"
        raise MeasureError(f"{LOADER}: {what}; start the machine with acpi=on")
    return allocated


def _check_allocation(
    command: LoaderCommand, allocated: list[str], files: Mapping[str, bytes], place: str
) -> None:
    if command.file in allocated:
        what = f"ALLOCATE of {command.file} for the second time, at which stage0 stops"
        raise MeasureError(f"{place}: {what}; capture the tables again")
    if command.file not in files:
        what = f"ALLOCATE of {command.file}, which is not among the captured files"
        raise MeasureError(f"{place}: {what}; capture it too")


def _take(room: dict[LoaderZone, int], command: LoaderCommand, size: int, place: str) -> None:
    if command.zone is None or size > room[command.zone]:
        zone = command.zone.name if command.zone else "?"
        what = f"{command.file} with {format_size(size)} does not fit in what stage0 has for zone {zone}"
        raise MeasureError(f"{place}: {what}; leave out devices")
    room[command.zone] -= size


def _check_change(
    command: LoaderCommand, allocated: list[str], files: Mapping[str, bytes], place: str
) -> None:
    for name in filter(None, (command.file, command.other)):
        if name not in allocated:
            what = f"{command.type.name} names {name}, which is not allocated yet, and stage0 stops"
            raise MeasureError(f"{place}: {what}; capture the tables again")
    size = len(files[command.file])
    if command.type is LoaderCommandType.ADD_CHECKSUM:
        outside = command.offset >= size or command.start + command.length > size
    else:
        outside = command.offset + command.length > size
    if outside:
        what = f"{command.type.name} ends behind {command.file}, which has {size} bytes, and stage0 stops"
        raise MeasureError(f"{place}: {what}; capture all files from one QEMU")
