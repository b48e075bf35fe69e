"""``workload:IMAGE``: the workload's partition, its hash tree where it is verified, and its manifest."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..record import dataclass
from ..schema import DiskImage, Image
from ..schema.workload import (
    COMPOSE_FILE,
    RESETTABLE_REGISTER,
    SecretsPolicy,
    WorkloadImageSpec,
    WorkloadSpec,
)
from . import verity
from .digests import ROOT
from .packages import resolved_lock, workload_group
from .private_keys import own_keys
from .seeds import derived_salt, derived_uuid
from .task import OUT, Step, say, source_files, tree_fingerprint
from .unpack import unpacked

if TYPE_CHECKING:
    from ..formats.tree import FileTree
    from ..sources.workload import WorkloadFolder
    from ..sources.workload_images import ImageArchive

# Documents of packages that a container has no use for; licences stay.
EXCLUDED = ("usr/share/doc/*", "!usr/share/doc/*/copyright", "usr/share/man/*", "usr/share/lintian/*")
# Go's word for the processor, which images are described with.
ARCHITECTURE = "amd64"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the golden manifest needs to know of a workload.

    Attributes:
        manifest: path of the file that is measured.
        verified: the partition has a root hash in the initramfs.
        secrets: the partition may hold secrets.
    """

    name: str
    register: int
    manifest: Path
    verified: bool
    secrets: bool


def measured(image: DiskImage) -> Measured | None:
    """What is measured of the workload of an image that has one."""
    spec = spec_of(image)
    if spec is None or not isinstance(image, Image):
        return None
    return Measured(
        name=spec.name,
        register=spec.register,
        manifest=manifest_path(image),
        verified=spec.verity,
        secrets=spec.secrets is SecretsPolicy.PLAINTEXT,
    )


def spec_of(image: DiskImage) -> WorkloadSpec | None:
    """The workload of an image that has one."""
    return image.recipe.workload if isinstance(image, Image) else None


def filesystem(image: Image) -> Path:
    """Path of the partition's content, an EROFS image."""
    return OUT / image.name / "workload.erofs"


def manifest_path(image: Image) -> Path:
    """Path of the manifest, the file whose digest is measured."""
    return OUT / image.name / "workload.json"


def hash_tree(image: Image) -> Path:
    """Path of the hash tree, where the workload is verified."""
    return OUT / image.name / "workload.verity"


def facts(image: Image) -> Path:
    """Path of the hash tree's facts, the root hash among them."""
    return OUT / image.name / "workload.verity.json"


def verified(image: DiskImage) -> tuple[Path, ...]:
    """The facts of the hash tree, where the initramfs opens the workload by its root hash."""
    spec = spec_of(image)
    return (facts(image),) if isinstance(image, Image) and spec is not None and spec.verity else ()


def artefacts(image: DiskImage) -> tuple[Path, ...]:
    """What a release ships of the workload."""
    spec = spec_of(image)
    if spec is None or not isinstance(image, Image):
        return ()
    return (filesystem(image), *((hash_tree(image),) if spec.verity else ()), manifest_path(image))


def steps(image: Image) -> tuple[Step, ...]:
    """The step that makes the partition, for an image with a workload."""
    spec = image.recipe.workload
    if spec is None:
        return ()
    folder = ROOT / spec.path
    overlays = [ROOT / "rootfs" / made.overlay for made in spec.images if made.overlay is not None]
    made = Step(
        basename="workload",
        image=image,
        products=(
            filesystem(image),
            manifest_path(image),
            *((hash_tree(image), facts(image)) if spec.verity else ()),
        ),
        inputs=(resolved_lock(image), *source_files(folder, *overlays)),
        build=build,
        arguments={
            "spec": spec,
            "lock": resolved_lock(image),
            "uuid": str(derived_uuid(image, "workload/erofs")),
            "hashes": (str(derived_uuid(image, "workload/verity")), derived_salt(image, "workload")),
        },
        fingerprint=tree_fingerprint(folder, *overlays),
        doc="write the workload's partition (EROFS) and the manifest that is measured",
    )
    return (made,)


