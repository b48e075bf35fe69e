"""A QEMU machine as the command line that starts it.

The order of ``-device`` options decides the PCI slots, and with them ACPI tables and boot variables, so it
is fixed: the TPM (no PCI device), the disks in order, then further devices in order. On ``q35`` the first
disk is 00:01.0, on ``pc`` 00:02.0.

Spec: QEMU 7.2 qemu-options.hx; PCR replay notes, section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import MeasureError
from ..machine import Disk, QemuMachine, TpmInterface
from ..units import MIB

PROGRAM = "qemu-system-x86_64"
TPM_DRIVERS = {"tis": "tpm-tis", "crb": "tpm-crb"}
SECURE_FLASH = "driver=cfi.pflash01,property=secure,value=on"


@dataclass(frozen=True, kw_only=True)
class DriveFile:
    """The file behind a disk.

    Attributes:
        format: QEMU's name of the disk format, such as ``raw``, ``qcow2``, ``vpc``.
        snapshot: what the guest writes is thrown away when QEMU ends.
    """

    path: str
    format: str = "raw"
    snapshot: bool = False


@dataclass(frozen=True, kw_only=True)
class LaunchFiles:
    """Where a launch reads and writes: everything of a command line that is not the machine.

    Attributes:
        code: the code flash; never written.
        vars: a private, writable copy of the variable store.
        disks: one file for each disk of the machine.
        tpm_socket: control socket of swtpm, for a machine with a TPM.
        serial: value of ``-serial``. The port itself is part of every machine: it stands in the ACPI tables.
        options: further words that leave the machine as it is, such as ``-netdev`` and its value.
        binary: the program.
    """

    code: str
    vars: str
    disks: tuple[DriveFile, ...] = ()
    tpm_socket: str | None = None
    serial: str = "stdio"
    options: tuple[str, ...] = ()
    binary: str = PROGRAM


def render(machine: QemuMachine, files: LaunchFiles) -> tuple[str, ...]:
    """The words of the command line that starts ``machine``.

    Raises:
        MeasureError: the files do not fit the machine, or the machine cannot be written down.
    """
    _check(machine, files)
    words = [files.binary, "-nodefaults", "-no-user-config"]
    words += ["-machine", machine.type + (",smm=on" if machine.firmware.smm else "")]
    words += ["-accel", machine.accelerator.value, "-cpu", machine.cpu]
    words += ["-m", str(machine.memory // MIB), "-smp", str(machine.vcpus)]
    # With -no-reboot a guest that panics ends the run instead of measuring a second boot into the same log.
    words += ["-display", "none", "-no-reboot", "-serial", files.serial]
    words += _flash(machine, files)
    if machine.tpm is not None and files.tpm_socket is not None:
        words += tpm_words(machine.tpm, files.tpm_socket)
    words += disk_words(machine.disks, files.disks)
    for device in machine.devices:
        words += ["-device", device]
    words += ["-vga", "none", "-nic", "none"]
    for text in machine.smbios_strings:
        words += ["-smbios", "type=11,value=" + escape(text)]
    return (*words, *files.options)


def escape(value: str) -> str:
    """``value`` as it stands inside a QEMU option: commas are doubled."""
    return value.replace(",", ",,")


def tpm_words(tpm: TpmInterface, socket: str) -> list[str]:
    """The words of a TPM that swtpm emulates behind a socket."""
    words = ["-chardev", "socket,id=chrtpm,path=" + escape(socket)]
    words += ["-tpmdev", "emulator,id=tpm0,chardev=chrtpm"]
    return [*words, "-device", TPM_DRIVERS[tpm.value] + ",tpmdev=tpm0"]


def _check(machine: QemuMachine, files: LaunchFiles) -> None:
    if len(files.disks) != len(machine.disks):
        message = f"{machine.name}: {len(machine.disks)} disks need as many files, got {len(files.disks)}"
        raise MeasureError(message)
    if (machine.tpm is None) != (files.tpm_socket is None):
        raise MeasureError(f"{machine.name}: give tpm_socket for a machine with a TPM, and for no other")
    if machine.memory <= 0 or machine.memory % MIB:
        message = f"{machine.name}: memory of {machine.memory} bytes; QEMU takes a whole number of MiB"
        raise MeasureError(message)


def _flash(machine: QemuMachine, files: LaunchFiles) -> list[str]:
    # An SMM build keeps the guest's kernel away from the variable store by this property; it refuses to start
    # without (OvmfPkg/README, "SMM support").
    words = ["-global", SECURE_FLASH] if machine.firmware.smm else []
    words += ["-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + escape(files.code)]
    return [*words, "-drive", "if=pflash,unit=1,format=raw,file=" + escape(files.vars)]


def disk_words(disks: Sequence[Disk], files: Sequence[DriveFile]) -> list[str]:
    """The words of disks, each with its file."""
    words: list[str] = []
    for number, (disk, file) in enumerate(zip(disks, files, strict=True)):
        drive = f"if=none,id=d{number},format={file.format}"
        drive += ",readonly=on" if disk.read_only else ""
        drive += ",snapshot=on" if file.snapshot else ""
        bootindex = "" if disk.bootindex is None else f",bootindex={disk.bootindex}"
        words += ["-drive", f"{drive},file={escape(file.path)}"]
        words += ["-device", f"virtio-blk-pci,drive=d{number}{bootindex}"]
    return words
