"""The recipe of a kernel that several images share."""

from __future__ import annotations

from pathlib import Path

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


@dataclass(frozen=True, kw_only=True)
class KernelRecipe:
    """A kernel out of a Debian package; a meta package is followed."""

    architecture: Architecture
    debian: DebianSpec
    package: PackageName


@dataclass(frozen=True, kw_only=True)
class SharedKernel(Buildable):
    """A kernel recipe that passed every check."""

    recipe: KernelRecipe

    @property
    def folder(self) -> str:
        """Where its products are, below the folder of all products."""
        return f"kernels/{self.name}"


def load_kernel(path: Path, root: Path) -> SharedKernel:
    """The kernel that the recipe at ``path`` describes.

    Raises:
        SpecError: with every mistake of the recipe.
    """
    recipe, marks = read_recipe(path, root, KernelRecipe)
    attempt(marks, check_name, path.stem)
    marks.raise_problems()
    return SharedKernel(name=path.stem, path=path, recipe=recipe, places=marks.places)
