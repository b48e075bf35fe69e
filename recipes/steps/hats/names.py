"""What products are called: those that a stand-in went into say so in their names."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...schema.hats import HatsImage
from ..digests import ROOT, sidecar
from ..task import OUT

MARK = "stand-in."
# Files of the system bundle, by the names that HATs' launcher looks for at the end of a member's path.
# Spec: private-compute-infra-toolkit/hats 7d61840, client/launcher/launcher.cc UntarHatsBundle.
STAGE0, KERNEL, INITRD, SYSTEM = "stage0_bin", "kernel_bin", "initrd.cpio.xz", "system.tar.xz"
# Folder with the launcher's configuration for each VM.
CONFIGS = "launcher"


def standing_in(image: HatsImage) -> tuple[str, ...]:
    """The files of the system bundle that are not there, so that something else takes their place."""
    recipe = image.recipe
    wanted = {STAGE0: recipe.stage0.path, INITRD: recipe.stage1.path, SYSTEM: recipe.system.path}
    if recipe.kernel.file is not None:
        wanted[KERNEL] = recipe.kernel.file.path
    return tuple(role for role, path in wanted.items() if not (ROOT / path).is_file())


def file_path(image: HatsImage, role: str) -> Path:
    """Path of one file of the system bundle."""
    mark = MARK if role in standing_in(image) else ""
    return OUT / image.folder / f"{mark}{role}"


def product(image: HatsImage, name: str) -> Path:
    """Path of a product that all these files go into."""
    mark = MARK if standing_in(image) else ""
    return OUT / image.folder / f"{mark}{name}"


def remove_others(*paths: Path) -> None:
    """Removes what a former build, with stand-ins where this one has none or without, called otherwise."""
    for path in paths:
        name = path.name.removeprefix(MARK)
        other = path.with_name(name if path.name != name else MARK + name)
        sidecar(other).unlink(missing_ok=True)
        if other.is_dir() and not other.is_symlink():
            shutil.rmtree(other)
        else:
            other.unlink(missing_ok=True)
