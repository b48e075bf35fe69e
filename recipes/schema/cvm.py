"""The recipe of a confidential VM that boots from a disk: verity root, encrypted data partition, one UKI."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from ..errors import suggestion
from ..machine import QemuMachine
from ..reader import Marks, Size, Text
from ..units import MIB
from .common import (
    Architecture,
    Buildable,
    DebianSpec,
    ModuleName,
    PackageName,
    Profile,
    Word,
    attempt,
    check_cmdline,
    check_name,
    check_unique,
    read_recipe,
)
from .machines import MachineSpec, add_machines

UnitName = Annotated[
    str, Text(r"[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|mount|target|path|swap)", "nginx.service")
]


class OnFailure(Enum):
    """What the initramfs does when it cannot go on."""

    PANIC = "panic"
    POWEROFF = "poweroff"
    REBOOT = "reboot"
    SHELL = "shell"


class TpmPolicy(Enum):
    """Whether the initramfs insists on a TPM to measure the boot phases into."""

    REQUIRED = "required"
    IF_PRESENT = "if-present"


class FormatPolicy(Enum):
    """When the initramfs may format the data partition."""

    ALWAYS = "always"


class Filesystem(Enum):
    """File systems of the data partition."""

    EXT4 = "ext4"


class DiskFormat(Enum):
    """Disk formats an image is written in."""

    RAW = "raw"


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """The kernel package (a meta package is followed) and what is added to its command line."""

    package: PackageName
    cmdline: str = ""


@dataclass(frozen=True, kw_only=True)
class InitramfsSpec:
    """The initramfs: packages its programs come from, kernel modules, and what it does on failure."""

    packages: tuple[PackageName, ...]
    modules: tuple[ModuleName, ...]
    on_failure: OnFailure = OnFailure.PANIC
    tpm: TpmPolicy = TpmPolicy.REQUIRED
    device_timeout: int = 30
    compression_level: int = 3


@dataclass(frozen=True, kw_only=True)
class RootfsSpec:
    """The root file system."""

    packages: tuple[PackageName, ...]
    overlays: tuple[Word, ...] = ()
    enable: tuple[UnitName, ...] = ()
    mask: tuple[UnitName, ...] = ()
    modules: tuple[ModuleName, ...] = ()
    exclude: tuple[str, ...] = ()
    hostname: Word = "localhost"
    default_target: UnitName = "multi-user.target"


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The encrypted data partition, mounted on /var."""

    size: Annotated[int, Size]
    unlock: tuple[Word, ...]
    filesystem: Filesystem = Filesystem.EXT4
    format: FormatPolicy = FormatPolicy.ALWAYS
    timeout: int = 60


@dataclass(frozen=True, kw_only=True)
class UkiSpec:
    """The Unified Kernel Image: the package of its stub."""

    stub: PackageName = "systemd-boot-efi"


@dataclass(frozen=True, kw_only=True)
class DiskSpec:
    """The disk: size of the EFI system partition, and the formats it is written in."""

    esp_size: Annotated[int, Size] = 64 * MIB
    formats: tuple[DiskFormat, ...] = (DiskFormat.RAW,)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One image: what it is made of and the machines it is measured for."""

    architecture: Architecture
    debian: DebianSpec
    kernel: KernelSpec
    initramfs: InitramfsSpec
    rootfs: RootfsSpec
    data: DataSpec
    machines: tuple[MachineSpec, ...]
    uki: UkiSpec = UkiSpec()
    disk: DiskSpec = DiskSpec()
    profile: Profile = Profile.RELEASE
    version: Annotated[str, Text(r"[0-9A-Za-z.+~-]+", "1.0")] = "0"


@dataclass(frozen=True, kw_only=True)
class Image(Buildable):
    """A confidential VM's recipe that passed every check, with its machines."""

    recipe: Recipe
    machines: tuple[QemuMachine, ...]

    @property
    def captures_path(self) -> Path:
        """The committed captures of the machines' ACPI tables, beside the lock."""
        return self.path.with_suffix(".captures.lock")


