"""The recipe of an Arm CCA realm as Islet provisions it: kernel, initramfs, applications, metadata.

Spec: islet-project/realm-manager 79b74b6 (warden, realm), realm-metadata-tool f08738d.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from ..app_manager import AppManagerConfig, check_config
from ..errors import SpecError, suggestion
from ..machine import Irqchip, KvmtoolMachine, VirtioTransport
from ..reader import Marks, Place, Size, Text
from ..record import dataclass, field
from ..units import MIB
from .common import (
    Architecture,
    Buildable,
    DebianSpec,
    ModuleName,
    PackageName,
    Profile,
    SemanticVersion,
    Word,
    attempt,
    check_cmdline,
    check_name,
    check_unique,
    read_recipe,
)
from .realm_machines import RealmMachineSpec, add_machines, warden_options

Endpoint = Annotated[str, Text(r"[A-Za-z0-9.-]+:[1-9][0-9]{0,4}", "registry.example:8888")]
Reference = Annotated[
    str, Text(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}|sha256:[0-9a-f]{64}", "latest, or sha256: and 64 digits")
]
Digest = Annotated[str, Text(r"[0-9a-f]{64}", "64 hexadecimal digits in lower case")]


def _listed(value: str, example: str) -> Text:
    """The rule for values with commas between."""
    return Text(rf" *({value}) *(, *({value}) *)*", example)


# Values of options in a stability report. What the rules let pass, the report itself still judges.
# Spec: kvmtool builtin-run.c, parse_mem_unit.
Numbers = Annotated[str, _listed(r"[0-9]{1,3}(-[0-9]{1,3})?", "1,2,4 or 0-4")]
Sizes = Annotated[str, _listed(r"[0-9]{1,15}[bkmgtpBKMGTP]?", "256M,1G")]
Switch = Annotated[str, _listed("off|on", "off,on")]
Consoles = Annotated[str, _listed("serial|virtio|hv", "serial,virtio")]
Transports = Annotated[str, _listed("|".join(item.value for item in VirtioTransport), "pci,mmio")]
Irqchips = Annotated[str, _listed("|".join(item.value for item in Irqchip), "gicv3,gicv3-its")]

# Words that busybox init takes for single-user mode, and those that replace it.
# Spec: busybox 1.37 init/init.c; Linux Documentation/admin-guide/kernel-parameters.txt.
_SHELL = re.compile(r"single|-s|1|(rd)?init=.*")
# kvmtool takes four disks, and warden gives each application one.
# Spec: kvmtool include/kvm/disk-image.h MAX_DISK_IMAGES.
MAX_APPLICATIONS = 4
# Spec: realm-manager warden application.rs: sizes of an application's partitions.
MIN_STORAGE, MAX_STORAGE = MIB, 102400 * MIB


@dataclass(frozen=True, kw_only=True)
class RealmInitramfsSpec:
    """The realm's initramfs: packages its programs come from, and kernel modules."""

    packages: tuple[PackageName, ...]
    modules: tuple[ModuleName, ...]


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """A file that is brought: its path relative to the project, and what it must be."""

    path: str
    sha256: Digest


@dataclass(frozen=True, kw_only=True)
class ManagerSpec:
    """The application manager: a static aarch64 binary, or the shell stand-in where none is named.

    Attributes:
        rsi_module: Islet's ``rsi.ko`` for the recipe's kernel.
        registry_ca: the registry's CA certificate, put where ``config.launcher.root_ca`` says.
        token: an attestation token, put where ``config.launcher.token_file`` says.
        config: its ``config.yml``.
    """

    binary: FileSpec | None = None
    rsi_module: FileSpec | None = None
    registry_ca: FileSpec | None = None
    token: FileSpec | None = None
    config: AppManagerConfig = field(default_factory=AppManagerConfig)

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """Every file that is brought."""
        given = (self.binary, self.rsi_module, self.registry_ca, self.token)
        return tuple(file for file in given if file is not None)

    @property
    def rem(self) -> int | None:
        """Number of the REM that applications are extended into, from 0; None for none."""
        extend = self.config.extend
        return None if extend is None else int(extend.value.removeprefix("rem"))


@dataclass(frozen=True, kw_only=True)
class IssuerSpec:
    """Who stands in ``reference.json`` as its issuer."""

    name: str = "Goldsmith"
    url: str = "https://goldsmith.invalid"


