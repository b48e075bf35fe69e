"""A Debian base image as an installer and a boot loader leave it, assembled from the locked packages.

The packages are those of the committed recipe; `python3 dodo.py packages:jindisk-style` downloads them.
Nothing of the image was ever booted: what only an installation makes is laid in by hand.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from recipes.formats import gpt
from recipes.formats.tree import FileTree, NodeType
from recipes.schema import ConvertedImage, load_project
from recipes.sources import debs
from recipes.sources import lock as locks
from recipes.sources.configure import SystemSpec, configure
from recipes.sources.ext4_image import write_ext4
from recipes.steps.convert.asking import BASE_GROUP, TOOLS_GROUP
from recipes.steps.layout import Part, write_disk
from recipes.steps.packages import package_files, resolved_lock
from recipes.units import MIB
from tests.support import ROOT

ROOT_UUID, ESP_UUID = (
    UUID("6a0f3a55-7f53-4a57-a1fd-0d8fbd7e1111"),
    UUID("6a0f3a55-7f53-4a57-a1fd-0d8fbd7e2222"),
)
SIZE = 288 * MIB
OLD_KERNEL, KERNEL = "6.1.0-9-test", "6.1.0-10-test"
# What must be gone afterwards, and what must not.
LEFTOVERS = {
    "boot/grub/grub.cfg": b"set root=hd0,gpt2\n",
    "boot/initrd.img-6.1.0-10-test": b"cpio",
    "etc/crypttab": b"swap /dev/vda3 /dev/urandom swap\n",
    "etc/default/grub": b"GRUB_TIMEOUT=5\n",
    "etc/grub.d/00_header": b"#!/bin/sh\n",
    "etc/ssh/ssh_host_ed25519_key": b"identity",
    "etc/ssh/ssh_host_ed25519_key.pub": b"identity",
    "var/lib/systemd/random-seed": b"seed",
}
KEPT = {
    "etc/ssh/sshd_config": b"PermitRootLogin no\n",
    "etc/modprobe.d/site.conf": b"blacklist floppy\n",
    "home/site/data": b"kept\n",
}
FSTAB = (
    f"UUID={ROOT_UUID} / ext4 rw,discard,errors=remount-ro 0 1\n"
    "UUID=ABCD-1234 /boot/efi vfat umask=0077 0 1\n"
    "UUID=00000000-0000-0000-0000-000000000001 none swap sw 0 0\n"
    "tmpfs /tmp tmpfs size=50% 0 0\n"
)


@dataclass(frozen=True)
class BaseImage:
    """A raw disk, and the root file system in it as a file of its own."""

    disk: Path
    root: Path


def recipe() -> tuple[ConvertedImage, Path]:
    """The committed recipe and its lock; without downloaded packages tests are skipped, and fail in CI."""
    (image,) = load_project(ROOT).converted
    lock = resolved_lock(image)
    if lock.is_file():
        packages = [
            path for group in (BASE_GROUP, TOOLS_GROUP) for path in package_files(locks.load(lock), group)
        ]
        if all(path.is_file() for path in packages):
            return image, lock
    what = "the packages are not there; `python3 dodo.py packages:jindisk-style` downloads them"
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def tools(folder: Path) -> FileTree:
    """The unpacked tools of the lock; their content stays in ``folder``."""
    _, lock = recipe()
    return debs.unpack(package_files(locks.load(lock), TOOLS_GROUP), folder, workers=2)[0]


def system(folder: Path) -> FileTree:
    """The tree of a Debian system that was installed and used; its content stays in ``folder``."""
    image, lock = recipe()
    spec = image.recipe.base
    exclude = (*spec.exclude, "usr/share/zoneinfo/*", "!usr/share/zoneinfo/Etc/UTC", "usr/lib/udev/hwdb.d/*")
    tree, packages = debs.unpack(
        package_files(locks.load(lock), BASE_GROUP), folder, workers=2, exclude=exclude
    )
    configure(tree, packages, SystemSpec(hostname="base"))
    for path, data in (LEFTOVERS | KEPT | _kernel_files()).items():
        tree.add_file(path, data)
    tree.add_file("etc/fstab", FSTAB.encode())
    tree.add_file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n")
    tree.add_directory("boot/efi")
    assert tree["lib"].type is NodeType.SYMLINK
    return tree


def _kernel_files() -> dict[str, bytes]:
    """Two kernels; nothing looks into them."""
    files = {}
    for release in (OLD_KERNEL, KERNEL):
        files[f"boot/vmlinuz-{release}"] = f"kernel {release}".encode()
        files[f"usr/lib/modules/{release}/kernel/fs/ext4.ko"] = f"module of {release}".encode()
        files[f"usr/lib/modules/{release}/modules.builtin"] = b"kernel/fs/proc.ko\n"
    return files


def assemble(folder: Path) -> BaseImage:
    """The image, in ``folder``."""
    _, lock = recipe()
    epoch = locks.load(lock).epoch
    for name in ("tools", "packages", "work"):
        (folder / name).mkdir()
    root, disk = folder / "base.ext4", folder / "base.raw"
    write_ext4(
        *(system(folder / "packages"), root),
        tools=tools(folder / "tools"),
        work=folder / "work",
        size=SIZE,
        uuid=ROOT_UUID,
        label="cloudimg",
        epoch=epoch,
    )
    plan = gpt.PartitionPlan(name="p1", type_guid=gpt.TYPE_LINUX_GENERIC, guid=ROOT_UUID, size=SIZE)
    write_disk(
        disk,
        boot_program=None,
        esp_size=34 * MIB,
        esp_guid=ESP_UUID,
        disk_guid=UUID(int=7),
        parts=[Part(plan, root)],
        epoch=epoch,
    )
    return BaseImage(disk, root)
