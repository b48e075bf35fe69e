"""A QEMU command line with stage0 as firmware, as the machine that is measured.

What no command line shows (the maker and the address bits of the CPU behind ``-cpu host``, its family, model
and stepping) is given as a fact of the host. Devices are kept by their slots: what sits in one does not reach
the ACPI tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import MeasureError, suggestion
from ..machine import Accelerator
from ..machine.sev import SevMachine
from ..machine.stage0 import Stage0Chipset, Stage0Generation, Stage0Machine
from . import stage0_options as table
from .qemu import escape
from .qemu_options import OptionValue
from .sev_parse import is_qemu
from .sev_parse import parse as parse_sev
from .sev_values import SevHost
from .sev_values import parse_host as parse_sev_host
from .sev_words import SNP_GUEST
from .stage0_cpu import address_bits, made_by_amd, parse_phys_bits, parse_vendor, read_cpu
from .stage0_words import GUEST_SUPPORT, Stage0Line, parse_memory, read_words


@dataclass(frozen=True, kw_only=True)
class Stage0Host:
    """What only the host knows (``--host KEY=VALUE``).

    Attributes:
        amd: whether AMD made the CPU that the guest sees; None where the command line says it.
        phys_bits: of the CPU that the guest sees; None likewise, or where it does not matter.
        sev: facts that the launch digest depends on.
    """

    amd: bool | None = None
    phys_bits: int | None = None
    sev: SevHost = field(default_factory=SevHost)


@dataclass(frozen=True, kw_only=True)
class Stage0Files:
    """Paths of what a launch reads, as written; None where the command line does not have the option."""

    firmware: str | None
    kernel: str | None
    initrd: str | None


@dataclass(frozen=True, kw_only=True)
class ParsedStage0:
    """A launch with stage0, and the files it names.

    Attributes:
        binary: the program, as written.
        ignored: options that nothing measured depends on, as they were written.
        notes: what was assumed, for people.
    """

    machine: Stage0Machine
    files: Stage0Files
    binary: str
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parse_host(items: Iterable[str]) -> Stage0Host:
    """The facts of ``--host KEY=VALUE``.

    Raises:
        MeasureError: an unknown key, one given twice, or a value that cannot be.
    """
    amd, bits, others = None, None, []
    for item in items:
        key, _, text = item.partition("=")
        if (key == "vendor" and amd is not None) or (key == "phys-bits" and bits is not None):
            raise MeasureError(f"--host {item}: given twice; write it once")
        if key == "vendor":
            amd = parse_vendor(f"--host {item}", text)
        elif key == "phys-bits":
            bits = parse_phys_bits(f"--host {item}", text)
        else:
            others.append(item)
    return Stage0Host(amd=amd, phys_bits=bits, sev=_sev_facts(others))


def parse_generation(text: str) -> Stage0Generation:
    """The generation of stage0 that people call ``text``.

    Raises:
        MeasureError: there is none of that name.
    """
    names = [generation.value for generation in Stage0Generation]
    if text not in names:
        known = ", ".join(names)
        raise MeasureError(f"stage0 {text}: no such generation is modelled; known: {known}")
    return Stage0Generation(text)


def parse(
    argv: Sequence[str],
    *,
    generation: Stage0Generation = Stage0Generation.OAK_D6F890B7,
    name: str = "command line",
    host: Stage0Host | None = None,
    tables_only: bool = False,
) -> ParsedStage0:
    """The machine and the files of a QEMU command line with stage0.

    Args:
        argv: the words, the program's name first.
        name: what to call the machine.
        tables_only: the machine as ACPI tables depend on it: without its SEV, whose facts are not asked for.

    Raises:
        MeasureError: naming the option that is unknown, missing or not modelled.
    """
    host = host or Stage0Host()
    if not argv or not is_qemu(argv[0]):
        first = argv[0] if argv else "command line"
        raise MeasureError(f"{first}: the first word is no QEMU for x86; start with qemu-system-x86_64")
    line = read_words(argv[1:])
    if "-nodefaults" not in line.flags:
        raise MeasureError("-nodefaults: missing; without it QEMU adds devices that no option shows")
    if _support(line) and not line.sev:
        what = f"there is no -object {SNP_GUEST} of that name; give one, or leave it out"
        raise MeasureError(f"-machine {GUEST_SUPPORT[0]}={_support(line)[0]}: {what}")
    chipset = _chipset(line)
    accelerator = _accelerator(line)
    amd, bits = _cpu(line, host, chipset, accelerator)
    sev, notes = _sev(line, argv[0], name, host) if line.sev and not tables_only else (None, ())
    machine = Stage0Machine(
        name=name,
        type=line.machine["type"],
        accelerator=accelerator,
        vcpus=int(line.once.get("-smp", "1")),
        max_vcpus=int(line.once.get("maxcpus", "1")),
        memory=parse_memory(_need(line, "-m")),
        amd=amd,
        phys_bits=bits,
        devices=_devices(line.devices, chipset),
        settings=_settings(line, chipset, accelerator),
        sev=sev,
        cmdline=line.once.get("-append", ""),
        generation=generation,
    )
    files = Stage0Files(
        firmware=line.once.get("-bios"), kernel=line.once.get("-kernel"), initrd=line.once.get("-initrd")
    )
    return ParsedStage0(
        machine=machine, files=files, binary=argv[0], ignored=tuple(line.ignored), notes=notes
    )


def _sev_facts(items: list[str]) -> SevHost:
    try:
        return parse_sev_host(items)
    except MeasureError:
        known = ("vendor", "phys-bits", "sev-features", "family", "model", "stepping")
        for item in items:
            key = item.partition("=")[0]
            if key not in known:
                raise MeasureError(f"--host {item}: no such fact of a host{suggestion(key, known)}") from None
        raise


def _need(line: Stage0Line, option: str) -> str:
    if option not in line.once:
        raise MeasureError(f"{option}: missing; QEMU's default depends on how it was built")
    return line.once[option]


def _chipset(line: Stage0Line) -> Stage0Chipset:
    kind = line.machine.get("type", "")
    if not kind:
        raise MeasureError("-machine: missing; write -machine q35 or -machine microvm,acpi=on,pcie=on")
    chipset = Stage0Chipset.of_type(kind)
    if chipset is None:
        raise MeasureError(f"-machine {kind}: is not modelled; use q35, pc-q35-N.M or microvm")
    if line.machine.get("acpi", "on") not in ("on", "auto"):
        what = "stage0 stops where there are no ACPI tables; write acpi=on"
        raise MeasureError(f"-machine {kind},acpi={line.machine['acpi']}: {what}")
    return chipset


def _accelerator(line: Stage0Line) -> Accelerator:
    name = line.once.get("-accel", "kvm" if line.sev else "")
    if not name:
        raise MeasureError("-accel: missing; QEMU's default depends on its name, so write -accel kvm or tcg")
    if name not in {accelerator.value for accelerator in Accelerator}:
        raise MeasureError(f"-accel {name}: not modelled; write -accel kvm or -accel tcg")
    if line.sev and name != "kvm":
        raise MeasureError(f"-accel {name}: SEV needs KVM; write -accel kvm")
    return Accelerator(name)


def _sev(line: Stage0Line, program: str, name: str, host: Stage0Host) -> tuple[SevMachine, tuple[str, ...]]:
    """The machine's SEV, and what was assumed; its launch digest does not depend on the chipset."""
    words = [
        program,
        "-machine",
        ",".join(["q35", *(f"{GUEST_SUPPORT[0]}={name}" for name in _support(line))]),
    ]
    words += line.sev
    for option in ("-cpu", "-smp", "-bios"):
        if option in line.once:
            words += [option, line.once[option]]
    parsed = parse_sev(words, name=name, host=host.sev, file_size=lambda _: 0)
    return parsed.machine, parsed.notes


