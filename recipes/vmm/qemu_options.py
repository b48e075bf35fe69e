"""The grammar of QEMU option values, and what each option of the command line means to a measurement.

Every option is in exactly one table here or is read by :mod:`.qemu_words`; an option that is in none of them
is an error.

Spec: QEMU 7.2 util/qemu-option.c (get_opt_value), qemu-options.hx.
"""

from __future__ import annotations

import re

from ..errors import MeasureError
from ..record import dataclass, field
from ..units import MIB

IGNORED_FLAGS = frozenset(
    [
        "-S",
        "-daemonize",
        "-mem-prealloc",
        "-no-reboot",
        "-no-shutdown",
        "-nographic",
        "-only-migratable",
        "-s",
    ]
)
"""Options without a value that no guest can see before it has booted."""

IGNORED_WITH_VALUE = frozenset(
    [
        *("-D", "-action", "-add-fd", "-chroot", "-d", "-display", "-gdb", "-k", "-mon", "-monitor", "-msg"),
        *("-name", "-pidfile", "-qmp", "-qmp-pretty", "-qtest", "-qtest-log", "-rtc", "-run-with", "-runas"),
        *("-sandbox", "-trace", "-vnc", "-watchdog-action"),
    ]
)
"""Options with a value that no guest can see before it has booted (the clock is not measured)."""

CARRIED = frozenset(["-netdev"])
"""Host sides of devices: kept beside the machine, so that the devices that name them still start."""

CARRIED_OBJECTS = frozenset(["iothread", "rng-builtin", "rng-egd", "rng-random", "throttle-group"])
"""``-object`` types that are host sides of devices."""

_DISK = "a disk is `-drive if=none,id=X,format=raw,file=...` with `-device virtio-blk-pci,drive=X`"
_KERNEL = "the kernel comes from the disk, in its UKI; direct kernel boot is not modelled yet"

REFUSED = {
    "-append": _KERNEL,
    "-initrd": _KERNEL,
    "-kernel": _KERNEL,
    "-dtb": _KERNEL,
    "-bios": "one ROM has no variable store of its own; give two flash units by -drive if=pflash",
    "-pflash": "write -drive if=pflash,unit=N,format=raw,file=...",
    "-blockdev": "write -drive; -blockdev graphs are not modelled yet",
    "-boot": "the boot order is the bootindex of the disks",
    "-cdrom": _DISK,
    "-hda": _DISK,
    "-hdb": _DISK,
    "-fda": _DISK,
    "-fw_cfg": "a fw_cfg file can change what the firmware does",
    "-acpitable": "it changes the ACPI tables that are measured",
    "-uuid": "the machine's UUID stands in the SMBIOS tables, which newer firmware measures",
    "-usb": "USB devices are not modelled",
    "-numa": "memory nodes change the ACPI tables; they are not modelled",
    "-net": "write -netdev and -device",
    "-readconfig": "write what the file says on the command line",
    "-set": "write the setting where it belongs",
    "-loadvm": "a restored machine has been measured before",
    "-incoming": "a migrated machine has been measured before",
}
"""Options that are known and not modelled, with what to do instead."""


@dataclass
class OptionValue:
    """One option with its comma-separated settings; settings are taken out as they are understood."""

    option: str
    text: str
    head: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    def take(self, key: str, default: str = "") -> str:
        """The setting ``key``, or ``default``; it counts as understood from here on."""
        return self.settings.pop(key, default)

    def need(self, key: str) -> str:
        """The setting ``key``.

        Raises:
            MeasureError: it is missing.
        """
        value = self.settings.pop(key, "")
        if not value:
            raise MeasureError(f"{self.option} {self.text}: {key}= is missing")
        return value

    def switch(self, key: str, default: bool = False) -> bool:
        """The setting ``key`` as on or off.

        Raises:
            MeasureError: it is neither.
        """
        value = self.settings.pop(key, "on" if default else "off")
        if value not in {"on", "off", "yes", "no", "true", "false"}:
            raise MeasureError(f"{self.option} {self.text}: {key}={value} is neither on nor off")
        return value in {"on", "yes", "true"}

    def finish(self) -> None:
        """Stops if a setting was not understood.

        Raises:
            MeasureError: naming it.
        """
        for key in self.settings:
            raise MeasureError(f"{self.option} {self.text}: setting {key!r} is not modelled; leave it out")


def split_option(option: str, text: str, implied: str = "") -> OptionValue:
    """``text`` in its settings; a first word without ``=`` is the value of ``implied``, or the head.

    Raises:
        MeasureError: a setting is given twice, is empty, or the value is written as JSON.
    """
    if text.startswith("{"):
        raise MeasureError(f"{option} {text}: JSON is not read here; write key=value,key=value")
    value = OptionValue(option, text)
    for number, part in enumerate(_split(text)):
        key, equals, content = part.partition("=")
        if number == 0 and not equals:
            if implied:
                value.settings[implied] = part
            else:
                value.head = part
            continue
        if not key or key in value.settings:
            what = f"{key!r} is given twice" if key else "a setting has no name"
            raise MeasureError(f"{option} {text}: {what}; write each setting once")
        value.settings[key] = content if equals else "on"
    return value


def _split(text: str) -> list[str]:
    """The parts between single commas; two commas are one comma of the value."""
    parts, position, current = [], 0, ""
    while position < len(text):
        if text[position] != ",":
            current += text[position]
        elif text[position : position + 2] == ",,":
            current += ","
            position += 1
        else:
            parts.append(current)
            current = ""
        position += 1
    return [*parts, current]


def parse_memory(option: str, text: str) -> int:
    """Bytes of ``-m``: a number of MiB, or with one of QEMU's units.

    Raises:
        MeasureError: not a whole number of MiB.
    """
    match = re.fullmatch(r"([0-9]{1,15})([kKmMgGtT]?)", text)
    size = int(match[1]) << {"k": 10, "m": 20, "": 20, "g": 30, "t": 40}[match[2].lower()] if match else 0
    if size == 0 or size % MIB:
        raise MeasureError(f"{option} {text}: not a whole number of MiB; write for example 512M or 2G")
    return size


def parse_count(option: str, text: str) -> int:
    """A positive number.

    Raises:
        MeasureError: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) == 0:
        raise MeasureError(f"{option} {text}: not a positive number")
    return int(text)
