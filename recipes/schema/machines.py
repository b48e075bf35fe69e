"""Machines under QEMU in a recipe: a family of them is one entry."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Annotated

from ..errors import suggestion
from ..machine import Accelerator, Disk, QemuMachine, SnpBoot, SnpMachine, TpmInterface, UefiFirmware
from ..reader import Marks, Place, Size, Text
from ..record import dataclass, field
from ..units import GIB, MIB
from .common import Word
from .snp_machines import SnpSpec, check_release_policy, snp_machines

MIN_MEMORY, MAX_MEMORY, MAX_VCPUS = 256 * MIB, 1024 * GIB, 256

FIRMWARES = {
    "ovmf": UefiFirmware(package="ovmf", code="OVMF_CODE_4M.fd", vars="OVMF_VARS_4M.fd"),
    "ovmf-secure-boot": UefiFirmware(
        package="ovmf", code="OVMF_CODE_4M.secboot.fd", vars="OVMF_VARS_4M.fd", secure_boot=True, smm=True
    ),
}


class Vmm(Enum):
    """Virtual machine monitors."""

    QEMU = "qemu"


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """A family of machines: every combination of the lists is one machine.

    Attributes:
        cpu: several are for machines with ``sev`` alone.
        tpm: of machines with ``sev`` one, or none.
    """

    name: Word
    vmm: Vmm
    machine: Annotated[str, Text(r"pc-(q35|i440fx)-[0-9]+\.[0-9]+", "pc-q35-7.2")]
    accel: Accelerator
    cpu: tuple[Annotated[str, Text(r"[A-Za-z0-9_.+,=-]+", "qemu64,-cx16")], ...]
    firmware: Word
    vcpus: tuple[int, ...]
    memory: tuple[Annotated[int, Size], ...]
    tpm: tuple[TpmInterface, ...] = ()
    devices: tuple[str, ...] = ()
    sev: SnpSpec | None = None


@dataclass(frozen=True)
class Machines:
    """The machines of a recipe, as far as it is read: those that a TPM measures, and those with SEV-SNP."""

    plain: list[QemuMachine] = field(default_factory=list)
    snp: list[SnpMachine] = field(default_factory=list)


def add_machines(marks: Marks, spec: MachineSpec, index: int, machines: Machines, root: Path) -> None:
    """Adds every combination of one family of machines.

    Args:
        root: the project's folder, where recipes of shared firmware are.
    """
    place = ("machines", index)
    if spec.sev is None and (*place, "sev") in marks.places:
        _note_empty(marks, (*place, "sev"))
        return
    _check_machine(spec, place, marks)
    if spec.sev is not None:
        for snp in snp_machines(marks, spec, spec.sev, place, root):
            _check_new(snp.name, machines, place, marks)
            machines.snp.append(snp)
        return
    if spec.firmware not in FIRMWARES:
        what = f"firmware {spec.firmware!r} is not known{suggestion(spec.firmware, FIRMWARES)}"
        marks.add((*place, "firmware"), what)
        return
    for machine in _combinations(spec):
        _check_new(machine.name, machines, place, marks)
        machines.plain.append(machine)


def check_snp_boots(
    marks: Marks, specs: tuple[MachineSpec, ...], *, needs_tpm: bool, own_words_only: bool
) -> None:
    """Notes machines with SEV-SNP that the image would not come up on, or not be safe on.

    Args:
        needs_tpm: the initramfs insists on a TPM.
        own_words_only: the initramfs boots with no other command line than its own, as that of a release.
    """
    for index, spec in enumerate(specs):
        if spec.sev is None:
            continue
        if needs_tpm and not spec.tpm:
            what = "tpm: missing, and the initramfs insists on one; give the machine one"
            marks.add(("machines", index), f"{what}, or write initramfs.tpm: if-present")
        if own_words_only:
            check_release_policy(marks, spec.sev.policy, ("machines", index, "sev", "policy"))
        if own_words_only and spec.sev.boot is SnpBoot.KERNEL:
            # Spec: edk2-stable202502 OvmfPkg/Library/GenericQemuLoadImageLib/GenericQemuLoadImageLib.c.
            what = "firmware adds initrd=initrd to the command line, and a release boots with its own"
            marks.add(("machines", index, "sev", "boot"), f"{what}; use boot: uki, or profile: dev")


def _note_empty(marks: Marks, place: Place) -> None:
    """Notes a key ``sev`` that says nothing, unless what it says was not understood and is noted already."""
    if marks.places[place] not in {(problem.line, problem.column) for problem in marks.problems}:
        what = "sev: nothing is said of it; write for example {boot: uki}, or leave the key out"
        marks.add(place, what)


def _check_new(name: str, machines: Machines, place: tuple[str, int], marks: Marks) -> None:
    if name in {other.name for other in machines.plain} | {other.name for other in machines.snp}:
        marks.add((*place, "name"), f"two machines are called {name!r}")


def _check_machine(spec: MachineSpec, place: tuple[str, int], marks: Marks) -> None:
    if spec.sev is None and (*place, "tpm") not in marks.places:
        marks.add(place, f"machines[{place[1]}]: key 'tpm' is missing")
    if spec.sev is None and len(spec.cpu) > 1:
        marks.add((*place, "cpu"), "cpu: a machine without sev has one; make each an entry of its own")
    for key, values in (("vcpus", spec.vcpus), ("memory", spec.memory), ("cpu", spec.cpu), ("tpm", spec.tpm)):
        if not values and (*place, key) in marks.places:
            marks.add((*place, key), f"{key}: the list is empty")
        for index, value in enumerate(values):
            if value in values[:index]:
                marks.add((*place, key, index), f"{key}: listed twice")
    for index, vcpus in enumerate(spec.vcpus):
        if not 1 <= vcpus <= MAX_VCPUS:
            marks.add((*place, "vcpus", index), f"vcpus: {vcpus} is not 1 to {MAX_VCPUS}")
    for index, memory in enumerate(spec.memory):
        if memory and not (MIN_MEMORY <= memory <= MAX_MEMORY and memory % MIB == 0):
            marks.add((*place, "memory", index), "memory: must be whole MiB from 256MiB to 1024GiB")


def _combinations(spec: MachineSpec) -> Iterator[QemuMachine]:
    for vcpus, memory, tpm in product(spec.vcpus, spec.memory, spec.tpm):
        labels = [
            (len(spec.vcpus) > 1, f"{vcpus}cpu"),
            (len(spec.memory) > 1, f"{memory // MIB}m"),
            (len(spec.tpm) > 1, tpm.value),
        ]
        yield QemuMachine(
            name="-".join([spec.name, *(label for varied, label in labels if varied)]),
            type=spec.machine,
            accelerator=spec.accel,
            cpu=spec.cpu[0],
            vcpus=vcpus,
            memory=memory,
            firmware=FIRMWARES[spec.firmware],
            tpm=tpm,
            disks=(Disk(bootindex=0),),
            devices=spec.devices,
        )
