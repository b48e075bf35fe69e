"""A realm under kvmtool as the command line that starts it.

Words stand in the order in which Islet's warden writes them, so that the line of a realm that warden starts
is this one word for word; what warden never writes stands between the hash algorithm and the disks.

Spec: islet-project/realm-manager 79b74b6 warden, lkvm.rs.
"""

from __future__ import annotations

from ..errors import MeasureError
from ..machine import KvmtoolMachine, KvmtoolNetwork
from ..machine.kvmtool_profiles import find_profile
from .kvmtool_options import REL0
from .kvmtool_parse import KvmtoolFiles, parse
from .kvmtool_values import RAM_BASE

PROGRAM = "lkvm"


def render(
    machine: KvmtoolMachine, files: KvmtoolFiles, *, program: str = PROGRAM, measurer: bool = True
) -> list[str]:
    """The words of the command line that starts ``machine``.

    Args:
        program: the first word.
        measurer: with the options that only the measurer has (``--islet``, ``--mpidrs``); without them it is
            the command line that is launched.

    Raises:
        MeasureError: the files do not fit the machine, or the machine cannot be written down.
    """
    if len(files.disks) != machine.disks:
        message = f"{machine.name}: {machine.disks} disks need as many files, got {len(files.disks)}"
        raise MeasureError(message)
    words = _words(machine, files)
    disks = [word for path in (*machine.scsi_disks, *files.disks) for word in ("-d", path)]
    extra = _measurer_words(machine)
    _check(machine, files, [PROGRAM, "run", *words, *disks, *extra])
    return [program, "run", *words, *disks, *(extra if measurer else ())]


def _words(machine: KvmtoolMachine, files: KvmtoolFiles) -> list[str]:
    words = ["-c", str(machine.vcpus), "-k", files.kernel]
    words += _value("-i", files.initrd) + _value("-p", machine.parameters)
    words += ["-m", _memory(machine)]
    words += _networks(machine.networks)
    if machine.vsock:
        words += ["--vsock", str(machine.vsock)]
    words += ["--console", machine.console, f"--irqchip={machine.irqchip.value}"]
    words += _flag("--disable-sve", machine.disable_sve)
    words += _value("--metadata", files.metadata)
    words += ["--debug", "--realm"]
    words += _flag("--restricted_mem", machine.restricted_memory)
    words += [f"--measurement-algo={machine.algorithm}"]
    return words + _devices(machine, files) + _realm(machine)


def _devices(machine: KvmtoolMachine, files: KvmtoolFiles) -> list[str]:
    """Options of devices and of the device tree that warden never writes."""
    words = _flag("--nodefaults", machine.nodefaults)
    if machine.transport.value != "pci":
        words += [f"--virtio-transport={machine.transport.value}"]
    for share in machine.shares:
        words += ["--9p", share]
    words += _flag("--balloon", machine.balloon) + _flag("--rng", machine.rng) + _flag("--pmu", machine.pmu)
    words += _value("-F", files.flash) + _value("--dtb", files.dtb)
    if machine.kaslr_seed:
        words += ["--kaslr-seed", str(machine.kaslr_seed)]
    if machine.counter_frequency:
        words += ["--override-bad-firmware-cntfrq", str(machine.counter_frequency)]
    return words


def _realm(machine: KvmtoolMachine) -> list[str]:
    """Options of the realm's parameters that warden never writes."""
    words: list[str] = []
    if machine.sve_vl:
        newer = find_profile(machine.profile).options == REL0
        words += ["--sve-max-vl" if newer else "--sve-vl", str(machine.sve_vl)]
    if machine.pmu_counters:
        words += ["--pmu-counters", str(machine.pmu_counters)]
    words += _flag("--measurement-log", machine.measurement_log)
    if "\0" in machine.personalization:
        data = machine.personalization.encode("utf-8", "surrogateescape")
        words += ["--realm-pv-hex", data.ljust(64, b"\0").hex()]
    elif machine.personalization:
        words += ["--realm-pv", machine.personalization]
    return words


def _measurer_words(machine: KvmtoolMachine) -> list[str]:
    words: list[str] = []
    if machine.mpidrs:
        words += ["--mpidrs", ",".join(f"{mpidr:x}" for mpidr in machine.mpidrs)]
    if machine.ipa_bits:
        words += ["--ipa-size", str(machine.ipa_bits)]
    return words + _flag("--islet", machine.islet)


def _check(machine: KvmtoolMachine, files: KvmtoolFiles, words: list[str]) -> None:
    """Stops if the command line does not start this machine with these files."""
    launch = parse(
        words,
        profile=machine.profile,
        host=machine.host,
        name=machine.name,
        flash_size=lambda _path: machine.flash,
    )
    if files.flash is None and machine.flash:
        raise MeasureError(f"{machine.name}: the machine has a flash; give its file")
    if launch.machine != machine or launch.files != files:
        what = "kvmtool's command line cannot say this machine, or would be read as another one"
        raise MeasureError(f"{machine.name}: {what}; look for values with commas or outside their range")


def _memory(machine: KvmtoolMachine) -> str:
    size = _size(machine.memory)
    return size if machine.ram_base == RAM_BASE else f"{size}@{_size(machine.ram_base)}"


def _size(value: int) -> str:
    """A size in the greatest of MiB (written bare), KiB and bytes that it is a whole number of."""
    for shift, unit in ((20, ""), (10, "K")):
        if value % (1 << shift) == 0:
            return f"{value >> shift}{unit}"
    return f"{value}B"


def _networks(networks: tuple[KvmtoolNetwork, ...] | None) -> list[str]:
    if networks is None:
        return []
    words: list[str] = []
    for network in networks:
        transport = f"trans={network.transport.value}" if network.transport else ""
        text = ",".join(part for part in (network.options, transport) if part)
        # A bare -n is a device as kvmtool makes one; the word behind it begins with a dash.
        words += ["-n", text] if text else ["-n"]
    return words or ["-n", "mode=none"]


def _value(option: str, value: str | None) -> list[str]:
    return [] if value is None else [option, value]


def _flag(option: str, present: bool) -> list[str]:
    return [option] if present else []
