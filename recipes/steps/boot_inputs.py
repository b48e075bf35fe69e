"""What a machine boots, read from the files it is launched with: flash, variable store and disk.

Both the golden step and ``goldsmith measure`` come through here, so what is predicted is always what stands
on the disk that ships.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from ..errors import FormatError, MeasureError
from ..formats import gpt, varstore
from ..formats.fat_reader import FatFilesystem
from ..formats.pe import PeImage
from ..measure.boot import BootInputs, PreparedBoot, SourceNames, prepare
from ..measure.firmware import FirmwareModel
from ..measure.sidecar import SideFile
from ..measure.stub import StubInputs

# Where firmware looks on a disk without boot entries. Spec: UEFI 2.10 section 3.5.1.1, removable media.
BOOT_PATH = "EFI/BOOT/BOOTX64.EFI"
ADDONS = "loader/addons/"
CREDENTIALS = "loader/credentials/"


def read_boot(
    code: Path, variables: Path, disk: Path, models: Iterable[FirmwareModel]
) -> tuple[PreparedBoot, FirmwareModel | None]:
    """The boot of a disk by a firmware build, hashed, and what is known of that build.

    Raises:
        FormatError: a file does not parse, or the disk has no boot program.
        MeasureError: something on it is not modelled.
    """
    firmware = code.read_bytes()
    digest = hashlib.sha256(firmware).digest()
    model = next((item for item in models if item.code_sha256 == digest), None)
    with disk.open("rb") as file:
        event, stub = read_disk(file, disk.name)
    inputs = BootInputs(
        firmware_code=firmware,
        firmware_model=model,
        variables=varstore.read(variables.read_bytes(), variables.name),
        gpt_event=event,
        stub=stub,
        sources=SourceNames(
            firmware=code.name, variables=variables.name, disk=disk.name, acpi="ACPI capture"
        ),
    )
    return prepare(inputs), model


def read_unknown_boot(firmware: str, disk: Path) -> PreparedBoot:
    """The boot of a disk by firmware that nothing is known of, without Secure Boot, hashed.

    Args:
        firmware: name of its file.

    Raises:
        FormatError: the disk does not parse, or has no boot program.
        MeasureError: something on it is not modelled.
    """
    with disk.open("rb") as file:
        event, stub = read_disk(file, disk.name)
    sources = SourceNames(firmware=firmware, variables=firmware, disk=disk.name)
    return prepare(
        BootInputs(
            firmware_code=b"",
            firmware_model=None,
            variables=(),
            gpt_event=event,
            stub=stub,
            sources=sources,
        )
    )


def read_disk(file: BinaryIO, source: str) -> tuple[bytes, StubInputs]:
    """What firmware measures of the partition table, and the UKI it starts with all that lies beside it.

    Raises:
        FormatError: the disk does not parse or has no ``EFI/BOOT/BOOTX64.EFI``.
        MeasureError: that file is no UKI but another boot loader.
    """
    table = gpt.read(file, source)
    esp = [partition for partition in table.partitions if partition.type_guid == gpt.TYPE_ESP]
    if len(esp) != 1:
        raise FormatError(source, f"{len(esp)} EFI system partitions, expected one")
    filesystem = FatFilesystem.open(file, esp[0].offset, f"{source} EFI system partition")
    uki = filesystem.file(BOOT_PATH)
    data, name = uki.read(), f"{source} {uki.path}"
    _check_uki(data, name)
    extra = f"{uki.path}.extra.d/"
    return gpt.event_data(file, source), StubInputs(
        name=name,
        uki=data,
        extra=_beside(filesystem, extra),
        global_addons=_beside(filesystem, ADDONS),
        global_credentials=_beside(filesystem, CREDENTIALS),
    )


def _check_uki(data: bytes, name: str) -> None:
    """Another boot loader decides by files and variables of its own what comes next."""
    image = PeImage.parse(data, name)
    missing = [section for section in (".sdmagic", ".linux") if image.section(section) is None]
    if missing:
        what = (
            f"no UKI, it has no section {missing[0]}; what shim, systemd-boot or GRUB starts is not modelled"
        )
        raise MeasureError(f"{name}: {what}; put the UKI itself there")


def _beside(filesystem: FatFilesystem, folder: str) -> tuple[SideFile, ...]:
    found = [file for path, file in filesystem.files.items() if path.upper().startswith(folder.upper())]
    nested = [file.path for file in found if "/" in file.path[len(folder) :]]
    if nested:
        raise MeasureError(f"{nested[0]}: a folder below {folder} is not modelled; remove it")
    return tuple(SideFile(file.path[len(folder) :], file.read()) for file in found)
