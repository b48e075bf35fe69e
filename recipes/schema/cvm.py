"""The recipe of a confidential VM that boots from a disk: verity root, encrypted data partition, one UKI."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Protocol

from ..errors import suggestion
from ..machine import QemuMachine, SnpMachine
from ..reader import Marks, Place, Size, Text
from ..record import dataclass, field
from ..units import MIB
from .attest import AttestSpec, check_attest
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
from .golden import GoldenSpec
from .machines import Machines, MachineSpec, add_machines, check_snp_boots
from .publish import PublishSpec, check_publish
from .volumes import FormatPolicy, UnlockSpec, VolumeIntegrity, check_format, check_seconds, check_unlock
from .workload import WorkloadSpec, check_workload

UnitName = Annotated[
    str, Text(r"[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|mount|target|path|swap)", "nginx.service")
]


Network = Annotated[
    str,
    Text(r"none|dhcp|[0-9a-f.:]+/[0-9]{1,3}(,[0-9a-f.:]+)?", "dhcp, or 10.0.2.15/24,10.0.2.2"),
]
# cc1, as and ld, and what C programs for the initramfs include and link: those of Debian 13.
TOOLCHAIN = (
    *("binutils-x86-64-linux-gnu", "cpp-14-x86-64-linux-gnu", "libbinutils", "libc6", "libc6-dev", "libctf0"),
    *("libgcc-14-dev", "libgmp10", "libisl23", "libjansson4", "libmpc3", "libmpfr6", "libsframe1"),
    *("libssl-dev", "libssl3t64", "libzstd1", "linux-libc-dev", "zlib1g"),
)


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


class Filesystem(Enum):
    """File systems of the data partition."""

    EXT4 = "ext4"


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """The kernel package (a meta package is followed) and what is added to its command line."""

    package: PackageName
    cmdline: str = ""


@dataclass(frozen=True, kw_only=True)
class InitramfsSpec:
    """The initramfs: packages its programs come from, kernel modules, and what it does on failure.

    Attributes:
        network: ``none``, ``dhcp``, or an address with its prefix and, behind a comma, a gateway.
        toolchain: packages of the compiler that makes our own helpers.
    """

    packages: tuple[PackageName, ...]
    modules: tuple[ModuleName, ...]
    on_failure: OnFailure = OnFailure.PANIC
    tpm: TpmPolicy = TpmPolicy.REQUIRED
    device_timeout: int = 30
    compression_level: int = 3
    network: Network = "none"
    toolchain: tuple[PackageName, ...] = TOOLCHAIN


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
class DataSpec(UnlockSpec):
    """The encrypted data partition, mounted on /var."""

    size: Annotated[int, Size]
    filesystem: Filesystem = Filesystem.EXT4
    format: FormatPolicy = FormatPolicy.IF_BLANK
    integrity: VolumeIntegrity = VolumeIntegrity.NONE


@dataclass(frozen=True, kw_only=True)
class UkiSpec:
    """The Unified Kernel Image: the package of its stub."""

    stub: PackageName = "systemd-boot-efi"


@dataclass(frozen=True, kw_only=True)
class DiskSpec:
    """The disk: size of the EFI system partition, and the formats it ships in besides ``raw``.

    Which formats there are is not known here: others may be plugged in.
    """

    esp_size: Annotated[int, Size] = 64 * MIB
    formats: tuple[Word, ...] = ("raw",)


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
    golden: GoldenSpec = field(default_factory=GoldenSpec)
    publish: PublishSpec = field(default_factory=PublishSpec)
    workload: WorkloadSpec | None = None
    attest: AttestSpec | None = None
    profile: Profile = Profile.RELEASE
    version: Annotated[str, Text(r"[0-9A-Za-z.+~-]+", "1.0")] = "0"


class CommandLine(Protocol):
    """A kernel of any origin."""

    @property
    def cmdline(self) -> str:
        """What is added to its command line."""


class BootRecipe(Protocol):
    """What every recipe says of an image that boots from a disk."""

    @property
    def architecture(self) -> Architecture:
        """The processor it is for."""

    @property
    def profile(self) -> Profile:
        """Release or development."""

    @property
    def kernel(self) -> CommandLine:
        """The kernel."""

    @property
    def initramfs(self) -> InitramfsSpec:
        """The initramfs."""

    @property
    def machines(self) -> tuple[MachineSpec, ...]:
        """Families of machines that it is measured for."""

    @property
    def disk(self) -> DiskSpec:
        """The disk."""


@dataclass(frozen=True, kw_only=True)
class DiskBuildable(Buildable):
    """What boots from a disk of its own by UEFI, on the machines of its recipe.

    Attributes:
        machines: those whose TPM is all that measures.
        snp: those with SEV-SNP.
    """

    machines: tuple[QemuMachine, ...]
    snp: tuple[SnpMachine, ...] = ()

    @property
    def captures_path(self) -> Path:
        """The committed captures of the machines' ACPI tables, beside the lock."""
        return self.path.with_suffix(".captures.lock")


