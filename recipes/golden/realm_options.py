"""In which options two realms under kvmtool differ, and which of those cannot reach the RIM.

Spec: islet-project/3rd-kvmtool, branch kvmtool-rim-measurer/eac5, commit 3cac6a9: arm/fdt.c, virtio/,
arm/aarch64/realm.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..machine import KvmtoolMachine, KvmtoolNetwork
from ..machine.kvmtool_profiles import find_profile
from ..measure.kvmtool_params import memory_option
from ..units import MIB

ABSENT = "not given"
# Spec: 3rd-kvmtool 3cac6a9, arm/include/arm-common/kvm-arch.h: KVM_FLASH_MAX_SIZE.
_MAX_FLASH = 16 * MIB


@dataclass(frozen=True, kw_only=True)
class OptionDifference:
    """An option that is not the same on both sides.

    Attributes:
        option: as it stands on a command line.
        before: its value, for people.
        after: the same of the second side.
        unmeasured: why this difference cannot reach the RIM; empty where it can.
    """

    option: str
    before: str
    after: str
    unmeasured: str = ""

    def __str__(self) -> str:
        text = f"{self.option.removesuffix(':')}: {self.before} -> {self.after}"
        return f"{text} (no influence: {self.unmeasured})" if self.unmeasured else text


@dataclass(frozen=True)
class _Option:
    """How an option stands in a machine.

    Attributes:
        text: its value for people.
        effect: what of it can reach the RIM, or None for all of its text.
        why: why the rest cannot.
    """

    name: str
    text: Callable[[KvmtoolMachine], str]
    effect: Callable[[KvmtoolMachine], object] | None = None
    why: str = ""


def option_differences(before: KvmtoolMachine, after: KvmtoolMachine) -> tuple[OptionDifference, ...]:
    """The options in which two machines differ; their names do not count."""
    found = []
    for option in _OPTIONS:
        texts = option.text(before), option.text(after)
        if texts[0] == texts[1]:
            continue
        same = option.effect is not None and option.effect(before) == option.effect(after)
        found.append(
            OptionDifference(
                option=option.name, before=texts[0], after=texts[1], unmeasured=option.why if same else ""
            )
        )
    return tuple(found)


def plain(text: str) -> str:
    """``text`` as it is if it can be printed, else with escapes."""
    return text if text.isascii() and text.isprintable() else ascii(text)


def _networks(machine: KvmtoolMachine) -> str:
    if machine.networks is None:
        return f"{ABSENT} (one device in user mode)"
    return "; ".join(map(_network, machine.networks)) or "mode=none"


def _network(network: KvmtoolNetwork) -> str:
    transport = f"trans={network.transport.value}" if network.transport else ""
    return plain(",".join(part for part in (network.options, transport) if part)) or "a tap device"


def _transports(machine: KvmtoolMachine) -> tuple[bool, ...]:
    """Of each network device, whether it is a PCI function."""
    networks = (KvmtoolNetwork(),) if machine.networks is None else machine.networks
    return tuple((network.transport or machine.transport).is_pci for network in networks)


def _console(machine: KvmtoolMachine) -> tuple[bool, bool, bool]:
    """What kvmtool asks of the console's name."""
    name = machine.console
    return name.startswith("serial"), name.startswith(("virtio", "hv")), name.startswith("virtio")


def _listed(values: tuple[str, ...]) -> str:
    return "; ".join(map(plain, values)) or ABSENT


def _or_absent(value: object) -> str:
    return str(value) if value else ABSENT


def _flag(value: bool) -> str:
    return "given" if value else ABSENT


def _count(value: int | None) -> str:
    return ABSENT if value is None else str(value)


def _has_sve(machine: KvmtoolMachine) -> bool:
    """Whether realms of the profile can have SVE that nobody asked for."""
    return find_profile(machine.profile).sve_vl != 0


