"""The root file system of a base image, copied and edited once, ready to be encrypted.

The image itself is only read. Its root's blocks are copied, the file system is grown, and what must be
different is changed in the copy, all in one run of the appliance. The appliance's kernel writes times and a
journal, so another run gives other bytes: the result is kept, and only what is made of it is reproducible.

Packages are installed by the image's own ``dpkg``, with their scripts: a system that others made has a
database and triggers, and files unpacked behind its back would make it lie. They are exactly those given:
what they depend on must be there, or dpkg says what is missing. Programs of the image run for this, inside
the appliance and without a network, and so they do for units that are enabled.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, SpecError
from ..formats.kmod import MODULES
from ..formats.oci_tar import write_tar
from ..formats.tarstream import FileArchive, entries
from ..formats.tree import FileTree, Node, NodeType
from ..units import MIB, format_size
from .disk_image import SCRATCH, DiskImage, open_image
from .root_edit import boot_partition, leftovers, new_fstab, newest_kernel, os_name

_PACKAGES = "/var/cache/goldsmith-packages"
_POLICY = "/usr/sbin/policy-rc.d"
# Spec: Debian Policy 9.3.3.2, invoke-rc.d's policy: 101, action forbidden.
_REFUSE = b"#!/bin/sh\nexit 101\n"


@dataclass(frozen=True, kw_only=True)
class RootPlan:
    """What is made of a base image's root.

    Attributes:
        size: bytes of the new file system, whole MiB and at least as many as the base has.
        packages: package files, installed in this order.
        modules: folders of kernel modules by release, laid in beside those of the base.
        files: laid over everything else.
        enable: units to start.
    """

    size: int
    packages: tuple[Path, ...] = ()
    modules: FileTree | None = None
    files: FileTree | None = None
    enable: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelTargets:
    """Where the base's own kernel goes: itself, and a tar archive with its modules below usr/lib/modules."""

    kernel: Path
    modules: Path


@dataclass(frozen=True, kw_only=True)
class RootFacts:
    """What was found: the system (``debian 13``), its device, and the kernel that was taken, or nothing."""

    system: str
    device: str
    kernel: str = ""


def convert_root(
    base: Path,
    target: Path,
    plan: RootPlan,
    *,
    cache: Path,
    kernel: KernelTargets | None = None,
) -> RootFacts:
    """Writes the edited root of the image ``base`` to the raw file ``target``, sparse where it is free.

    Args:
        cache: folder for the appliance.
        kernel: where to put the base's newest kernel, where that is to be booted.

    Raises:
        FormatError: the base is no image, or has no root that can be converted.
        SpecError: the plan does not fit the base.
        ToolError: libguestfs is not there or fails, or a package does not install.
    """
    if plan.size % MIB:
        raise SpecError(f"root.size: {plan.size} bytes are not whole MiB")
    with target.open("wb") as out:
        out.truncate(plan.size)
    scratch = target.with_name(f"{target.name}.files.tar")
    try:
        with open_image(base, cache=cache, scratch=target) as image:
            return _Conversion(image, plan, scratch).run(kernel)
    finally:
        scratch.unlink(missing_ok=True)


