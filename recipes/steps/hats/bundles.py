"""``bundles:IMAGE``: the two archives that HATs' launcher takes, the same bytes on any host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...schema.hats import HatsApplicationSpec, HatsImage
from ..digests import ROOT
from ..packages import APPLICATION_GROUP, resolved_lock
from ..private_keys import own_keys
from ..task import OUT, Step, source_files, tree_fingerprint
from ..unpack import unpacked
from .files import ROLES, copy
from .names import file_path, product, remove_others

if TYPE_CHECKING:
    from ...formats.tree import FileTree

# What an application has no use for; licences stay.
EXCLUDED = ("usr/share/doc/*", "!usr/share/doc/*/copyright", "usr/share/man/*", "usr/share/lintian/*")


def system_bundle(image: HatsImage) -> Path:
    """Path of the archive with firmware, kernel, stage1 and system image."""
    return product(image, "system_bundle.tar")


def runtime_bundle(image: HatsImage) -> Path:
    """Path of the archive with the workload, whose digest policies have."""
    return OUT / image.folder / "runtime_bundle.tar"


def step(image: HatsImage) -> Step:
    """The step that writes them."""
    application = image.recipe.application
    overlays = [ROOT / "rootfs" / application.overlay] if application.overlay else []
    given = application.bundle
    there = (ROOT / given.path,) if given is not None and (ROOT / given.path).is_file() else ()
    return Step(
        basename="bundles",
        image=image,
        products=(system_bundle(image), runtime_bundle(image)),
        inputs=(
            *(file_path(image, role) for role in ROLES),
            *((resolved_lock(image),) if application.packages else ()),
            *source_files(*overlays),
            *there,
        ),
        build=build,
        arguments={
            "files": tuple(file_path(image, role) for role in ROLES),
            "application": application,
            "lock": resolved_lock(image),
            "final": system_bundle(image),
        },
        fingerprint=tree_fingerprint(*overlays),
        doc="write system_bundle.tar and runtime_bundle.tar as HATs' launcher takes them",
    )


def build(
    system: Path,
    runtime: Path,
    *,
    files: tuple[Path, ...],
    application: HatsApplicationSpec,
    lock: Path,
    final: Path,
) -> None:
    """Writes the two bundles."""
    from ...formats.gnu_tar import write_gnu_tar
    from ...formats.tree import FilePayload, FileTree, Node, NodeType

    remove_others(final)
    tree = FileTree()
    for path in files:
        payload = FilePayload(path, 0, path.stat().st_size)
        tree[path.name] = Node(type=NodeType.FILE, mode=0o644, payload=payload, source=path.name)
    with system.open("wb") as out:
        write_gnu_tar(tree, out, plain_modes=True)
    if application.bundle is not None:
        copy(application.bundle, runtime)
    else:
        _made(application, runtime, lock)


def _made(application: HatsApplicationSpec, target: Path, lock: Path) -> None:
    """A bundle of packages and an overlay."""
    from ...formats.gnu_tar import write_gnu_tar
    from ...formats.tree import FileTree
    from ...sources.overlay import lay_over, read_overlay
    from ...sources.secrets import refuse_secrets

    folder = application.overlay
    overlays = [read_overlay(ROOT / "rootfs" / folder, folder)] if folder else []

    def write(tree: FileTree) -> None:
        merged = lay_over(tree, overlays)
        refuse_secrets(merged, "application", own_keys())
        with target.open("wb") as out:
            write_gnu_tar(_bundle(merged, application.command), out)

    if not application.packages:
        write(FileTree())
        return
    with unpacked(lock, APPLICATION_GROUP, target, EXCLUDED) as (tree, _):
        write(tree)


def _bundle(tree: FileTree, command: tuple[str, ...]) -> FileTree:
    """The root file system in its folder, beside what runc is told."""
    from ...formats.tree import FileTree, NodeType
    from ...hats.runtime import CONFIG_FILE, ROOT_FOLDER, runtime_config

    bundle = FileTree()
    for path, node in tree.nodes.items():
        name = f"{ROOT_FOLDER}/{path}" if path else ROOT_FOLDER
        hard = node.type is NodeType.HARDLINK
        bundle[name] = replace(node, target=f"{ROOT_FOLDER}/{node.target}") if hard else node
    bundle.add_file(CONFIG_FILE, runtime_config(command).encode())
    return bundle
