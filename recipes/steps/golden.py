"""``golden:IMAGE``: every register of every machine, replayed from the finished artefacts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..machine import QemuMachine
from ..reader import Marks
from ..record import dataclass, replace
from ..schema import Buildable, DiskImage, Image
from ..schema.golden import WildcardSpec
from . import (
    firmware,
    golden_snp,
    initramfs,
    kernel,
    launch,
    rootfs,
    uki,
    unlock_keys,
    unlock_policy,
    verity,
    workload,
)
from .digests import ROOT, read_sidecar
from .disk_formats import other_sizes, shipped_disks, virtual_sizes
from .places import marks
from .task import OUT, Step, say
from .volumes import Volume, is_signed, volumes

if TYPE_CHECKING:
    from ..golden.manifest import Artefact, GoldenMachine, ShippedDisk, Wildcard
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
    """The golden entry of each machine, those with SEV-SNP apart, and the UKI that all of them boot."""

    machines: tuple[GoldenMachine, ...]
    uki: MeasuredUki
    snp: tuple[GoldenMachine, ...] = ()


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
    snp = golden_snp.snp_files(image)
    signer = (unlock_keys.PUBLIC,) if unlock_policy.is_any_signed(opened) else ()
    return Step(
        basename="golden",
        image=image,
        products=(golden_path(image),),
        inputs=tuple(
            dict.fromkeys(
                (
                    *artefacts,
                    *flashes,
                    *golden_snp.inputs(snp),
                    *captures,
                    MODELS,
                    *signer,
                    *unlock_policy.provider_files(opened),
                )
            )
        ),
        # A recipe whose lines only move stays up to date.
        build=partial(build, marks=marks(image)),
        arguments={
            "name": image.name,
            "version": image.recipe.version,
            "artefacts": artefacts,
            "files": files,
            "disks": shipped_disks(image),
            "wildcards": image.recipe.golden.wildcards,
            "captures": captures,
            "opened": opened,
            "measured": workload.measured(image),
            "snp": snp,
        },
        doc="compute the golden measurements of every machine",
    )


def _with_workload(predicted: Predicted, measured: workload.Measured) -> Predicted:
    """The prediction with the workload's register on every machine whose TPM is predicted."""
    from ..golden.sev import with_workload_of_host
    from ..golden.workload import with_workload
    from ..measure.userspace import workload_step

    step = workload_step(measured.register, measured.name, measured.manifest.read_bytes())
    return replace(
        predicted,
        machines=tuple(with_workload(machine, step) for machine in predicted.machines),
        snp=tuple(with_workload_of_host(machine, step) for machine in predicted.snp),
    )


def _unmeasured(measured: workload.Measured | None) -> tuple[str, ...]:
    from ..golden.workload import unmeasured

    if measured is None:
        return ()
    return unmeasured(verified=measured.verified, secrets=measured.secrets)


def artefact_paths(image: DiskImage) -> tuple[Path, ...]:
    """The products that a release ships, in the order in which they are made."""
    verified = (rootfs.filesystem(image), verity.hash_tree(image)) if isinstance(image, Image) else ()
    return (
        kernel.vmlinuz(image),
        initramfs.archive(image),
        *verified,
        *workload.artefacts(image),
        uki.uki_path(image),
        *(path for _, path in shipped_disks(image)),
    )


