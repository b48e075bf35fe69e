"""The options of a QEMU command line with SEV, collected: each one read by the function that knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import MeasureError
from ..record import dataclass, field
from . import sev_options as table
from .qemu_options import OptionValue, split_option
from .sev_syntax import split_machine, split_object

SEV_GUEST, SNP_GUEST = "sev-guest", "sev-snp-guest"
"""Types of the objects that make a machine one with SEV."""
TDX_GUEST = "tdx-guest"
"""Type of the object that makes a machine one with TDX."""

# Parents of CPUs and of SEV objects whose names do not say so.
_PARENTS = frozenset(["device", "object", "confidential-guest-support"])


@dataclass
class SevLine:
    """What the options said so far.

    Attributes:
        flash: paths by unit.
        raw: units whose format is stated.
    """

    once: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    flash: dict[int, str] = field(default_factory=dict)
    raw: set[int] = field(default_factory=set)
    guests: list[OptionValue] = field(default_factory=list)
    igvm: list[OptionValue] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Options with their values, empty where there is none; ``--m`` is read as ``-m``.

    Raises:
        MeasureError: one is unknown, refused, or lacks its value.
    """
    pairs: list[tuple[str, str]] = []
    position = 0
    while position < len(words):
        word = words[position]
        option = word[1:] if word.startswith("--") else word
        position += 1
        if len(option) < 2 or not option.startswith("-"):
            raise MeasureError(f"{word}: a word without an option is not modelled; write -drive for a disk")
        if table.REFUSED.get(option):
            raise MeasureError(f"{option}: not modelled; {table.REFUSED[option]}")
        if option in table.IGNORED_FLAGS:
            pairs.append((option, ""))
            continue
        if option not in table.IGNORED_WITH_VALUE and option not in _READERS:
            what = "unknown option; leave it out if it has no influence on the launch digest"
            raise MeasureError(f"{option}: {what}")
        if position == len(words):
            raise MeasureError(f"{option}: its value is missing; it is the last word")
        pairs.append((option, words[position]))
        position += 1
    return pairs


def read(line: SevLine, option: str, value: str) -> None:
    """Takes one option in; ``value`` is empty for an option without one.

    Raises:
        MeasureError: it is given twice, or what it says is not modelled.
    """
    if option in _READERS:
        _READERS[option](line, option, value)
    else:
        line.ignored.append(f"{option} {value}".rstrip())


def _once(line: SevLine, option: str, value: str) -> None:
    if option in line.once:
        raise MeasureError(
            f"{option} {value}: given twice, QEMU would take the last one; leave out one of them"
        )
    line.once[option] = value


def _read_accelerator(line: SevLine, option: str, value: str) -> None:
    if value.partition(",")[0].removeprefix("accel=") != "kvm":
        raise MeasureError(f"{option} {value}: SEV needs KVM; write {option} kvm")
    line.ignored.append(f"{option} {value}")


def _read_machine(line: SevLine, option: str, value: str) -> None:
    settings = split_machine(option, value)
    accelerator = settings.take("accel")
    if accelerator:
        _read_accelerator(line, "-accel", accelerator)
    for key in ("type", "confidential-guest-support", "memory-encryption", "igvm-cfg"):
        text = settings.take(key)
        if text and line.machine.setdefault(key, text) != text:
            raise MeasureError(f"{option} {value}: {key} is given twice with different values")
    for key in ("pflash0", "pflash1"):
        if key in settings.settings:
            what = "flash by -blockdev is not modelled; write -drive if=pflash,unit=N,format=raw,file=..."
            raise MeasureError(f"{option} {value}: {what}")
    line.ignored += [
        f"-machine {key}={settings.take(key)}"
        for key in sorted(set(settings.settings) & table.IGNORED_MACHINE)
    ]
    settings.finish()


def _read_object(line: SevLine, option: str, value: str) -> None:
    settings = split_object(option, value, "qom-type")
    settings.head = settings.need("qom-type")
    if settings.head in (SEV_GUEST, SNP_GUEST):
        line.guests.append(settings)
    elif settings.head == "igvm-cfg":
        line.igvm.append(settings)
    elif settings.head.startswith(table.IGNORED_OBJECTS):
        line.ignored.append(f"{option} {value}")
    elif settings.head == TDX_GUEST:
        raise MeasureError(f"{option} {value}: TDX is not modelled yet; give a machine with SEV")
    else:
        what = f"objects of type {settings.head} are not modelled"
        raise MeasureError(f"{option} {value}: {what}; leave it out if it has no influence on the launch")


def _read_drive(line: SevLine, option: str, value: str) -> None:
    drive = split_option(option, value)
    if drive.take("if") != "pflash":
        line.ignored.append(f"{option} {value}")
        return
    if drive.head:
        raise MeasureError(f"{option} {value}: {drive.head!r} has no =; write key=value,key=value")
    if "index" in drive.settings and "unit" in drive.settings:
        raise MeasureError(f"{option} {value}: index is the unit of flash; write unit alone")
    free = next(str(number) for number in range(4) if number not in line.flash)
    unit = drive.take("index", drive.take("unit", free))
    if unit not in {"0", "1", "2"} or int(unit) in line.flash:
        raise MeasureError(
            f"{option} {value}: flash units are 0 (code), 1 (variables) and 2 (SVSM), once each"
        )
    stated = drive.take("format")
    if stated not in ("", "raw"):
        what = "flash is measured as it is in memory"
        raise MeasureError(f"{option} {value}: {what}; convert it to raw, and write format=raw")
    line.flash[int(unit)] = drive.need("file")
    if stated:
        line.raw.add(int(unit))
    for key in table.IGNORED_FLASH:
        drive.take(key)
    drive.finish()


def _read_flash(line: SevLine, option: str, value: str) -> None:
    if 0 in line.flash:
        raise MeasureError(f"{option} {value}: there is firmware already; write -drive if=pflash,unit=1,...")
    line.flash[0] = value


def _read_device(line: SevLine, option: str, value: str) -> None:
    driver = split_object(option, value, "driver").need("driver")
    if driver == table.UNMEASURED_DEVICE:
        raise MeasureError(f"{option} {value}: it puts a file into memory that is not measured; leave it out")
    if driver.lower().endswith("-cpu"):
        what = "it adds a vCPU, which is measured; write how many there are at -smp"
        raise MeasureError(f"{option} {value}: {what}")
    line.ignored.append(f"{option} {value}")


def _read_global(line: SevLine, option: str, value: str) -> None:
    # The short form is driver.property=value, any other is made of settings.
    # Spec: QEMU 10.0 system/qdev-monitor.c qemu_global_option(), with two conversions of %63[^.=].%63[^=].
    short, dot, rest = value.partition(".")
    if dot and "=" in rest and "=" not in short and 0 < len(short) <= 63 and 0 < rest.index("=") <= 63:
        driver = short.lower()
    else:
        driver = split_option(option, value).need("driver").lower()
    if "cpu" in driver or driver.startswith("sev") or driver in _PARENTS:
        raise MeasureError(f"{option} {value}: write the setting at -cpu or -object")
    line.ignored.append(f"{option} {value}")


_READERS: dict[str, Callable[[SevLine, str, str], None]] = {
    "-M": _read_machine,
    "-accel": _read_accelerator,
    "-append": _once,
    "-bios": _once,
    "-cpu": _once,
    "-device": _read_device,
    "-drive": _read_drive,
    "-global": _read_global,
    "-initrd": _once,
    "-kernel": _once,
    "-machine": _read_machine,
    "-object": _read_object,
    "-pflash": _read_flash,
    "-smp": _once,
}
"""Options that are read, and how."""
