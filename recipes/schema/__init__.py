"""What recipes may say, and the checks that need more than one value.

A recipe is one YAML file; what it makes has the file's name. ``recipes/images`` has confidential VMs and
realms, ``recipes/kernels`` and ``recipes/firmware`` what images share. Reading them touches no other package
than PyYAML, so that ``doit list`` stays instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Problem, SpecError
from ..record import dataclass
from .common import Architecture, Buildable, DebianSpec, Profile
from .converted import BaseSpec, ConvertedImage, ConvertedRecipe, RootSpec, load_converted
from .cvm import (
    DataSpec,
    Image,
    InitramfsSpec,
    OnFailure,
    Recipe,
    RootfsSpec,
    TpmPolicy,
    load_image,
)
from .firmware import FirmwareRecipe, SharedFirmware, firmware_recipes, load_firmware
from .hats import HatsImage, HatsRecipe, load_hats
from .kernels import KernelRecipe, SharedKernel, load_kernel
from .machines import FIRMWARES, MachineSpec
from .realm import ApplicationSpec, ManagerSpec, RealmImage, RealmRecipe, RealmSpec, load_realm

__all__ = [
    "FIRMWARES",
    "ApplicationSpec",
    "Architecture",
    "BaseSpec",
    "Buildable",
    "ConvertedImage",
    "ConvertedRecipe",
    "DataSpec",
    "DebianSpec",
    "DiskImage",
    "FirmwareRecipe",
    "HatsImage",
    "HatsRecipe",
    "Image",
    "InitramfsSpec",
    "KernelRecipe",
    "MachineSpec",
    "ManagerSpec",
    "OnFailure",
    "Profile",
    "Project",
    "RealmImage",
    "RealmRecipe",
    "RealmSpec",
    "Recipe",
    "RootSpec",
    "RootfsSpec",
    "SharedFirmware",
    "SharedKernel",
    "TpmPolicy",
    "load_converted",
    "load_firmware",
    "load_hats",
    "load_image",
    "load_kernel",
    "load_project",
    "load_realm",
]


# What boots from a disk of its own by UEFI.
DiskImage = Image | ConvertedImage


@dataclass(frozen=True, kw_only=True)
class Project:
    """Everything that can be built, each kind in the order of names."""

    kernels: tuple[SharedKernel, ...]
    images: tuple[Image, ...]
    realms: tuple[RealmImage, ...]
    converted: tuple[ConvertedImage, ...] = ()
    firmware: tuple[SharedFirmware, ...] = ()
    hats: tuple[HatsImage, ...] = ()

    def kernel(self, name: str) -> SharedKernel:
        """The shared kernel of a name that a recipe's check has found."""
        return next(kernel for kernel in self.kernels if kernel.name == name)


def load_project(root: Path) -> Project:
    """All recipes of the project in ``root``.

    Raises:
        SpecError: with every mistake of every recipe.
    """
    problems: list[Problem] = []
    kernels: list[SharedKernel] = []
    images: list[Image] = []
    realms: list[RealmImage] = []
    converted: list[ConvertedImage] = []
    firmware: list[SharedFirmware] = []
    hats: list[HatsImage] = []
    kernel_paths = sorted((root / "recipes" / "kernels").glob("*.yaml"))
    known = tuple(path.stem for path in kernel_paths)
    for path in kernel_paths:
        with _gathered(problems):
            kernels.append(load_kernel(path, root))
    for path in firmware_recipes(root):
        with _gathered(problems):
            if path.stem in known:
                _refuse_name(path, "a kernel")
            firmware.append(load_firmware(path, root))
    for path in sorted((root / "recipes" / "images").glob("*.yaml")):
        with _gathered(problems):
            if path.stem in known:
                _refuse_name(path, "a kernel")
            if path.stem in {item.name for item in firmware}:
                _refuse_name(path, "firmware")
            if is_converted(path):
                converted.append(load_converted(path, root))
            elif is_hats(path):
                hats.append(load_hats(path, root))
            elif is_realm(path):
                realms.append(load_realm(path, root, known))
            else:
                images.append(load_image(path, root))
    if problems:
        raise SpecError(problems)
    return Project(
        kernels=tuple(kernels),
        images=tuple(images),
        realms=tuple(realms),
        converted=tuple(converted),
        firmware=tuple(firmware),
        hats=tuple(hats),
    )


def _refuse_name(path: Path, what: str) -> None:
    """Stops at a recipe whose tasks would have the names of another's."""
    raise SpecError([Problem(path.name, 1, 1, f"there is {what} called {path.stem}; rename one")])


# What only a realm's recipe says, so that one with a mistake elsewhere is still read as one.
_REALM = re.compile(
    r"^(realm|applications|stability)[ \t]*:|^architecture[ \t]*:[ \t]*aarch64\b|\bvmm[ \t]*:[ \t]*kvmtool\b",
    re.MULTILINE,
)
# Likewise of what HATs launches.
_HATS = re.compile(r"^(stage0|stage1|launcher)[ \t]*:|\bcvm_type[ \t]*:", re.MULTILINE)
# Likewise of an image that is made of a base image, and of no other.
_CONVERTED = re.compile(r"^base[ \t]*:", re.MULTILINE)


def is_realm(path: Path) -> bool:
    """Whether a recipe is a realm's; its reader complains about what cannot be read."""
    return _says(path, _REALM)


def is_hats(path: Path) -> bool:
    """Whether a recipe is of what HATs launches; likewise."""
    return _says(path, _HATS)


def is_converted(path: Path) -> bool:
    """Whether a recipe is of an image made of a base image; likewise."""
    return _says(path, _CONVERTED)


def _says(path: Path, pattern: re.Pattern[str]) -> bool:
    try:
        return pattern.search(path.read_text(encoding="utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        return False


@contextmanager
def _gathered(problems: list[Problem]) -> Iterator[None]:
    """Keeps the problems of one recipe for all of them to be shown at once."""
    try:
        yield
    except SpecError as error:
        if not error.problems:
            raise
        problems += error.problems
