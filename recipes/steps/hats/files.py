"""``files:IMAGE``: stage0, kernel, stage1 and system image, or what stands in for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...errors import SpecError
from ...schema.hats import FileSpec, HatsImage, HatsRecipe
from .. import kernel
from ..digests import DIGESTS, ROOT
from ..task import Step, say
from .names import INITRD, KERNEL, STAGE0, SYSTEM, file_path, remove_others, standing_in

ROLES = (STAGE0, KERNEL, INITRD, SYSTEM)


def step(image: HatsImage) -> Step:
    """The step that takes them."""
    missing = standing_in(image)
    brought = {role: spec for role, spec in _named(image.recipe).items() if role not in missing}
    own = () if KERNEL in brought else (kernel.vmlinuz(image),)
    return Step(
        basename="files",
        image=image,
        products=tuple(file_path(image, role) for role in ROLES),
        inputs=(*(ROOT / spec.path for spec in brought.values()), *own),
        build=build,
        arguments={
            "brought": brought,
            "places": {role: _named(image.recipe)[role].path for role in missing},
            "kernel": kernel.vmlinuz(image),
            "others": tuple(file_path(image, role) for role in ROLES),
        },
        doc="take stage0, kernel, stage1 and system image, each checked against the recipe",
    )


def build(
    *targets: Path,
    brought: dict[str, FileSpec],
    places: dict[str, str],
    kernel: Path,
    others: tuple[Path, ...],
) -> None:
    """Writes the files.

    Args:
        brought: those that are there.
        places: where the others belong.
    """
    from ...hats import stand_in

    remove_others(*others)
    for role, target in zip(ROLES, targets, strict=True):
        if role in brought:
            copy(brought[role], target)
        elif role == KERNEL:
            shutil.copyfile(kernel, target)
        else:
            data = stand_in.firmware(role) if role == STAGE0 else stand_in.text(role)
            target.write_bytes(data)
    for role, place in places.items():
        say(f"  WARNING: {place} is not there, and a stand-in takes the place of {role}; put the file there")
    if places:
        say("  WARNING: nothing made with a stand-in runs, and no policy made with one accepts anything real")


def copy(spec: FileSpec, target: Path) -> None:
    """Copies a file that the recipe names, which must be the one it means.

    Raises:
        SpecError: it has another digest, or is not there.
    """
    path = ROOT / spec.path
    if not path.is_file():
        raise SpecError(f"{spec.path}: there is no such file; put it there, or change the recipe")
    digest = DIGESTS.sha256(path)
    if digest != spec.sha256:
        what = f"has sha256 {digest}, the recipe has {spec.sha256}"
        raise SpecError(f"{spec.path}: {what}; find out which is right")
    shutil.copyfile(path, target)


def _named(recipe: HatsRecipe) -> dict[str, FileSpec]:
    """The files that the recipe names."""
    stage0 = FileSpec(path=recipe.stage0.path, sha256=recipe.stage0.sha256)
    named = {STAGE0: stage0, INITRD: recipe.stage1, SYSTEM: recipe.system}
    return named | ({KERNEL: recipe.kernel.file} if recipe.kernel.file is not None else {})
