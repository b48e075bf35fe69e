"""``provision:REALM``: what Islet's tools take: signed metadata, reference values, warden's lines.

All of it speaks of the recipe's first machine.
"""

from __future__ import annotations

import shlex
import uuid
from dataclasses import dataclass
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
from . import applications, initramfs, kernel, keys

if TYPE_CHECKING:
    from ...golden.manifest import GoldenMachine
    from ...measure.trace import HashAlgorithm

TEMPLATE = ROOT / "templates" / "warden.txt.j2"


def metadata_path(realm: RealmImage) -> Path:
    """Path of the signed metadata."""
    return OUT / realm.folder / "metadata.bin"


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
    from ...golden import manifest_reader
    from ...golden.emit.islet_reference import RealmReference, dump
    from ...measure.islet import rem_sets
    from ...measure.trace import HashAlgorithm
    from ...sources import lock as locks

    measured = manifest_reader.load(golden.read_text(encoding="utf-8"), golden.name).machine(machine.name)
    algorithm = HashAlgorithm(machine.algorithm)
    rim = _rim(measured, algorithm)
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
    lines = _Lines(machine, uuid.UUID(identifier), realm, wanted, kernel, initrd)
    warden.write_text(lines.warden(), encoding="utf-8")
    lkvm.write_text(shlex.join(lines.lkvm(measurer=False)) + "\n", encoding="utf-8")
    measured_line.write_text(shlex.join(lines.lkvm(measurer=True)) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Lines:
    """The commands that start a realm, from the machine that was measured."""

    machine: KvmtoolMachine
    identifier: uuid.UUID
    realm: RealmSpec
    wanted: tuple[ApplicationSpec, ...]
    kernel: str
    initrd: str

    def warden(self) -> str:
        """What a user types into warden's client, with what comes of it."""
        import jinja2

        from ...vmm import warden

        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - lines for a terminal; the words are quoted already
        )
        files = warden.WardenFiles(kernel=self.kernel, initramfs=self.initrd, metadata="metadata.bin")
        made = [
            warden.WardenApplication(
                name=item.name,
                version=item.version,
                registry=self.realm.registry,
                image_size=item.image_size,
                data_size=item.data_size,
            )
            for item in self.wanted
        ]
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            create_realm=warden.create_realm(self.machine, self.identifier, files),
            create_applications=[warden.create_application(self.identifier, item) for item in made],
            start_realm=warden.start_realm(self.identifier),
        )

    def lkvm(self, *, measurer: bool) -> list[str]:
        """The command line that warden makes of them: as it is launched, or as the measurer takes it."""
        from ...vmm.kvmtool import render
        from ...vmm.kvmtool_parse import KvmtoolFiles

        files = KvmtoolFiles(
            kernel=self.kernel,
            initrd=self.initrd,
            disks=tuple(f"{item.name}.img" for item in self.wanted),
            flash=None,
            metadata="metadata.bin",
        )
        return render(self.machine, files, measurer=measurer)


def _rim(machine: GoldenMachine | None, algorithm: HashAlgorithm) -> bytes:
    value = machine.value("RIM", algorithm) if machine else None
    if value is None:
        raise ImageError("golden.json: has no RIM for the first machine; run the same command again")
    return value
