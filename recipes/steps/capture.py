"""``goldsmith capture acpi``: ACPI tables of machines with stage0, from QEMU itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import MeasureError
from ..machine.stage0 import Stage0Machine
from ..measure.stage0_acpi import acpi_trace
from ..record import dataclass
from ..vmm.qemu import PROGRAM
from ..vmm.stage0_capture import capture_stage0
from ..vmm.stage0_captures import Stage0Capture, dump_captures, merge
from ..vmm.stage0_parse import Stage0Host, parse
from .measure_stage0 import acpi_tables, read_captures


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A capture, with the digest that stage0 makes of it.

    Attributes:
        ignored: options that no table depends on.
    """

    capture: Stage0Capture
    acpi_table_sha256: bytes
    ignored: tuple[str, ...] = ()


def capture_command_line(argv: Sequence[str], host: Stage0Host | None = None) -> Captured:
    """The tables of the machine that a QEMU command line starts, from the QEMU that it names.

    Raises:
        MeasureError: the command line is not modelled, or stage0 would not go through with its tables.
        ToolError: QEMU is missing, or does not start such a machine.
    """
    parsed = parse(argv, host=host, tables_only=True)
    captured = capture_machine(parsed.machine, binary=parsed.binary)
    return Captured(
        capture=captured.capture, acpi_table_sha256=captured.acpi_table_sha256, ignored=parsed.ignored
    )


def capture_machine(machine: Stage0Machine, *, binary: str = PROGRAM) -> Captured:
    """The tables of one machine.

    Args:
        binary: the QEMU that will run it.

    Raises:
        MeasureError: the machine depends on this host, or stage0 would not go through with its tables.
        ToolError: QEMU is missing, or does not start such a machine.
    """
    capture = capture_stage0(machine, binary=binary)
    return Captured(capture=capture, acpi_table_sha256=acpi_trace(acpi_tables(capture)).steps[-1].after)


def check_store(path: Path) -> None:
    """Stops where captures could not be stored, before any is made.

    Raises:
        FormatError: the file is there and is none of captures.
        MeasureError: there is no folder for it, or nothing can be written there.
    """
    folder = path.parent
    if not folder.is_dir():
        raise MeasureError(f"{path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise MeasureError(f"{path}: nothing can be written to {folder}; choose another place")
    if path.exists():
        read_captures(path)


def store(path: Path, captured: Iterable[Captured]) -> tuple[Stage0Capture, ...]:
    """Everything in a file of captures, once the new ones are in it; it is there whole or not at all.

    Raises:
        FormatError: the file is there and is none of captures.
        MeasureError: there is no folder for it, or nothing can be written there.
    """
    check_store(path)
    known = read_captures(path) if path.exists() else ()
    merged = merge(known, (item.capture for item in captured))
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(dump_captures(merged), encoding="utf-8")
    temporary.replace(path)
    return merged
