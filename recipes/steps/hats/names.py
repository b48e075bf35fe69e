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
    """The files of the system bundle that are not there, so that something else takes their place.

    A kernel that the recipe does not bring is Debian's, which stands in too: stage1 cannot use it.
    """
    recipe = image.recipe
    kernel = recipe.kernel.file
    wanted = {
        STAGE0: recipe.stage0.path,
        KERNEL: None if kernel is None else kernel.path,
        INITRD: recipe.stage1.path,
        SYSTEM: recipe.system.path,
    }
    return tuple(role for role, path in wanted.items() if path is None or not (ROOT / path).is_file())


def measured(missing: tuple[str, ...], *, protected: bool) -> tuple[str, ...]:
    """Those of the files that a policy judges: nothing shows a verifier the firmware of a test machine."""
    return tuple(role for role in missing if protected or role != STAGE0)


def place(image: HatsImage, *key: str | int) -> str:
    """Where a value of the recipe stands: ``recipes/images/hats-snp.yaml:13:11``."""
    path = image.path.relative_to(ROOT) if image.path.is_relative_to(ROOT) else image.path
    return ":".join([path.as_posix(), *image.positions(*key)[:1]])


def file_path(image: HatsImage, role: str) -> Path:
    """Path of one file of the system bundle."""
    mark = MARK if role in standing_in(image) else ""
    return OUT / image.folder / f"{mark}{role}"


def product(image: HatsImage, name: str, *, protected: bool = True) -> Path:
    """Path of a product that all these files go into; the firmware does not where nothing protects a VM."""
    mark = MARK if measured(standing_in(image), protected=protected) else ""
    return OUT / image.folder / f"{mark}{name}"


def remove_unused(*paths: Path) -> None:
    """Removes what the recipe has asked for once and does not any more, under either name."""
    for path in paths:
        plain = path.with_name(path.name.removeprefix(MARK))
        remove_others(plain, plain.with_name(MARK + plain.name))


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