@dataclass(frozen=True, kw_only=True)
class Image(DiskBuildable):
    """A confidential VM's recipe that passed every check."""

    recipe: Recipe


def load_image(path: Path, root: Path) -> Image:
    """The image that the recipe at ``path`` describes; ``root`` is the project's folder.

    Raises:
        SpecError: with every mistake of the recipe.
    """
    recipe, marks = read_recipe(path, root, Recipe)
    machines = Machines()
    attempt(marks, check_name, path.stem)
    for check in (
        _check_root_packages,
        _check_sizes,
        check_initramfs,
        check_kernel_cmdline,
        check_architecture,
        check_disk,
        check_snp,
        check_publish,
        _check_attest,
    ):
        attempt(marks, check, recipe)
    for search in (_check_overlays, _check_volume, _check_workload):
        attempt(marks, search, recipe, root)
    for index, spec in enumerate(recipe.machines or ()):
        attempt(marks, add_machines, spec, index, machines, root)
    marks.raise_problems()
    return Image(
        name=path.stem,
        path=path,
        recipe=recipe,
        machines=tuple(machines.plain),
        snp=tuple(machines.snp),
        places=marks.places,
    )


def check_architecture(marks: Marks, recipe: BootRecipe) -> None:
    """Notes an architecture that no disk image is made for."""
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


def _check_volume(marks: Marks, recipe: Recipe, root: Path) -> None:
    check_unlock(marks, ("data",), recipe.data, root)
    check_cap(marks, ("data",), recipe.data, recipe.initramfs.tpm)
    check_format(marks, ("data",), recipe.data, recipe.data.format)
    if recipe.data.format is FormatPolicy.NEVER and recipe.data.integrity is not VolumeIntegrity.NONE:
        what = "integrity tags are the kernel's to write, and with format never the build makes the volume"
        marks.add(("data", "integrity"), f"{what}; use if-blank, or leave integrity out")


def _check_workload(marks: Marks, recipe: Recipe, root: Path) -> None:
    if recipe.workload is not None:
        check_workload(marks, ("workload",), recipe.workload, recipe.rootfs.packages, root)


def _check_attest(marks: Marks, recipe: Recipe) -> None:
    if recipe.attest is not None:
        root = recipe.rootfs
        check_attest(
            marks,
            ("attest",),
            recipe.attest,
            packages=root.packages,
            modules=root.modules,
            workload=recipe.workload,
        )


def _check_sizes(marks: Marks, recipe: Recipe) -> None:
    if recipe.data.size % MIB or recipe.data.size < 16 * MIB:
        marks.add(("data", "size"), "data.size must be whole MiB and at least 16MiB")


def check_disk(marks: Marks, recipe: BootRecipe) -> None:
    """Notes what is wrong with a disk, but for the names of its formats."""
    if recipe.disk.esp_size < 34 * MIB:
        what = "disk.esp_size must be at least 34MiB; a smaller file system is not FAT32"
        marks.add(("disk", "esp_size"), what)
    check_unique(marks, ("disk", "formats"), recipe.disk.formats, "disk format")


def check_snp(marks: Marks, recipe: BootRecipe) -> None:
    """Notes machines with SEV-SNP that the image would not come up on."""
    check_snp_boots(
        marks,
        recipe.machines,
        needs_tpm=recipe.initramfs.tpm is TpmPolicy.REQUIRED,
        own_words_only=recipe.profile is Profile.RELEASE,
    )


def check_cap(marks: Marks, place: Place, spec: UnlockSpec, tpm: TpmPolicy) -> None:
    """Notes providers whose key the running system could have again, were PCR 11 not extended after them."""
    for index, name in enumerate(spec.unlock):
        if name in ("tpm2", "kbs") and tpm is TpmPolicy.IF_PRESENT:
            what = f"provider {name} gives its key to the initramfs alone, whose end PCR 11 must show"
            marks.add((*place, "unlock", index), f"{what}; write initramfs.tpm: required")


def check_initramfs(marks: Marks, recipe: BootRecipe) -> None:
    """Notes what no initramfs can be made of."""
    if recipe.initramfs.on_failure is OnFailure.SHELL and recipe.profile is Profile.RELEASE:
        marks.add(
            ("initramfs", "on_failure"), "a release never gives a shell; use panic, or set profile: dev"
        )
    if not 1 <= recipe.initramfs.compression_level <= 19:
        marks.add(("initramfs", "compression_level"), "initramfs.compression_level must be 1 to 19")
    check_seconds(marks, ("initramfs", "device_timeout"), recipe.initramfs.device_timeout)


def check_kernel_cmdline(marks: Marks, recipe: BootRecipe) -> None:
    """Notes words that are the build's to write, and what no kernel takes."""
    for word in recipe.kernel.cmdline.split():
        if re.match(r"(roothash|init|rdinit|root|initrd)=", word):
            marks.add(("kernel", "cmdline"), f"{word!r} is not yours to set: the build writes it")
    check_cmdline(marks, ("kernel", "cmdline"), recipe.kernel.cmdline)
