"""``golden:IMAGE``: every register of every machine, replayed from the finished artefacts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..machine import QemuMachine
from ..reader import Marks
from ..schema import Buildable, DiskImage, Image
from . import disk, firmware, initramfs, kernel, launch, rootfs, uki, unlock_keys, unlock_policy, verity
from .digests import ROOT, read_sidecar
from .task import OUT, Step, say
from .volumes import Volume, is_signed, volumes

if TYPE_CHECKING:
    from ..golden.manifest import Artefact, GoldenMachine
    from ..golden.unlock import UnlockPolicy
    from ..golden.unlock_lint import Finding
    from ..measure.boot import PreparedBoot
    from ..measure.firmware import FirmwareModel
    from ..measure.ukifile import MeasuredUki

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


@dataclass(frozen=True)
class Predicted:
    """The golden entry of each machine, and the UKI that all of them boot."""

    machines: tuple[GoldenMachine, ...]
    uki: MeasuredUki


def step(image: DiskImage) -> Step:
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
    opened = volumes(image)
    signer = (unlock_keys.PUBLIC,) if unlock_policy.is_any_signed(opened) else ()
    return Step(
        basename="golden",
        image=image,
        products=(golden_path(image),),
        inputs=(*artefacts, *flashes, *captures, MODELS, *signer, *unlock_policy.provider_files(opened)),
        # A recipe whose lines only move stays up to date.
        build=partial(build, marks=marks(image)),
        arguments={
            "name": image.name,
            "version": image.recipe.version,
            "artefacts": artefacts,
            "files": files,
            "raw_disk": disk.raw_disk(image),
            "captures": captures,
            "opened": opened,
        },
        doc="compute the golden measurements of every machine",
    )


def artefact_paths(image: DiskImage) -> tuple[Path, ...]:
    """The products that a release ships, in the order in which they are made."""
    verified = (rootfs.filesystem(image), verity.hash_tree(image)) if isinstance(image, Image) else ()
    return (
        kernel.vmlinuz(image),
        initramfs.archive(image),
        *verified,
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
    opened: Sequence[Volume],
    marks: Marks,
) -> None:
    """Writes the golden manifest."""
    from ..golden.manifest import GoldenManifest, dump
    from ..golden.predict import UNMEASURED
    from ..golden.unlock_lint import lint

    predicted = predict(files, raw_disk, captures)
    insecure = tuple(item.machine.name for item in files if not item.machine.firmware.secure_boot)
    judged = [unlock_policy.judged(volume) for volume in opened]
    heed(lint(judged, predicted.machines, insecure=insecure), marks)
    manifest = GoldenManifest(
        image=name,
        version=version,
        artefacts=tuple(artefact(path) for path in artefacts),
        machines=predicted.machines,
        unmeasured=UNMEASURED,
        unlock=unlock_policies(opened, predicted, insecure),
    )
    target.write_text(dump(manifest), encoding="utf-8")


def marks(image: Buildable) -> Marks:
    """Where the recipe's values stand, for problems that are only found now."""
    path = image.path
    where = (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()
    return Marks(where, places=dict(image.places))


def heed(findings: tuple[Finding, ...], marks: Marks) -> None:
    """Prints warnings.

    Raises:
        SpecError: there are errors: all of them.
    """
    from ..golden.unlock_lint import Severity

    errors, warnings = (Marks(marks.path, places=marks.places) for _ in range(2))
    for finding in findings:
        noted = errors if finding.severity is Severity.ERROR else warnings
        noted.add(finding.key, finding.message)
    errors.raise_problems()
    for problem in sorted(warnings.problems):
        say(f"  warning: {problem}")


def unlock_policies(
    opened: Sequence[Volume], predicted: Predicted, insecure: Sequence[str]
) -> tuple[UnlockPolicy, ...]:
    """What the TPM demands before it gives the keys of volumes.

    Raises:
        VerifyError: the UKI does not carry exactly the signatures that the predicted boots need.
    """
    from ..golden import unlock_predict

    found = []
    for volume in opened:
        policy = unlock_policy.tpm_policy(volume.unlock)
        if policy is None:
            continue
        public = unlock_keys.PUBLIC.read_bytes() if is_signed(volume.unlock) else None
        signer = None if public is None else unlock_keys.policy_signer(public)
        item = unlock_predict.unlock_policy(
            volume.name, policy, predicted.machines, signer=signer, insecure=insecure
        )
        if public is not None:
            entries = unlock_policy.signatures_of(predicted.uki, public)
            unlock_predict.check_approved(item, entries, f"{predicted.uki.name} .pcrsig")
        found.append(item)
    return tuple(found)


def predict(files: tuple[MachineFiles, ...], raw_disk: Path, captures: tuple[Path, ...]) -> Predicted:
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
    (first, _), *_ = prepared.values()
    return Predicted(tuple(machines), first.stub.uki)


def artefact(path: Path) -> Artefact:
    """A finished product as the manifest names it."""
    from ..golden.manifest import Artefact

    size, digest = read_sidecar(path)
    return Artefact(name=path.name, size=size, sha256=digest)