def load_image(path: Path, root: Path) -> Image:
    """The image that the recipe at ``path`` describes; ``root`` is the project's folder.

    Raises:
        SpecError: with every mistake of the recipe.
    """
    recipe, marks = read_recipe(path, root, Recipe)
    machines: list[QemuMachine] = []
    attempt(marks, check_name, path.stem)
    for check in (_check_root_packages, _check_sizes, _check_initramfs, _check_cmdline, _check_architecture):
        attempt(marks, check, recipe)
    for search in (_check_overlays, _check_providers):
        attempt(marks, search, recipe, root)
    for index, spec in enumerate(recipe.machines or ()):
        attempt(marks, add_machines, spec, index, machines)
    marks.raise_problems()
    return Image(name=path.stem, path=path, recipe=recipe, machines=tuple(machines), places=marks.places)


def _check_architecture(marks: Marks, recipe: Recipe) -> None:
    if recipe.architecture is not Architecture.X86_64:
        what = f"architecture {recipe.architecture.value} is for realms; a disk image is x86_64"
        marks.add(("architecture",), what)


def _check_root_packages(marks: Marks, recipe: Recipe) -> None:
    check_unique(marks, ("rootfs", "packages"), recipe.rootfs.packages, "package")
    check_unique(marks, ("initramfs", "packages"), recipe.initramfs.packages, "package")


def _check_overlays(marks: Marks, recipe: Recipe, root: Path) -> None:
    overlays = [path.name for path in (root / "rootfs").iterdir() if path.is_dir()]
    for index, name in enumerate(recipe.rootfs.overlays):
        if name not in overlays:
            what = f"there is no overlay rootfs/{name}{suggestion(name, overlays)}"
            marks.add(("rootfs", "overlays", index), what)


def _check_providers(marks: Marks, recipe: Recipe, root: Path) -> None:
    providers = [path.name for path in (root / "initrd" / "unlock.d").iterdir() if path.is_file()]
    for index, name in enumerate(recipe.data.unlock):
        if name not in providers:
            what = f"there is no provider initrd/unlock.d/{name}{suggestion(name, providers)}"
            marks.add(("data", "unlock", index), what)


def _check_sizes(marks: Marks, recipe: Recipe) -> None:
    if recipe.disk.esp_size < 34 * MIB:
        what = "disk.esp_size must be at least 34MiB; a smaller file system is not FAT32"
        marks.add(("disk", "esp_size"), what)
    if recipe.data.size % MIB or recipe.data.size < 16 * MIB:
        marks.add(("data", "size"), "data.size must be whole MiB and at least 16MiB")
    _check_seconds(("data", "timeout"), recipe.data.timeout, marks)


def _check_initramfs(marks: Marks, recipe: Recipe) -> None:
    if recipe.initramfs.on_failure is OnFailure.SHELL and recipe.profile is Profile.RELEASE:
        marks.add(
            ("initramfs", "on_failure"), "a release never gives a shell; use panic, or set profile: dev"
        )
    if not 1 <= recipe.initramfs.compression_level <= 19:
        marks.add(("initramfs", "compression_level"), "initramfs.compression_level must be 1 to 19")
    _check_seconds(("initramfs", "device_timeout"), recipe.initramfs.device_timeout, marks)


def _check_seconds(place: tuple[str, str], value: int, marks: Marks) -> None:
    if not 1 <= value <= 3600:
        marks.add(place, f"{'.'.join(place)}: {value} is not 1 to 3600 seconds")


def _check_cmdline(marks: Marks, recipe: Recipe) -> None:
    for word in recipe.kernel.cmdline.split():
        if re.match(r"(roothash|init|rdinit|root|initrd)=", word):
            marks.add(("kernel", "cmdline"), f"{word!r} is not yours to set: the build writes it")
    check_cmdline(marks, ("kernel", "cmdline"), recipe.kernel.cmdline)
