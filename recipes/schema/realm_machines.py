"""Machines of a realm in a recipe: what warden starts kvmtool with, in every combination that is listed."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import product
from typing import Annotated

from ..errors import MeasureError, suggestion
from ..machine import Irqchip, KvmtoolMachine, KvmtoolNetwork
from ..machine.kvmtool_profiles import DEFAULT_PROFILE, PROFILES, find_profile
from ..reader import Marks, Place, Size, Text
from ..record import dataclass
from ..units import MIB
from .common import Word, check_unique

MAX_VCPUS = 16
# Real kvmtool takes a larger IPA space once RAM ends above 4 GiB; it begins at 2 GiB.
MAX_EAC5_MEMORY = 2048 * MIB


class RealmHash(Enum):
    """Hash algorithms of a realm."""

    SHA256 = "sha256"
    SHA512 = "sha512"


class RealmVmm(Enum):
    """Virtual machine monitors for realms."""

    KVMTOOL = "kvmtool"


@dataclass(frozen=True, kw_only=True)
class RealmMachineSpec:
    """A family of machines: every combination of the lists is one machine; the first is provisioned.

    Attributes:
        profile: the stack it runs on.
        islet: Islet's RMM, which gives a realm no breakpoints and watchpoints.
        vsock: CID by which warden reaches the realm; not measured.
        tap: host interface; not measured.
        mac: guest's MAC address; not measured.
    """

    name: Word
    vmm: RealmVmm
    vcpus: tuple[int, ...]
    memory: tuple[Annotated[int, Size], ...]
    profile: Word = DEFAULT_PROFILE
    islet: bool = True
    algorithm: tuple[RealmHash, ...] = (RealmHash.SHA256,)
    vsock: int = 12344
    tap: Annotated[str, Text(r"[a-z0-9]{1,15}", "tap100")] = "tap100"
    mac: Annotated[str, Text(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", "52:55:00:d1:55:01")] = "52:55:00:d1:55:01"


def warden_options(cmdline: str) -> str | None:
    """The text of kvmtool's ``-p`` for kernel options, or None where there are none.

    Spec: realm-manager 79b74b6 warden lkvm.rs: the quotation marks are part of the argument, and so of what
    the kernel is handed.
    """
    words = " ".join(cmdline.split())
    return f'"{words}"' if words else None


def add_machines(
    marks: Marks,
    spec: RealmMachineSpec,
    index: int,
    options: str | None,
    disks: int,
    machines: list[KvmtoolMachine],
) -> None:
    """Adds every combination of one family of machines."""
    place = ("machines", index)
    try:
        profile = find_profile(spec.profile)
    except MeasureError as error:
        known = [profile.name for profile in PROFILES]
        marks.add((*place, "profile"), f"{error}{suggestion(spec.profile, known)}")
        return
    if not profile.device_tree:
        what = f"profile: the device tree of {profile.name} is not modelled; measure it with --dtb FILE"
        marks.add((*place, "profile"), what)
    _check_machine(marks, spec, place)
    if index == 0:
        _check_provisioned(marks, spec, place)
    for machine in _combinations(spec, options, disks):
        if machine.name in {other.name for other in machines}:
            marks.add((*place, "name"), f"two machines are called {machine.name!r}")
        machines.append(machine)


def _check_provisioned(marks: Marks, spec: RealmMachineSpec, place: Place) -> None:
    """The first machine is the one that Islet's warden starts and Islet's RMM checks against its metadata."""
    advice = "; put another machine first, or"
    if spec.profile != DEFAULT_PROFILE:
        what = f"profile: the first machine is provisioned for Islet{advice} use {DEFAULT_PROFILE}"
        marks.add((*place, "profile"), what)
    if not spec.islet:
        marks.add((*place, "islet"), f"islet: the first machine is provisioned for Islet{advice} write true")
    if spec.algorithm[:1] != (RealmHash.SHA256,):
        marks.add((*place, "algorithm"), f"algorithm: warden starts realms with sha256{advice} begin with it")


def _check_machine(marks: Marks, spec: RealmMachineSpec, place: Place) -> None:
    for key, values in (("vcpus", spec.vcpus), ("memory", spec.memory), ("algorithm", spec.algorithm)):
        if not values:
            marks.add((*place, key), f"{key}: the list is empty")
        check_unique(marks, (*place, key), values, key)
    for index, vcpus in enumerate(spec.vcpus):
        if not 1 <= vcpus <= MAX_VCPUS:
            marks.add((*place, "vcpus", index), f"vcpus: {vcpus} is not 1 to {MAX_VCPUS}")
    for index, memory in enumerate(spec.memory):
        if memory and not (64 * MIB <= memory <= MAX_EAC5_MEMORY and memory % MIB == 0):
            what = (
                "memory: must be whole MiB from 64MiB to 2048MiB; above that kvmtool takes another IPA size"
            )
            marks.add((*place, "memory", index), what)
    if not 3 <= spec.vsock < 1 << 32:
        marks.add((*place, "vsock"), f"vsock: {spec.vsock} is no guest's CID; use 3 or more")


def _combinations(spec: RealmMachineSpec, options: str | None, disks: int) -> Iterator[KvmtoolMachine]:
    for vcpus, memory, algorithm in product(spec.vcpus, spec.memory, spec.algorithm):
        labels = [
            (len(spec.vcpus) > 1, f"{vcpus}cpu"),
            (len(spec.memory) > 1, f"{memory // MIB}m"),
            (len(spec.algorithm) > 1, algorithm.value),
        ]
        yield KvmtoolMachine(
            name="-".join([spec.name, *(label for varied, label in labels if varied)]),
            profile=spec.profile,
            vcpus=vcpus,
            memory=memory,
            algorithm=algorithm.value,
            islet=spec.islet,
            parameters=options,
            irqchip=Irqchip.GICV3,
            networks=(KvmtoolNetwork(options=f"tapif={spec.tap},guest_mac={spec.mac}"),),
            vsock=spec.vsock,
            disks=disks,
            disable_sve=True,
        )
