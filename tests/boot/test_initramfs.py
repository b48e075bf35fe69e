"""How the initramfs stops: with one message, and by the deadline. Direct kernel boots."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from recipes.formats.gpt import PartitionTable
from recipes.formats.tree import FileTree
from recipes.vmm.qemu import DriveFile

from .support import Boot, Boots, Built, Run, add_to_initramfs, altered, boot_kernel, edit_table, shipped_file

pytestmark = pytest.mark.boot

FATAL = "goldsmith: FATAL: "
PANIC = "Kernel panic - not syncing: sysrq triggered crash"
# Seconds, where the test is not about the deadline that ships.
SHORT = 3
# What systemd would give a shell for, and a line break for the log.
WORDS = "systemd.debug_shell=ttyS0 two\nlines"
DENIES = b"#!/bin/sh\nexit 20\n"


def wrong_hash(built: Built) -> bytes:
    return bytes([built.root_hash[0] ^ 1]) + built.root_hash[1:]


def shipped(built: Built) -> list[DriveFile]:
    return [DriveFile(path=str(built.disk), snapshot=True)]


def changed(built: Built, folder: Path, **files: bytes) -> Path:
    """The shipped initramfs with a short deadline and further files in place of its own."""
    config = shipped_file(built.initramfs, "etc/initramfs/config").decode()
    tree = FileTree()
    shorter = re.sub("DEVICE_TIMEOUT='[0-9]+'", f"DEVICE_TIMEOUT='{SHORT}'", config)
    assert shorter != config
    tree.add_file("etc/initramfs/config", shorter.encode())
    for path, data in files.items():
        tree.add_file(path, data, 0o755)
    return add_to_initramfs(built.initramfs, folder / "changed.cpio", tree)


def boot_wrong_hash(built: Built, folder: Path) -> Run:
    """With the deadline that ships."""
    return boot_kernel(built, built.command_line(wrong_hash(built)), shipped(built))


def boot_without_hash(built: Built, folder: Path) -> Run:
    return boot_kernel(built, built.image.recipe.kernel.cmdline, shipped(built))


def boot_more_words(built: Built, folder: Path) -> Run:
    return boot_kernel(built, f"{built.command_line()} {WORDS}", shipped(built))


def boot_without_disk(built: Built, folder: Path) -> Run:
    return boot_kernel(built, built.command_line(), [], initrd=changed(built, folder))


def boot_without_data(built: Built, folder: Path) -> Run:
    """The shipped disk without its last partition."""

    def drop(table: PartitionTable) -> PartitionTable:
        return replace(table, partitions=tuple(part for part in table.partitions if part.name != "data"))

    initrd = changed(built, folder)
    with altered(built, folder) as disk:
        edit_table(disk, drop)
        return boot_kernel(built, built.command_line(), [DriveFile(path=str(disk))], initrd=initrd)


def boot_denied(built: Built, folder: Path) -> Run:
    initrd = changed(built, folder, **{"usr/lib/unlock.d/ephemeral": DENIES})
    return boot_kernel(built, built.command_line(), shipped(built), initrd=initrd)


BOOTS: dict[str, Boot] = {
    "wrong-hash": boot_wrong_hash,
    "no-hash": boot_without_hash,
    "more-words": boot_more_words,
    "no-disk": boot_without_disk,
    "no-data": boot_without_data,
    "denied": boot_denied,
}


def fatal(run: Run) -> str:
    """The one message with which the initramfs stopped the machine."""
    assert run.stopped
    assert PANIC in run.text
    found = re.findall(rf"{FATAL}(.*)", run.text)
    assert len(found) == 1
    return str(found[0])


def partition_uuid(root_hash: bytes) -> UUID:
    """The identity of the root partition. Spec: UAPI Discoverable Partitions Specification, "Verity"."""
    return UUID(bytes=root_hash[:16])


def test_a_wrong_root_hash_finds_no_partition(built: Built, boots: Boots) -> None:
    run = boots["wrong-hash"].result()
    wrong = partition_uuid(wrong_hash(built))
    timeout = built.image.recipe.initramfs.device_timeout
    assert fatal(run) == (
        f"partition root (PARTUUID {wrong}) did not appear within {timeout} s, disks seen: vda; "
        "attach the disk this UKI was built with, or build with a longer device timeout"
    )
    (uptime,) = re.findall(rf"\[ *(\d+\.\d+)\] {FATAL}", run.text)
    assert timeout < float(uptime) < run.seconds


def test_without_a_disk_the_boot_stops_at_the_deadline(built: Built, boots: Boots) -> None:
    assert fatal(boots["no-disk"].result()) == (
        f"partition root (PARTUUID {partition_uuid(built.root_hash)}) did not appear within {SHORT} s, "
        "disks seen: none; attach the disk this UKI was built with, or build with a longer device timeout"
    )


def test_without_the_data_partition_the_boot_stops_at_the_deadline(boots: Boots) -> None:
    message = fatal(boots["no-data"].result())
    what = (
        rf"partition data \(PARTUUID [0-9a-f-]{{36}}\) did not appear within {SHORT} s, disks seen: .*vda.*"
    )
    assert re.fullmatch(f"{what}; attach .*", message)


def test_without_a_root_hash_the_boot_stops(boots: Boots) -> None:
    message = "the command line has no roothash=; boot the UKI as it was built"
    assert fatal(boots["no-hash"].result()) == message


def test_words_that_the_image_does_not_have_stop_the_boot(boots: Boots) -> None:
    why = "the kernel command line is not the image's own: ' systemd.debug_shell=ttyS0 two?lines'"
    run = boots["more-words"].result()
    assert fatal(run) == f"{why}; boot the UKI as it was built, without other words"


def test_a_denied_volume_stops_the_boot(boots: Boots) -> None:
    why = "denied by ephemeral(20); this machine or image is not the one the key is for"
    assert fatal(boots["denied"].result()) == f"volume data is not open: {why}"
