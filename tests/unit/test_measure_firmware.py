from __future__ import annotations

import hashlib
from dataclasses import replace
from uuid import UUID

import pytest

from recipes.errors import FormatError, MeasureError
from recipes.formats.efi import EFI_GLOBAL_VARIABLE, EFI_SECURE_BOOT_ENABLE_DISABLE, Variable
from recipes.machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from recipes.measure import firmware
from recipes.measure.firmware import BootOption, FirmwareFile, FirmwareModel, Patch
from recipes.measure.trace import Established, measured
from recipes.units import MIB

MACHINE = QemuMachine(
    name="m",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="qemu64,-cx16",
    vcpus=1,
    memory=512 * MIB,
    firmware=UefiFirmware(package="ovmf", code="CODE.fd", vars="VARS.fd"),
    tpm=TpmInterface.TIS,
)
MODEL = FirmwareModel(
    name="ovmf 1",
    code_sha256=bytes(32),
    crtm_version="1",
    secure_boot_variable=False,
    measures_acpi=True,
    boot_options=(
        BootOption("UiApp", 0x109, FirmwareFile(UUID(int=1), UUID(int=2))),
        BootOption("UEFI Misc Device", 1),
        BootOption("Shell", 1, FirmwareFile(UUID(int=1), UUID(int=3))),
    ),
    patches=(
        Patch("q35", 512 * MIB, ((1, b"XY"),)),
        Patch("q35", 1024 * MIB, ((1, b"ZZ"),), vcpus=2, cpu="max"),
        Patch("pc", None, ((0, b"P"),)),
    ),
)
VOLUMES = (b"pei-volume", b"dxe-volume")


def hashed(model: FirmwareModel = MODEL) -> firmware.PreparedFirmware:
    return firmware.hash_volumes(VOLUMES, model, "CODE")


@pytest.mark.parametrize(
    ("machine", "pei"),
    [
        (MACHINE, b"pXY-volume"),
        (replace(MACHINE, memory=1024 * MIB, vcpus=2, cpu="max"), b"pZZ-volume"),
        (replace(MACHINE, type="pc"), b"Pei-volume"),
        (replace(MACHINE, type="pc-i440fx-7.2", memory=4096 * MIB), b"Pei-volume"),
    ],
)
def test_the_patch_of_the_machine_is_applied(machine: QemuMachine, pei: bytes) -> None:
    blobs = hashed().blobs(machine)
    assert [(blob.name, blob.content) for blob in blobs] == [
        ("PEIFV", measured(pei)),
        ("DXEFV", measured(b"dxe-volume")),
    ]


def test_a_build_without_patches_is_measured_as_it_is() -> None:
    assert hashed(replace(MODEL, patches=())).blobs(MACHINE)[0].content == measured(b"pei-volume")


def test_a_machine_without_a_patch_is_not_guessed() -> None:
    with pytest.raises(MeasureError) as caught:
        hashed().blobs(replace(MACHINE, memory=1024 * MIB))
    assert str(caught.value) == (
        "m: what ovmf 1 writes into PEIFV on this machine is not known, only for q35 with 512 MiB,"
        " q35 with 1 GiB and 2 vCPU and max, pc; learn the words from a memory dump"
    )


@pytest.mark.parametrize("offset", [9, 10, -1])
def test_a_patch_outside_the_volume(offset: int) -> None:
    model = replace(MODEL, patches=(Patch("q35", None, ((offset, b"ab"),)),))
    with pytest.raises(MeasureError) as caught:
        hashed(model)
    place = f"patch word at {offset:#x} lies outside PEIFV of 0xa bytes"
    assert str(caught.value) == f"CODE: {place}; the patch is of another build"


def test_a_model_of_another_file() -> None:
    digest = hashlib.sha256(b"code").hexdigest()
    with pytest.raises(MeasureError) as caught:
        firmware.prepare(b"code", MODEL, "CODE.fd")
    expected = (
        f"CODE.fd: SHA-256 is {digest}, the model of ovmf 1 is for {'00' * 32}; take the model of this file"
    )
    assert str(caught.value) == expected


