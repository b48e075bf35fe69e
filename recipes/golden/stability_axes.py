"""The options that a stability report varies: which values they take, and how a machine gets one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ..errors import MeasureError, suggestion
from ..machine import Irqchip, KvmtoolMachine, KvmtoolNetwork, VirtioTransport
from ..machine.kvmtool_profiles import PROFILES
from ..units import MIB
from .stability_values import bytes_of, numbers, one_of, rank, size_word, sizes

# Spec: kvmtool include/kvm/disk-image.h: MAX_DISK_IMAGES.
_MAX_DISKS = 4
# Ours: a CID where the machine has none; which one it is makes no difference.
_CID = 3
# Ours: no launch has more devices of a kind, and none is made up for more.
_MAX_MADE = 1000
# Ours: how far RAM is moved.
_STEP = 256 * MIB
_OFF_ON = ("off", "on")


@dataclass(frozen=True, kw_only=True)
class AxisKind:
    """An option that can be varied.

    Attributes:
        name: in reports; with two dashes, the option of ``goldsmith stability``.
        option: of kvmtool.
        words: reads values from text.
        put: the machine with another value than its own.
        value: the value of a machine.
        around: values that are interesting for a machine besides its own.
        in_matrix: whether it is combined with the others unless the user says otherwise.
        alone: whether it is tried on the base machine where it is in no matrix.
    """

    name: str
    option: str
    words: Callable[[str, str], tuple[str, ...]]
    put: Callable[[KvmtoolMachine, str], KvmtoolMachine]
    value: Callable[[KvmtoolMachine], str]
    around: Callable[[KvmtoolMachine], Sequence[str]]
    in_matrix: bool = False
    alone: bool = True

    def apply(self, machine: KvmtoolMachine, value: str) -> KvmtoolMachine:
        """The machine with a value; with its own it is the same machine."""
        return machine if self.value(machine) == value else self.put(machine, value)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An option with the values that it takes.

    Attributes:
        values: in order, each once.
    """

    kind: AxisKind
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """The axis in reports."""
        return self.kind.name


def find_kind(name: str) -> AxisKind:
    """The option of that name.

    Raises:
        MeasureError: there is none.
    """
    known = {kind.name: kind for kind in KINDS}
    if name not in known:
        raise MeasureError(f"stability: no option {name!r} to vary{suggestion(name, known)}")
    return known[name]


def axis(name: str, text: str) -> Axis:
    """The axis that a user declares by values in ``text``.

    Raises:
        MeasureError: a value is not one of the option's.
    """
    kind = find_kind(name)
    values = tuple(dict.fromkeys(kind.words(f"--{name}", text)))
    return Axis(kind=kind, values=values)


def axis_around(kind: AxisKind, base: KvmtoolMachine) -> Axis:
    """The option's values around the machine's own: numbers ascending, words behind its own."""
    own = kind.value(base)
    values = list(dict.fromkeys([own, *kind.around(base)]))
    if kind.words in (numbers, sizes):
        values.sort(key=rank)
    return Axis(kind=kind, values=tuple(values))


def matrix(base: KvmtoolMachine, declared: Mapping[str, str]) -> tuple[Axis, ...]:
    """The matrix around a machine: vCPUs, memory, disks, network devices and consoles, and what is declared.

    Args:
        declared: values by the name of the option; others of the matrix get values around the machine's own.

    Raises:
        MeasureError: a value is not one of its option's.
    """
    return tuple(
        axis(kind.name, declared[kind.name]) if kind.name in declared else axis_around(kind, base)
        for kind in KINDS
        if kind.in_matrix or kind.name in declared
    )


def _vcpus(machine: KvmtoolMachine) -> Sequence[str]:
    # MPIDRs are given one for each vCPU: with them the number stays.
    return () if machine.mpidrs else ("1", "2", "4")


def _made(option: str, value: str) -> int:
    if int(value) > _MAX_MADE:
        raise MeasureError(f"{option}: {value} devices; give fewer")
    return int(value)


def _put_networks(machine: KvmtoolMachine, value: str) -> KvmtoolMachine:
    wanted, have = _made("-n", value), machine.networks or ()
    added = tuple(KvmtoolNetwork(options=f"tapif=tap{number}") for number in range(len(have), wanted))
    return replace(machine, networks=(have + added)[:wanted])


def _put_shares(machine: KvmtoolMachine, value: str) -> KvmtoolMachine:
    wanted = _made("--9p", value)
    added = tuple(f"/share{number},share{number}" for number in range(len(machine.shares), wanted))
    return replace(machine, shares=(machine.shares + added)[:wanted])


def _put_parameters(machine: KvmtoolMachine, _value: str) -> KvmtoolMachine:
    given = "" if machine.parameters is None else f"{machine.parameters} "
    return replace(machine, parameters=f"{given}quiet")


def _choice(values: type[Enum]) -> tuple[str, ...]:
    return tuple(str(item.value) for item in values)


def _number_kind(
    option: str,
    name: str,
    attribute: str,
    around: Callable[[KvmtoolMachine], Sequence[str]],
    *,
    in_matrix: bool = False,
) -> AxisKind:
    """An option whose number is a field of the machine."""

    def put(machine: KvmtoolMachine, value: str) -> KvmtoolMachine:
        change: dict[str, Any] = {attribute: int(value)}
        return replace(machine, **change)

    return AxisKind(
        name=name,
        option=option,
        words=numbers,
        put=put,
        value=lambda machine: str(getattr(machine, attribute)),
        around=around,
        in_matrix=in_matrix,
    )