@dataclass(frozen=True, kw_only=True)
class RealmSpec:
    """The realm as its metadata and its verifier know it.

    Attributes:
        id: realm identity, printable ASCII.
        svn: security version number; sealed data of a lower one stays readable.
        registry: where applications are fetched from, as the realm sees it.
        port: of the RA-TLS service in ``reference.json``.
        cmdline: kernel options, which warden passes in quotation marks.
    """

    id: Annotated[str, Text(r"[\x20-\x7e]{1,128}", "com.example.realm")]
    registry: Endpoint
    svn: int = 1
    port: int = 8088
    cmdline: str = ""
    issuer: IssuerSpec = IssuerSpec()
    manager: ManagerSpec = ManagerSpec()


@dataclass(frozen=True, kw_only=True)
class ApplicationSpec:
    """An application: an OCI image that is imported, or one made of packages and an overlay.

    Attributes:
        layout: OCI layout folder or uncompressed OCI tar, relative to the project.
        version: tag, or for an imported image also its manifest's digest.
        packages: Debian packages of an image made here.
        overlay: folder of ``rootfs/`` laid over them.
        command: what an image made here starts.
        image_size: size of its image partition.
        data_size: size of its data partition.
    """

    name: Annotated[str, Text(r"[a-z0-9][a-z0-9._-]{0,63}", "web-server")]
    version: Reference = "latest"
    layout: str = ""
    packages: tuple[PackageName, ...] = ()
    overlay: str = ""
    command: tuple[str, ...] = ()
    image_size: Annotated[int, Size] = 32 * MIB
    data_size: Annotated[int, Size] = 32 * MIB


@dataclass(frozen=True, kw_only=True)
class StabilitySpec:
    """The matrix of the stability report, as ``goldsmith stability`` takes it.

    Not written: values around the first machine's own, or for the last six none.

    Attributes:
        vcpus: ``1,2,4`` or ``1-4``; also disks, nics and shares.
        memory: ``256M,1G``.
        consoles: ``serial,virtio``; the others are words too, such as ``off,on``.
    """

    vcpus: Numbers = ""
    memory: Sizes = ""
    disks: Numbers = ""
    nics: Numbers = ""
    consoles: Consoles = ""
    shares: Numbers = ""
    vsock: Switch = ""
    balloon: Switch = ""
    rng: Switch = ""
    transports: Transports = ""
    irqchips: Irqchips = ""


@dataclass(frozen=True, kw_only=True)
class RealmRecipe:
    """A realm: what it is made of, what it runs, and the machines it is measured for."""

    architecture: Architecture
    debian: DebianSpec
    kernel: Word
    initramfs: RealmInitramfsSpec
    realm: RealmSpec
    machines: tuple[RealmMachineSpec, ...]
    applications: tuple[ApplicationSpec, ...] = ()
    stability: StabilitySpec = StabilitySpec()
    profile: Profile = Profile.RELEASE
    version: SemanticVersion = "1.0.0"


@dataclass(frozen=True, kw_only=True)
class RealmImage(Buildable):
    """A realm's recipe that passed every check, with its machines."""

    recipe: RealmRecipe
    machines: tuple[KvmtoolMachine, ...]

    @property
    def provisioned(self) -> KvmtoolMachine:
        """The machine that metadata, reference values and warden's lines are made for."""
        return self.machines[0]


def load_realm(path: Path, root: Path, kernels: tuple[str, ...]) -> RealmImage:
    """The realm that the recipe at ``path`` describes.

    Args:
        kernels: names of the kernels there are recipes for.

    Raises:
        SpecError: with every mistake of the recipe.
    """
    recipe, marks = read_recipe(path, root, RealmRecipe)
    machines: list[KvmtoolMachine] = []
    attempt(marks, check_name, path.stem)
    attempt(marks, _check_kernel, recipe, kernels)
    for check in (_check_initramfs, _check_realm, _check_manager):
        attempt(marks, check, recipe)
    attempt(marks, _check_applications, recipe, root)
    options = warden_options(recipe.realm.cmdline) if recipe.realm else None
    for index, spec in enumerate(recipe.machines or ()):
        attempt(marks, add_machines, spec, index, options, len(recipe.applications or ()), machines)
    if recipe.machines is not None and not recipe.machines:
        marks.add(("machines",), "machines: the list is empty; name one at least")
    marks.raise_problems()
    return RealmImage(name=path.stem, path=path, recipe=recipe, machines=tuple(machines), places=marks.places)


def _check_kernel(marks: Marks, recipe: RealmRecipe, kernels: tuple[str, ...]) -> None:
    if recipe.kernel not in kernels:
        what = f"there is no kernel recipe recipes/kernels/{recipe.kernel}.yaml"
        marks.add(("kernel",), what + suggestion(recipe.kernel, kernels))
    if recipe.architecture is not Architecture.AARCH64:
        marks.add(("architecture",), "a realm is aarch64")


