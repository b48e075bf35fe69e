"""``provision:REALM``: what Islet's tools take: signed metadata, reference values, warden's lines.

All of it speaks of the recipe's first machine.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ImageError
from ...machine import KvmtoolMachine
from ...schema import RealmImage
from ...schema.realm import ApplicationSpec, RealmSpec
from ..digests import ROOT
from ..golden import golden_path
from ..packages import resolved_lock
from ..seeds import derived_uuid
from ..task import OUT, Step
from ..templates import render
from . import applications, initramfs, kernel, keys
from .launch import command_line

if TYPE_CHECKING:
    from ...measure.trace import HashAlgorithm

TEMPLATE = ROOT / "templates" / "warden.txt.j2"


def products(realm: RealmImage) -> tuple[Path, ...]:
    """Manifest, signed metadata, reference values, warden's lines, and kvmtool's: launched, and measured."""
    folder = OUT / realm.folder
    names = ("metadata.yaml", "metadata.bin", "reference.json", "warden.txt", "lkvm.txt", "measure.txt")
    return tuple(folder / name for name in names)


def step(realm: RealmImage) -> Step:
    """The step that writes them."""
    recipe = realm.recipe
    return Step(
        basename="provision",
        image=realm,
        products=products(realm),
        inputs=(
            golden_path(realm),
            applications.facts(realm),
            resolved_lock(realm),
            keys.METADATA,
            TEMPLATE,
        ),
        build=build,
        arguments={
            "golden": golden_path(realm),
            "provisioned": applications.facts(realm),
            "lock": resolved_lock(realm),
            "machine": realm.provisioned,
            "realm": recipe.realm,
            "version": recipe.version,
            "identifier": str(derived_uuid(realm, "realm")),
            "kernel": kernel.image_path(realm).name,
            "initrd": initramfs.archive(realm).name,
            "wanted": recipe.applications,
        },
        doc="write metadata.yaml, metadata.bin, reference.json and the lines for warden",
    )


def build(
    manifest_yaml: Path,
    metadata: Path,
    reference: Path,
    warden: Path,
    lkvm: Path,
    measured_line: Path,
    *,
    golden: Path,
    provisioned: Path,
    lock: Path,
    machine: KvmtoolMachine,
    realm: RealmSpec,
    version: str,
    identifier: str,
    kernel: str,
    initrd: str,
    wanted: tuple[ApplicationSpec, ...],
) -> None:
    """Writes everything that is handed to Islet's tools."""
    from ...formats.islet_metadata import RealmManifest, RimAlgorithm, parse_version, sign
    from ...formats.islet_metadata import manifest_yaml as render_manifest
    from ...golden.emit.islet_reference import RealmReference, dump
    from ...measure.islet import rem_sets
    from ...measure.trace import HashAlgorithm
    from ...sources import lock as locks

    algorithm = HashAlgorithm(machine.algorithm)
    rim = _rim(golden, machine.name, algorithm)
    manifest = RealmManifest(
        realm_id=realm.id,
        version=parse_version(version),
        svn=realm.svn,
        rim=rim,
        algorithm=RimAlgorithm[algorithm.name],
    )
    manifest_yaml.write_text(render_manifest(manifest), encoding="utf-8")
    metadata.write_bytes(sign(manifest, keys.metadata_key()))
    extended = applications.read_facts(provisioned) if realm.manager.rem is not None else ()
    described = RealmReference(
        issuer_name=realm.issuer.name,
        issuer_url=realm.issuer.url,
        realm_uuid=uuid.UUID(identifier),
        name=realm.id,
        version=version,
        release_time=locks.load(lock).epoch,
        rim=rim,
        rem_sets=rem_sets(extended, algorithm, realm.manager.rem or 0),
        algorithm=algorithm,
        port=realm.port,
    )
    reference.write_text(dump(described), encoding="utf-8")
    warden.write_text(
        _warden_lines(machine, uuid.UUID(identifier), realm.registry, wanted, kernel, initrd),
        encoding="utf-8",
    )
    names = tuple(item.name for item in wanted)
    for target, measurer in ((lkvm, False), (measured_line, True)):
        line = command_line(machine, kernel, initrd, names, measurer=measurer)
        target.write_text(f"{line}\n", encoding="utf-8")


def _warden_lines(
    machine: KvmtoolMachine,
    identifier: uuid.UUID,
    registry: str,
    wanted: tuple[ApplicationSpec, ...],
    kernel: str,
    initrd: str,
) -> str:
    """What a user types into warden's client."""
    from ...vmm import warden

    files = warden.WardenFiles(kernel=kernel, initramfs=initrd, metadata="metadata.bin")
    made = [
        warden.WardenApplication(
            name=item.name,
            version=item.version,
            registry=registry,
            image_size=item.image_size,
            data_size=item.data_size,
        )
        for item in wanted
    ]
    return render(
        TEMPLATE,
        create_realm=warden.create_realm(machine, identifier, files),
        create_applications=[warden.create_application(identifier, item) for item in made],
        start_realm=warden.start_realm(identifier),
    )


def _rim(golden: Path, machine: str, algorithm: HashAlgorithm) -> bytes:
    from ...golden import manifest_reader

    manifest = manifest_reader.load(golden.read_text(encoding="utf-8"), golden.name)
    found = manifest.machine(machine)
    value = found.value("RIM", algorithm) if found else None
    if value is None:
        raise ImageError(f"golden.json: has no RIM for {machine}; run the same command again")
    return value
