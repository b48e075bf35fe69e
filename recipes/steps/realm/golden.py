"""``golden:REALM``: the RIM of every machine, and the REMs of the applications in every order."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

from ...machine import KvmtoolMachine
from ...schema import RealmImage
from ..blobs import FileBlob
from ..digests import read_sidecar
from ..golden import golden_path
from ..task import Step
from . import applications, initramfs, kernel

if TYPE_CHECKING:
    from ...golden.manifest import GoldenMachine
    from ...measure.islet import ProvisionedApplication, RemPrediction
    from ...measure.trace import HashAlgorithm


def step(realm: RealmImage) -> Step:
    """The step that predicts."""
    names = [f"{item.name}.img" for item in realm.recipe.applications]
    return Step(
        basename="golden",
        image=realm,
        products=(golden_path(realm),),
        inputs=(kernel.image_path(realm), initramfs.archive(realm), applications.facts(realm)),
        build=build,
        arguments={
            "name": realm.name,
            "version": realm.recipe.version,
            "kernel": kernel.image_path(realm),
            "initrd": initramfs.archive(realm),
            "provisioned": applications.facts(realm),
            "disks": names,
            "machines": realm.machines,
            "rem": realm.recipe.realm.manager.rem,
            "extended": realm.recipe.realm.manager.binary is not None,
        },
        doc="compute the RIM of every machine and the REMs of the applications",
    )


def build(
    target: Path,
    *,
    name: str,
    version: str,
    kernel: Path,
    initrd: Path,
    provisioned: Path,
    disks: list[str],
    machines: tuple[KvmtoolMachine, ...],
    rem: int | None,
    extended: bool,
) -> None:
    """Writes the golden manifest."""
    from ...golden.manifest import Artefact, GoldenManifest, dump
    from ...golden.realm import UNMEASURED

    artefacts = []
    for path in (kernel, initrd):
        size, digest = read_sidecar(path)
        artefacts.append(Artefact(name=path.name, size=size, sha256=digest))
    manifest = GoldenManifest(
        image=name,
        version=version,
        artefacts=tuple(artefacts),
        machines=predict(
            machines, kernel, initrd, applications.read_facts(provisioned), disks, rem, extended=extended
        ),
        unmeasured=UNMEASURED,
    )
    target.write_text(dump(manifest), encoding="utf-8")


def predict(
    machines: tuple[KvmtoolMachine, ...],
    kernel: Path,
    initrd: Path,
    provisioned: tuple[ProvisionedApplication, ...],
    disks: list[str],
    rem: int | None,
    *,
    extended: bool,
) -> tuple[GoldenMachine, ...]:
    """The golden entry of each machine; the files they share are hashed once for each algorithm."""
    import shlex

    from ...golden.realm import golden_realm
    from ...measure.kvmtool import replay
    from ...measure.realm_launch import Replayer
    from ...measure.trace import HashAlgorithm
    from ...vmm.kvmtool import render
    from ...vmm.kvmtool_parse import KvmtoolFiles

    blobs = FileBlob.of(kernel), FileBlob.of(initrd)
    files = KvmtoolFiles(
        kernel=kernel.name, initrd=initrd.name, disks=tuple(disks), flash=None, metadata="metadata.bin"
    )
    replayers: dict[HashAlgorithm, Replayer] = {}
    found = []
    for machine in machines:
        algorithm = HashAlgorithm(machine.algorithm)
        replayer = replayers.setdefault(algorithm, Replayer(algorithm))
        prediction = replay(machine, *blobs, replayer=replayer)
        launch = shlex.join(render(machine, files, measurer=False))
        rems = rem_rows(provisioned, algorithm, rem)
        found.append(golden_realm(machine, prediction, launch=launch, rems=rems, extended=extended))
    return tuple(found)


def rem_rows(
    provisioned: tuple[ProvisionedApplication, ...], algorithm: HashAlgorithm, rem: int | None
) -> tuple[tuple[str, RemPrediction], ...]:
    """The REM after provisioning, by name: the applications in each order that warden may take."""
    from ...measure.islet import rem_after

    if rem is None:
        return ()
    return tuple(
        (f"REM{rem}:{'+'.join(item.name for item in order)}", rem_after(order, algorithm, rem))
        for order in permutations(provisioned)
        if order
    )
