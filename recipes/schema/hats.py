"""The recipe of what HATs launches: bundles, launcher configuration and appraisal policies.

Spec: private-compute-infra-toolkit/hats 7d61840, client/proto/launcher_config.proto and
tvs/proto/appraisal_policies.proto.
"""

from __future__ import annotations

import posixpath
import re
from enum import Enum
from pathlib import Path
from typing import Annotated

from ..errors import suggestion
from ..machine.hats import HatsShape, RegexForm
from ..machine.stage0 import Stage0Generation
from ..reader import Marks, Place, Size, Text
from ..record import dataclass
from .common import (
    Architecture,
    Buildable,
    DebianSpec,
    PackageName,
    SemanticVersion,
    attempt,
    check_name,
    check_unique,
    read_recipe,
)
from .hats_machines import (
    HatsMachineSpec,
    NetworksSpec,
    check_machine,
    check_memory,
    check_networks,
    networks,
    shapes,
)

Digest = Annotated[str, Text(r"[0-9a-f]{64}", "64 hexadecimal digits in lower case")]
# The launcher starts it without a shell: a whole path, or a name to look for.
_PROGRAM = r"/[A-Za-z0-9_./+-]{1,254}|[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}"
HostPath = Annotated[str, Text(_PROGRAM, "/usr/local/bin/qemu-system-x86_64")]
QemuVersion = Annotated[str, Text(r"[0-9]+\.[0-9]+\.[0-9]+(-rc[0-9]+)?", "10.0.2")]

# A CID is a u32, of which the first three and the last one are taken. Spec: Linux 6.12
# include/uapi/linux/vm_sockets.h VMADDR_CID_*.
_MIN_CID, _MAX_CID = 3, (1 << 32) - 2
_MIN_PHYS_BITS, _MAX_PHYS_BITS = 36, 52
# Folder of the project with what no product may hold.
_KEYS = "keys"


class InsecurePlace(Enum):
    """Where policies of test VMs are written.

    ``apart``: into files of their own. A TVS that is not told ``--accept_insecure_policies`` refuses every
    policy of a file with an insecure one in it. ``together``: into the same file, as a test TVS takes it.
    """

    APART = "apart"
    TOGETHER = "together"


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """A file that is brought: its path relative to the project, and what it must be."""

    path: str
    sha256: Digest


@dataclass(frozen=True, kw_only=True)
class HatsKernelSpec:
    """The kernel: HATs' own where ``file`` is there, and else one out of a Debian package that stands in.

    Debian has the RAM disk driver (brd) as a module, and stage1 loads none.
    """

    package: PackageName
    file: FileSpec | None = None


@dataclass(frozen=True, kw_only=True)
class Stage0Spec:
    """The firmware, Oak's stage0, and which generation of it: that decides what it measures."""

    generation: Stage0Generation
    path: str
    sha256: Digest


@dataclass(frozen=True, kw_only=True)
class HatsApplicationSpec:
    """The workload: a runtime bundle that is brought, or one made of packages and an overlay.

    Attributes:
        packages: Debian packages of its root file system.
        overlay: folder of ``rootfs/`` laid over them.
        command: what it starts.
    """

    bundle: FileSpec | None = None
    packages: tuple[PackageName, ...] = ()
    overlay: str = ""
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HostSpec:
    """What of the host reaches a measurement.

    Attributes:
        qemu: version of QEMU, which captured ACPI tables are of.
        phys_bits: physical address bits of the processor; microvm's tables depend on them.
        debug_swap: KVM gives SEV-SNP guests debug registers of their own, which launch digests show.
    """

    qemu: QemuVersion
    phys_bits: int
    debug_swap: bool = False


@dataclass(frozen=True, kw_only=True)
class LauncherSpec:
    """What the launcher is told beside the VM's shape.

    Attributes:
        vmm_binary: QEMU on the host.
        ramdrive_size: of the RAM disk that the system image is unpacked to.
        debug_telnet_port: of telnet to the serial port; seen in the command line, so in every policy.
        guest_cid: of vsock; without it the launcher draws one.
        microvm: SEV-SNP machines are microvm too (the launcher's ``--qemu_use_microvm``).
    """

    vmm_binary: HostPath
    ramdrive_size: Annotated[int, Size]
    debug_telnet_port: int = 0
    guest_cid: int | None = None
    microvm: bool = False


