"""A real QEMU command line as the machine it starts.

Nothing is guessed: what QEMU would choose by itself (accelerator, CPU model, default devices) must be
written out, an unknown option is an error, and so is a device order that the machine value cannot express.
Options that no measurement can see are reported back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import MeasureError
from ..machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from ..units import GIB
from .qemu import TPM_DRIVERS, DriveFile, LaunchFiles
from .qemu_options import (
    CARRIED,
    IGNORED_FLAGS,
    IGNORED_WITH_VALUE,
    REFUSED,
    OptionValue,
    parse_count,
    parse_memory,
)
from .qemu_words import DISK_DRIVER, FLAGS, READERS, CommandLine

_PROGRAMS = frozenset(["qemu-system-x86_64", "qemu-kvm", "kvm"])
_TYPE = re.compile(r"q35|pc|pc-(q35|i440fx)-[0-9]+\.[0-9]+(\.[0-9]+)?")
_TPM = {driver: TpmInterface(value) for value, driver in TPM_DRIVERS.items()}
_HOST_SIDE = ("aio", "cache", "detect-zeroes", "discard", "media", "rerror", "werror")
"""Settings of a drive that only the host sees."""

MAX_MEMORY = 1024 * GIB
"""As in a recipe: the address layout of larger machines is not modelled."""


@dataclass(frozen=True)
class ParsedLaunch:
    """A command line in its parts.

    Attributes:
        ignored: options that no measurement can see, as they were written.
    """

    machine: QemuMachine
    files: LaunchFiles
    ignored: tuple[str, ...]


def parse(
    argv: Sequence[str], *, name: str = "qemu", package: str = "", secure_boot: bool = False
) -> ParsedLaunch:
    """The machine and the files of a QEMU command line.

    Args:
        argv: the words, the program's name first.
        name: what to call the machine; like the next two, no command line says it.
        package: the Debian package the firmware comes from.
        secure_boot: keys are enrolled in the variable store and Secure Boot is enforced.

    Raises:
        MeasureError: naming the option that is unknown, missing or not modelled.
    """
    program = argv[0].rpartition("/")[2] if argv else ""
    if program not in _PROGRAMS:
        if program.startswith("qemu-system-"):
            raise MeasureError(f"{program}: not modelled yet; only qemu-system-x86_64 is")
        what = "the first word is no QEMU; start with qemu-system-x86_64"
        raise MeasureError(f"{program or 'command line'}: {what}")
    line = CommandLine()
    for option, value in _options(argv[1:]):
        line.add(option, value)
    firmware, code, variables = _firmware(line, package, secure_boot)
    tpm, tpm_socket = _tpm(line)
    disks, disk_files = _disks(line)
    machine = QemuMachine(
        name=name,
        type=_machine_type(line, firmware),
        accelerator=_accelerator(line),
        cpu=_once(line, "-cpu"),
        vcpus=parse_count("-smp", line.once.get("-smp", "1")),
        memory=_memory(line),
        firmware=firmware,
        tpm=tpm,
        disks=disks,
        devices=_devices(line),
        smbios_strings=tuple(line.smbios),
    )
    files = LaunchFiles(
        code=code,
        vars=variables,
        disks=disk_files,
        tpm_socket=tpm_socket,
        serial=_serial(line),
        options=(*line.carried, *_chardevs(line)),
        binary=argv[0],
    )
    return ParsedLaunch(machine, files, tuple(line.ignored))


def _options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Options with their values, empty where there is none; ``--m`` is read as ``-m``."""
    pairs: list[tuple[str, str]] = []
    position = 0
    while position < len(words):
        word = words[position]
        option = word[1:] if word.startswith("--") else word
        position += 1
        if len(option) < 2 or not option.startswith("-"):
            raise MeasureError(f"{word}: a word without an option is not modelled; write -drive for a disk")
        if option in REFUSED:
            raise MeasureError(f"{option}: not modelled; {REFUSED[option]}")
        if option in IGNORED_FLAGS or option in FLAGS:
            pairs.append((option, ""))
            continue
        if option not in IGNORED_WITH_VALUE and option not in CARRIED and option not in READERS:
            message = f"{option}: unknown option; leave it out if it has no influence on the machine"
            raise MeasureError(message)
        if position == len(words):
            raise MeasureError(f"{option}: its value is missing; it is the last word")
        pairs.append((option, words[position]))
        position += 1
    return pairs


def _once(line: CommandLine, option: str) -> str:
    if option not in line.once:
        raise MeasureError(f"{option}: missing; QEMU's default depends on how it was built")
    return line.once[option]


def _memory(line: CommandLine) -> int:
    size = parse_memory("-m", _once(line, "-m"))
    if size > MAX_MEMORY:
        what = "more than 1024 GiB, and how such a machine lays out its memory is not modelled"
        raise MeasureError(f"-m {line.once['-m']}: {what}; give it less")
    return size


def _machine_type(line: CommandLine, firmware: UefiFirmware) -> str:
    for flag in ("-nodefaults", "-no-user-config"):
        if flag not in line.flags:
            raise MeasureError(f"{flag}: missing; without it QEMU adds devices that no option shows")
    name = line.machine.get("type", "")
    if not _TYPE.fullmatch(name):
        what = "is not modelled; use a versioned q35 such as pc-q35-7.2, or pc-i440fx-7.2"
        raise MeasureError(f"-machine {name}: {what}" if name else "-machine: missing; use pc-q35-7.2")
    if firmware.smm and "q35" not in name:
        raise MeasureError(f"-machine {name}: smm=on needs a q35 machine")
    return name


