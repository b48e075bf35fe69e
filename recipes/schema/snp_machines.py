"""Machines with SEV-SNP in a recipe: a family of machines that has the key ``sev``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Protocol

from ..errors import suggestion
from ..machine import Accelerator, SnpBoot, SnpFirmware, SnpMachine, TpmInterface
from ..machine.sev import DEFAULT_SNP_POLICY, SEV_FEATURES
from ..machine.sev_cpus import CPU_MODELS
from ..machine.snp_policy import POLICY_RESERVED, Policy
from ..reader import Marks, Place, Text
from ..record import dataclass
from ..units import MIB
from .firmware import Boots, firmware_recipes, load_firmware

_HEXADECIMAL = r"0x[0-9a-f]{1,16}"
Hexadecimal = Annotated[str, Text(_HEXADECIMAL, '"0x1"')]

# The whole file of the package that other machines have in two parts; it has SEV metadata, and no place for
# kernel hashes. Spec: edk2-stable202502 OvmfPkg/OvmfPkgX64.fdf, OvmfPkg/AmdSev/AmdSevX64.fdf.
OWN_FIRMWARE = {"ovmf": SnpFirmware(package="ovmf", file="OVMF.fd")}
# The C-bit is a bit of a physical address; so many bits an entry of a page table has.
# Spec: AMD64 APM volume 2 (24593), section 7.10.1; CPUID Fn8000_001F EBX.
_MAX_CBIT = 63
# What makes a guest's memory no secret. Spec: AMD 56860 section 4.3.
_NO_RELEASE = {
    Policy.DEBUG: "with which the host may read the guest's memory",
    Policy.MIGRATE_MA: "with which a migration agent may copy the guest elsewhere",
}


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
        if cpu not in CPU_MODELS and cpu not in spec.cpu[:index]:
            what = f"cpu: {cpu!r} is no model of a CPU with SEV{suggestion(cpu, CPU_MODELS)}"
            marks.add((*place, "cpu", index), what)
    if len(spec.tpm) > 1:
        marks.add((*place, "tpm"), "tpm: a machine with sev has one, or none")
    if not 32 <= sev.cbitpos <= _MAX_CBIT:
        marks.add((*place, "sev", "cbitpos"), f"cbitpos: {sev.cbitpos} is not 32 to {_MAX_CBIT}")
    if not 1 <= sev.reduced_phys_bits <= _MAX_CBIT:
        what = f"reduced_phys_bits: {sev.reduced_phys_bits} is not 1 to {_MAX_CBIT}"
        marks.add((*place, "sev", "reduced_phys_bits"), what)
    _check_features(marks, sev.features, (*place, "sev", "features"))
    _check_policy(marks, sev.policy, (*place, "sev", "policy"))


def _check_features(marks: Marks, text: str, place: Place) -> None:
    number = _number(text)
    if number is None:
        return
    unknown = number & ~sum(SEV_FEATURES.values())
    if unknown:
        known = f"0x{sum(SEV_FEATURES.values()):x}"
        marks.add(
            place, f"features: {text} has bits {unknown:#x} that are not known; those known are {known}"
        )
    if not number & SEV_FEATURES["SNPActive"]:
        what = f"features: {text} lacks bit 0, which every guest with SEV-SNP has"
        marks.add(place, f"{what}; write {number | SEV_FEATURES['SNPActive']:#x}")


def _check_policy(marks: Marks, text: str, place: Place) -> None:
    """No processor starts a guest with another policy. Spec: AMD 56860 section 4.3."""
    number = _number(text)
    if number is None:
        return
    if number & POLICY_RESERVED:
        marks.add(place, f"policy: {text} has reserved bits {number & POLICY_RESERVED:#x}; leave them out")
    if not number & Policy.RESERVED_ONE:
        what = f"policy: {text} lacks bit 17, which is always one"
        marks.add(place, f"{what}; write {number | Policy.RESERVED_ONE:#x}")


def check_release_policy(marks: Marks, text: str, place: Place) -> None:
    """Notes a guest policy that lets the host look into a guest, which no release does."""
    number = _number(text)
    if number is None:
        return
    for flag, what in _NO_RELEASE.items():
        if number & flag:
            fix = f"write {number & ~flag:#x}, or set profile: dev"
            marks.add(place, f"policy: {text} has bit {flag.bit_length() - 1}, {what}; {fix}")


def _number(text: str) -> int | None:
    """What a recipe's text says; None where the reader has refused it."""
    return int(text, 16) if text and re.fullmatch(_HEXADECIMAL, text) else None


def _combinations(spec: Family, sev: SnpSpec, firmware: SnpFirmware) -> Iterator[SnpMachine]:
    # What is listed twice is one mistake, and not also two machines of one name.
    cpus, counts, sizes = dict.fromkeys(spec.cpu), dict.fromkeys(spec.vcpus), dict.fromkeys(spec.memory)
    for cpu, vcpus, memory in product(cpus, counts, sizes):
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
            features=_number(sev.features) or 0,
            policy=_number(sev.policy) or 0,
            cbitpos=sev.cbitpos,
            reduced_phys_bits=sev.reduced_phys_bits,
        )
