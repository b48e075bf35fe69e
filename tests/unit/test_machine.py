from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from recipes.machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware

MACHINE = QemuMachine(
    name="small",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="qemu64,-cx16",
    vcpus=1,
    memory=512 << 20,
    firmware=UefiFirmware(package="ovmf", code="OVMF_CODE_4M.fd", vars="OVMF_VARS_4M.fd"),
    tpm=TpmInterface.CRB,
)


def test_identity_is_canonical_json_of_everything_but_the_name() -> None:
    assert MACHINE.identity() == (
        '{"accelerator":"tcg","cpu":"qemu64,-cx16","devices":[],'
        '"disks":[{"bootindex":0,"read_only":false}],'
        '"firmware":{"code":"OVMF_CODE_4M.fd","package":"ovmf","secure_boot":false,"smm":false,'
        '"vars":"OVMF_VARS_4M.fd"},"memory":536870912,"smbios_strings":[],"tpm":"crb",'
        '"type":"pc-q35-7.2","vcpus":1}'
    )


@pytest.mark.parametrize(
    "changed",
    [
        replace(MACHINE, type="pc-q35-8.0"),
        replace(MACHINE, accelerator=Accelerator.KVM),
        replace(MACHINE, cpu="EPYC"),
        replace(MACHINE, vcpus=2),
        replace(MACHINE, memory=1 << 30),
        replace(MACHINE, firmware=replace(MACHINE.firmware, smm=True)),
        replace(MACHINE, tpm=None),
        replace(MACHINE, disks=(Disk(),)),
        replace(MACHINE, disks=(Disk(bootindex=0, read_only=True),)),
        replace(MACHINE, devices=("virtio-rng-pci",)),
        replace(MACHINE, smbios_strings=("a",)),
    ],
)
def test_every_field_is_part_of_the_identity(changed: QemuMachine) -> None:
    assert changed.identity() != MACHINE.identity()
    assert json.loads(changed.identity())


def test_the_name_is_no_part_of_the_identity() -> None:
    assert replace(MACHINE, name="other").identity() == MACHINE.identity()


@pytest.mark.parametrize(
    ("machine_type", "chipset"),
    [("pc-q35-7.2", "q35"), ("q35", "q35"), ("pc-i440fx-7.2", "pc"), ("pc", "pc")],
)
def test_chipset(machine_type: str, chipset: str) -> None:
    assert replace(MACHINE, type=machine_type).chipset == chipset


def test_a_machine_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        MACHINE.vcpus = 2  # type: ignore[misc]
