"""A machine on the bench: started with empty disks and a new TPM, to be asked what only a VMM knows."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import MeasureError, ToolError
from ..machine import Accelerator, QemuMachine
from ..units import MIB
from .launch import Qemu, Swtpm, find_program
from .qemu import PROGRAM, DriveFile, LaunchFiles, render

PLACEHOLDER_SIZE = MIB
"""Size of the empty disks; neither ACPI tables nor firmware memory depend on what a disk holds."""

_HOST_CPUS = ("host", "max")


@dataclass(frozen=True)
class Flash:
    """The firmware's two files; the variable store is copied before it is used."""

    code: Path
    vars: Path


@contextmanager
def bench(
    machine: QemuMachine,
    flash: Flash,
    *options: str,
    channels: tuple[tuple[str, str], ...] = (),
    serial: str = "null",
    binary: str = PROGRAM,
) -> Iterator[Qemu]:
    """The running machine; it is ended, and its files are gone, when the context ends.

    Args:
        options: further words of the command line, such as ``-S``.
        channels: name and option of sockets to add, such as ``("qtest", "-qtest")``.

    Raises:
        MeasureError: the machine cannot be written as a command line, or depends on this host's processor.
        ToolError: a program is missing or fails.
    """
    _check(machine, flash, binary)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goldsmith-")))
        variables = folder / "vars.fd"
        shutil.copyfile(flash.vars, variables)
        tpm = stack.enter_context(Swtpm()) if machine.tpm is not None else None
        files = LaunchFiles(
            code=str(flash.code.absolute()),
            vars=str(variables),
            disks=tuple(_placeholder(folder, number) for number in range(len(machine.disks))),
            tpm_socket=tpm.socket if tpm else None,
            serial=serial,
            options=options,
            binary=binary,
        )
        qemu = Qemu(render(machine, files))
        for name, option in channels:
            qemu.add_channel(name, option)
        yield stack.enter_context(qemu)


def _check(machine: QemuMachine, flash: Flash, binary: str) -> None:
    program = find_program(binary)
    for path in (flash.code, flash.vars):
        if not path.is_file():
            raise ToolError([program], f"{path} is missing", advice="unpack the firmware package first")
    if machine.accelerator is not Accelerator.KVM:
        return
    if machine.cpu.split(",")[0] in _HOST_CPUS:
        what = "is whatever this host has; name a CPU model such as EPYC-v4"
        raise MeasureError(f"{machine.name}: cpu {machine.cpu} {what}")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        advice = "run this on a host with KVM, as a user who may use it"
        raise ToolError([program], "/dev/kvm is not usable", advice=advice)


def _placeholder(folder: Path, number: int) -> DriveFile:
    path = folder / f"disk{number}.raw"
    with path.open("wb") as file:
        file.truncate(PLACEHOLDER_SIZE)
    return DriveFile(path=str(path))
