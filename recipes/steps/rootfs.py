"""``rootfs:IMAGE``: packages, configuration and overlays as one read-only EROFS image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..record import replace
from ..schema import Image, RootfsSpec
from . import attest, helpers, kernel, workload_system
from .digests import ROOT
from .packages import resolved_lock
from .private_keys import own_keys
from .seeds import derived_uuid
from .task import OUT, Step, source_files, tree_fingerprint
from .unpack import unpacked
from .volumes import volumes

if TYPE_CHECKING:
    from ..formats.tree import FileTree

# The overlay with the service that raises the counter, and the service's name.
COUNTER = "rollback-counter"
# Where the data partition is mounted.
MOUNT_POINT = "var"


def filesystem(image: Image) -> Path:
    """Path of the root file system."""
    return OUT / image.name / "rootfs.erofs"


def skeleton(image: Image) -> Path:
    """Path of what the image has at the data partition's mount point, a tar archive."""
    return OUT / image.name / "skeleton.tar"


def keeps_skeleton(image: Image) -> bool:
    """Whether the data partition comes with the image and has the skeleton in it."""
    return any(volume.is_built for volume in volumes(image))


def counts_releases(image: Image) -> bool:
    """Whether older releases may not open the data any more."""
    tpm2 = image.recipe.data.tpm2
    return tpm2 is not None and tpm2.release > 0


def step(image: Image) -> Step:
    """The step that makes the root file system."""
    spec = image.recipe.rootfs
    programs: tuple[Path, ...] = ()
    if counts_releases(image):
        # After a good boot the system raises the counter that keeps older releases out.
        programs = (helpers.helpers_path(image),)
        overlays = (*spec.overlays, COUNTER)
        spec = replace(spec, overlays=overlays, enable=(*spec.enable, f"{COUNTER}.service"))
    spec = attest.with_attest(image, workload_system.with_workload(image, spec))
    if image.recipe.attest is not None:
        programs = (helpers.helpers_path(image),)
    folders = [ROOT / "rootfs" / name for name in spec.overlays]
    return Step(
        basename="rootfs",
        image=image,
        products=(filesystem(image), *((skeleton(image),) if keeps_skeleton(image) else ())),
        inputs=(
            resolved_lock(image),
            kernel.package_files(image),
            kernel.kernel_facts(image),
            *programs,
            *attest.inputs(image),
            *source_files(*folders),
        ),
        build=build,
        arguments={
            "image": image.name,
            "version": image.recipe.version,
            "spec": spec,
            "programs": programs,
            "lock": resolved_lock(image),
            "kernel_files": kernel.package_files(image),
            "facts": kernel.kernel_facts(image),
            "uuid": str(derived_uuid(image, "rootfs")),
            "settings": workload_system.settings(image),
            "attested": attest.attested(image),
        },
        fingerprint=tree_fingerprint(*folders),
        doc="unpack the packages, configure them and write the root file system (EROFS)",
    )


def build(
    target: Path,
    *skeletons: Path,
    image: str,
    version: str,
    spec: RootfsSpec,
    programs: tuple[Path, ...],
    lock: Path,
    kernel_files: Path,
    facts: Path,
    uuid: str,
    settings: tuple[tuple[str, str], ...] = (),
    attested: attest.Attested | None = None,
) -> None:
    """Writes the root file system."""
    from uuid import UUID

    from ..formats import erofs
    from ..formats.oci_tar import write_tar
    from ..sources import lock as locks
    from ..sources.configure import SystemSpec, configure
    from ..sources.overlay import lay_over, read_overlay
    from ..sources.secrets import refuse_secrets

    epoch = locks.load(lock).epoch
    system = SystemSpec(
        hostname=spec.hostname,
        enable=spec.enable,
        mask=spec.mask,
        default_target=spec.default_target,
        os_release=(("IMAGE_ID", image), ("IMAGE_VERSION", version)),
        epoch=epoch,
    )
    with unpacked(lock, "rootfs", target, spec.exclude) as (tree, packages):
        modules = kernel.module_directory(kernel_files, facts).select(spec.modules)
        for path, node in modules.nodes.items():
            tree.nodes.setdefault(path, node)
        tree = lay_over(tree, [read_overlay(ROOT / "rootfs" / name, name) for name in spec.overlays])
        for helper in programs:
            tree.add_file(f"{helpers.FOLDER}/tpm2", helpers.read_helpers(helper)["tpm2"], 0o755)
        if settings:
            lines = "".join(f"{key}={value}\n" for key, value in settings)
            tree.add_file(workload_system.SETTINGS, lines.encode(), source="the recipe")
        if attested is not None:
            attest.add_settings(tree, attested)
        configure(tree, packages, system)
        refuse_secrets(tree, "root file system", own_keys())
        for archive in skeletons:
            with archive.open("wb") as out:
                write_tar(_below(tree, MOUNT_POINT), out, epoch=epoch)
        with target.open("wb") as out:
            erofs.write(tree, out, epoch=epoch, uuid=UUID(uuid), label=image[:15])


def _below(tree: FileTree, path: str) -> FileTree:
    """A folder of a tree as a tree of its own."""
    from ..formats.tree import FileTree

    found = FileTree()
    found[""] = tree[path]
    prefix = f"{path}/"
    for name, node in tree.sorted():
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = node
    return found
