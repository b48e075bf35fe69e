"""The options of a QEMU command line, collected: each one read by the method that knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import MeasureError
from .qemu_options import CARRIED, CARRIED_OBJECTS, OptionValue, split_option

DISK_DRIVER = "virtio-blk-pci"


@dataclass
class CommandLine:
    """What the options said so far.

    Attributes:
        flags: options without a value.
        once: options that may stand once, with their value.
        machine: settings of ``-machine``.
        carried: words to keep beside the machine.
        ignored: options that no measurement can see.
    """

    flags: set[str] = field(default_factory=set)
    once: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    flash: list[OptionValue] = field(default_factory=list)
    drives: dict[str, OptionValue] = field(default_factory=dict)
    chardevs: dict[str, OptionValue] = field(default_factory=dict)
    tpmdevs: dict[str, OptionValue] = field(default_factory=dict)
    devices: list[OptionValue] = field(default_factory=list)
    smbios: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    secure_flash: bool = False

    def add(self, option: str, value: str) -> None:
        """Takes one option in; ``value`` is empty for an option without one."""
        if option in READERS:
            READERS[option](self, option, value)
        elif option in FLAGS:
            self.flags.add(option)
        elif option in CARRIED:
            self.carried += (option, value)
        else:
            self.ignored.append(f"{option} {value}".rstrip())

    def _once(self, option: str, value: str) -> None:
        if option in self.once:
            raise MeasureError(f"{option} {value}: given twice; QEMU would take the last one")
        self.once[option] = value

    def _accel(self, option: str, value: str) -> None:
        settings = split_option(option, value, "accel")
        self._once("-accel", settings.need("accel"))
        for key in ("thread", "tb-size"):
            if settings.take(key):
                self.ignored.append(f"-accel {value}")
        settings.finish()

    def _machine(self, option: str, value: str) -> None:
        settings = split_option(option, value, "type")
        if "accel" in settings.settings:
            self._once("-accel", settings.take("accel"))
        for key in ("dump-guest-core", "mem-merge"):
            if settings.take(key):
                self.ignored.append(f"-machine {key}")
        if settings.switch("usb"):
            raise MeasureError(f"{option} {value}: usb=on adds a controller, which is not modelled")
        for key in ("type", "smm"):
            text = settings.take(key)
            if text and self.machine.setdefault(key, text) != text:
                raise MeasureError(f"{option} {value}: {key} is given twice with different values")
        settings.finish()

    def _must_be_none(self, option: str, value: str) -> None:
        if value != "none":
            raise MeasureError(f"{option} {value}: not modelled; write {option} none and use -device")

    def _memory(self, option: str, value: str) -> None:
        settings = split_option(option, value, "size")
        self._once("-m", settings.need("size"))
        settings.finish()

    def _processors(self, option: str, value: str) -> None:
        settings = split_option(option, value, "cpus")
        cpus = settings.need("cpus")
        if settings.take("maxcpus", cpus) != cpus:
            raise MeasureError(f"{option} {value}: room for more processors changes the ACPI tables")
        if settings.settings:
            raise MeasureError(f"{option} {value}: the topology is not modelled; write {option} {cpus}")
        self._once("-smp", cpus)

    def _drive(self, option: str, value: str) -> None:
        drive = split_option(option, value)
        interface = drive.take("if", "ide")
        if interface == "pflash":
            self.flash.append(drive)
        elif interface == "none":
            identifier = drive.need("id")
            if identifier in self.drives:
                raise MeasureError(f"{option} {value}: the id {identifier!r} is taken")
            self.drives[identifier] = drive
        else:
            what = f"if={interface} is not modelled; write if=none and -device {DISK_DRIVER}"
            raise MeasureError(f"{option} {value}: {what}")

    def _global(self, option: str, value: str) -> None:
        settings = split_option(option, value)
        if settings.settings.pop("cfi.pflash01.secure", "") != "on":
            name = (settings.take("driver"), settings.take("property"), settings.take("value"))
            if name != ("cfi.pflash01", "secure", "on"):
                message = f"{option} {value}: not modelled; only cfi.pflash01.secure=on is"
                raise MeasureError(message)
        settings.finish()
        self.secure_flash = True

    def _chardev(self, option: str, value: str) -> None:
        settings = split_option(option, value)
        self.chardevs[settings.need("id")] = settings

    def _tpmdev(self, option: str, value: str) -> None:
        settings = split_option(option, value)
        if settings.head != "emulator":
            raise MeasureError(f"{option} {value}: only an emulator (swtpm) has known start values")
        self.tpmdevs[settings.need("id")] = settings

    def _device(self, option: str, value: str) -> None:
        settings = split_option(option, value, "driver")
        settings.head = settings.need("driver")
        self.devices.append(settings)

    def _object(self, option: str, value: str) -> None:
        kind = split_option(option, value, "qom-type").need("qom-type")
        if kind not in CARRIED_OBJECTS:
            raise MeasureError(f"{option} {value}: objects of type {kind} are not modelled")
        self.carried += (option, value)

    def _smbios(self, option: str, value: str) -> None:
        settings = split_option(option, value)
        if settings.take("type") != "11":
            raise MeasureError(f"{option} {value}: only type 11 (strings) is modelled")
        self.smbios.append(settings.need("value"))
        settings.finish()


def _kvm(line: CommandLine, option: str, _value: str) -> None:
    line._accel(option, "kvm")


FLAGS = frozenset(["-enable-kvm", "-no-user-config", "-nodefaults"])
"""Options without a value that are read."""

READERS: dict[str, Callable[[CommandLine, str, str], None]] = {
    "-M": CommandLine._machine,
    "-accel": CommandLine._accel,
    "-chardev": CommandLine._chardev,
    "-cpu": CommandLine._once,
    "-device": CommandLine._device,
    "-drive": CommandLine._drive,
    "-enable-kvm": _kvm,
    "-global": CommandLine._global,
    "-m": CommandLine._memory,
    "-machine": CommandLine._machine,
    "-nic": CommandLine._must_be_none,
    "-object": CommandLine._object,
    "-parallel": CommandLine._must_be_none,
    "-serial": CommandLine._once,
    "-smbios": CommandLine._smbios,
    "-smp": CommandLine._processors,
    "-tpmdev": CommandLine._tpmdev,
    "-vga": CommandLine._must_be_none,
}
"""Options that are read, and how."""