@dataclass(frozen=True, kw_only=True)
class SignatureSpec:
    """Who signs policies: a P-256 key below ``keys/``, and what the verifier calls its owner."""

    key: str = "keys/hats-policy.pem"
    signer: str = "hats"


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """The form of policies.

    Attributes:
        regex: how strictly the end of the command line is judged.
        dynamic: also policies for a TVS that computes launch digests itself.
        insecure: where policies of test VMs are.
        signature: none without.
    """

    regex: RegexForm = RegexForm.HATS
    dynamic: bool = False
    insecure: InsecurePlace = InsecurePlace.APART
    signature: SignatureSpec | None = None


@dataclass(frozen=True, kw_only=True)
class HatsRecipe:
    """What is launched and accepted: the files, the VMs, the policies."""

    architecture: Architecture
    debian: DebianSpec
    kernel: HatsKernelSpec
    stage0: Stage0Spec
    stage1: FileSpec
    system: FileSpec
    application: HatsApplicationSpec
    host: HostSpec
    launcher: LauncherSpec
    networks: NetworksSpec
    machines: tuple[HatsMachineSpec, ...]
    policy: PolicySpec = PolicySpec()
    version: SemanticVersion = "1.0.0"


@dataclass(frozen=True, kw_only=True)
class HatsImage(Buildable):
    """A recipe of HATs' that passed every check, with its VMs."""

    recipe: HatsRecipe
    machines: tuple[HatsShape, ...]

    @property
    def captures_path(self) -> Path:
        """The committed ACPI captures beside the recipe."""
        return self.path.with_suffix(".captures.lock")


def load_hats(path: Path, root: Path) -> HatsImage:
    """What the recipe at ``path`` describes.

    Raises:
        SpecError: with every mistake of the recipe.
    """
    recipe, marks = read_recipe(path, root, HatsRecipe)
    found: list[HatsShape] = []
    attempt(marks, check_name, path.stem)
    attempt(marks, _check_files, recipe, root)
    for check in (_check_launcher, _check_policy):
        attempt(marks, check, recipe)
    attempt(marks, _check_application, recipe.application, root)
    attempt(marks, check_networks, recipe.networks)
    for index, spec in enumerate(recipe.machines or ()):
        known = len(marks.problems)
        attempt(marks, check_machine, spec, index, recipe.networks)
        if len(marks.problems) == known:
            attempt(marks, _check_layout, spec, index, recipe)
            attempt(marks, _add_shapes, spec, index, recipe, found)
    if recipe.machines is not None and not recipe.machines:
        marks.add(("machines",), "machines: the list is empty; name one at least")
    marks.raise_problems()
    return HatsImage(name=path.stem, path=path, recipe=recipe, machines=tuple(found), places=marks.places)


def _check_files(marks: Marks, recipe: HatsRecipe, root: Path) -> None:
    if recipe.architecture is not Architecture.X86_64:
        marks.add(("architecture",), "SEV-SNP machines are x86_64")
    for place, file in (
        (("kernel", "file"), recipe.kernel.file),
        (("stage0",), recipe.stage0),
        (("stage1",), recipe.stage1),
        (("system",), recipe.system),
        (("application", "bundle"), recipe.application.bundle),
    ):
        if file is not None:
            _check_brought(marks, (*place, "path"), file.path, root)


def _check_brought(marks: Marks, place: Place, path: str, root: Path) -> None:
    """Notes a path that is no file of the user's own in the project."""
    if not path.isprintable():
        marks.add(place, f"path: {path!r} holds a character that is not printable; rename the file")
        return
    if path.startswith("/") or ".." in path.split("/") or not path:
        marks.add(place, f"path: {path or 'nothing'} does not lie in the project; give a path relative to it")
        return
    # A link may lead out of the project, but not to where a plain path may not.
    real = (root / path).resolve()
    if posixpath.normpath(path).split("/")[0] == _KEYS or real.is_relative_to((root / _KEYS).resolve()):
        what = f"path: {path} lies in {_KEYS}/, of which no product may hold anything"
        marks.add(place, f"{what}; put the file elsewhere, such as recipes/inputs/")
        return
    if path.endswith("/") or real.is_dir():
        marks.add(place, f"path: {path} is a folder; give the path of a file")


