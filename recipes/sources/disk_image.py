"""Disk images that others made, such as a cloud's base image: looked into without mounting anything here.

What a file is, is decided by us and not by the program that reads it: a raw disk whose first sectors look
like another format is still raw, and a qcow2 that names further files is refused, because those would be
files of this machine.

Spec: QEMU docs/interop/qcow2.txt, as of QEMU 7.2; guestfs(3) of libguestfs 1.48; UAPI Discoverable Partitions
Specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import cast
from uuid import UUID

from ..errors import FormatError
from ..formats.gpt import TYPE_ROOT_X86_64
from ..formats.qcow2 import Qcow2Header
from ..units import SECTOR_SIZE, format_size
from .guestfs_appliance import Drive, Guest, running

SPEC = "QEMU docs/interop/qcow2.txt"
QCOW2_MAGIC = 0x514649FB
# Section Header, incompatible features: bit 2, external data file.
_EXTERNAL_DATA = 1 << 2
# Other formats that QEMU reads, by what they begin with. Spec: QEMU block/*.c as of 7.2.
_OTHERS = {
    b"KDMV": "VMDK",
    b"# Disk DescriptorFile": "VMDK",
    b"vhdxfile": "VHDX",
    b"conectix": "VHD",
    b"QED\0": "QED",
    b"<<< ": "VDI",
}
# The image, and the disk behind it that may be written.
IMAGE, SCRATCH = "/dev/sda", "/dev/sdb"
LINUX_FILESYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs")


class ImageFormat(Enum):
    """Containers of disks that are read, by the names that QEMU has for them."""

    RAW = "raw"
    QCOW2 = "qcow2"


def identify(path: Path) -> ImageFormat:
    """What kind of file an image is.

    Raises:
        FormatError: neither raw nor qcow2, or a qcow2 that is encrypted or reads other files.
    """
    if not path.is_file():
        raise FormatError(str(path), "there is no such file; check the path")
    with path.open("rb") as file:
        start = file.read(Qcow2Header.SIZE)
        length = file.seek(0, 2)
    if start[:4] == QCOW2_MAGIC.to_bytes(4, "big"):
        _check_qcow2(start, path.name)
        return ImageFormat.QCOW2
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            what = f"is a {name} image; convert it first, `qemu-img convert -O qcow2`"
            raise FormatError(path.name, what)
    if not length or length % SECTOR_SIZE:
        what = f"{length} bytes are no raw disk, which is whole sectors of {SECTOR_SIZE}; was it cut short?"
        raise FormatError(path.name, what)
    return ImageFormat.RAW


def _check_qcow2(start: bytes, name: str) -> None:
    header = Qcow2Header.unpack(start.ljust(Qcow2Header.SIZE, b"\0"), source=name)
    if header.version not in (2, 3):
        raise FormatError(name, f"qcow2 version {header.version}; 2 and 3 are supported", spec=SPEC)
    features = header.incompatible_features if header.version == 3 else 0
    if header.backing_file_offset or header.backing_file_size or features & _EXTERNAL_DATA:
        what = "its content is in another file; make one file of it, `qemu-img convert -O qcow2`"
        raise FormatError(name, what, spec=SPEC)
    if header.crypt_method:
        raise FormatError(name, "is encrypted; convert it to a plain one", spec=SPEC)


@dataclass(frozen=True, kw_only=True)
class Filesystem:
    """A file system that was found.

    Attributes:
        device: its name in the appliance, ``/dev/sda1``.
        type: as ``blkid`` says it, ``ext4``.
        size: bytes of the device.
        partition_type: of its GPT entry; None where it is in none.
    """

    device: str
    type: str
    size: int
    partition_type: UUID | None = None


def choose_root(found: Sequence[Filesystem], source: str) -> Filesystem:
    """The root: by its GPT type, otherwise the largest file system that Linux can have its root on.

    Raises:
        FormatError: there is none, several say that they are it, or it is of a kind that cannot be converted.
    """
    typed = [item for item in found if item.partition_type == TYPE_ROOT_X86_64]
    if len(typed) > 1:
        names = ", ".join(item.device for item in typed)
        raise FormatError(source, f"{names} are all marked as the root; give an image with one system")
    possible = typed or [item for item in found if item.type in LINUX_FILESYSTEMS]
    if not possible:
        shown = ", ".join(f"{item.device} {item.type or 'unknown'}" for item in found) or "nothing"
        what = f"has no Linux file system that can be read (found: {shown})"
        raise FormatError(source, f"{what}; give a bootable image that is not encrypted")
    root = max(possible, key=lambda item: item.size)
    if root.type != "ext4":
        what = f"its root {root.device} is {root.type or 'unknown'}; only ext4 can be converted,"
        raise FormatError(source, f"{what} xfs and btrfs are not supported yet; give an image with ext4")
    return root


class DiskImage:
    """An image inside a running appliance; nothing of it runs.

    Args:
        guest: the appliance, with the image as its first disk.
        source: what to call it in messages.
    """

    def __init__(self, guest: Guest, source: str) -> None:
        self.guest, self.source = guest, source

    def filesystems(self) -> tuple[Filesystem, ...]:
        """All file systems of the image, of its partitions and logical volumes, in the appliance's order.

        Raises:
            ToolError: the appliance failed.
        """
        found = cast("dict[str, str]", self.guest.call("list_filesystems"))
        partitions = cast("list[str]", self.guest.call("list_partitions"))
        own = any(device.startswith(IMAGE) for device in partitions)
        is_gpt = own and self.guest.call("part_get_parttype", IMAGE) == "gpt"
        return tuple(
            self._filesystem(device, kind, in_gpt=is_gpt and device in partitions)
            for device, kind in found.items()
            if not device.startswith((SCRATCH, "btrfsvol:"))
        )

    def _filesystem(self, device: str, kind: str, *, in_gpt: bool) -> Filesystem:
        size = cast("int", self.guest.call("blockdev_getsize64", device))
        partition_type = None
        if in_gpt:
            number = cast("int", self.guest.call("part_to_partnum", device))
            partition_type = UUID(cast("str", self.guest.call("part_get_gpt_type", IMAGE, number)))
        known = "" if kind == "unknown" else kind
        return Filesystem(device=device, type=known, size=size, partition_type=partition_type)

    def root(self) -> Filesystem:
        """The root file system.

        Raises:
            FormatError, ToolError: as ``choose_root``; the appliance failed.
        """
        return choose_root(self.filesystems(), self.source)

    def mount(self, device: str, place: str = "/", *, write: bool = False) -> None:
        """Mounts a device in the appliance, where the other methods look for paths.

        Raises:
            ToolError: it does not mount.
        """
        self.guest.call("mount" if write else "mount_ro", device, place)

    def exists(self, path: str) -> bool:
        """Whether something has this path, a dangling link too."""
        return bool(self.guest.call("exists", path)) or self.is_link(path)

    def is_link(self, path: str) -> bool:
        """Whether it is a symbolic link."""
        return bool(self.guest.call("is_symlink", path))

    def glob(self, pattern: str) -> tuple[str, ...]:
        """The paths that match a shell pattern, sorted."""
        return tuple(sorted(cast("list[str]", self.guest.call("glob_expand", pattern, directoryslash=False))))

    def read_file(self, path: str, *, limit: int = 1 << 20) -> bytes:
        """A small file's content; links are followed inside the image.

        Raises:
            FormatError: larger than ``limit`` bytes.
            ToolError: it is not there.
        """
        size = cast("int", self.guest.call("filesize", path))
        if size > limit:
            what = f"{path} has {format_size(size)}, at most {format_size(limit)} are sensible"
            raise FormatError(self.source, what)
        return cast("bytes", self.guest.call("read_file", path))

    def read_text(self, path: str) -> str:
        """A small text file's content, empty where it is not there; bytes that are not UTF-8 are kept."""
        if not self.guest.call("is_file", path, followsymlinks=True):
            return ""
        return self.read_file(path).decode("utf-8", "surrogateescape")

    def download(self, path: str, target: Path) -> None:
        """Copies a file out.

        Raises:
            ToolError: it is not there.
        """
        self.guest.call("download", path, str(target))

    def tar_out(self, folder: str, target: Path) -> None:
        """Writes a folder to a tar archive, owners as numbers, extended attributes included.

        Raises:
            ToolError: there is no such folder.
        """
        self.guest.call("tar_out", folder, str(target), numericowner=True, xattrs=True)


@contextmanager
def open_image(path: Path, *, cache: Path, scratch: Path | None = None) -> Iterator[DiskImage]:
    """The image at ``path``, read only, in an appliance that is started once.

    Args:
        cache: folder for the appliance.
        scratch: a raw disk that may be written, ``/dev/sdb`` in the appliance.

    Raises:
        FormatError: it is no image that can be read.
        ToolError: libguestfs is not there or fails.
    """
    drives = [Drive(path, identify(path).value)]
    if scratch is not None:
        drives.append(Drive(scratch, ImageFormat.RAW.value, read_only=False))
    with running(drives, cache) as guest:
        yield DiskImage(guest, path.name)