def _accelerator(line: CommandLine) -> Accelerator:
    name = _once(line, "-accel")
    if name not in {accelerator.value for accelerator in Accelerator}:
        raise MeasureError(f"-accel {name}: not modelled; use tcg or kvm")
    return Accelerator(name)


def _serial(line: CommandLine) -> str:
    value = line.once.get("-serial", "none")
    if value == "none":
        what = "the ACPI tables list the port, and a machine without one is not modelled"
        raise MeasureError(f"-serial: give one serial port; {what}")
    return value


def _firmware(line: CommandLine, package: str, secure_boot: bool) -> tuple[UefiFirmware, str, str]:
    smm = line.machine.get("smm", "auto")
    if smm not in {"auto", "on"} or line.secure_flash != (smm == "on"):
        what = "firmware with SMM needs both smm=on and cfi.pflash01.secure=on, other firmware neither"
        raise MeasureError(f"-machine smm={smm}: {what}")
    units: dict[int, OptionValue] = {}
    for drive in line.flash:
        # QEMU gives the next free unit to a flash drive that names none.
        unit = drive.take("unit", str(len(units)))
        if unit not in {"0", "1"} or int(unit) in units:
            raise MeasureError(f"-drive {drive.text}: flash units are 0 (code) and 1 (variables), once each")
        units[int(unit)] = drive
    if len(units) != 2:
        what = "give two flash units by -drive if=pflash: the firmware's code, and its variables"
        raise MeasureError(f"-drive if=pflash: {len(units)} given; {what}")
    paths = [_flash_path(units[unit], read_only=unit == 0) for unit in (0, 1)]
    code, variables = (path.rpartition("/")[2] for path in paths)
    firmware = UefiFirmware(
        package=package, code=code, vars=variables, secure_boot=secure_boot, smm=smm == "on"
    )
    return firmware, paths[0], paths[1]


def _flash_path(drive: OptionValue, *, read_only: bool) -> str:
    if drive.take("format") != "raw":
        raise MeasureError(f"-drive {drive.text}: write format=raw; QEMU would guess it from the content")
    if drive.switch("readonly") != read_only:
        what = "readonly=on" if read_only else "no readonly: the firmware writes its variables"
        raise MeasureError(f"-drive {drive.text}: this flash unit takes {what}")
    drive.take("id")
    path = drive.need("file")
    drive.finish()
    return path


def _tpm(line: CommandLine) -> tuple[TpmInterface | None, str | None]:
    found = [device for device in line.devices if "tpmdev" in device.settings]
    if not found and not line.tpmdevs:
        return None, None
    if len(found) != 1 or len(line.tpmdevs) != 1 or found[0].head not in _TPM:
        raise MeasureError("-tpmdev: give one, with one -device tpm-tis or tpm-crb that names it")
    device = found[0]
    if device is not line.devices[0]:
        raise MeasureError(f"-device {device.text}: not in order; the TPM comes before all other devices")
    line.devices.remove(device)
    name = device.need("tpmdev")
    device.take("id")
    device.finish()
    if name not in line.tpmdevs:
        raise MeasureError(f"-device {device.text}: there is no -tpmdev with id={name}")
    backend = line.tpmdevs[name]
    chardev = line.chardevs.pop(backend.need("chardev"), None)
    backend.finish()
    if chardev is None or chardev.head != "socket":
        raise MeasureError(f"-tpmdev {backend.text}: its chardev must be a -chardev socket,id=...,path=...")
    path = chardev.need("path")
    chardev.finish()
    return _TPM[device.head], path


def _disks(line: CommandLine) -> tuple[tuple[Disk, ...], tuple[DriveFile, ...]]:
    disks: list[Disk] = []
    files: list[DriveFile] = []
    while line.devices and line.devices[0].head == DISK_DRIVER:
        device = line.devices.pop(0)
        name, bootindex = device.need("drive"), device.take("bootindex")
        device.take("id")
        device.finish()
        drive = line.drives.pop(name, None)
        if drive is None:
            raise MeasureError(f"-device {device.text}: there is no unused -drive if=none with id={name}")
        if bootindex and not re.fullmatch(r"[0-9]{1,9}", bootindex):
            raise MeasureError(f"-device {device.text}: bootindex is a number from 0")
        read_only = drive.switch("readonly")
        disks.append(Disk(bootindex=int(bootindex) if bootindex else None, read_only=read_only))
        files.append(_drive_file(line, drive))
    for drive in line.drives.values():
        what = (
            f"no {DISK_DRIVER} device before the other devices has this drive; only such disks are modelled"
        )
        raise MeasureError(f"-drive {drive.text}: {what}")
    return tuple(disks), tuple(files)


def _drive_file(line: CommandLine, drive: OptionValue) -> DriveFile:
    kind = drive.take("format")
    if kind not in {"raw", "qcow2"}:
        what = "write format=raw or format=qcow2; QEMU would guess it from the content"
        raise MeasureError(f"-drive {drive.text}: {what}")
    for key in _HOST_SIDE:
        if value := drive.take(key):
            line.ignored.append(f"-drive {key}={value}")
    file = DriveFile(path=drive.need("file"), format=kind, snapshot=drive.switch("snapshot"))
    drive.finish()
    return file


def _devices(line: CommandLine) -> tuple[str, ...]:
    for device in line.devices:
        if device.head == DISK_DRIVER:
            what = "not in order; disks come before the other devices, or their PCI slots change"
            raise MeasureError(f"-device {device.text}: {what}")
    return tuple(device.text for device in line.devices)


def _chardevs(line: CommandLine) -> tuple[str, ...]:
    return tuple(word for chardev in line.chardevs.values() for word in ("-chardev", chardev.text))