def _check_application(marks: Marks, spec: HatsApplicationSpec, root: Path) -> None:
    place: Place = ("application",)
    made = spec.packages or spec.overlay
    if (spec.bundle is None) != bool(made):
        what = "an application is brought (bundle) or made here (packages, overlay); write one of them"
        marks.add(place, what)
    if made and not spec.command:
        marks.add(place, "command is missing: what the application starts")
    _check_command(marks, (*place, "command"), spec.command)
    if spec.bundle is not None and spec.command:
        marks.add((*place, "command"), "a bundle says itself what it starts; remove command")
    check_unique(marks, (*place, "packages"), spec.packages, "package")
    overlays = [path.name for path in (root / "rootfs").iterdir() if path.is_dir()]
    if spec.overlay and spec.overlay not in overlays:
        what = f"there is no overlay rootfs/{spec.overlay}{suggestion(spec.overlay, overlays)}"
        marks.add((*place, "overlay"), what)


def _check_command(marks: Marks, place: Place, command: tuple[str, ...]) -> None:
    """Notes words that no program can be started with; what the first one names is looked at in the build."""
    for index, word in enumerate(command):
        if "\0" in word:
            marks.add(
                (*place, index), f"command: {word!r} holds a NUL, behind which nothing is seen; leave it out"
            )
    if command and not command[0].startswith("/"):
        what = f"command: {command[0]!r} is not the absolute path of a program in the container"
        marks.add((*place, 0), f"{what}; write for example /usr/bin/hello")


def _check_launcher(marks: Marks, recipe: HatsRecipe) -> None:
    launcher, place = recipe.launcher, ("launcher",)
    if not 0 <= launcher.debug_telnet_port <= 65535:
        what = f"debug_telnet_port: {launcher.debug_telnet_port} is not a port, 1 to 65535, or 0 for none"
        marks.add((*place, "debug_telnet_port"), what)
    cid = launcher.guest_cid
    if cid is not None and not _MIN_CID <= cid <= _MAX_CID:
        marks.add((*place, "guest_cid"), f"guest_cid: {cid} is not {_MIN_CID} to {_MAX_CID}")
    bits = recipe.host.phys_bits
    if not _MIN_PHYS_BITS <= bits <= _MAX_PHYS_BITS:
        what = f"phys_bits: {bits} is not {_MIN_PHYS_BITS} to {_MAX_PHYS_BITS}"
        marks.add(("host", "phys_bits"), f"{what}; /proc/cpuinfo of the host says it, `address sizes`")


def _check_policy(marks: Marks, recipe: HatsRecipe) -> None:
    if recipe.policy.dynamic and recipe.host.debug_swap:
        what = "dynamic: a TVS computes launch digests with SEV_FEATURES 0x1, and host.debug_swap gives 0x21"
        marks.add(("policy", "dynamic"), f"{what}; take one of the two out")
    signature = recipe.policy.signature
    if signature is None:
        return
    if re.fullmatch(r"keys/hats-[A-Za-z0-9_.-]{1,60}\.pem", signature.key) is None:
        what = f"key: {signature.key!r} is not keys/hats-NAME.pem; put the key there under such a name"
        marks.add(("policy", "signature", "key"), what)


def _check_layout(marks: Marks, spec: HatsMachineSpec, index: int, recipe: HatsRecipe) -> None:
    kind = "microvm" if recipe.launcher.microvm else "q35"
    if _MIN_PHYS_BITS <= recipe.host.phys_bits <= _MAX_PHYS_BITS:
        check_memory(marks, spec, index, recipe.host.phys_bits, kind)


def _add_shapes(
    marks: Marks, spec: HatsMachineSpec, index: int, recipe: HatsRecipe, found: list[HatsShape]
) -> None:
    """Adds every VM of one family."""
    described, launcher = networks(recipe.networks), recipe.launcher
    if not described:
        return
    base = HatsShape(
        machine=spec.name,
        cvm_type=spec.cvm_type,
        cpu=None,
        tcb=None,
        vcpus=1,
        memory=0,
        ramdrive=launcher.ramdrive_size,
        network=next(iter(described.values())),
        vmm=launcher.vmm_binary,
        microvm=launcher.microvm,
        debug_port=launcher.debug_telnet_port,
        guest_cid=launcher.guest_cid,
    )
    for shape in shapes(spec, described, base):
        if shape.name in {other.name for other in found}:
            marks.add(("machines", index, "name"), f"two machines are called {shape.name!r}")
        found.append(shape)
