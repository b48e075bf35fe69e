"""How the initramfs stops: with one message, by the deadline, and as the recipe says. Direct kernel boots."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
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
# Only a machine that switches itself off ends then; without it, one that starts again ends too.
OFF_ENDS = ("-action", "reboot=reset")
POWER_OFF, RESET = "sysrq: Power Off", "sysrq: Resetting"
PCR_11 = "/sys/class/tpm/tpm0/pcr-sha256/11"
PROMPT = "# "
SHELL = "goldsmith: development profile: a shell; leave it to stop the machine"


def wrong_hash(built: Built) -> bytes:
    return bytes([built.root_hash[0] ^ 1]) + built.root_hash[1:]


def shipped(built: Built) -> list[DriveFile]:
    return [DriveFile(path=str(built.disk), snapshot=True)]


def changed(built: Built, folder: Path, files: Mapping[str, bytes] | None = None, **settings: str) -> Path:
    """The shipped initramfs with a short deadline, other settings, and further files in place of its own."""
    config = shipped_file(built.initramfs, "etc/initramfs/config").decode()
    tree = FileTree()
    for name, value in {"DEVICE_TIMEOUT": str(SHORT), **settings}.items():
        other, found = re.subn(f"^{name}='.*'$", f"{name}='{value}'", config, flags=re.MULTILINE)
        assert found == 1
        assert other != config
        config = other
    tree.add_file("etc/initramfs/config", config.encode())
    for path, data in (files or {}).items():
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
    """Of an image that switches the machine off."""
    initrd = changed(built, folder, ON_FAILURE="poweroff")
    return boot_kernel(built, built.command_line(), [], initrd=initrd, options=OFF_ENDS, until=_starts_again)


def boot_without_data(built: Built, folder: Path) -> Run:
    """The shipped disk without its last partition, of an image that starts the machine again."""

    def drop(table: PartitionTable) -> PartitionTable:
        return replace(table, partitions=tuple(part for part in table.partitions if part.name != "data"))

    initrd = changed(built, folder, ON_FAILURE="reboot")
    with altered(built, folder) as disk:
        edit_table(disk, drop)
        return boot_kernel(built, built.command_line(), [DriveFile(path=str(disk))], initrd=initrd)


def boot_denied(built: Built, folder: Path) -> Run:
    """Of an image for use that wants a shell."""
    files = {"usr/lib/unlock.d/ephemeral": DENIES}
    initrd = changed(built, folder, files, ON_FAILURE="shell")
    return boot_kernel(built, built.command_line(), shipped(built), initrd=initrd)


def boot_shell(built: Built, folder: Path) -> Run:
    """Of an image for development that gives a shell, and somebody at the console."""
    initrd = changed(built, folder, ON_FAILURE="shell", PROFILE="dev")
    typed = ((SHELL, ""), (PROMPT, ""), (PROMPT, f"cat {PCR_11}"), (PROMPT, "exit"))
    return boot_kernel(built, built.image.recipe.kernel.cmdline, [], initrd=initrd, typed=typed)


def _starts_again(console: bytes) -> bool:
    return console.count(FATAL.encode()) > 1


BOOTS: dict[str, Boot] = {
    "wrong-hash": boot_wrong_hash,
    "no-hash": boot_without_hash,
    "more-words": boot_more_words,
    "no-disk": boot_without_disk,
    "no-data": boot_without_data,
    "denied": boot_denied,
    "shell": boot_shell,
}


def fatal(run: Run, last: str = PANIC) -> str:
    """The one message with which the initramfs stopped the machine; ``last`` are the kernel's last words."""
    assert run.stopped
    assert [words for words in (PANIC, POWER_OFF, RESET) if words in run.text] == [last]
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
    """And where the recipe says so, the machine switches itself off then."""
    assert fatal(boots["no-disk"].result(), POWER_OFF) == (
        f"partition root (PARTUUID {partition_uuid(built.root_hash)}) did not appear within {SHORT} s, "
        "disks seen: none; attach the disk this UKI was built with, or build with a longer device timeout"
    )


def test_without_the_data_partition_the_boot_stops_at_the_deadline(boots: Boots) -> None:
    """And where the recipe says so, the machine starts again then."""
    message = fatal(boots["no-data"].result(), RESET)
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


def test_an_image_for_use_gives_no_shell(boots: Boots) -> None:
    """Whatever its configuration says: it says why, and stops."""
    text = boots["denied"].result().text
    assert "goldsmith: no shell in profile release; build with profile dev for one\n" in text
    assert text.index("no shell in profile") < text.index(PANIC)
    assert SHELL not in text


def test_an_image_for_development_gives_a_shell_behind_the_last_phase(boots: Boots) -> None:
    """What the register holds there releases no key; who leaves the shell stops the machine."""
    run = boots["shell"].result()
    assert fatal(run) == "the command line has no roothash=; boot the UKI as it was built"
    register = bytes(32)
    # systemd-pcrphase.service(8); TCG TPM 2.0 Library, part 1, section 17.2.
    for phase in ("enter-initrd", "leave-initrd"):
        register = hashlib.sha256(register + hashlib.sha256(phase.encode()).digest()).digest()
    typed = run.text.index(f"cat {PCR_11}")
    assert run.text.index(SHELL) < typed < run.text.index(register.hex().upper()) < run.text.index(PANIC)
