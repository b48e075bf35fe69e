"""Labels of the golden table: only a boot that is committed makes a register ``booted``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.golden.predict import established
from recipes.machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from recipes.measure.firmware import FirmwareModel
from recipes.measure.trace import Established
from recipes.steps.models import load_models
from recipes.units import MIB

MACHINE = QemuMachine(
    name="m",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="qemu64,-cx16",
    vcpus=1,
    memory=512 * MIB,
    firmware=UefiFirmware(package="ovmf", code="OVMF_CODE_4M.fd", vars="OVMF_VARS_4M.fd"),
    tpm=TpmInterface.CRB,
)
BOOTED, ORACLE, SPEC_ONLY = Established.BOOTED, Established.ORACLE, Established.SPEC_ONLY
HERE = "qemu 7.2.22"


def build(name: str) -> FirmwareModel:
    (found,) = [model for model in load_models() if model.name == name]
    return found


PLAIN = build("ovmf 2025.02-8+deb13u1 OVMF_CODE_4M.fd")
SECURE = build("ovmf 2025.02-8+deb13u1 OVMF_CODE_4M.secboot.fd")


@pytest.mark.parametrize(
    ("machine", "vmm", "platform", "others"),
    [
        (MACHINE, HERE, BOOTED, BOOTED),
        (MACHINE, "qemu 10.0.13", SPEC_ONLY, ORACLE),
        (MACHINE, "qemu", SPEC_ONLY, ORACLE),
        (replace(MACHINE, type="pc-i440fx-7.2"), HERE, ORACLE, ORACLE),
        (replace(MACHINE, type="pc-q35-8.0"), HERE, SPEC_ONLY, ORACLE),
        (replace(MACHINE, type="q35"), HERE, SPEC_ONLY, ORACLE),
        (replace(MACHINE, cpu="max"), HERE, SPEC_ONLY, BOOTED),
        (replace(MACHINE, accelerator=Accelerator.KVM), HERE, SPEC_ONLY, SPEC_ONLY),
        (replace(MACHINE, smbios_strings=("a=b",)), HERE, ORACLE, ORACLE),
        (replace(MACHINE, disks=(Disk(bootindex=0), Disk())), HERE, ORACLE, ORACLE),
        (replace(MACHINE, devices=("virtio-rng-pci",)), HERE, ORACLE, ORACLE),
    ],
)
def test_labels(machine: QemuMachine, vmm: str, platform: Established, others: Established) -> None:
    for register in ("PCR0", "PCR1"):
        assert established(machine, register, PLAIN, vmm) is platform
    for register in ("PCR2", "PCR4", "PCR11", "PCR11:ready"):
        assert established(machine, register, PLAIN, vmm) is others


def test_learnt_words_stay_learnt() -> None:
    for machine in (MACHINE, replace(MACHINE, cpu="max")):
        assert established(machine, "PCR0", SECURE, HERE) is Established.LEARNT
    assert established(replace(MACHINE, type="pc-q35-8.0"), "PCR0", SECURE, HERE) is SPEC_ONLY
    assert established(MACHINE, "PCR7", SECURE, HERE) is BOOTED


def test_an_unknown_build_has_the_word_of_the_specification() -> None:
    assert established(MACHINE, "PCR4", None, HERE) is SPEC_ONLY
