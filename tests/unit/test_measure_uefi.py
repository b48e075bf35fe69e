from __future__ import annotations

import hashlib
from collections.abc import Sequence
from uuid import UUID

from recipes.formats.efi import EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, Variable
from recipes.measure import uefi
from recipes.measure.trace import HashAlgorithm, Step, measured
from recipes.measure.uefi import AcpiTables, FirmwareBlob

GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
DATABASE = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")


def digests(steps: Sequence[Step]) -> list[tuple[str, str, str]]:
    return [(step.register, step.operation, step.digests[HashAlgorithm.SHA256].hex()) for step in steps]


def row(register: str, operation: str, data: bytes) -> tuple[str, str, str]:
    return (register, operation, hashlib.sha256(data).hexdigest())


def variable(vendor: bytes, name: str, data: bytes) -> bytes:
    """UEFI_VARIABLE_DATA, field by field."""
    sizes = len(name).to_bytes(8, "little") + len(data).to_bytes(8, "little")
    return vendor + sizes + name.encode("utf-16-le") + data


def test_firmware_version_comes_with_its_terminator() -> None:
    blobs = [FirmwareBlob("PEIFV", measured(b"pei")), FirmwareBlob("DXEFV", measured(b"dxe"))]
    assert digests(uefi.firmware_steps("1.0", blobs, "CODE")) == [
        row("PCR0", "EV_S_CRTM_VERSION", b"1\0.\x000\0\0\0"),
        row("PCR0", "EV_EFI_PLATFORM_FIRMWARE_BLOB", b"pei"),
        row("PCR0", "EV_EFI_PLATFORM_FIRMWARE_BLOB", b"dxe"),
    ]


def test_steps_name_their_artefact() -> None:
    steps = uefi.firmware_steps("", [FirmwareBlob("PEIFV", measured(b"pei"))], "OVMF_CODE_4M.fd")
    assert [(step.source, step.size) for step in steps] == [
        ("OVMF_CODE_4M.fd version", 2),
        ("OVMF_CODE_4M.fd PEIFV", 3),
    ]
    assert all(step.spec for step in steps)


def test_every_secure_boot_variable_is_measured_present_or_not() -> None:
    store = [
        Variable("db", EFI_IMAGE_SECURITY_DATABASE, 0x27, b"entry"),
        # Neither a variable of that name elsewhere nor a stored SecureBoot counts.
        Variable("PK", EFI_IMAGE_SECURITY_DATABASE, 0x27, b"elsewhere"),
        Variable("SecureBoot", EFI_GLOBAL_VARIABLE, 0x06, b"\x01"),
    ]
    kind = "EV_EFI_VARIABLE_DRIVER_CONFIG"
    for flag, data in ((None, b""), (False, b"\0"), (True, b"\x01")):
        assert digests(uefi.secure_boot_policy_steps(store, flag, "store")) == [
            row("PCR7", kind, variable(GLOBAL, "SecureBoot", data)),
            row("PCR7", kind, variable(GLOBAL, "PK", b"")),
            row("PCR7", kind, variable(GLOBAL, "KEK", b"")),
            row("PCR7", kind, variable(DATABASE, "db", b"entry")),
            row("PCR7", kind, variable(DATABASE, "dbx", b"")),
            row("PCR7", "EV_SEPARATOR", bytes(4)),
        ]


def test_dbt_is_measured_only_where_it_is_there() -> None:
    store = [Variable("dbt", EFI_IMAGE_SECURITY_DATABASE, 0x27, b"t")]
    steps = uefi.secure_boot_policy_steps(store, None, "store")
    assert [step.description for step in steps] == [
        "SecureBoot",
        "PK",
        "KEK",
        "db",
        "dbx",
        "dbt",
        "separator",
    ]
    assert digests(steps)[5] == row("PCR7", "EV_EFI_VARIABLE_DRIVER_CONFIG", variable(DATABASE, "dbt", b"t"))


def test_acpi_blobs_in_loader_order() -> None:
    steps = uefi.acpi_steps(AcpiTables(b"loader", b"rsdp", b"tables"), "capture")
    assert digests(steps) == [
        row("PCR1", "EV_PLATFORM_CONFIG_FLAGS", data)
        for data in (b"loader", b"rsdp", bytes(65536), b"tables")
    ]


def test_boot_variables_are_hashed_without_header() -> None:
    steps = uefi.boot_variable_steps([("BootOrder", b"\0\0"), ("Boot0000", b"option")], "firmware")
    assert digests(steps) == [
        row("PCR1", "EV_EFI_VARIABLE_BOOT", b"\0\0"),
        row("PCR1", "EV_EFI_VARIABLE_BOOT", b"option"),
    ]


def test_ready_to_boot() -> None:
    assert digests(uefi.ready_to_boot_steps()) == [
        row("PCR4", "EV_EFI_ACTION", b"Calling EFI Application from Boot Option"),
        *(row(f"PCR{index}", "EV_SEPARATOR", bytes(4)) for index in range(7)),
    ]


def test_exit_boot_services() -> None:
    assert digests(uefi.exit_boot_services_steps()) == [
        row("PCR5", "EV_EFI_ACTION", b"Exit Boot Services Invocation"),
        row("PCR5", "EV_EFI_ACTION", b"Exit Boot Services Returned with Success"),
    ]


def test_authority_is_a_variable_with_one_entry() -> None:
    entry = UUID(int=1).bytes_le + b"certificate"
    step = uefi.authority_step(entry, "store", "CN=db")
    assert digests([step]) == [row("PCR7", "EV_EFI_VARIABLE_AUTHORITY", variable(DATABASE, "db", entry))]


def test_partition_table_and_image() -> None:
    steps = [uefi.gpt_step(b"gpt", "disk"), uefi.image_step(measured(b"pe"), "u.efi")]
    assert digests(steps) == [
        row("PCR5", "EV_EFI_GPT_EVENT", b"gpt"),
        row("PCR4", "EV_EFI_BOOT_SERVICES_APPLICATION", b"pe"),
    ]
