"""The recipe of a confidential VM that is made of a base image: its root is copied, edited and encrypted.

The base is a cloud's image that somebody brings, or a Debian system that is assembled here of packages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..errors import suggestion
from ..reader import Marks, Size, Text
from ..record import dataclass, field
from ..units import MIB
from .common import (
    Architecture,
    DebianSpec,
    ModuleName,
    PackageName,
    Profile,
    Word,
    attempt,
    check_name,
    check_unique,
    read_recipe,
)
from .cvm import (
    DiskBuildable,
    DiskSpec,
    InitramfsSpec,
    UkiSpec,
    UnitName,
    check_architecture,
    check_cap,
    check_disk,
    check_initramfs,
    check_kernel_cmdline,
    check_snp,
)
from .golden import GoldenSpec
from .machines import Machines, MachineSpec, add_machines
from .publish import PublishSpec, check_publish
from .realm import Digest
from .volumes import FilePath, UnlockSpec, VolumeHeader, check_unlock

# What can open a volume that the build makes: its key is a passphrase, and nothing seals it on first boot.
ROOT_PROVIDERS = ("exec", "kbs", "keyfile", "passphrase")
MIN_ROOT = 64 * MIB
DevicePath = Annotated[str, Text(r"/dev(/[A-Za-z0-9][A-Za-z0-9._-]*)+", "/dev/vdb")]


@dataclass(frozen=True, kw_only=True)
class BaseSpec:
    """The image that is converted: a file that is brought, or a Debian system of packages.

    Attributes:
        path: a qcow2 or raw disk, relative to the project; ``sha256`` is that of the file.
        packages: of a system that is assembled here, a disk with an ext4 root and without a boot loader.
        size: of its root.
        exclude: patterns of its paths that are left out.
    """

    path: FilePath | None = None
    sha256: Digest | None = None
    packages: tuple[PackageName, ...] = ()
    size: Annotated[int, Size] = 512 * MIB
    exclude: tuple[str, ...] = ()
    hostname: Word = "localhost"

    @property
    def is_brought(self) -> bool:
        """Whether it is a file that somebody brings."""
        return self.path is not None


@dataclass(frozen=True, kw_only=True)
class ConvertedKernelSpec:
    """The kernel: of a package, or the newest of the base image where none is named."""

    package: PackageName | None = None
    cmdline: str = ""


@dataclass(frozen=True, kw_only=True)
class RootSpec(UnlockSpec):
    """The encrypted root: its size, how it opens, and what is added to the base's.

    Attributes:
        size: of the file system, at least that of the base's root.
        packages: installed into it, exactly these.
        overlays: folders of ``rootfs/`` laid over it.
        enable: units to start.
        modules: of the kernel package; all where none is named.
        header: always LUKS2, whatever else the providers could open.
        jindisk: device in the guest that tables for dm-jindisk are written for, spec-only: the image itself
            opens its LUKS2 root, and its kernel has to have the module.
    """

    size: Annotated[int, Size]
    header: VolumeHeader | None = VolumeHeader.LUKS2
    packages: tuple[PackageName, ...] = ()
    overlays: tuple[Word, ...] = ()
    enable: tuple[UnitName, ...] = ()
    modules: tuple[ModuleName, ...] = ()
    jindisk: DevicePath | None = None


@dataclass(frozen=True, kw_only=True)
class ConvertedRecipe:
    """One image that is made of a base image, and the machines it is measured for."""

    architecture: Architecture
    debian: DebianSpec
    base: BaseSpec
    root: RootSpec
    initramfs: InitramfsSpec
    machines: tuple[MachineSpec, ...]
    kernel: ConvertedKernelSpec = ConvertedKernelSpec()
    uki: UkiSpec = field(default_factory=UkiSpec)
    disk: DiskSpec = field(default_factory=DiskSpec)
    golden: GoldenSpec = field(default_factory=GoldenSpec)
    publish: PublishSpec = field(default_factory=PublishSpec)
    profile: Profile = Profile.RELEASE
    version: Annotated[str, Text(r"[0-9A-Za-z.+~-]+", "1.0")] = "0"


@dataclass(frozen=True, kw_only=True)
class ConvertedImage(DiskBuildable):
    """A converted image's recipe that passed every check."""

    recipe: ConvertedRecipe


