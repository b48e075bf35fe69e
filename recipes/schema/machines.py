"""Machines under QEMU in a recipe: a family of them is one entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Annotated

from ..errors import suggestion
from ..machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from ..reader import Marks, Size, Text
from ..units import GIB, MIB
from .common import Word

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
    """A family of machines: every combination of the lists is one machine."""

    name: Word
    vmm: Vmm
    machine: Annotated[str, Text(r"pc-(q35|i440fx)-[0-9]+\.[0-9]+", "pc-q35-7.2")]
    accel: Accelerator
    cpu: Annotated[str, Text(r"[A-Za-z0-9_.+,=-]+", "qemu64,-cx16")]
    firmware: Word
    vcpus: tuple[int, ...]
    memory: tuple[Annotated[int, Size], ...]
    tpm: tuple[TpmInterface, ...]
    devices: tuple[str, ...] = ()


def add_machines(marks: Marks, spec: MachineSpec, index: int, machines: list[QemuMachine]) -> None:
    """Adds every combination of one family of machines."""
    place = ("machines", index)
    if spec.firmware not in FIRMWARES:
        what = f"firmware {spec.firmware!r} is not known{suggestion(spec.firmware, FIRMWARES)}"
        marks.add((*place, "firmware"), what)
        return
    _check_machine(spec, place, marks)
    for machine in _combinations(spec):
        if machine.name in {other.name for other in machines}:
            marks.add((*place, "name"), f"two machines are called {machine.name!r}")
        machines.append(machine)


def _check_machine(spec: MachineSpec, place: tuple[str, int], marks: Marks) -> None:
    for key, values in (("vcpus", spec.vcpus), ("memory", spec.memory), ("tpm", spec.tpm)):
        if not values:
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
            cpu=spec.cpu,
            vcpus=vcpus,
            memory=memory,
            firmware=FIRMWARES[spec.firmware],
            tpm=tpm,
            disks=(Disk(bootindex=0),),
            devices=spec.devices,
        )
