"""The options of a QEMU command line with stage0, collected: each one read by the function that knows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import MeasureError
from ..units import KIB, align_up
from . import stage0_options as table
from .qemu_options import OptionValue, parse_count, split_option
from .sev_syntax import split_machine, split_object
from .sev_words import SEV_GUEST, SNP_GUEST

# QEMU rounds memory up to this. Spec: QEMU 10.0 system/vl.c parse_memory_options(), QEMU_ALIGN_UP(sz, 8192).
_MEMORY_STEP = 8 * KIB
_SWITCHES = {"yes": "on", "true": "on", "no": "off", "false": "off"}


@dataclass
class Stage0Line:
    """What the options said so far.

    Attributes:
        once: options that may stand once, with their value.
        machine: settings of ``-machine``; switches are ``on`` or ``off``.
        sev: the words of the object that makes it a machine with SEV-SNP.
        serial: how many serial ports the guest has.
        no_serial: an option says that there is none.
    """

    flags: set[str] = field(default_factory=set)
    once: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    sev: list[str] = field(default_factory=list)
    devices: list[OptionValue] = field(default_factory=list)
    serial: int = 0
    no_serial: bool = False
    ignored: list[str] = field(default_factory=list)


def read_words(words: Sequence[str]) -> Stage0Line:
    """The options behind the program's name; ``--m`` is read as ``-m``.

    Raises:
        MeasureError: naming the option that is unknown, not modelled, given twice or without its value.
    """
    line, position = Stage0Line(), 0
    while position < len(words):
        word = words[position]
        option = word[1:] if word.startswith("--") else word
        position += 1
        if len(option) < 2 or not option.startswith("-"):
            raise MeasureError(f"{word}: a word without an option is not modelled; for a disk {table.DISK}")
        if option in table.REFUSED:
            raise MeasureError(f"{option}: not modelled; {table.REFUSED[option]}")
        if option in _FLAGS:
            _FLAGS[option](line, option, "")
            continue
        if option in table.IGNORED_FLAGS:
            line.ignored.append(option)
            continue
        if option not in _READERS and option not in table.IGNORED_WITH_VALUE:
            what = "unknown option; leave it out if neither ACPI tables nor memory map depend on it"
            raise MeasureError(f"{option}: {what}")
        if position == len(words):
            raise MeasureError(f"{option}: its value is missing; it is the last word")
        _READERS.get(option, _ignore)(line, option, words[position])
        position += 1
    return line


def _ignore(line: Stage0Line, option: str, value: str) -> None:
    line.ignored.append(f"{option} {value}")


def _once(line: Stage0Line, option: str, value: str) -> None:
    if option in line.once:
        raise MeasureError(
            f"{option} {value}: given twice, QEMU would take the last one; leave out one of them"
        )
    line.once[option] = value


def _accelerator(line: Stage0Line, option: str, value: str) -> None:
    settings = split_option(option, value, "accel")
    _once(line, "-accel", settings.need("accel"))
    if settings.settings:
        line.ignored.append(f"{option} {value}")


def _kvm(line: Stage0Line, _option: str, _value: str) -> None:
    _once(line, "-accel", "kvm")


def _no_hpet(line: Stage0Line, option: str, _value: str) -> None:
    _set(line, option, "hpet", "off")


def _defaults(line: Stage0Line, option: str, _value: str) -> None:
    line.flags.add(option)


def _machine(line: Stage0Line, option: str, value: str) -> None:
    settings = split_machine(option, value)
    accelerator = settings.take("accel")
    if accelerator:
        _accelerator(line, "-accel", accelerator)
    for key, text in settings.settings.items():
        off = key in table.OFF_BY_DEFAULT and _plain(text) == "off"
        if key in table.REFUSED_MACHINE and not off:
            raise MeasureError(f"{option} {key}={text}: {table.REFUSED_MACHINE[key]}; leave it out")
        if key in _READ_MACHINE or key in table.KEPT_MACHINE:
            _set(line, f"{option} {value}", key, _plain(text))
        elif key in table.IGNORED_MACHINE or key in table.REFUSED_MACHINE:
            line.ignored.append(f"{option} {key}={text}")
        else:
            raise MeasureError(f"{option} {value}: setting {key!r} is not modelled; leave it out")


# Names the object of SEV; the second is its older name.
GUEST_SUPPORT = ("confidential-guest-support", "memory-encryption")
_READ_MACHINE = frozenset(["acpi", "hpet", "pcie", "rtc", "smm", "type", *GUEST_SUPPORT])


def _plain(text: str) -> str:
    return _SWITCHES.get(text, text)


def _set(line: Stage0Line, where: str, key: str, text: str) -> None:
    if line.machine.setdefault(key, text) != text:
        raise MeasureError(f"{where}: {key} is given twice with different values; write it once")


def _memory(line: Stage0Line, option: str, value: str) -> None:
    settings = split_option(option, value, "size")
    size = settings.need("size")
    for key in ("slots", "maxmem"):
        if key in settings.settings:
            what = f"room for memory hotplug changes the ACPI tables and is not modelled; leave {key} out"
            raise MeasureError(f"{option} {value}: {what}")
    settings.finish()
    _once(line, "-m", size)


def _processors(line: Stage0Line, option: str, value: str) -> None:
    settings = split_option(option, value, "cpus")
    cpus = settings.need("cpus")
    most = settings.take("maxcpus", cpus)
    if settings.settings:
        what = f"a topology decides the numbers of APICs and is not modelled; write {option} {cpus}"
        raise MeasureError(f"{option} {value}: {what}")
    if parse_count(option, most) < parse_count(option, cpus):
        what = f"{cpus} vCPUs are more than maxcpus={most}; QEMU does not start so"
        raise MeasureError(f"{option} {value}: {what}")
    _once(line, "-smp", cpus)
    line.once["maxcpus"] = most


def _serial(line: Stage0Line, option: str, value: str) -> None:
    if value == "none":
        line.no_serial = True
        line.ignored.append(f"{option} {value}")
    else:
        line.serial += 1
    if line.no_serial and line.serial:
        # Some versions of QEMU leave out the first port then, and others count on.
        what = "versions of QEMU differ in which ports are there beside -serial none"
        raise MeasureError(f"{option} {value}: {what}; leave out -serial none")


def _none(line: Stage0Line, option: str, value: str) -> None:
    if value != "none":
        raise MeasureError(f"{option} {value}: not modelled; write {option} none and use -device")
    line.ignored.append(f"{option} {value}")


def _object(line: Stage0Line, option: str, value: str) -> None:
    kind = split_object(option, value, "qom-type").need("qom-type")
    if kind == SNP_GUEST:
        if line.sev:
            raise MeasureError(f"{option} {value}: there is one of type {SNP_GUEST} already; give one")
        line.sev += (option, value)
    elif kind == SEV_GUEST:
        what = f"stage0 on SEV without SNP is not modelled; use {SNP_GUEST}"
        raise MeasureError(f"{option} {value}: {what}")
    elif kind.startswith(table.IGNORED_OBJECTS):
        line.ignored.append(f"{option} {value}")
    else:
        raise MeasureError(f"{option} {value}: objects of type {kind} are not modelled; leave it out")


def _device(line: Stage0Line, option: str, value: str) -> None:
    flat = value if value.startswith("{") else _last_of_each(value)
    device = split_object(option, flat, "driver")
    device.head, device.text = device.need("driver"), value
    if device.head == "loader":
        raise MeasureError(f"{option} {value}: it puts a file into memory that is not measured; leave it out")
    if device.head.lower().endswith("-cpu"):
        raise MeasureError(f"{option} {value}: it adds a vCPU; write how many there are at -smp")
    line.devices.append(device)


def _drive(line: Stage0Line, option: str, value: str) -> None:
    if split_option(option, value).take("if") != "none":
        raise MeasureError(f"{option} {value}: not modelled, its PCI slot does not show; {table.DISK}")
    line.ignored.append(f"{option} {value}")


def _last_of_each(value: str) -> str:
    """A device without settings that a later one of the same name overrules.

    QEMU takes the last, and HATs' launcher writes two (client/launcher/qemu.cc, ``netdev``).
    """
    parts = split_escaped(value)
    names = [part.partition("=")[0] for part in parts]
    kept = [part for place, part in enumerate(parts) if place == 0 or names[place] not in names[place + 1 :]]
    return ",".join(kept)


def split_escaped(value: str) -> list[str]:
    """The settings of a value, each as it is written: two commas, which stand for one, stay two."""
    # No word of a command line holds a NUL.
    return [part.replace("\0", ",,") for part in value.replace(",,", "\0").split(",")]


def parse_memory(text: str) -> int:
    """Bytes of ``-m``: MiB, or with one of QEMU's units; as many as QEMU makes of it.

    Raises:
        MeasureError: not a whole number of KiB.
    """
    match = re.fullmatch(r"([0-9]{1,15})([kKmMgGtTbB]?)", text)
    shift = {"b": 0, "k": 10, "m": 20, "": 20, "g": 30, "t": 40}
    size = int(match[1]) << shift[match[2].lower()] if match else 0
    if size == 0 or size % KIB:
        raise MeasureError(f"-m {text}: not a whole number of KiB; write for example 8000000K or 2G")
    return align_up(size, _MEMORY_STEP)


_FLAGS: dict[str, Callable[[Stage0Line, str, str], None]] = {
    "-enable-kvm": _kvm,
    "-no-hpet": _no_hpet,
    "-nodefaults": _defaults,
}
_READERS: dict[str, Callable[[Stage0Line, str, str], None]] = {
    "-M": _machine,
    "-accel": _accelerator,
    "-append": _once,
    "-bios": _once,
    "-cpu": _once,
    "-device": _device,
    "-drive": _drive,
    "-initrd": _once,
    "-kernel": _once,
    "-m": _memory,
    "-machine": _machine,
    "-nic": _none,
    "-object": _object,
    "-parallel": _none,
    "-serial": _serial,
    "-smp": _processors,
    "-vga": _none,
}
"""Options that are read, and how."""
