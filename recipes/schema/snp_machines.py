"""Machines with SEV-SNP in a recipe: a family of machines that has the key ``sev``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Protocol

from ..errors import suggestion
from ..machine import Accelerator, SnpBoot, SnpFirmware, SnpMachine, TpmInterface
from ..machine.sev import DEFAULT_SNP_POLICY, SEV_FEATURES
from ..machine.sev_cpus import CPU_MODELS
from ..reader import Marks, Text
from ..units import MIB
from .firmware import Boots, firmware_recipes, load_firmware

Hexadecimal = Annotated[str, Text(r"0x[0-9a-f]{1,16}", '"0x1"')]

# The whole file of the package that other machines have in two parts; it has SEV metadata, and no place for
# kernel hashes. Spec: edk2-stable202502 OvmfPkg/OvmfPkgX64.fdf, OvmfPkg/AmdSev/AmdSevX64.fdf.
OWN_FIRMWARE = {"ovmf": SnpFirmware(package="ovmf", file="OVMF.fd")}
# The C-bit is a bit of a physical address; so many bits an entry of a page table has.
# Spec: AMD64 APM volume 2 (24593), section 7.10.1; CPUID Fn8000_001F EBX.
_MAX_CBIT = 63


@dataclass(frozen=True, kw_only=True)
class SnpSpec:
    """What a machine with SEV-SNP says of it.

    Attributes:
        features: SEV_FEATURES of its virtual CPUs, as KVM and QEMU agree on them.
        policy: guest policy.
        cbitpos: the C-bit's position on the host's CPUs; ``reduced_phys_bits`` likewise.
    """

    boot: SnpBoot
    features: Hexadecimal = f"{SEV_FEATURES['SNPActive']:#x}"
    policy: Hexadecimal = f"{DEFAULT_SNP_POLICY:#x}"
    cbitpos: int = 51
    reduced_phys_bits: int = 1


class Family(Protocol):
    """What a family of machines says of itself, with SEV or without."""

    @property
    def name(self) -> str:
        """Its name, which those of its machines begin with."""

    @property
    def machine(self) -> str:
        """QEMU's machine type."""

    @property
    def accel(self) -> Accelerator:
        """What runs the guest's instructions."""

    @property
    def cpu(self) -> tuple[str, ...]:
        """CPU models."""

    @property
    def firmware(self) -> str:
        """Name of the firmware."""

    @property
    def vcpus(self) -> tuple[int, ...]:
        """Numbers of virtual CPUs."""

    @property
    def memory(self) -> tuple[int, ...]:
        """Bytes of RAM."""

    @property
    def tpm(self) -> tuple[TpmInterface, ...]:
        """TPM devices."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Further devices."""


def snp_machines(
    marks: Marks, spec: Family, sev: SnpSpec, place: tuple[str, int], root: Path
) -> tuple[SnpMachine, ...]:
    """Every combination of a family of machines with SEV-SNP.

    Args:
        root: the project's folder, where recipes of shared firmware are.
    """
    firmware, boots = _firmware(marks, spec, place, root)
    _check(marks, spec, sev, place)
    if firmware is None:
        return ()
    if (sev.boot is SnpBoot.DISK) != (boots is Boots.DISK):
        what = (
            f"firmware {spec.firmware} boots no disk"
            if boots is Boots.KERNEL
            else (f"firmware {spec.firmware} has no place for kernel hashes")
        )
        other = "use ovmf, or boot: uki" if boots is Boots.KERNEL else "use ovmf-amdsev, or boot: disk"
        marks.add((*place, "sev", "boot"), f"{what}; {other}")
    return tuple(_combinations(spec, sev, firmware))


def _firmware(
    marks: Marks, spec: Family, place: tuple[str, int], root: Path
) -> tuple[SnpFirmware | None, Boots]:
    """The firmware of a machine, and what it boots; None where there is none of that name."""
    if spec.firmware in OWN_FIRMWARE:
        return OWN_FIRMWARE[spec.firmware], Boots.DISK
    shared = {path.stem: path for path in firmware_recipes(root)}
    if spec.firmware not in shared:
        known = (*OWN_FIRMWARE, *shared)
        what = f"firmware {spec.firmware!r} is none for sev-snp{suggestion(spec.firmware, known)}"
        marks.add((*place, "firmware"), what)
        return None, Boots.DISK
    recipe = load_firmware(shared[spec.firmware], root).recipe
    return SnpFirmware(package=recipe.package, file=recipe.file, recipe=spec.firmware), recipe.boots


def _check(marks: Marks, spec: Family, sev: SnpSpec, place: tuple[str, int]) -> None:
    if spec.accel is not Accelerator.KVM:
        marks.add((*place, "accel"), f"accel: {spec.accel.value} has no SEV; write kvm")
    if "i440fx" in spec.machine:
        marks.add((*place, "machine"), f"machine: {spec.machine} is not modelled with SEV; use pc-q35-10.0")
    if spec.devices:
        marks.add((*place, "devices"), "devices: with sev they are given when the script is run")
    for index, cpu in enumerate(spec.cpu):
        if cpu not in CPU_MODELS:
            what = f"cpu: {cpu!r} is no model of a CPU with SEV{suggestion(cpu, CPU_MODELS)}"
            marks.add((*place, "cpu", index), what)
    if len(spec.tpm) > 1:
        marks.add((*place, "tpm"), "tpm: a machine with sev has one, or none")
    if not 32 <= sev.cbitpos <= _MAX_CBIT:
        marks.add((*place, "sev", "cbitpos"), f"cbitpos: {sev.cbitpos} is not 32 to {_MAX_CBIT}")
    if not 1 <= sev.reduced_phys_bits <= _MAX_CBIT:
        what = f"reduced_phys_bits: {sev.reduced_phys_bits} is not 1 to {_MAX_CBIT}"
        marks.add((*place, "sev", "reduced_phys_bits"), what)
    if not int(sev.features, 16) & SEV_FEATURES["SNPActive"]:
        what = f"features: {sev.features} lacks bit 0, which every guest with SEV-SNP has"
        marks.add((*place, "sev", "features"), what)


def _combinations(spec: Family, sev: SnpSpec, firmware: SnpFirmware) -> Iterator[SnpMachine]:
    for cpu, vcpus, memory in product(spec.cpu, spec.vcpus, spec.memory):
        labels = [
            (len(spec.cpu) > 1, cpu.lower()),
            (len(spec.vcpus) > 1, f"{vcpus}cpu"),
            (len(spec.memory) > 1, f"{memory // MIB}m"),
        ]
        if cpu not in CPU_MODELS:
            continue
        yield SnpMachine(
            name="-".join([spec.name, *(label for varied, label in labels if varied)]),
            type=spec.machine,
            cpu=cpu,
            vcpus=vcpus,
            memory=memory,
            firmware=firmware,
            boot=sev.boot,
            tpm=spec.tpm[0] if spec.tpm else None,
            features=int(sev.features, 16),
            policy=int(sev.policy, 16),
            cbitpos=sev.cbitpos,
            reduced_phys_bits=sev.reduced_phys_bits,
        )
