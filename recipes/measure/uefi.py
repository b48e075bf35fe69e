"""What UEFI firmware extends into PCR 0 to 7, one function per rule, each giving steps in log order.

    0  firmware version and volumes         4  boot action, every image that is loaded
    1  ACPI blobs, boot variables           5  GPT of the boot disk, ExitBootServices
    2  option ROMs (none here)              6  nothing
    3  nothing                              7  Secure Boot variables and the db entries that were used

PCR 0 to 7 each get a separator. Order within a register is what its value depends on; the order across
registers is that of a real log, so that a prediction and a log line up.

Spec: TCG PC Client Platform Firmware Profile (PFP) 1.06 section 3.3.4; edk2-stable202502, the source files
that stand beside each rule. Every rule but those marked "read" was compared with booted logs
(tests/vectors/pcr).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..formats.efi import (
    EFI_GLOBAL_VARIABLE,
    EFI_IMAGE_SECURITY_DATABASE,
    Variable,
    encode_utf16,
    variable_data,
)
from ..formats.eventlog import EventType
from . import tpm
from .trace import Measured, Step, measured

# Four zero bytes: the separator of a normal boot. Spec: PFP 1.06 section 10.4.1 EV_SEPARATOR.
SEPARATOR = bytes(4)
# Actions are ASCII without a NUL. Spec: PFP 1.06 section 10.4.3.
CALLING_EFI_APPLICATION = b"Calling EFI Application from Boot Option"
EXIT_BOOT_SERVICES_INVOCATION = b"Exit Boot Services Invocation"
EXIT_BOOT_SERVICES_SUCCEEDED = b"Exit Boot Services Returned with Success"
_ACPI_SPEC = "edk2-stable202502 OvmfPkg/AcpiPlatformDxe/QemuFwCfgAcpi.c (commit 935343cf16)"
# Length of the fw_cfg file etc/tpm/log, zero when firmware reads it.
# Spec: QEMU 7.2 include/hw/acpi/tpm.h TPM_LOG_AREA_MINIMUM_SIZE.
TPM_LOG_SIZE = 64 * 1024

# The variables of PCR 7 in the order they are measured, present or not.
# Spec: edk2-stable202502 SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c mVariableType.
SECURE_BOOT_VARIABLES = (
    ("SecureBoot", EFI_GLOBAL_VARIABLE),
    ("PK", EFI_GLOBAL_VARIABLE),
    ("KEK", EFI_GLOBAL_VARIABLE),
    ("db", EFI_IMAGE_SECURITY_DATABASE),
    ("dbx", EFI_IMAGE_SECURITY_DATABASE),
)
_TCG2_DXE = "edk2-stable202502 SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c"
_TCG2_PEI = "edk2-stable202502 SecurityPkg/Tcg/Tcg2Pei/Tcg2Pei.c"
_MEASURE_BOOT = "edk2-stable202502 SecurityPkg/Library/DxeTpm2MeasureBootLib/DxeTpm2MeasureBootLib.c"


@dataclass(frozen=True)
class AcpiTables:
    """The fw_cfg files that QEMU builds and firmware measures, captured from a paused machine.

    Attributes:
        loader: ``etc/table-loader``, whole.
        rsdp: ``etc/acpi/rsdp``.
        tables: ``etc/acpi/tables``, whole, with its padding.
    """

    loader: bytes
    rsdp: bytes
    tables: bytes


@dataclass(frozen=True)
class FirmwareBlob:
    """One measured range of firmware: ``PEIFV``, ``DXEFV``, or the flash of aarch64."""

    name: str
    content: Measured


def firmware_steps(crtm_version: str, blobs: Iterable[FirmwareBlob], source: str) -> tuple[Step, ...]:
    """PCR 0 up to its separator: the firmware's version string, then its volumes as they lie in RAM.

    Args:
        crtm_version: PcdFirmwareVersionString; an empty one is measured as its terminator alone.
        blobs: in the order they are measured, already patched by what runs from them.
        source: name of the code flash.
    """
    version = tpm.event(
        0,
        EventType.EV_S_CRTM_VERSION,
        measured(encode_utf16(crtm_version + "\0")),
        source=f"{source} version",
        description=crtm_version,
        spec=f"PFP 1.06 section 3.3.4.1; {_TCG2_PEI} MeasureCRTMVersion",
    )
    volumes = (
        tpm.event(
            0,
            EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB,
            blob.content,
            source=f"{source} {blob.name}",
            description=blob.name,
            spec=f"PFP 1.06 section 3.3.4.1; {_TCG2_PEI} MeasureFvImage",
        )
        for blob in blobs
    )
    return (version, *volumes)


def secure_boot_policy_steps(
    variables: Sequence[Variable], secure_boot: bool | None, source: str
) -> tuple[Step, ...]:
    """PCR 7 up to and with its separator: the Secure Boot variables.

    A variable that is absent is measured with no data; ``dbt`` alone is left out when it is absent (read).

    Args:
        variables: of the store.
        secure_boot: value of the variable ``SecureBoot``, which firmware makes itself; None where a build
            without Secure Boot has no such variable.
        source: name of the variable store.
    """
    flag = b"" if secure_boot is None else bytes([secure_boot])
    found = {(item.name, item.vendor): item.data for item in variables}
    found["SecureBoot", EFI_GLOBAL_VARIABLE] = flag
    names = list(SECURE_BOOT_VARIABLES)
    if found.get(("dbt", EFI_IMAGE_SECURITY_DATABASE)):
        names.append(("dbt", EFI_IMAGE_SECURITY_DATABASE))
    steps = (
        tpm.event(
            7,
            EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
            measured(variable_data(name, vendor, found.get((name, vendor), b""))),
            source=f"{source} {name}",
            description=name,
            spec=f"PFP 1.06 section 3.3.4.8; {_TCG2_DXE} MeasureAllSecureVariables",
        )
        for name, vendor in names
    )
    return (*steps, separator_step(7))


def acpi_steps(tables: AcpiTables, source: str) -> tuple[Step, ...]:
    """PCR 1: the ACPI blobs in the order that QEMU's loader script has firmware download them."""
    blobs = (
        ("etc/table-loader", tables.loader),
        ("etc/acpi/rsdp", tables.rsdp),
        ("etc/tpm/log", bytes(TPM_LOG_SIZE)),
        ("etc/acpi/tables", tables.tables),
    )
    return tuple(
        tpm.event(
            1,
            EventType.EV_PLATFORM_CONFIG_FLAGS,
            measured(data),
            source=f"{source} {name}",
            description=f"ACPI DATA {name}",
            spec=_ACPI_SPEC,
        )
        for name, data in blobs
    )


