"""``golden:REALM``: the RIM of every machine, and the REMs of the applications in every order."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

from ...machine import KvmtoolMachine
from ...schema import RealmImage
from ..blobs import FileBlob
from ..golden import artefact, golden_path
from ..task import Step
from . import applications as apps
from . import initramfs, kernel
from .applications import read_facts
from .launch import command_line

if TYPE_CHECKING:
    from ...golden.manifest import GoldenMachine
    from ...measure.islet import ProvisionedApplication, RemPrediction
    from ...measure.trace import HashAlgorithm


def step(realm: RealmImage) -> Step:
    """The step that predicts."""
    return Step(
        basename="golden",
        image=realm,
        products=(golden_path(realm),),
        inputs=(kernel.image_path(realm), initramfs.archive(realm), apps.facts(realm)),
        build=build,
        arguments={
            "name": realm.name,
            "version": realm.recipe.version,
            "kernel": kernel.image_path(realm),
            "initrd": initramfs.archive(realm),
            "provisioned": apps.facts(realm),
            "applications": tuple(item.name for item in realm.recipe.applications),
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
    applications: tuple[str, ...],
    machines: tuple[KvmtoolMachine, ...],
    rem: int | None,
    extended: bool,
) -> None:
    """Writes the golden manifest."""
    from ...golden.manifest import GoldenManifest, dump
    from ...golden.realm import UNMEASURED

    manifest = GoldenManifest(
        image=name,
        version=version,
        artefacts=(artefact(kernel), artefact(initrd)),
        machines=predict(
            machines, kernel, initrd, read_facts(provisioned), applications, rem, extended=extended
        ),
        unmeasured=UNMEASURED,
    )
    target.write_text(dump(manifest), encoding="utf-8")


def predict(
    machines: tuple[KvmtoolMachine, ...],
    kernel: Path,
    initrd: Path,
    provisioned: tuple[ProvisionedApplication, ...],
    applications: tuple[str, ...],
    rem: int | None,
    *,
    extended: bool,
) -> tuple[GoldenMachine, ...]:
    """The golden entry of each machine; the files they share are hashed once for each algorithm."""
    from ...golden.realm import golden_realm
    from ...measure.kvmtool import replay
    from ...measure.realm_launch import Replayer
    from ...measure.trace import HashAlgorithm

    blobs = FileBlob.of(kernel), FileBlob.of(initrd)
    replayers: dict[HashAlgorithm, Replayer] = {}
    found = []
    for machine in machines:
        algorithm = HashAlgorithm(machine.algorithm)
        replayer = replayers.setdefault(algorithm, Replayer(algorithm))
        prediction = replay(machine, *blobs, replayer=replayer)
        launch = command_line(machine, kernel.name, initrd.name, applications, measurer=False)
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