def test_two_volumes_are_expected() -> None:
    with pytest.raises(FormatError) as caught:
        firmware.hash_volumes(VOLUMES[:1], MODEL, "CODE")
    assert str(caught.value) == "CODE: 1 measured volumes, expected PEIFV and DXEFV"


def test_establishment_of_phases_is_that_of_the_register() -> None:
    labels = (("here", "PCR11", Established.BOOTED), ("here", "PCR0", Established.LEARNT))
    model = replace(MODEL, established=labels)
    assert model.establishment("PCR11:ready", "here") is Established.BOOTED
    assert model.establishment("PCR0", "here") is Established.LEARNT
    assert model.establishment("PCR1", "here") is None
    assert model.establishment("PCR0", "there") is None


def option(attributes: int, description: str, path: bytes, data: bytes = b"") -> bytes:
    """EFI_LOAD_OPTION, field by field."""
    head = attributes.to_bytes(4, "little") + (len(path) + 4).to_bytes(2, "little")
    return head + description.encode("utf-16-le") + bytes(2) + path + b"\x7f\xff\x04\0" + data


def disk_option(slot: int) -> bytes:
    path = bytes.fromhex("02010c00d041030a00000000") + bytes([1, 1, 6, 0, 0, slot])
    return option(1, "UEFI Misc Device", path, bytes.fromhex("4eac0881119f594d850ee21a522c59b2"))


def file_option(attributes: int, description: str, file: int) -> bytes:
    volume = b"\x04\x07\x14\0" + UUID(int=1).bytes_le
    return option(attributes, description, volume + b"\x04\x06\x14\0" + UUID(int=file).bytes_le)


@pytest.mark.parametrize(
    ("type_", "disks", "order", "slot"),
    [
        ("q35", (Disk(bootindex=0),), (1, 0, 2), 1),
        ("q35", (Disk(bootindex=5), Disk()), (1, 0, 2), 1),
        ("q35", (Disk(),), (0, 1, 2), 1),
        ("pc", (Disk(bootindex=0),), (1, 0, 2), 2),
    ],
)
def test_boot_variables(type_: str, disks: tuple[Disk, ...], order: tuple[int, ...], slot: int) -> None:
    options = (file_option(0x109, "UiApp", 2), disk_option(slot), file_option(1, "Shell", 3))
    found = firmware.boot_variables(replace(MACHINE, type=type_, disks=disks), MODEL)
    numbers = b"".join(number.to_bytes(2, "little") for number in order)
    assert found == (("BootOrder", numbers), *((f"Boot{number:04X}", options[number]) for number in order))


@pytest.mark.parametrize(
    ("machine", "what", "advice"),
    [
        (replace(MACHINE, disks=()), "there is no disk to boot from", "give it one"),
        (
            replace(MACHINE, disks=(Disk(bootindex=0), Disk(bootindex=1))),
            "a further disk has a boot index, and the order of several boot disks is not modelled",
            "give a boot index to the first disk alone",
        ),
        (
            replace(MACHINE, disks=(Disk(), Disk())),
            "2 disks and no boot index, so which of them boots is not modelled",
            "give the first disk bootindex=0",
        ),
        (
            replace(MACHINE, devices=("virtio-net-pci",)),
            "which boot options firmware makes for virtio-net-pci is not modelled",
            "leave the device out or PCR 1 unused",
        ),
    ],
)
def test_boot_options_that_are_not_modelled(machine: QemuMachine, what: str, advice: str) -> None:
    with pytest.raises(MeasureError) as caught:
        firmware.boot_variables(machine, MODEL)
    assert str(caught.value) == f"m: {what}; {advice}"


def test_a_store_with_boot_options() -> None:
    store = [
        Variable("SecureBootEnable", EFI_SECURE_BOOT_ENABLE_DISABLE, 3, b"\x01"),
        Variable("Boot0003", EFI_GLOBAL_VARIABLE, 7, b"x"),
    ]
    firmware.boot_variables(MACHINE, MODEL, store[:1])
    with pytest.raises(MeasureError) as caught:
        firmware.boot_variables(MACHINE, MODEL, store)
    assert str(caught.value) == (
        "m: the variable store holds Boot0003, so it decides already what is booted, which is not modelled;"
        " start from a fresh store"
    )
