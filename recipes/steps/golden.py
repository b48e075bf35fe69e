"""``golden:IMAGE``: every register of every machine, replayed from the finished artefacts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..machine import QemuMachine
from ..schema import Buildable, Image
from . import disk, firmware, initramfs, kernel, launch, rootfs, uki, verity
from .digests import ROOT, read_sidecar
from .task import OUT, Step

if TYPE_CHECKING:
    from ..golden.manifest import Artefact, GoldenMachine
    from ..measure.boot import PreparedBoot
    from ..measure.firmware import FirmwareModel

MODELS = ROOT / "recipes" / "vmm" / "firmware.json"


def golden_path(image: Buildable) -> Path:
    """Path of the golden manifest."""
    return OUT / image.folder / "golden.json"


@dataclass(frozen=True, kw_only=True)
class MachineFiles:
    """What one machine is launched from."""

    machine: QemuMachine
    code: Path
    variables: Path
    launch: str


def step(image: Image) -> Step:
    """The step that predicts."""
    files = tuple(
        MachineFiles(
            machine=machine,
            code=firmware.code_path(image, machine.firmware),
            variables=firmware.variables_path(image, machine.firmware),
            launch=launch.script_path(image, machine).name,
        )
        for machine in image.machines
    )
    flashes = dict.fromkeys(path for item in files for path in (item.code, item.variables))
    artefacts = artefact_paths(image)
    captures = (image.captures_path,) if image.captures_path.exists() else ()
    return Step(
        basename="golden",
        image=image,
        products=(golden_path(image),),
        inputs=(*artefacts, *flashes, *captures, MODELS),
        build=build,
        arguments={
            "name": image.name,
            "version": image.recipe.version,
            "artefacts": artefacts,
            "files": files,
            "raw_disk": disk.raw_disk(image),
            "captures": captures,
        },
        doc="compute the golden measurements of every machine",
    )


def artefact_paths(image: Image) -> tuple[Path, ...]:
    """The products that a release ships, in the order in which they are made."""
    return (
        kernel.vmlinuz(image),
        initramfs.archive(image),
        rootfs.filesystem(image),
        verity.hash_tree(image),
        uki.uki_path(image),
        disk.raw_disk(image),
    )


def build(
    target: Path,
    *,
    name: str,
    version: str,
    artefacts: tuple[Path, ...],
    files: tuple[MachineFiles, ...],
    raw_disk: Path,
    captures: tuple[Path, ...],
) -> None:
    """Writes the golden manifest."""
    from ..golden.manifest import GoldenManifest, dump
    from ..golden.predict import UNMEASURED

    manifest = GoldenManifest(
        image=name,
        version=version,
        artefacts=tuple(artefact(path) for path in artefacts),
        machines=predict(files, raw_disk, captures),
        unmeasured=UNMEASURED,
    )
    target.write_text(dump(manifest), encoding="utf-8")


def predict(
    files: tuple[MachineFiles, ...], raw_disk: Path, captures: tuple[Path, ...]
) -> tuple[GoldenMachine, ...]:
    """The golden entry of each machine; what machines share is read and hashed once."""
    from ..golden.predict import golden_machine
    from ..measure.boot import replay_boot
    from ..measure.uefi import AcpiTables
    from ..vmm import captures as stored
    from .boot_inputs import read_boot
    from .models import load_models, read_captures

    known = read_captures(captures)
    digests = {item.code: hashlib.sha256(item.code.read_bytes()).digest() for item in files}
    found = [stored.find(known, item.machine, code_sha256=digests[item.code]) for item in files]
    words = [(item.machine, capture) for item, capture in zip(files, found, strict=True) if capture]
    models = load_models(words)
    prepared: dict[tuple[Path, Path], tuple[PreparedBoot, FirmwareModel | None]] = {}
    machines = []
    for item, capture in zip(files, found, strict=True):
        key = (item.code, item.variables)
        if key not in prepared:
            prepared[key] = read_boot(item.code, item.variables, raw_disk, models)
        boot, model = prepared[key]
        tables = AcpiTables(capture.table_loader, capture.rsdp, capture.tables) if capture else None
        prediction = replay_boot(item.machine, boot, tables)
        vmm = f"qemu {capture.qemu_version}" if capture else "qemu"
        machines.append(golden_machine(item.machine, prediction, model, vmm=vmm, launch=item.launch))
    return tuple(machines)


def artefact(path: Path) -> Artefact:
    """A finished product as the manifest names it."""
    from ..golden.manifest import Artefact

    size, digest = read_sidecar(path)
    return Artefact(name=path.name, size=size, sha256=digest)