def boot_variable_steps(variables: Iterable[tuple[str, bytes]], source: str) -> tuple[Step, ...]:
    """PCR 1: BootOrder, then its Boot#### in that order.

    Only the data is hashed, unlike what stands in the event (PFP 1.06 section 10.4.1 EV_EFI_VARIABLE_BOOT).
    """
    return tuple(
        tpm.event(
            1,
            EventType.EV_EFI_VARIABLE_BOOT,
            measured(data),
            source=f"{source} {name}",
            description=name,
            spec=f"PFP 1.06 section 3.3.4.2; {_TCG2_DXE} MeasureAllBootVariables",
        )
        for name, data in variables
    )


def ready_to_boot_steps() -> tuple[Step, ...]:
    """The action in PCR 4, then the separators of PCR 0 to 6."""
    action = tpm.event(
        4,
        EventType.EV_EFI_ACTION,
        measured(CALLING_EFI_APPLICATION),
        source="firmware",
        description=CALLING_EFI_APPLICATION.decode("ascii"),
        spec=f"PFP 1.06 section 3.3.4.5; {_TCG2_DXE} OnReadyToBoot",
    )
    return (action, *(separator_step(index) for index in range(7)))


def separator_step(index: int) -> Step:
    """The separator of one PCR: nothing measured from here on belongs to the firmware's own start."""
    return tpm.event(
        index,
        EventType.EV_SEPARATOR,
        measured(SEPARATOR),
        source="firmware",
        description="separator",
        spec=f"PFP 1.06 section 3.3.4; {_TCG2_DXE} MeasureSeparatorEvent",
    )


def gpt_step(event_data: bytes, source: str) -> Step:
    """PCR 5: header and used entries of the boot disk's partition table, measured once with the first image.

    Args:
        event_data: EFI_GPT_DATA: the 92-byte header, a u64 count, the used entries.
        source: name of the disk.
    """
    return tpm.event(
        5,
        EventType.EV_EFI_GPT_EVENT,
        measured(event_data),
        source=f"{source} GPT",
        description="partition table",
        spec=f"PFP 1.06 section 3.3.4.6; {_MEASURE_BOOT} Tcg2MeasureGptTable",
    )


def image_step(content: Measured, source: str, description: str = "") -> Step:
    """PCR 4: an image that LoadImage was called for, by its Authenticode digest."""
    return tpm.event(
        4,
        EventType.EV_EFI_BOOT_SERVICES_APPLICATION,
        content,
        source=source,
        description=description or source,
        spec=f"PFP 1.06 section 3.3.4.5; {_MEASURE_BOOT} Tcg2MeasurePeImage",
    )


def authority_step(signature_data: bytes, source: str, description: str) -> Step:
    """PCR 7: the db entry that verified an image, as a variable ``db`` that holds this entry alone.

    Args:
        signature_data: EFI_SIGNATURE_DATA: owner GUID and certificate.
        source: name of the variable store.
        description: subject of the certificate.
    """
    return tpm.event(
        7,
        EventType.EV_EFI_VARIABLE_AUTHORITY,
        measured(variable_data("db", EFI_IMAGE_SECURITY_DATABASE, signature_data)),
        source=f"{source} db",
        description=description,
        spec=(
            "PFP 1.06 section 3.3.4.8; edk2-stable202502 SecurityPkg/Library/DxeImageVerificationLib/"
            "Measurement.c SecureBootHook"
        ),
    )


def exit_boot_services_steps() -> tuple[Step, ...]:
    """PCR 5: the kernel calls ExitBootServices and it succeeds."""
    return tuple(
        tpm.event(
            5,
            EventType.EV_EFI_ACTION,
            measured(action),
            source="firmware",
            description=action.decode("ascii"),
            spec=f"PFP 1.06 section 3.3.4.6; {_TCG2_DXE} OnExitBootServices",
        )
        for action in (EXIT_BOOT_SERVICES_INVOCATION, EXIT_BOOT_SERVICES_SUCCEEDED)
    )