def build(
    target: Path,
    *,
    name: str,
    version: str,
    artefacts: tuple[Path, ...],
    files: tuple[MachineFiles, ...],
    disks: tuple[tuple[str, Path], ...],
    wildcards: tuple[WildcardSpec, ...],
    captures: tuple[Path, ...],
    opened: Sequence[Volume],
    marks: Marks,
    measured: workload.Measured | None = None,
    snp: tuple[golden_snp.SnpFiles, ...] = (),
) -> None:
    """Writes the golden manifest.

    Args:
        disks: format and file of each, the raw one first.
    """
    from ..golden.disk_lint import lint_disks, lint_wildcards
    from ..golden.manifest import GoldenManifest, Wildcard, dump
    from ..golden.predict import UNMEASURED
    from ..golden.sev import SNP_UNMEASURED
    from ..golden.unlock_lint import lint

    (_, raw_disk), *_ = disks
    shipped = virtual_sizes(disks)
    predicted = replace(
        predict(files, raw_disk, captures, shipped), snp=golden_snp.predict(snp, raw_disk, shipped)
    )
    if measured is not None:
        predicted = _with_workload(predicted, measured)
    insecure = tuple(item.machine.name for item in files if not item.machine.firmware.secure_boot)
    judged = [unlock_policy.judged(volume) for volume in opened]
    ignored = tuple(
        Wildcard(register=item.register, event=item.event, reason=item.reason) for item in wildcards
    )
    findings = (
        *lint(judged, predicted.machines, insecure=insecure),
        *lint_disks(shipped, predicted.machines, judged),
        *lint_wildcards(ignored, judged),
    )
    check_wildcards(ignored, predicted.machines, marks)
    heed(findings, marks)
    manifest = GoldenManifest(
        image=name,
        version=version,
        artefacts=tuple(artefact(path) for path in artefacts),
        machines=(*predicted.machines, *predicted.snp),
        unmeasured=(*UNMEASURED, *_unmeasured(measured), *(SNP_UNMEASURED if predicted.snp else ())),
        unlock=unlock_policies(opened, predicted, insecure),
        disks=shipped,
        wildcards=ignored,
    )
    target.write_text(dump(manifest), encoding="utf-8")


def check_wildcards(wildcards: Sequence[Wildcard], machines: Sequence[GoldenMachine], marks: Marks) -> None:
    """Returns if each wildcard is for one predicted event that need not be compared.

    Raises:
        SpecError: one is not.
    """
    from ..golden.wildcards import problems

    noted = Marks(marks.path, places=marks.places)
    for number, what in problems(wildcards, machines):
        noted.add(("golden", "wildcards", number), what)
    noted.raise_problems()


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
    from ..golden.sev import without_keys

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
        found.append(without_keys(item, predicted.snp))
    return tuple(found)


def predict(
    files: tuple[MachineFiles, ...],
    raw_disk: Path,
    captures: tuple[Path, ...],
    shipped: Sequence[ShippedDisk] = (),
) -> Predicted:
    """The golden entry of each machine; what machines share is read and hashed once.

    Args:
        shipped: disks as they ship; those of another size than the raw one are predicted too.
    """
    from ..golden.predict import DiskPrediction, golden_machine
    from ..measure.boot import replay_boot, with_disk
    from ..measure.uefi import AcpiTables
    from ..vmm import captures as stored
    from .boot_inputs import read_boot
    from .models import load_models, read_captures

    known = read_captures(captures)
    digests = {item.code: hashlib.sha256(item.code.read_bytes()).digest() for item in files}
    found = [stored.find(known, item.machine, code_sha256=digests[item.code]) for item in files]
    words = [(item.machine, capture) for item, capture in zip(files, found, strict=True) if capture]
    models = load_models(words)
    others = other_sizes(raw_disk, shipped)
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
        disks = [
            DiskPrediction(
                other.size,
                other.formats,
                replay_boot(item.machine, with_disk(boot, other.gpt_event, other.source), tables),
            )
            for other in others
        ]
        machines.append(
            golden_machine(item.machine, prediction, model, vmm=vmm, launch=item.launch, disks=disks)
        )
    (first, _), *_ = prepared.values()
    return Predicted(tuple(machines), first.stub.uki)


def artefact(path: Path) -> Artefact:
    """A finished product as the manifest names it."""
    from ..golden.manifest import Artefact

    size, digest = read_sidecar(path)
    return Artefact(name=path.name, size=size, sha256=digest)
