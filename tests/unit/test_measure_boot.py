from __future__ import annotations

import hashlib
from dataclasses import replace
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from recipes.errors import FormatError, MeasureError
from recipes.formats.authenticode import image_digest, sign
from recipes.formats.efi import EFI_GLOBAL_VARIABLE, Variable
from recipes.machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from recipes.measure import boot
from recipes.measure.boot import BootInputs, PreparedBoot
from recipes.measure.firmware import BootOption, FirmwareModel, hash_volumes
from recipes.measure.sidecar import SideFile
from recipes.measure.stub import StubInputs
from recipes.measure.trace import ALL_ALGORITHMS, HashAlgorithm
from recipes.measure.uefi import AcpiTables
from recipes.units import MIB
from tests.unit.boot_images import key_pair
from tests.unit.measure_images import kernel, pe_image, uki
from tests.unit.test_measure_secureboot import authority, database

UKI = uki(cmdline=b"quiet", initrd=b"initrd!!")
GPT = b"EFI PART and so on"
MACHINE = QemuMachine(
    name="m",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="max",
    vcpus=1,
    memory=512 * MIB,
    firmware=UefiFirmware(package="ovmf", code="CODE.fd", vars="VARS.fd"),
    tpm=TpmInterface.CRB,
)
MODEL = FirmwareModel(
    name="ovmf 1",
    code_sha256=bytes(32),
    crtm_version="1",
    secure_boot_variable=True,
    measures_acpi=True,
    boot_options=(BootOption("UEFI Misc Device", 1),),
)
ACPI = AcpiTables(b"loader", b"rsdp", b"tables")
INPUTS = BootInputs(
    firmware_code=b"",
    firmware_model=None,
    variables=(),
    gpt_event=GPT,
    stub=StubInputs(name="u.efi", uki=UKI),
)
ENROLLED = (
    Variable("PK", EFI_GLOBAL_VARIABLE, 0x27, b"key"),
    database("db", key_pair("test db")[1].public_bytes(Encoding.DER)),
)


def prepared(model: FirmwareModel | None = MODEL) -> PreparedBoot:
    """The boot with a firmware of two tiny volumes."""
    known = None if model is None else hash_volumes((b"pei", b"dxe"), model, "CODE")
    return replace(boot.prepare(INPUTS), firmware=known)


def folded(*digests: bytes, algorithm: str = "sha256") -> bytes:
    value = bytes(hashlib.new(algorithm).digest_size)
    for digest in digests:
        value = hashlib.new(algorithm, value + digest).digest()
    return value


@pytest.mark.parametrize("algorithm", ALL_ALGORITHMS)
def test_values_by_hand(algorithm: HashAlgorithm) -> None:
    name = algorithm.value

    def value(*parts: bytes) -> bytes:
        return folded(*(hashlib.new(name, part).digest() for part in parts), algorithm=name)

    prediction = boot.replay_boot(MACHINE, prepared(), ACPI)
    sections = (b".linux\0", kernel(), b".cmdline\0", b"quiet", b".initrd\0", b"initrd!!")
    expected = {
        "PCR0": value(b"1\0\0\0", b"pei", b"dxe", bytes(4)),
        "PCR2": value(bytes(4)),
        "PCR3": value(bytes(4)),
        "PCR4": folded(
            hashlib.new(name, b"Calling EFI Application from Boot Option").digest(),
            hashlib.new(name, bytes(4)).digest(),
            image_digest(UKI, name),
            image_digest(kernel(), name),
            algorithm=name,
        ),
        "PCR5": value(
            bytes(4), GPT, b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success"
        ),
        "PCR6": value(bytes(4)),
        "PCR9": value("quiet\0".encode("utf-16-le"), b"initrd!!"),
        "PCR11": value(*sections),
        "PCR11:enter-initrd": value(*sections, b"enter-initrd"),
        "PCR11:ready": value(*sections, b"enter-initrd", b"leave-initrd", b"sysinit", b"ready"),
        "PCR12": bytes(algorithm.size),
        "PCR13": bytes(algorithm.size),
    }
    assert {register: prediction.value(register, algorithm) for register in expected} == expected


def test_every_covered_register_is_there_in_order() -> None:
    prediction = boot.replay_boot(MACHINE, prepared(), ACPI)
    assert [trace.register for trace in prediction.traces] == [
        *(f"PCR{index}" for index in (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13)),
        *(f"PCR11:{phase}" for phase in ("enter-initrd", "leave-initrd", "sysinit", "ready")),
    ]
    assert prediction.omitted == ()


def test_steps_say_where_their_bytes_come_from() -> None:
    prediction = boot.replay_boot(MACHINE, prepared(), ACPI)
    assert all(step.source and step.spec and step.operation.startswith("EV_") for step in prediction.sequence)
    assert {step.source for step in prediction.trace("PCR11").steps} == {
        "u.efi .linux",
        "u.efi .cmdline",
        "u.efi .initrd",
    }


