"""What a recipe may say, and the checks that need more than one value.

A recipe is one YAML file under ``recipes/images``; its image has the file's name. Reading it touches no other
package than PyYAML, so that ``doit list`` stays instant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Annotated

from .errors import Problem, SpecError
from .machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from .reader import Marks, Place, Size, Text, read, suggestion
from .units import GIB, MIB

PackageName = Annotated[str, Text(r"[a-z0-9][a-z0-9+.-]+", "systemd-sysv")]
UnitName = Annotated[
    str, Text(r"[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|mount|target|path|swap)", "nginx.service")
]
Word = Annotated[str, Text(r"[a-z0-9][a-z0-9-]{0,40}", "debian-cvm")]
ModuleName = Annotated[str, Text(r"[A-Za-z0-9_-]+", "virtio_blk")]

RESERVED = frozenset(
    [
        *(
            "packages",
            "kernel",
            "rootfs",
            "verity",
            "initramfs",
            "uki",
            "keys",
            "variables",
            "disk",
            "golden",
        ),
        *(
            "launch",
            "check",
            "run",
            "update",
            "test",
            "lint",
            "bench",
            "clean",
            "list",
            "info",
            "forget",
            "help",
        ),
        *(
            "image",
            "boot",
            "data",
            "sbom",
            "sign",
            "manifest",
            "measure",
            "cache",
            "auto",
            "strace",
            "ignore",
        ),
    ]
)
MIN_MEMORY, MAX_MEMORY, MAX_VCPUS = 256 * MIB, 1024 * GIB, 256

FIRMWARES = {
    "ovmf": UefiFirmware(package="ovmf", code="OVMF_CODE_4M.fd", vars="OVMF_VARS_4M.fd"),
    "ovmf-secure-boot": UefiFirmware(
        package="ovmf", code="OVMF_CODE_4M.secboot.fd", vars="OVMF_VARS_4M.fd", secure_boot=True, smm=True
    ),
}


class Architecture(Enum):
    """Processor architectures, by the kernel's name."""

    X86_64 = "x86_64"


class Profile(Enum):
    """``release`` never gives anybody a shell; ``dev`` may."""

    RELEASE = "release"
    DEV = "dev"


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
class DebianSpec:
    """The Debian suite that packages come from."""

    suite: Word


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


class Vmm(Enum):
    """Virtual machine monitors."""

    QEMU = "qemu"


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """A family of machines: every combination of the lists is one machine."""

    name: Word
    vmm: Vmm
    machine: Annotated[str, Text(r"pc-(q35|i440fx)-[0-9]+\.[0-9]+", "pc-q35-7.2")]
    accel: Accelerator
    cpu: Annotated[str, Text(r"[A-Za-z0-9_.+,=-]+", "qemu64,-cx16")]
    firmware: Word
    vcpus: tuple[int, ...]
    memory: tuple[Annotated[int, Size], ...]
    tpm: tuple[TpmInterface, ...]
    devices: tuple[str, ...] = ()


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
class Image:
    """A recipe that passed every check, with its name, its file and its machines."""

    name: str
    path: Path
    recipe: Recipe
    machines: tuple[QemuMachine, ...]
    places: Mapping[Place, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)

    def positions(self, *key: str) -> tuple[str, ...]:
        """``line:column`` of each item of a list in the recipe, or of a single value."""
        items = sorted(place for place in self.places if place[:-1] == key and isinstance(place[-1], int))
        found = items or [key]
        return tuple("{}:{}".format(*self.places[place]) for place in found if place in self.places)

    @property
    def lock_path(self) -> Path:
        """The committed lock beside the recipe."""
        return self.path.with_suffix(".lock")

    @property
    def captures_path(self) -> Path:
        """The committed captures of the machines' ACPI tables, beside the lock."""
        return self.path.with_suffix(".captures.lock")


def load_image(path: Path, root: Path) -> Image:
    """The image that the recipe at ``path`` describes; ``root`` is the project's folder.

    Raises:
        SpecError: with every mistake of the recipe.
    """
    where = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{where}: {error}") from None
    recipe, marks = read(text, where, Recipe)
    machines: list[QemuMachine] = []
    _attempt(marks, _check_name, path.stem)
    for check in (_check_root_packages, _check_sizes, _check_initramfs, _check_cmdline):
        _attempt(marks, check, recipe)
    for search in (_check_overlays, _check_providers):
        _attempt(marks, search, recipe, root)
    for index, spec in enumerate(recipe.machines or ()):
        _attempt(marks, _add_machines, spec, index, machines)
    marks.raise_problems()
    return Image(name=path.stem, path=path, recipe=recipe, machines=tuple(machines), places=marks.places)