def load_converted(path: Path, root: Path) -> ConvertedImage:
    """The converted image that the recipe at ``path`` describes; ``root`` is the project's folder.

    Raises:
        SpecError: with every mistake of the recipe.
    """
    recipe, marks = read_recipe(path, root, ConvertedRecipe)
    machines = Machines()
    attempt(marks, check_name, path.stem)
    for check in (_check_base, _check_root, _check_packages):
        attempt(marks, check, recipe)
    # What a converted image has in common with one that is made of packages alone.
    for shared in (
        check_initramfs,
        check_kernel_cmdline,
        check_architecture,
        check_disk,
        check_snp,
        check_publish,
    ):
        attempt(marks, shared, recipe)
    for search in (_check_overlays, _check_volume):
        attempt(marks, search, recipe, root)
    for index, spec in enumerate(recipe.machines or ()):
        attempt(marks, add_machines, spec, index, machines, root)
    marks.raise_problems()
    return ConvertedImage(
        name=path.stem,
        path=path,
        recipe=recipe,
        machines=tuple(machines.plain),
        snp=tuple(machines.snp),
        places=marks.places,
    )


def _check_base(marks: Marks, recipe: ConvertedRecipe) -> None:
    base = recipe.base
    if base.is_brought == bool(base.packages):
        what = "base: an image is brought (path, sha256) or assembled here (packages); write one of them"
        marks.add(("base",), what)
    elif base.is_brought and ("base", "sha256") not in marks.places:
        marks.add(("base",), "base: sha256 is missing; write that of the file, `sha256sum` prints it")
    elif base.sha256 is not None and not base.is_brought:
        marks.add(("base", "sha256"), "base: sha256 is for a file that is brought; remove it")
    if base.path is not None and ".." in base.path.split("/"):
        what = f"base: {base.path} does not lie in the project; give a path relative to it"
        marks.add(("base", "path"), what)


def _check_root(marks: Marks, recipe: ConvertedRecipe) -> None:
    base, root = recipe.base, recipe.root
    assembled = bool(base.packages) and not base.is_brought
    if root.size % MIB or root.size < MIN_ROOT:
        marks.add(("root", "size"), "root.size must be whole MiB and at least 64MiB")
    if assembled and (base.size % MIB or base.size < MIN_ROOT):
        marks.add(("base", "size"), "base.size must be whole MiB and at least 64MiB")
    elif assembled and base.size > root.size:
        marks.add(("root", "size"), "root.size is less than base.size; a root only grows")
    for index, name in enumerate(root.unlock):
        if name not in ROOT_PROVIDERS:
            what = f"provider {name} cannot open a root that the build encrypts"
            marks.add(("root", "unlock", index), f"{what}; use one of {', '.join(ROOT_PROVIDERS)}")
    if root.header is VolumeHeader.NONE:
        marks.add(("root", "header"), "the build gives the root a LUKS2 header; write luks2, or nothing")
    if root.escrow is not None:
        what = "root.escrow is for a key that the guest makes; the build keeps this one in keys/"
        marks.add(("root", "escrow"), what)


def _check_packages(marks: Marks, recipe: ConvertedRecipe) -> None:
    for place, names in (
        (("base", "packages"), recipe.base.packages),
        (("root", "packages"), recipe.root.packages),
        (("initramfs", "packages"), recipe.initramfs.packages),
    ):
        check_unique(marks, place, names, "package")
    modules = {name.replace("-", "_") for name in recipe.root.modules}
    if recipe.root.jindisk is not None and modules and "dm_jindisk" not in modules:
        what = "root.modules leave out dm-jindisk, without which nothing can be done with its tables"
        marks.add(("root", "modules"), f"{what}; add it, or remove root.jindisk")
    if recipe.root.modules and recipe.kernel.package is None:
        what = "root.modules are those of a kernel package; the base's kernel has its own"
        marks.add(("root", "modules"), f"{what}; remove them, or name kernel.package")


def _check_overlays(marks: Marks, recipe: ConvertedRecipe, root: Path) -> None:
    overlays = [path.name for path in (root / "rootfs").iterdir() if path.is_dir()]
    for index, name in enumerate(recipe.root.overlays):
        if name not in overlays:
            what = f"there is no overlay rootfs/{name}{suggestion(name, overlays)}"
            marks.add(("root", "overlays", index), what)


def _check_volume(marks: Marks, recipe: ConvertedRecipe, root: Path) -> None:
    check_unlock(marks, ("root",), recipe.root, root)
    check_cap(marks, ("root",), recipe.root, recipe.initramfs.tpm)