_NAMES = "the device tree has neither names nor paths, only how many there are"
_OPTIONS = (
    _Option("--profile", lambda machine: machine.profile),
    _Option("-c", lambda machine: str(machine.vcpus)),
    _Option("-m", lambda machine: memory_option(machine).removeprefix("-m ")),
    _Option("--measurement-algo", lambda machine: machine.algorithm),
    _Option("--islet", lambda machine: _flag(machine.islet)),
    _Option("-p", lambda machine: ABSENT if machine.parameters is None else f'"{plain(machine.parameters)}"'),
    _Option("--nodefaults", lambda machine: _flag(machine.nodefaults)),
    _Option(
        "--console",
        lambda machine: plain(machine.console),
        _console,
        "kvmtool looks at the beginning of the name only",
    ),
    _Option("--irqchip", lambda machine: machine.irqchip.value),
    _Option(
        "--virtio-transport",
        lambda machine: machine.transport.value,
        lambda machine: machine.transport.is_pci,
        "legacy devices look alike in the device tree",
    ),
    _Option("-n", _networks, _transports, "the device tree has neither MAC address nor tap device"),
    _Option("--9p", lambda machine: _listed(machine.shares), lambda machine: len(machine.shares), _NAMES),
    _Option(
        "--vsock",
        lambda machine: _or_absent(machine.vsock),
        lambda machine: machine.vsock != 0,
        "the device tree does not have the CID",
    ),
    _Option("--balloon", lambda machine: _flag(machine.balloon)),
    _Option("--rng", lambda machine: _flag(machine.rng)),
    _Option("-d", lambda machine: f"{machine.disks} disks" if machine.disks != 1 else "1 disk"),
    _Option(
        "-d scsi:",
        lambda machine: _listed(machine.scsi_disks),
        lambda machine: len(machine.scsi_disks),
        _NAMES,
    ),
    _Option("--kaslr-seed", lambda machine: str(machine.kaslr_seed)),
    _Option("--sve-vl", lambda machine: _or_absent(machine.sve_vl)),
    _Option(
        "--disable-sve",
        lambda machine: _flag(machine.disable_sve),
        lambda machine: machine.disable_sve and _has_sve(machine),
        "realms of this profile have no SVE unless it is asked for",
    ),
    _Option("--pmu", lambda machine: _flag(machine.pmu)),
    _Option("--pmu-counters", lambda machine: str(machine.pmu_counters)),
    _Option(
        "--mpidrs",
        lambda machine: ",".join(f"{item:x}" for item in machine.mpidrs) or ABSENT,
        lambda machine: machine.mpidrs or tuple(range(machine.vcpus)),
        "these are the vCPUs' own numbers",
    ),
    _Option(
        "-F",
        lambda machine: f"{machine.flash} bytes" if machine.flash else ABSENT,
        lambda machine: min(1 << machine.flash.bit_length() >> 1, _MAX_FLASH),
        "kvmtool maps the greatest power of two in the file's size",
    ),
    _Option("--override-bad-firmware-cntfrq", lambda machine: _or_absent(machine.counter_frequency)),
    _Option("--ipa-size", lambda machine: _or_absent(machine.ipa_bits)),
    _Option("--measurement-log", lambda machine: _flag(machine.measurement_log)),
    _Option(
        "--restricted_mem",
        lambda machine: _flag(machine.restricted_memory),
        lambda _machine: None,
        "how the host keeps the realm's memory is not measured",
    ),
    _Option(
        "--realm-pv",
        lambda machine: plain(machine.personalization) or ABSENT,
        lambda _machine: None,
        "the personalization value is not part of the RIM",
    ),
    _Option("--host num_bps", lambda machine: _count(machine.host.num_bps)),
    _Option("--host num_wps", lambda machine: _count(machine.host.num_wps)),
    _Option(
        "--host sve_vl",
        lambda machine: _count(machine.host.sve_vl),
        lambda machine: machine.host.sve_vl if _has_sve(machine) and not machine.sve_vl else None,
        "the realm's vector length does not follow from the host's",
    ),
    _Option(
        "--host ipa_bits",
        lambda machine: _count(machine.host.ipa_bits),
        lambda _machine: None,
        "it is a limit only",
    ),
    _Option("--host lpa2", lambda machine: _flag(machine.host.lpa2)),
)