def _check_initramfs(marks: Marks, recipe: RealmRecipe) -> None:
    check_unique(marks, ("initramfs", "packages"), recipe.initramfs.packages, "package")
    check_unique(marks, ("initramfs", "modules"), recipe.initramfs.modules, "module")


def _check_realm(marks: Marks, recipe: RealmRecipe) -> None:
    if not 1 <= recipe.realm.svn < 1 << 64:
        marks.add(("realm", "svn"), f"realm.svn: {recipe.realm.svn} is not 1 to 2^64-1")
    for place, port in (
        (("realm", "port"), recipe.realm.port),
        (("realm", "registry"), int(recipe.realm.registry.rpartition(":")[2])),
    ):
        if not 1 <= port <= 65535:
            marks.add(place, f"{'.'.join(place)}: {port} is not a port, 1 to 65535")
    if any(int(part) >= 1 << 64 for part in recipe.version.split(".")):
        marks.add(("version",), "version: each number must fit 64 bits")
    check_cmdline(marks, ("realm", "cmdline"), recipe.realm.cmdline)
    for word in recipe.realm.cmdline.split():
        if recipe.profile is Profile.RELEASE and _SHELL.fullmatch(word):
            what = f"{word!r} would give a shell, or another init; remove it, or set profile: dev"
            marks.add(("realm", "cmdline"), what)
    if '"' in recipe.realm.cmdline:
        marks.add(("realm", "cmdline"), "realm.cmdline: warden puts it in quotation marks; it can hold none")


def _check_manager(marks: Marks, recipe: RealmRecipe) -> None:
    manager, place = recipe.realm.manager, ("realm", "manager")
    for key in ("rsi_module", "registry_ca", "token"):
        if manager.binary is None and getattr(manager, key) is not None:
            marks.add((*place, key), f"{key}: the stand-in has no use for it; name a binary, or remove it")
    for key in ("binary", "rsi_module", "registry_ca", "token"):
        file = getattr(manager, key)
        if file is not None and (file.path.startswith("/") or ".." in file.path.split("/")):
            what = f"{key}: {file.path} does not lie in the project; give a path relative to it"
            marks.add((*place, key, "path"), what)
    try:
        check_config(manager.config)
    except SpecError as error:
        marks.add((*place, "config"), str(error))


def _check_applications(marks: Marks, recipe: RealmRecipe, root: Path) -> None:
    if len(recipe.applications) > MAX_APPLICATIONS:
        what = f"{len(recipe.applications)} applications; kvmtool takes {MAX_APPLICATIONS} disks"
        marks.add(("applications", MAX_APPLICATIONS), what)
    names = [application.name for application in recipe.applications]
    for index, spec in enumerate(recipe.applications):
        place = ("applications", index)
        if spec.name in names[:index]:
            marks.add((*place, "name"), f"two applications are called {spec.name!r}")
        _check_application(marks, spec, place, root)


def _check_application(marks: Marks, spec: ApplicationSpec, place: Place, root: Path) -> None:
    if bool(spec.layout) == bool(spec.packages or spec.overlay):
        what = "an application is imported (layout) or made here (packages, overlay); write one of them"
        marks.add(place, what)
    if not spec.layout and not spec.command:
        marks.add(place, "command is missing: what the application starts")
    if not spec.layout and spec.version.startswith("sha256:"):
        marks.add((*place, "version"), "version: an image made here has a tag; write one, such as latest")
    if spec.layout and spec.command:
        marks.add((*place, "command"), "an imported image says itself what it starts; remove command")
    if spec.layout and (spec.layout.startswith("/") or ".." in spec.layout.split("/")):
        what = f"layout: {spec.layout} does not lie in the project; give a path relative to it"
        marks.add((*place, "layout"), what)
    overlays = [path.name for path in (root / "rootfs").iterdir() if path.is_dir()]
    if spec.overlay and spec.overlay not in overlays:
        what = f"there is no overlay rootfs/{spec.overlay}{suggestion(spec.overlay, overlays)}"
        marks.add((*place, "overlay"), what)
    for key, size in (("image_size", spec.image_size), ("data_size", spec.data_size)):
        if size % MIB or not MIN_STORAGE <= size <= MAX_STORAGE:
            marks.add((*place, key), f"{key}: must be whole MiB from 1MiB to 102400MiB")