def build(
    target: Path,
    manifest: Path,
    *hashed: Path,
    spec: WorkloadSpec,
    lock: Path,
    uuid: str,
    hashes: tuple[str, bytes],
) -> None:
    """Writes the partition and the manifest."""
    from uuid import UUID

    from ..formats import erofs
    from ..sources import lock as locks
    from ..sources.secrets import refuse_secrets
    from ..sources.workload import assemble, read_folder
    from ..sources.workload_images import read_archive

    if spec.register == RESETTABLE_REGISTER:
        what = "any program of the guest may reset this register and extend it anew; 14 and 15 take a reboot"
        say(f"  warning: workload.register {spec.register}: {what}")
    folder = read_folder(ROOT / spec.path, COMPOSE_FILE)
    _check_secrets(spec, folder)
    with tempfile.TemporaryDirectory(prefix=".images.", dir=target.parent) as work:
        archives = [read_archive(path, ARCHITECTURE) for path in folder.archives]
        archives += [_made(made, lock, Path(work)) for made in spec.images]
        archives.sort(key=lambda archive: archive.stem)
        workload = assemble(spec.name, folder, archives, f"{spec.path}/{COMPOSE_FILE}")
        refuse_secrets(_measured(workload.tree), f"workload {spec.name}", own_keys())
        with target.open("wb") as out:
            erofs.write(workload.tree, out, epoch=locks.load(lock).epoch, uuid=UUID(uuid), label="workload")
    _check_size(target, spec)
    manifest.write_bytes(workload.manifest)
    if hashed:
        tree, facts = hashed
        verity.build(tree, facts, data=target, uuid=hashes[0], salt=hashes[1])


def _check_secrets(spec: WorkloadSpec, folder: WorkloadFolder) -> None:
    """Stops where a secret would be on a disk that the host has, and nobody said so.

    Raises:
        SpecError: there are files in ``secrets/``, and the recipe says nothing of them.
    """
    files = folder.files("secrets")
    if files and spec.secrets is SecretsPolicy.REFUSE:
        what = f"{files[0]} would be on a partition that is not encrypted, readable by whoever has the disk"
        advice = "give secrets to the guest at run time, or keep them on the encrypted data partition"
        words = f"workload.secrets: {SecretsPolicy.PLAINTEXT.value}"
        raise SpecError(f"{spec.path}: {what}; {advice}, or write {words} into the recipe")


def _measured(tree: FileTree) -> FileTree:
    """What must hold no secret: all but files that are secret on purpose, and images, which are public."""
    from ..formats.tree import FileTree

    kept = (item for item in tree.nodes.items() if item[0].partition("/")[0] not in ("secrets", "images"))
    return FileTree(dict(kept))


def _check_size(target: Path, spec: WorkloadSpec) -> None:
    size = target.stat().st_size
    if spec.size is not None and size > spec.size:
        what = f"workload.size is {spec.size} bytes, the workload has {size}"
        raise SpecError(f"{spec.path}: {what}; write a larger size")


def _made(made: WorkloadImageSpec, lock: Path, work: Path) -> ImageArchive:
    """The archive of an image that is made of packages."""
    from ..formats.oci import Platform
    from ..formats.oci_tar import write_tar
    from ..formats.tree import FileTree
    from ..sources import lock as locks
    from ..sources.oci_build import ImageSettings, build_image
    from ..sources.overlay import lay_over, read_overlay
    from ..sources.secrets import refuse_secrets
    from ..sources.workload_images import read_archive

    overlays = [] if made.overlay is None else [read_overlay(ROOT / "rootfs" / made.overlay, made.overlay)]
    settings = ImageSettings(entrypoint=made.entrypoint, platform=Platform("linux", ARCHITECTURE))
    layout, archive = work / f"{made.name}.layout", work / f"{made.name}.tar"
    layout.mkdir()

    def write(tree: FileTree, epoch: int) -> None:
        merged = lay_over(tree, overlays)
        refuse_secrets(merged, f"image {made.name}", own_keys())
        build_image(merged, layout, settings, epoch=epoch)

    if made.packages:
        with unpacked(lock, workload_group(made.name), archive, EXCLUDED) as (tree, _):
            write(tree, locks.load(lock).epoch)
    else:
        write(FileTree(), 0)
    with archive.open("wb") as out:
        write_tar(read_overlay(layout, made.name).tree, out, epoch=0)
    return read_archive(archive, ARCHITECTURE)
