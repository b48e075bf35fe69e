"""The recipe of firmware that images share, because their own Debian release does not have it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

from ..reader import Text
from ..record import dataclass
from .common import (
    Architecture,
    Buildable,
    DebianSpec,
    PackageName,
    attempt,
    check_name,
    read_recipe,
)


class Boots(Enum):
    """What firmware starts: a disk, or a kernel whose hash is in the launch digest."""

    DISK = "disk"
    KERNEL = "kernel"


@dataclass(frozen=True, kw_only=True)
class FirmwareRecipe:
    """Firmware out of a Debian package, one file that QEMU loads by ``-bios``."""

    architecture: Architecture
    debian: DebianSpec
    package: PackageName
    file: Annotated[str, Text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", "OVMF.amdsev.fd")]
    boots: Boots


@dataclass(frozen=True, kw_only=True)
class SharedFirmware(Buildable):
    """A firmware recipe that passed every check."""

    recipe: FirmwareRecipe

    @property
    def folder(self) -> str:
        """Where its products are, below the folder of all products."""
        return f"firmware/{self.name}"


def firmware_recipes(root: Path) -> tuple[Path, ...]:
    """The recipes of shared firmware, in the order of names."""
    return tuple(sorted((root / "recipes" / "firmware").glob("*.yaml")))


def load_firmware(path: Path, root: Path) -> SharedFirmware:
    """The firmware that the recipe at ``path`` describes.

    Raises:
        SpecError: with every mistake of the recipe.
    """
    recipe, marks = read_recipe(path, root, FirmwareRecipe)
    attempt(marks, check_name, path.stem)
    if recipe is not None and recipe.architecture not in (None, Architecture.X86_64):
        marks.add(("architecture",), "firmware that images share is for x86_64; realms have none")
    marks.raise_problems()
    return SharedFirmware(name=path.stem, path=path, recipe=recipe, places=marks.places)
