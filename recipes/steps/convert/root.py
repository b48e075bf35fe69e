"""``convert:IMAGE``: the root of the base image, copied and edited once in an appliance, and kept.

The appliance's kernel writes times and a journal, so editing again would give other bytes. The result stays
in ``out/cache/converted`` under the digest of everything that went into it, and whatever is made of it after
that is the same every time. Builds that share the cache share the bytes; without it a new root is made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import SpecError
from ...schema import ConvertedImage, RootSpec
from .. import kernel
from ..digests import CACHE, DIGESTS, ROOT
from ..layout import copy_file
from ..packages import resolved_lock
from ..task import OUT, Step, canonical, source_files, tree_fingerprint
from . import base
from .asking import ADDED_GROUP

if TYPE_CHECKING:
    from ...formats.tree import FileTree
    from ...sources.converted_root import RootPlan

CONVERTED = CACHE / "converted"
APPLIANCE = CACHE / "guestfs"
OVERLAYS = ROOT / "rootfs"
# The code that decides what an edited root is; with another one it is made again.
_CODE = ("converted_root.py", "root_edit.py", "disk_image.py", "guestfs_appliance.py", "guestfs_worker.py")
_ENTRY = "entry.json"


def plain_root(image: ConvertedImage) -> Path:
    """Path of the edited root: a raw ext4 file system."""
    return OUT / image.name / "root.raw"


def root_facts(image: ConvertedImage) -> Path:
    """Path of ``root.json``: what the base was."""
    return OUT / image.name / "root.json"


def base_image(image: ConvertedImage) -> Path:
    """Path of the base image: the one that is brought, or the one that is assembled."""
    brought = image.recipe.base.path
    return base.base_path(image) if brought is None else ROOT / brought


def step(image: ConvertedImage) -> Step:
    """The step that copies and edits the root; with the base's own kernel it gives that kernel too."""
    recipe = image.recipe
    own_kernel = recipe.kernel.package is None
    overlays = [OVERLAYS / name for name in recipe.root.overlays]
    kernel_products = (kernel.vmlinuz(image), kernel.package_files(image), kernel.kernel_facts(image))
    packaged = () if own_kernel else (kernel.package_files(image), kernel.kernel_facts(image))
    brought = base_image(image)
    return Step(
        basename="convert",
        image=image,
        products=(plain_root(image), root_facts(image), *(kernel_products if own_kernel else ())),
        # Without the file the step itself says what is missing.
        inputs=(
            *((brought,) if recipe.base.path is None or brought.exists() else ()),
            resolved_lock(image),
            *packaged,
            *source_files(*overlays),
        ),
        build=build,
        arguments={
            "base_path": brought,
            "sha256": recipe.base.sha256 or "",
            "lock": resolved_lock(image),
            "spec": recipe.root,
            "kernel_files": packaged,
        },
        fingerprint=tree_fingerprint(*overlays),
        doc="copy the base's root and edit it in an appliance, once",
    )


def build(
    *targets: Path, base_path: Path, sha256: str, lock: Path, spec: RootSpec, kernel_files: tuple[Path, ...]
) -> None:
    """Writes the edited root and its facts, and the base's kernel where ``kernel_files`` is empty.

    Raises:
        ImageError: the base is not the one that the recipe names, or cannot be converted.
    """
    from ...formats.tree import FileTree
    from ...sources.overlay import lay_over, read_overlay

    digest = _base_digest(base_path, sha256)
    overlays = [read_overlay(OVERLAYS / name, name) for name in spec.overlays]
    files = lay_over(FileTree(), overlays) if overlays else None
    packages = _packages(lock) if spec.packages else ()
    key = _key(digest, spec, packages, kernel_files, files)
    entry, with_kernel = CONVERTED / key, not kernel_files
    if not _is_whole(entry, _names(with_kernel=with_kernel)):
        modules = None
        if kernel_files:
            directory = kernel.module_directory(*kernel_files)
            modules = directory.select(spec.modules or tuple(directory.paths))
        plan = _plan(spec, packages, modules, files)
        _make(entry, base_path, plan, with_kernel=with_kernel)
    for target, name in zip(targets, _names(with_kernel=with_kernel), strict=True):
        copy_file(entry / name, target)