def test_unknown_firmware_leaves_three_registers_out() -> None:
    prediction = boot.replay_boot(MACHINE, prepared(None), ACPI)
    why = "m: nothing is known of the firmware build code flash; take a known build or learn this one"
    assert [(item.register, item.reason) for item in prediction.omitted] == [
        (register, why) for register in ("PCR0", "PCR1", "PCR7")
    ]
    assert {step.register for step in prediction.sequence} == {
        f"PCR{index}" for index in (2, 3, 4, 5, 6, 9, 11)
    }
    with pytest.raises(MeasureError) as caught:
        prediction.value("PCR0", HashAlgorithm.SHA256)
    assert str(caught.value) == f"PCR0: {why}"


def test_registers_that_are_not_covered() -> None:
    prediction = boot.replay_boot(MACHINE, prepared(), ACPI)
    with pytest.raises(MeasureError) as caught:
        prediction.value("PCR10", HashAlgorithm.SHA256)
    assert str(caught.value) == "PCR10: not covered by the replay of a UEFI boot"


@pytest.mark.parametrize(
    ("machine", "model", "registers", "reason"),
    [
        (MACHINE, MODEL, ["PCR1"], "m: there is no capture of its ACPI tables"),
        (
            MACHINE,
            replace(MODEL, measures_acpi=False, measures_smbios=True),
            ["PCR1"],
            "m: ovmf 1 measures the SMBIOS tables, which is not modelled",
        ),
        (
            replace(MACHINE, devices=("virtio-rng-pci",)),
            replace(MODEL, measures_acpi=False),
            ["PCR1", "PCR2"],
            "m: which boot options firmware makes for virtio-rng-pci is not modelled",
        ),
        (
            replace(MACHINE, devices=("virtio-net-pci,netdev=n,romfile=",)),
            replace(MODEL, measures_acpi=False),
            ["PCR1"],
            "m: which boot options firmware makes for virtio-net-pci,netdev=n,romfile= is not modelled",
        ),
        (
            replace(MACHINE, disks=(Disk(), Disk())),
            replace(MODEL, measures_acpi=False),
            ["PCR1"],
            "m: 2 disks and no boot index, so which of them boots is not modelled",
        ),
    ],
)
def test_what_is_left_out(
    machine: QemuMachine, model: FirmwareModel, registers: list[str], reason: str
) -> None:
    prediction = boot.replay_boot(machine, prepared(model))
    assert [item.register for item in prediction.omitted] == registers
    assert prediction.omitted[0].reason.startswith(f"{reason}; ")
    assert not {trace.register for trace in prediction.traces} & set(registers)


def test_firmware_that_measures_no_acpi_needs_no_capture() -> None:
    prediction = boot.replay_boot(MACHINE, prepared(replace(MODEL, measures_acpi=False)))
    assert [step.description for step in prediction.trace("PCR1").steps] == [
        "BootOrder",
        "Boot0000",
        "separator",
    ]


EARLIER_DISK = "a further disk is booted before the first one, which is the image"
LOWEST = "give the first disk the lowest boot index"


@pytest.mark.parametrize(
    ("machine", "what", "advice"),
    [
        (
            replace(MACHINE, tpm=None),
            "the machine has no TPM, so no PCRs",
            "add one to measure its boot",
        ),
        (
            replace(MACHINE, firmware=replace(MACHINE.firmware, secure_boot=True)),
            "the machine has Secure Boot on, firmware and variable store have it off",
            "launch the machine with the store that belongs to it",
        ),
        (replace(MACHINE, disks=(Disk(), Disk(bootindex=0))), EARLIER_DISK, LOWEST),
        (replace(MACHINE, disks=(Disk(bootindex=1), Disk(bootindex=0))), EARLIER_DISK, LOWEST),
        (
            replace(MACHINE, devices=("virtio-rng-pci", "loader,file=f,addr=0x1000")),
            "-device loader,file=f,addr=0x1000: what a device loader does to the boot is not modelled",
            (
                "leave it out, or use vhost-vsock-pci, virtio-balloon-pci, virtio-net-pci, virtio-rng-pci,"
                " virtio-serial-pci, virtserialport"
            ),
        ),
        (
            replace(MACHINE, disks=(Disk(),), devices=("netdev=n,driver=virtio-net-pci",)),
            (
                "-device netdev=n,driver=virtio-net-pci: firmware can boot from it, and the first disk has no"
                " boot index"
            ),
            "give the disk bootindex=0",
        ),
        (
            replace(MACHINE, devices=("virtio-net-pci,netdev=a,,b,bootindex=1",)),
            (
                "-device virtio-net-pci,netdev=a,,b,bootindex=1: what the setting 'bootindex' does to the"
                " boot is not modelled"
            ),
            "leave it out",
        ),
    ],
    ids=["tpm", "secure-boot", "no-bootindex", "bootindex", "loader", "bootable", "rom"],
)
def test_machines_that_are_refused(machine: QemuMachine, what: str, advice: str) -> None:
    with pytest.raises(MeasureError) as caught:
        boot.replay_boot(machine, prepared(), ACPI)
    assert str(caught.value) == f"m: {what}; {advice}"