def _support(line: Stage0Line) -> list[str]:
    """Which object the machine names for its protection, in a list of at most one."""
    return [line.machine[key] for key in GUEST_SUPPORT if key in line.machine][:1]


def _cpu(
    line: Stage0Line, host: Stage0Host, chipset: Stage0Chipset, accelerator: Accelerator
) -> tuple[bool, int | None]:
    """Whether the guest's CPU is AMD's, and its address bits where they matter."""
    cpu, kvm = read_cpu(_need(line, "-cpu")), accelerator is Accelerator.KVM
    if cpu.model == "host" and not kvm:
        raise MeasureError(f"-cpu {cpu.text}: needs -accel kvm; write -cpu max")
    amd = made_by_amd(cpu, host.amd, chipset, kvm=kvm, protected=bool(line.sev))
    return amd, address_bits(cpu, host.phys_bits, chipset, kvm=kvm)


def _settings(
    line: Stage0Line, chipset: Stage0Chipset, accelerator: Accelerator
) -> tuple[tuple[str, str], ...]:
    """Properties of the machine that reach its tables, sorted; what QEMU chooses by itself is written out.

    Spec: QEMU 10.0 hw/i386/x86-common.c x86_machine_is_smm_enabled(), target/i386/sev.c (KVM has no SMM for
    SNP); hw/i386/microvm.c microvm_devices_init() (``rtc``, ``pcie``).
    """
    given = line.machine
    values = {key: given[key] for key in table.KEPT_MACHINE if key in given}
    values["serial"] = str(line.serial)
    if chipset is Stage0Chipset.Q35:
        smm = given.get("smm", "auto")
        if line.sev and smm == "on":
            raise MeasureError("-machine smm=on: there is no SMM with SEV-SNP; write smm=off")
        values["smm"] = ("off" if line.sev else "on") if smm == "auto" else smm
        values["hpet"] = given.get("hpet", "on")
        misfits: tuple[str, ...] = ("pcie", "rtc")
    else:
        clock = "off" if accelerator is Accelerator.KVM else "on"
        rtc = given.get("rtc", "auto")
        values["rtc"] = clock if rtc == "auto" else rtc
        values["pcie"] = "on" if given.get("pcie") == "on" else "off"
        misfits = ("hpet",)
    for key in misfits:
        if key not in given:
            continue
        where = f"-machine {given['type']},{key}={given[key]}"
        raise MeasureError(f"{where}: it has no such setting; leave it out")
    return tuple(sorted(values.items()))


def _devices(devices: Sequence[OptionValue], chipset: Stage0Chipset) -> tuple[str, ...]:
    """Devices in the order that they are given slots in, without what belongs to the host."""
    for device in devices:
        if chipset is Stage0Chipset.Q35 and device.head in table.POINTER_DEVICES:
            what = "its table brings WRITE_POINTER, at which stage0 stops"
            raise MeasureError(f"-device {device.text}: {what}; leave it out")
    buses = {device.settings.get("bus", "").partition(".")[0] for device in devices}
    return tuple(_device(device, buses) for device in devices)


def _device(device: OptionValue, buses: set[str]) -> str:
    kept = {
        key: value
        for key, value in device.settings.items()
        if key not in table.HOST_SIDE and (key != "id" or value in buses)
    }
    settings = [f"{key}={escape(value)}" for key, value in sorted(kept.items())]
    return ",".join([device.head, *settings])
