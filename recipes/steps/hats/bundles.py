"""``bundles:IMAGE``: the two archives that HATs' launcher takes, the same bytes on any host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FormatError, SpecError
from ...record import replace
from ...schema.hats import FileSpec, HatsApplicationSpec, HatsImage
from ..digests import ROOT
from ..packages import APPLICATION_GROUP, resolved_lock
from ..private_keys import own_keys
from ..task import OUT, Step, source_files, tree_fingerprint
from ..unpack import unpacked
from .files import ROLES, copy
from .names import file_path, place, product, remove_others

if TYPE_CHECKING:
    from ...formats.tree import FileTree

# What an application has no use for; licences stay.
EXCLUDED = (
    *("usr/share/doc/*", "!usr/share/doc/*/copyright", "usr/share/man", "usr/share/man/*"),
    *("usr/share/lintian", "usr/share/lintian/*", "usr/share/bug", "usr/share/bug/*"),
    *("usr/share/initramfs-tools", "usr/share/initramfs-tools/*"),
)


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
            "where": place(
                image, "application", *(("command", 0) if given is None else ("bundle", "sha256"))
            ),
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
    where: str,
    lock: Path,
    final: Path,
) -> None:
    """Writes the two bundles.

    Args:
        where: the recipe has the application's command, or the digest of its bundle.

    Raises:
        SpecError: the command is no program of the root file system, or what is brought is no bundle.
    """
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
        copy(application.bundle, runtime, where)
        _check_bundle(application.bundle, runtime, where)
    else:
        _made(application, where, runtime, lock)


def _check_bundle(spec: FileSpec, path: Path, where: str) -> None:
    """Checks that a bundle is what the orchestrator unpacks and runc starts."""
    from ...formats.tarstream import FileArchive, entries
    from ...formats.tree import NodeType
    from ...hats.runtime import CONFIG_FILE, ROOT_FOLDER

    how = f"give an uncompressed tar of {CONFIG_FILE} and {ROOT_FOLDER}/"
    with path.open("rb") as file:
        archive = FileArchive(path, file.fileno(), 0, path.stat().st_size, spec.path)
        try:
            found = {name: node.type for name, node in entries(archive)}
        except FormatError as error:
            raise SpecError(f"{where}: no runtime bundle: {error}; {how}") from None
    rooted = found.get(ROOT_FOLDER) is NodeType.DIRECTORY or any(
        name.startswith(f"{ROOT_FOLDER}/") for name in found
    )
    if found.get(CONFIG_FILE) is not NodeType.FILE or not rooted:
        lacking = f"{ROOT_FOLDER}/" if found.get(CONFIG_FILE) is NodeType.FILE else CONFIG_FILE
        raise SpecError(f"{where}: no runtime bundle: {spec.path} has no {lacking}; {how}")


def _made(application: HatsApplicationSpec, where: str, target: Path, lock: Path) -> None:
    """A bundle of packages and an overlay."""
    from ...formats.gnu_tar import write_gnu_tar
    from ...formats.tree import FileTree
    from ...hats.runtime import no_program
    from ...sources.overlay import lay_over, read_overlay
    from ...sources.secrets import refuse_secrets

    folder = application.overlay
    overlays = [read_overlay(ROOT / "rootfs" / folder, folder)] if folder else []

    def write(tree: FileTree) -> None:
        merged = lay_over(tree, overlays)
        refuse_secrets(merged, "application", own_keys())
        why = no_program(merged, application.command[0])
        if why:
            how = "change the command, or add what has it to packages or overlay"
            raise SpecError(f"{where}: command: {application.command[0]} {why}; {how}")
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