class _Conversion:
    """One run of the appliance."""

    def __init__(self, image: DiskImage, plan: RootPlan, scratch: Path) -> None:
        self._image, self._guest, self._plan, self._scratch = image, image.guest, plan, scratch

    def run(self, kernel: KernelTargets | None) -> RootFacts:
        root = self._image.root()
        if root.size > self._plan.size:
            have, want = format_size(root.size), format_size(self._plan.size)
            raise SpecError(f"root.size: {want} is too small, the base's root has {have}; a root only grows")
        self._guest.call("copy_device_to_device", root.device, SCRATCH, sparse=True)
        self._guest.call("e2fsck", SCRATCH, forceall=True)
        self._guest.call("resize2fs", SCRATCH)
        self._image.mount(SCRATCH, write=True)
        system = self._check_system(root.device)
        release = self._take_kernel(kernel) if kernel else ""
        self._install()
        self._remove()
        self._write()
        self._enable()
        self._guest.call("umount_all")
        # The last word is the checker's: what leaves here mounts without a repair.
        self._guest.call("e2fsck", SCRATCH, forceall=True)
        return RootFacts(system=system, device=root.device, kernel=release)

    def _check_system(self, device: str) -> str:
        """What system it is; the largest file system of an image need not be a root."""
        for path in ("/etc", "/sbin/init"):
            if not self._image.exists(path):
                what = f"{device} looks like the root but has no {path}; give the image of a Linux system"
                raise FormatError(self._image.source, what)
        return os_name(self._image.read_text("/etc/os-release"))

    def _take_kernel(self, targets: KernelTargets) -> str:
        """Copies the newest kernel out; its release."""
        separate = None if self._kernels() else boot_partition(self._image.read_text("/etc/fstab"))
        if separate is not None:
            self._image.mount(self._find(separate), "/boot")
        release = newest_kernel(self._kernels())
        if release is None:
            what = "has no kernel /boot/vmlinuz-*; name one, `kernel: {package: linux-image-cloud-amd64}`"
            raise FormatError(self._image.source, what)
        self._image.download(f"/boot/vmlinuz-{release}", targets.kernel)
        self._image.tar_out(f"/lib/modules/{release}", self._scratch)
        _move_modules(self._scratch, targets.modules, release)
        if separate is not None:
            self._guest.call("umount", "/boot")
        return release

    def _kernels(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self._image.glob("/boot/vmlinuz-*")]

    def _find(self, name: str) -> str:
        """The device of ``UUID=...`` or ``LABEL=...`` or a path."""
        kind, equals, value = name.partition("=")
        if not equals:
            return name
        if kind not in ("UUID", "LABEL"):
            what = f"/boot is {name} in its fstab, which is not looked for; name a kernel package instead"
            raise FormatError(self._image.source, what)
        return str(self._guest.call(f"findfs_{kind.lower()}", value.strip('"')))

    def _install(self) -> None:
        if not self._plan.packages:
            return
        if not self._image.exists("/usr/bin/dpkg"):
            what = "root.packages: the base image has no dpkg; leave them out, or give an image of Debian's"
            raise SpecError(what)
        self._guest.call("mkdir_p", _PACKAGES)
        with tarfile.open(self._scratch, "w") as archive:
            for number, path in enumerate(self._plan.packages):
                archive.add(path, f"{number:03}.deb")
        self._guest.call("tar_in", str(self._scratch), _PACKAGES)
        own_policy = self._image.exists(_POLICY)
        if not own_policy:
            self._guest.call("write", _POLICY, _REFUSE)
            self._guest.call("chmod", 0o755, _POLICY)
        # No conffile question, no sync after each file: nobody can answer, and the disk is a copy. What it
        # says goes where the binding looks for the words of an error.
        command = "dpkg --install --force-confold --force-unsafe-io"
        self._guest.call("sh", f"DEBIAN_FRONTEND=noninteractive {command} {_PACKAGES}/*.deb >&2")
        if not own_policy:
            self._guest.call("rm_f", _POLICY)
        self._guest.call("rm_rf", _PACKAGES)

    def _remove(self) -> None:
        # All patterns at once: each question takes the appliance as long as an answer of any length.
        names = ",".join(pattern.lstrip("/") for pattern in leftovers())
        for path in self._image.glob(f"/{{{names}}}"):
            self._guest.call("rm_rf", path)

    def _write(self) -> None:
        fstab = new_fstab(self._image.read_text("/etc/fstab"))
        self._guest.call("write", "/etc/fstab", fstab.encode("utf-8", "surrogateescape"))
        self._guest.call("rm_f", "/etc/machine-id")
        self._guest.call("write", "/etc/machine-id", b"")
        if self._plan.modules is not None:
            # The folder's real name: an archive would put a folder in the place of the link /lib.
            folder = str(self._guest.call("realpath", "/lib"))
            self._lay(_below(self._plan.modules, f"{MODULES}/"), f"{folder}/modules")
        if self._plan.files is not None:
            self._lay(self._plan.files.sorted(), "/")

    def _lay(self, nodes: Iterable[tuple[str, Node]], folder: str) -> None:
        write_files(nodes, self._scratch)
        self._guest.call("mkdir_p", folder)
        self._guest.call("tar_in", str(self._scratch), folder)

    def _enable(self) -> None:
        if self._plan.enable:
            self._guest.call("command", ("systemctl", "enable", *self._plan.enable))


def write_files(nodes: Iterable[tuple[str, Node]], target: Path) -> None:
    """Writes files and links, and not the directories above them, to a tar archive.

    Unpacked over a system, missing directories are made and those that are there stay as they are.

    Raises:
        SpecError: something that is neither file nor link.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path, node in nodes:
            if node.type is NodeType.DIRECTORY:
                continue
            info = tarfile.TarInfo(path)
            info.mode, info.uid, info.gid, info.mtime = node.mode, node.uid, node.gid, node.mtime
            if node.type is NodeType.SYMLINK:
                info.type, info.linkname = tarfile.SYMTYPE, node.target
                archive.addfile(info)
            elif node.type is NodeType.FILE and node.payload is not None:
                info.size = node.payload.size
                archive.addfile(info, io.BytesIO(node.read()))
            else:
                raise SpecError(f"{path}: a {node.type.value} cannot be laid over a base image; remove it")


def _below(tree: FileTree, prefix: str) -> Iterable[tuple[str, Node]]:
    return ((path.removeprefix(prefix), node) for path, node in tree.sorted() if path.startswith(prefix))


def _move_modules(archive: Path, target: Path, release: str) -> None:
    """The archive of a module folder as one with whole paths, as kernel packages have them."""
    tree = FileTree()
    with archive.open("rb") as file:
        found = FileArchive(archive, file.fileno(), 0, archive.stat().st_size, "kernel modules of the base")
        for path, node in entries(found, owner="base image"):
            place = f"{MODULES}/{release}/{path}".rstrip("/")
            tree.add_parents(place)
            tree[place] = node
    with target.open("wb") as out:
        write_tar(tree, out, epoch=max(node.mtime for node in tree.nodes.values()))