def _attempt(marks: Marks, check: Callable[..., None], *arguments: object) -> None:
    """Runs a check on a recipe of which parts may not have parsed.

    Those are None, and their own mistake is noted; what stumbles over one has nothing to add.
    """
    try:
        check(marks, *arguments)
    except (AttributeError, TypeError):
        if not marks.problems:
            raise


def load_images(root: Path) -> tuple[Image, ...]:
    """All images, in the order of their names.

    Raises:
        SpecError: with every mistake of every recipe.
    """
    images: list[Image] = []
    problems: list[Problem] = []
    for path in sorted((root / "recipes" / "images").glob("*.yaml")):
        try:
            images.append(load_image(path, root))
        except SpecError as error:
            if not error.problems:
                raise
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return tuple(images)


def _check_name(marks: Marks, name: str) -> None:
    if name in RESERVED:
        marks.add((), f"an image cannot be called {name!r}: it is the name of a task; rename the file")
    elif re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name) is None:
        marks.add((), f"an image cannot be called {name!r}; use small letters, digits and dashes")


def _check_root_packages(marks: Marks, recipe: Recipe) -> None:
    for place, packages in (("rootfs", recipe.rootfs.packages), ("initramfs", recipe.initramfs.packages)):
        for index, name in enumerate(packages):
            if name in packages[:index]:
                marks.add((place, "packages", index), f"package {name!r} is listed twice")


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
    if re.search(r"[^\x20-\x7e]", recipe.kernel.cmdline):
        marks.add(("kernel", "cmdline"), "the command line holds a character that is not printable ASCII")


def _add_machines(marks: Marks, spec: MachineSpec, index: int, machines: list[QemuMachine]) -> None:
    """Adds every combination of one family of machines."""
    place = ("machines", index)
    if spec.firmware not in FIRMWARES:
        what = f"firmware {spec.firmware!r} is not known{suggestion(spec.firmware, FIRMWARES)}"
        marks.add((*place, "firmware"), what)
        return
    _check_machine(spec, place, marks)
    for machine in _combinations(spec):
        if machine.name in {other.name for other in machines}:
            marks.add((*place, "name"), f"two machines are called {machine.name!r}")
        machines.append(machine)


def _check_machine(spec: MachineSpec, place: tuple[str, int], marks: Marks) -> None:
    for key, values in (("vcpus", spec.vcpus), ("memory", spec.memory), ("tpm", spec.tpm)):
        if not values:
            marks.add((*place, key), f"{key}: the list is empty")
        for index, value in enumerate(values):
            if value in values[:index]:
                marks.add((*place, key, index), f"{key}: listed twice")
    for index, vcpus in enumerate(spec.vcpus):
        if not 1 <= vcpus <= MAX_VCPUS:
            marks.add((*place, "vcpus", index), f"vcpus: {vcpus} is not 1 to {MAX_VCPUS}")
    for index, memory in enumerate(spec.memory):
        if memory and not (MIN_MEMORY <= memory <= MAX_MEMORY and memory % MIB == 0):
            marks.add((*place, "memory", index), "memory: must be whole MiB from 256MiB to 1024GiB")


def _combinations(spec: MachineSpec) -> Iterator[QemuMachine]:
    for vcpus, memory, tpm in product(spec.vcpus, spec.memory, spec.tpm):
        labels = [
            (len(spec.vcpus) > 1, f"{vcpus}cpu"),
            (len(spec.memory) > 1, f"{memory // MIB}m"),
            (len(spec.tpm) > 1, tpm.value),
        ]
        yield QemuMachine(
            name="-".join([spec.name, *(label for varied, label in labels if varied)]),
            type=spec.machine,
            accelerator=spec.accel,
            cpu=spec.cpu,
            vcpus=vcpus,
            memory=memory,
            firmware=FIRMWARES[spec.firmware],
            tpm=tpm,
            disks=(Disk(bootindex=0),),
            devices=spec.devices,
        )