def _size_kind(
    option: str,
    name: str,
    attribute: str,
    around: Callable[[KvmtoolMachine], Sequence[str]],
    *,
    in_matrix: bool = False,
) -> AxisKind:
    """An option whose size in bytes is a field of the machine."""

    def put(machine: KvmtoolMachine, value: str) -> KvmtoolMachine:
        change: dict[str, Any] = {attribute: bytes_of(value)}
        return replace(machine, **change)

    return AxisKind(
        name=name,
        option=option,
        words=sizes,
        put=put,
        value=lambda machine: size_word(getattr(machine, attribute)),
        around=around,
        in_matrix=in_matrix,
    )


def _flag_kind(option: str, name: str) -> AxisKind:
    """An option without a value: a field of the same name that is on or off."""

    def put(machine: KvmtoolMachine, value: str) -> KvmtoolMachine:
        change: dict[str, Any] = {name: value == "on"}
        return replace(machine, **change)

    return AxisKind(
        name=name,
        option=option,
        words=one_of(*_OFF_ON),
        put=put,
        value=lambda machine: _OFF_ON[bool(getattr(machine, name))],
        around=lambda machine: _OFF_ON,
    )


_IRQCHIPS = _choice(Irqchip)
_TRANSPORTS = _choice(VirtioTransport)
_PROFILES = tuple(profile.name for profile in PROFILES if profile.device_tree)
KINDS = (
    _number_kind("-c", "vcpus", "vcpus", _vcpus, in_matrix=True),
    _size_kind("-m", "memory", "memory", lambda machine: [size_word(2 * machine.memory)], in_matrix=True),
    _number_kind(
        "-d",
        "disks",
        "disks",
        lambda machine: [str(number) for number in range(_MAX_DISKS + 1 - len(machine.scsi_disks))],
        in_matrix=True,
    ),
    AxisKind(
        name="nics",
        option="-n",
        words=numbers,
        put=_put_networks,
        value=lambda machine: "1" if machine.networks is None else str(len(machine.networks)),
        around=lambda machine: ("0", "1", "2"),
        in_matrix=True,
    ),
    AxisKind(
        name="consoles",
        option="--console",
        words=one_of("serial", "virtio", "hv"),
        put=lambda machine, value: replace(machine, console=value),
        value=lambda machine: machine.console,
        around=lambda machine: ("serial", "virtio"),
        in_matrix=True,
    ),
    AxisKind(
        name="shares",
        option="--9p",
        words=numbers,
        put=_put_shares,
        value=lambda machine: str(len(machine.shares)),
        around=lambda machine: ("0", "1"),
    ),
    AxisKind(
        name="vsock",
        option="--vsock",
        words=one_of(*_OFF_ON),
        put=lambda machine, value: replace(machine, vsock=_CID if value == "on" else 0),
        value=lambda machine: _OFF_ON[machine.vsock != 0],
        around=lambda machine: _OFF_ON,
    ),
    _flag_kind("--balloon", "balloon"),
    _flag_kind("--rng", "rng"),
    AxisKind(
        name="transports",
        option="--virtio-transport",
        words=one_of(*_TRANSPORTS),
        put=lambda machine, value: replace(machine, transport=VirtioTransport(value)),
        value=lambda machine: machine.transport.value,
        around=lambda machine: _TRANSPORTS,
    ),
    AxisKind(
        name="irqchips",
        option="--irqchip",
        words=one_of(*_IRQCHIPS),
        put=lambda machine, value: replace(machine, irqchip=Irqchip(value)),
        value=lambda machine: machine.irqchip.value,
        around=lambda machine: _IRQCHIPS,
    ),
    AxisKind(
        name="parameters",
        option="-p",
        words=one_of("as-given", "one-word-more"),
        put=_put_parameters,
        value=lambda machine: "as-given",
        around=lambda machine: ("one-word-more",),
    ),
    _flag_kind("--nodefaults", "nodefaults"),
    _number_kind("--kaslr-seed", "kaslr-seed", "kaslr_seed", lambda machine: ("0", "1")),
    _flag_kind("--pmu", "pmu"),
    _number_kind("--pmu-counters", "pmu-counters", "pmu_counters", lambda machine: ("0", "1")),
    AxisKind(
        name="sve-vl",
        option="--sve-vl",
        words=numbers,
        put=lambda machine, value: replace(machine, sve_vl=int(value), disable_sve=False),
        value=lambda machine: str(machine.sve_vl),
        around=lambda machine: ("0", "128"),
    ),
    _size_kind("-F", "flash", "flash", lambda machine: ("0", "4M")),
    _size_kind("-m SIZE@", "ram-base", "ram_base", lambda machine: [size_word(machine.ram_base + _STEP)]),
    _number_kind(
        "--override-bad-firmware-cntfrq",
        "counter-frequency",
        "counter_frequency",
        lambda machine: ("0", "24000000"),
    ),
    AxisKind(
        name="algorithms",
        option="--measurement-algo",
        words=one_of("sha256", "sha512"),
        put=lambda machine, value: replace(machine, algorithm=value),
        value=lambda machine: machine.algorithm,
        around=lambda machine: ("sha256", "sha512"),
        # All files would be hashed once more, to say that another hash is another one.
        alone=False,
    ),
    _flag_kind("--islet", "islet"),
    AxisKind(
        name="profiles",
        option="--profile",
        words=one_of(*_PROFILES),
        put=lambda machine, value: replace(machine, profile=value),
        value=lambda machine: machine.profile,
        around=lambda machine: _PROFILES,
    ),
)
"""Every option that a report speaks of, the matrix's own first."""