def _names(*, with_kernel: bool) -> tuple[str, ...]:
    """The files of an entry in the order of the products."""
    return ("root.raw", "root.json", *(("vmlinuz", "kernel.tar", "kernel.json") if with_kernel else ()))


def _base_digest(path: Path, wanted: str) -> str:
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
    if not path.is_file():
        raise SpecError(f"base.path: there is no {name}; put the image there, or correct the path")
    digest = DIGESTS.sha256(path)
    if wanted and digest != wanted:
        what = f"{name} has the SHA-256 {digest}, the recipe says {wanted}"
        raise SpecError(f"base.sha256: {what}; it is another image, or the recipe is for an older one")
    return digest


def _packages(lock: Path) -> tuple[Path, ...]:
    from ...sources import lock as locks
    from ..packages import package_files

    return tuple(package_files(locks.load(lock), ADDED_GROUP))


def _plan(
    spec: RootSpec, packages: tuple[Path, ...], modules: FileTree | None, files: FileTree | None
) -> RootPlan:
    from ...sources.converted_root import RootPlan

    return RootPlan(size=spec.size, packages=packages, modules=modules, files=files, enable=spec.enable)


def _key(
    base: str,
    spec: RootSpec,
    packages: tuple[Path, ...],
    kernel_files: tuple[Path, ...],
    files: FileTree | None,
) -> str:
    """Digest of everything that an edited root depends on; how it is opened is no part of it."""
    laid = (
        []
        if files is None
        else [(path, node.mode, node.target, node.read()) for path, node in files.sorted()]
    )
    sources = [(ROOT / "recipes" / "sources" / name).read_bytes() for name in _CODE]
    value = {
        "base": base,
        "size": spec.size,
        "enable": spec.enable,
        "modules": spec.modules,
        "packages": [DIGESTS.sha256(path) for path in packages],
        "kernel": [DIGESTS.sha256(path) for path in kernel_files],
        "files": [
            (path, mode, target, hashlib.sha256(data).hexdigest()) for path, mode, target, data in laid
        ],
        "code": [hashlib.sha256(data).hexdigest() for data in sources],
    }
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _is_whole(entry: Path, names: Sequence[str]) -> bool:
    """Whether an entry is there: exactly the files ``names``, with the bytes that they were made with."""
    try:
        known = json.loads((entry / _ENTRY).read_text())
        if not isinstance(known, dict) or known.keys() != set(names):
            return False
        return all(DIGESTS.sha256(entry / name) == known[name] for name in names)
    except (OSError, ValueError, RecursionError):
        return False


def _make(entry: Path, base_path: Path, plan: RootPlan, *, with_kernel: bool) -> None:
    """Converts into a folder that gets its name when it is whole."""
    from ...sources.converted_root import KernelTargets, convert_root

    entry.parent.mkdir(parents=True, exist_ok=True)
    # A killed build leaves it; the next one removes what is called so.
    work = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", suffix=".tmp", dir=entry.parent))
    try:
        targets = KernelTargets(work / "vmlinuz", work / "kernel.tar") if with_kernel else None
        facts = convert_root(base_path, work / "root.raw", plan, cache=APPLIANCE, kernel=targets)
        (work / "root.json").write_text(json.dumps(asdict(facts), indent=1) + "\n")
        if targets is not None:
            _write_kernel_facts(work, facts.kernel)
        known = {name: _sha256(work / name) for name in sorted(_names(with_kernel=with_kernel))}
        (work / _ENTRY).write_text(json.dumps(known, indent=1) + "\n")
        shutil.rmtree(entry, ignore_errors=True)
        work.replace(entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_kernel_facts(work: Path, release: str) -> None:
    value = {"release": release, "package": "base image", "version": release}
    (work / "kernel.json").write_text(json.dumps(value, indent=1) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
