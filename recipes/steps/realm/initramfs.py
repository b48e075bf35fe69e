"""``initramfs:REALM``: the realm's whole system, a gzip-compressed cpio archive that is the same anywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import SpecError
from ...schema import ApplicationSpec, RealmImage, SharedKernel
from ...schema.realm import FileSpec, ManagerSpec
from .. import kernel as shared
from ..archive import write_archive
from ..digests import ROOT
from ..packages import resolved_lock
from ..task import OUT, Step, source_files, tree_fingerprint
from ..templates import render
from ..unpack import unpacked
from . import applications

if TYPE_CHECKING:
    from ...sources.realm_initramfs import RealmInitramfsSpec

SCRIPTS = ROOT / "initrd" / "realm"
TEMPLATES = ROOT / "templates" / "realm"


def archive(realm: RealmImage) -> Path:
    """Path of the initramfs."""
    return OUT / realm.folder / "initramfs.cpio.gz"


def step(realm: RealmImage, kernel: SharedKernel) -> Step:
    """The step that makes the initramfs."""
    recipe = realm.recipe
    manager = recipe.realm.manager
    given = [ROOT / item.path for item in manager.files if (ROOT / item.path).is_file()]
    return Step(
        basename="initramfs",
        image=realm,
        products=(archive(realm),),
        inputs=(
            resolved_lock(realm),
            shared.package_files(kernel),
            shared.kernel_facts(kernel),
            applications.root_ca(realm),
            *source_files(SCRIPTS, TEMPLATES),
            *given,
        ),
        build=build,
        arguments={
            "lock": resolved_lock(realm),
            "kernel_files": shared.package_files(kernel),
            "facts": shared.kernel_facts(kernel),
            "root_ca": applications.root_ca(realm),
            "modules": recipe.initramfs.modules,
            "manager": manager,
            "registry": recipe.realm.registry,
            "wanted": recipe.applications,
        },
        fingerprint=tree_fingerprint(SCRIPTS, TEMPLATES),
        doc="assemble the realm's initramfs: init, application manager, programs, kernel modules",
    )


def build(
    target: Path,
    *,
    lock: Path,
    kernel_files: Path,
    facts: Path,
    root_ca: Path,
    modules: tuple[str, ...],
    manager: ManagerSpec,
    registry: str,
    wanted: tuple[ApplicationSpec, ...],
) -> None:
    """Writes the initramfs."""
    from ...formats import gzip
    from ...sources import lock as locks
    from ...sources import realm_initramfs
    from ...sources.debs import read_spool

    told = wanted if manager.binary is None else ()
    spec = realm_initramfs.RealmInitramfsSpec(
        kernel_release=shared.release_of(facts),
        modules=modules,
        applications=tuple(
            realm_initramfs.RealmApplication(
                name=item.name, version=item.version, registry=registry, disk=disk
            )
            for disk, item in enumerate(told)
        ),
        manager=_read(manager.binary),
        config=manager.config,
        root_ca=root_ca.read_bytes(),
        rsi_module=_read(manager.rsi_module),
        registry_ca=_read(manager.registry_ca),
        token=_read(manager.token),
    )
    files = {path.relative_to(SCRIPTS).as_posix(): path.read_bytes() for path in source_files(SCRIPTS)}
    with unpacked(lock, "initramfs", target) as (tree, _):
        result = realm_initramfs.assemble(
            tree, read_spool(kernel_files, "kernel"), spec, files, _rendered(spec)
        )
        write_archive(result, target, epoch=locks.load(lock).epoch, compress=gzip.compress_gzip)


def _read(file: FileSpec | None) -> bytes | None:
    """A file that the recipe names, which must be the one it means.

    Raises:
        SpecError: it is not there, or has another digest.
    """
    if file is None:
        return None
    path = ROOT / file.path
    if not path.is_file():
        raise SpecError(f"{file.path}: there is no such file; the recipe's realm.manager names it")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        what = f"has sha256 {digest}, the recipe's realm.manager has {file.sha256}"
        raise SpecError(f"{file.path}: {what}; find out which is right")
    return data


def _rendered(spec: RealmInitramfsSpec) -> dict[str, bytes]:
    """The files that follow from the recipe."""
    return {
        name: render(TEMPLATES / f"{name}.j2", config=spec.config, applications=spec.applications).encode()
        for name in spec.rendered
    }