@pytest.mark.parametrize(
    "name", ["BootOrder", "Boot0003", "BootNext", "DriverOrder", "SysPrep0000", "Key0001", "OsIndications"]
)
def test_a_store_that_decides_what_is_booted(name: str) -> None:
    used = (Variable("Lang", EFI_GLOBAL_VARIABLE, 7, b"eng"), Variable(name, EFI_GLOBAL_VARIABLE, 7, b"\0\0"))
    with pytest.raises(MeasureError) as caught:
        boot.prepare(replace(INPUTS, variables=used))
    assert str(caught.value) == (
        f"variable store: the variable store holds {name}, so it decides already what is booted, which is not"
        " modelled; start from a fresh store"
    )
    assert boot.prepare(replace(INPUTS, variables=(Variable(name, UUID(int=7), 7, b""),)))


def secure_inputs() -> BootInputs:
    signed = sign(UKI, *key_pair("test db"))
    addon = SideFile("a.addon.efi", sign(pe_image([(".cmdline", b"a=1")]), *key_pair("test db")))
    return replace(INPUTS, variables=ENROLLED, stub=StubInputs(name="u.efi", uki=signed, extra=(addon,)))


SECURE = replace(MACHINE, firmware=replace(MACHINE.firmware, secure_boot=True))


def test_secure_boot() -> None:
    prediction = boot.replay_boot(SECURE, boot.prepare(secure_inputs()))
    # An unknown build is no obstacle for PCR 7: only one that knows Secure Boot can enforce it.
    assert [item.register for item in prediction.omitted] == ["PCR0", "PCR1"]
    assert [step.description for step in prediction.trace("PCR7").steps] == [
        "SecureBoot",
        "PK",
        "KEK",
        "db",
        "dbx",
        "separator",
        "CN=test db",
    ]
    last = prediction.trace("PCR7").steps[-1].digests[HashAlgorithm.SHA256].hex()
    assert last == authority(key_pair("test db")[1].public_bytes(Encoding.DER))
    assert [step.source for step in prediction.trace("PCR4").steps] == [
        "firmware",
        "firmware",
        "u.efi",
        "a.addon.efi",
    ]
    order = [step.operation for step in prediction.sequence if step.register in ("PCR7", "PCR5", "PCR4")]
    assert order.index("EV_EFI_VARIABLE_AUTHORITY") < order.index("EV_EFI_GPT_EVENT")
    assert order.index("EV_EFI_GPT_EVENT") < order.index("EV_EFI_BOOT_SERVICES_APPLICATION")


def test_secure_boot_of_an_unsigned_uki() -> None:
    with pytest.raises(MeasureError, match=r"u\.efi: the image is not signed"):
        boot.prepare(replace(INPUTS, variables=ENROLLED))


def test_a_build_without_secure_boot_enforces_nothing() -> None:
    known = hash_volumes((b"pei", b"dxe"), replace(MODEL, secure_boot_variable=False), "CODE")
    store = replace(prepared(), firmware=known, variables=ENROLLED)
    prediction = boot.replay_boot(MACHINE, store, ACPI)
    first = prediction.trace("PCR7").steps[0]
    # Vendor GUID, two lengths, the name, and no data.
    assert (first.description, first.size) == ("SecureBoot", 16 + 8 + 8 + 20)


def test_machines_differ_only_in_what_is_theirs() -> None:
    shared = prepared(replace(MODEL, measures_acpi=False))
    text = "io.systemd.stub.kernel-cmdline-extra=x"
    one, other = (
        boot.replay_boot(each, shared) for each in (MACHINE, replace(MACHINE, smbios_strings=(text,)))
    )
    changed = [
        ours.register
        for ours, theirs in zip(one.traces, other.traces, strict=True)
        if ours.steps != theirs.steps
    ]
    assert changed == ["PCR9", "PCR12"]
    assert boot.replay_boot(MACHINE, shared) == one


def test_a_broken_firmware_file_is_reported() -> None:
    model = replace(MODEL, code_sha256=hashlib.sha256(b"").digest())
    with pytest.raises(FormatError, match="code flash"):
        boot.prepare(replace(INPUTS, firmware_model=model))


def test_guid_of_the_owner_does_not_matter_for_enforcement() -> None:
    store = (Variable("PK", UUID(int=7), 0x27, b"key"),)
    assert not boot.prepare(replace(INPUTS, variables=store)).secure_boot
