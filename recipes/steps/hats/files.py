"""``files:IMAGE``: stage0, kernel, stage1 and system image, or what stands in for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...errors import SpecError
from ...schema.hats import FileSpec, HatsImage, HatsRecipe
from .. import kernel
from ..digests import DIGESTS, ROOT
from ..task import OUT, Step, say
from .names import INITRD, KERNEL, STAGE0, SYSTEM, file_path, place, remove_others, standing_in

ROLES = (STAGE0, KERNEL, INITRD, SYSTEM)
# Where the recipe has each of them.
_KEYS = {STAGE0: ("stage0",), KERNEL: ("kernel", "file"), INITRD: ("stage1",), SYSTEM: ("system",)}
_WHY_NOT_DEBIAN = "its RAM disk driver (brd) is a module, and stage1 loads none"


def step(image: HatsImage) -> Step:
    """The step that takes them."""
    missing = standing_in(image)
    brought = {role: spec for role, spec in _named(image.recipe).items() if role not in missing}
    own = () if KERNEL in brought else (kernel.vmlinuz(image),)
    named = _named(image.recipe)
    return Step(
        basename="files",
        image=image,
        products=tuple(file_path(image, role) for role in ROLES),
        inputs=(*(ROOT / spec.path for spec in brought.values()), *own),
        build=build,
        arguments={
            "brought": brought,
            "places": {role: place(image, *_KEYS[role], "sha256") for role in brought},
            "missing": {role: named[role].path if role in named else "" for role in missing},
            "kernel": kernel.vmlinuz(image),
            "others": tuple(file_path(image, role) for role in ROLES),
        },
        doc="take stage0, kernel, stage1 and system image, each checked against the recipe",
    )


def build(
    *targets: Path,
    brought: dict[str, FileSpec],
    places: dict[str, str],
    missing: dict[str, str],
    kernel: Path,
    others: tuple[Path, ...],
) -> None:
    """Writes the files.

    Args:
        brought: those that are there.
        places: where the recipe has the digests of these.
        missing: where the others belong; nothing for a kernel that the recipe does not bring.
    """
    from ...hats import stand_in

    remove_others(*others)
    for role, target in zip(ROLES, targets, strict=True):
        if role in brought:
            copy(brought[role], target, places[role])
        elif role == KERNEL:
            shutil.copyfile(kernel, target)
        else:
            data = stand_in.firmware(role) if role == STAGE0 else stand_in.text(role)
            target.write_bytes(data)
    for role, path in missing.items():
        say(f"  WARNING: {_absent(role, path)}")
    if missing:
        what = "nothing made with a stand-in runs, and a policy that measures one accepts nothing real"
        say(f"  WARNING: {what}; none is signed")


def _absent(role: str, path: str) -> str:
    """What takes the place of a file that is not there, and what to do."""
    if role != KERNEL:
        return f"{path} is not there, and a stand-in takes the place of {role}; put the file there"
    how = f"put HATs' kernel there: {path}" if path else "bring HATs' kernel by kernel.file of the recipe"
    return f"Debian's kernel stands in for {role}: {_WHY_NOT_DEBIAN}; {how}"


def copy(spec: FileSpec, target: Path, where: str) -> None:
    """Copies a file that the recipe names, which must be the one it means.

    Args:
        where: the recipe has its digest.

    Raises:
        SpecError: it has another digest, is not there, or is a product.
    """
    path = ROOT / spec.path
    if path.resolve().is_relative_to(OUT.resolve()):
        what = f"{spec.path} lies in {OUT.name}/, which is written and cleaned by builds"
        raise SpecError(f"{where}: {what}; put the file elsewhere, such as recipes/inputs/")
    if not path.is_file():
        raise SpecError(f"{where}: {spec.path}: there is no such file; put it there, or change the recipe")
    digest = DIGESTS.sha256(path)
    if digest != spec.sha256:
        what = f"has sha256 {digest}, the recipe has {spec.sha256}"
        raise SpecError(f"{where}: {spec.path} {what}; find out which is right")
    shutil.copyfile(path, target)


def _named(recipe: HatsRecipe) -> dict[str, FileSpec]:
    """The files that the recipe names."""
    stage0 = FileSpec(path=recipe.stage0.path, sha256=recipe.stage0.sha256)
    named = {STAGE0: stage0, INITRD: recipe.stage1, SYSTEM: recipe.system}
    return named | ({KERNEL: recipe.kernel.file} if recipe.kernel.file is not None else {})
