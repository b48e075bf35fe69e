"""``firmware:IMAGE``: the firmware its machines start from, and variable stores with the keys enrolled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from ..errors import SpecError
from ..machine import SnpFirmware, UefiFirmware
from ..schema import DiskImage, SharedFirmware, load_firmware
from . import keys
from .digests import ROOT
from .packages import FIRMWARE_GROUP, resolved_lock
from .seeds import derived_uuid
from .task import OUT, Step
from .unpack import unpacked


def firmware_files(image: DiskImage) -> tuple[str, ...]:
    """Names of the firmware files that the image's machines use, each once."""
    return tuple(name for _, names in _sources(image) for name in names)


def firmware_lock(image: DiskImage, firmware: SnpFirmware) -> Path:
    """Path of the lock that firmware comes from: the image's, or that of a recipe which images share."""
    return resolved_lock(_shared(firmware.recipe)) if firmware.recipe else resolved_lock(image)


def shared_firmware(image: DiskImage) -> tuple[SharedFirmware, ...]:
    """The recipes of firmware that the image's machines use and other images may too, each once."""
    names = {machine.firmware.recipe for machine in image.snp}
    return tuple(_shared(name) for name in sorted(names) if name)


def _shared(name: str) -> SharedFirmware:
    return load_firmware(ROOT / "recipes" / "firmware" / f"{name}.yaml", ROOT)


def _sources(image: DiskImage) -> tuple[tuple[Path, tuple[str, ...]], ...]:
    """Locks, and the files that are taken out of the packages of each; the image's own lock is the first."""
    own = {name for machine in image.machines for name in (machine.firmware.code, machine.firmware.vars)}
    found = {resolved_lock(image): own}
    for machine in image.snp:
        found.setdefault(firmware_lock(image, machine.firmware), set()).add(machine.firmware.file)
    return tuple((lock, tuple(sorted(names))) for lock, names in found.items() if names)


def code_path(image: DiskImage, firmware: UefiFirmware | SnpFirmware) -> Path:
    """Path of a firmware's code flash, or of the one file that it is."""
    name = firmware.file if isinstance(firmware, SnpFirmware) else firmware.code
    return OUT / image.name / "firmware" / name


def variables_path(image: DiskImage, firmware: UefiFirmware) -> Path:
    """Path of the variable store a machine starts with: the package's, or ours with keys enrolled."""
    folder = OUT / image.name / "firmware"
    return folder / (f"secure-boot.{firmware.vars}" if firmware.secure_boot else firmware.vars)


def steps(image: DiskImage) -> tuple[Step, ...]:
    """The step that unpacks firmware, and the one that enrols keys where a machine wants Secure Boot."""
    folder = OUT / image.name / "firmware"
    unpack = Step(
        basename="firmware",
        image=image,
        products=tuple(folder / name for name in firmware_files(image)),
        inputs=tuple(lock for lock, _ in _sources(image)),
        build=build,
        arguments={"sources": _sources(image)},
        doc="take the firmware of the machines out of its package",
    )
    enrolled = sorted({machine.firmware.vars for machine in image.machines if machine.firmware.secure_boot})
    certificates = tuple(keys.certificate_path(role) for role in keys.ROLES)
    enrol = Step(
        basename="variables",
        image=image,
        products=tuple(folder / f"secure-boot.{name}" for name in enrolled),
        inputs=(*(folder / name for name in enrolled), *certificates),
        build=build_variables,
        arguments={
            "templates": [folder / name for name in enrolled],
            "owner": str(derived_uuid(image, "owner")),
        },
        doc="write the variable store with the Secure Boot keys enrolled",
    )
    return (unpack, enrol) if enrolled else (unpack,)


def build(*targets: Path, sources: tuple[tuple[Path, tuple[str, ...]], ...]) -> None:
    """Writes the firmware files.

    Args:
        sources: locks, and names of the files out of the packages of each.
    """
    left = list(targets)
    for lock, names in sources:
        _take(lock, names, left[: len(names)])
        del left[: len(names)]


def _take(lock: Path, names: Sequence[str], targets: Sequence[Path]) -> None:
    with unpacked(lock, FIRMWARE_GROUP, targets[0]) as (tree, packages):
        for name, target in zip(names, targets, strict=True):
            node = next((node for path, node in tree.sorted() if path.rpartition("/")[2] == name), None)
            if node is None or node.payload is None:
                shipped = ", ".join(package.name for package in packages)
                raise SpecError(f"firmware: no file {name} in {shipped}; name another firmware in the recipe")
            with target.open("wb") as out:
                out.writelines(node.payload.chunks())


def build_variables(*targets: Path, templates: list[Path], owner: str) -> None:
    """Writes the variable stores with PK, KEK and db enrolled and Secure Boot switched on."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from ..formats import secureboot_keys, varstore

    pem = {role: keys.certificate_path(role).read_bytes() for role in keys.ROLES}
    der = [
        secureboot_keys.load_certificate(data, f"keys/{role}.pem").public_bytes(Encoding.DER)
        for role, data in pem.items()
    ]
    for template, target in zip(templates, targets, strict=True):
        variables = varstore.secure_boot_variables(UUID(owner), pk=der[0], kek=(der[1],), db=(der[2],))
        target.write_bytes(varstore.write(template.read_bytes(), variables))
