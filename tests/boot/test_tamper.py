"""One flipped bit, and what becomes of it: refused, mended, measured, or of no consequence.

A bit of the root file system or its hash tree is the kernel's to refuse, so those cases are direct kernel
boots. A bit of the UKI shows in the registers, so that case boots by firmware; the same disk carries flips
that no register covers, and a partition table that firmware has to mend first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from recipes.formats import gpt, verity
from recipes.formats.tree import FileTree
from recipes.golden.report import parse_report
from recipes.golden.verify import compare
from recipes.measure.trace import HashAlgorithm
from recipes.measure.userspace import PHASES
from recipes.units import SECTOR_SIZE
from recipes.vmm.qemu import DriveFile

from .support import (
    Boot,
    Boots,
    Built,
    Run,
    add_to_initramfs,
    altered,
    boot_kernel,
    boot_uefi,
    edit_table,
    file_offset,
    flip,
    partitions,
    read_at,
    shipped_file,
)

pytestmark = pytest.mark.boot

MACHINE = "q35-1cpu-512m-tis"
BLOCK = 4096
# Digests of SHA-256 in a block of the hash tree.
FANOUT = BLOCK // 32
# The first program of the real system: no boot gets around its first block.
READ = "/usr/lib/systemd/systemd"
# A file that nothing in a boot reads, and a block of it whose neighbours nothing reads either.
UNREAD, UNREAD_BLOCK = "/usr/share/doc/systemd/copyright", 1
# Says so, then reads the file, when the boot report is out.
LATE_READER = f"""\
while systemctl --quiet is-active boot-report.service; do sleep 1; done
echo 'late-reader: begins' >/dev/console
cat {UNREAD} >/dev/null
echo "late-reader: ended with $?" >/dev/console
"""
LATE_READER_DONE = b"late-reader: ended"
LATE_READER_UNIT = """\
[Unit]
After=multi-user.target boot-report.service
[Service]
Type=exec
ExecStart=/bin/sh /run/late-reader
"""
# The release text in the UKI, up to the byte that is changed.
OSREL_MARKER = b'\nPRETTY_NAME="'
PRIMARY = gpt.PRIMARY_SECTORS * SECTOR_SIZE
# In the header at LBA 1, after which its checksum is wrong. Spec: UEFI 2.10 table 5.5.
PRIMARY_DISK_GUID = SECTOR_SIZE + 56
PANIC = "Kernel panic - not syncing: "


def root_block(built: Built, path: str, block: int = 0) -> int:
    """The number of the block of the root file system that holds a block of a file."""
    return file_offset(built.root, path, block) // BLOCK


def hash_block(built: Built, block: int) -> int:
    """The number of the block of the hash tree that holds a data block's digest.

    The tree stands behind its superblock, the root first and the digests of data blocks last.
    Spec: Linux Documentation/admin-guide/device-mapper/verity.rst, "Hash Tree".
    """
    level = leaves = -(-(built.root.stat().st_size // BLOCK) // FANOUT)
    above = 0
    while level > 1:
        level = -(-level // FANOUT)
        above += level
    assert 1 + above + leaves == partitions(built.disk)["root-verity"].size // BLOCK
    return 1 + above + block // FANOUT


def boot_flipped(built: Built, folder: Path, partition: str, offset: int, **options: Any) -> Run:
    """The shipped disk with one bit of a partition flipped."""
    with altered(built, folder) as disk:
        flip(disk, partitions(disk)[partition].offset + offset)
        return boot_kernel(built, built.command_line(), [DriveFile(path=str(disk))], **options)


def boot_flipped_root(built: Built, folder: Path) -> Run:
    return boot_flipped(built, folder, "root", root_block(built, READ) * BLOCK)


def boot_flipped_tree(built: Built, folder: Path) -> Run:
    """Flips a bit of the digest of the block that the boot above stumbles over."""
    block = root_block(built, READ)
    return boot_flipped(built, folder, "root-verity", hash_block(built, block) * BLOCK + block % FANOUT * 32)


def boot_late_reader(built: Built, folder: Path) -> Run:
    """Flips a bit that nobody reads, until a service does that a longer unlock provider left in /run."""
    provider = shipped_file(built.initramfs, "usr/lib/unlock.d/ephemeral").decode()
    head, last = provider.rstrip("\n").rsplit("\n", 1)
    units, wants = "/run/systemd/system", "multi-user.target.wants"
    script = (
        f"{head}\numask 022\nmkdir -p {units}/{wants}\ncat >/run/late-reader <<'END'\n{LATE_READER}END\n"
        f"cat >{units}/late-reader.service <<'END'\n{LATE_READER_UNIT}END\n"
        f"busybox ln -s ../late-reader.service {units}/{wants}/\n{last}\n"
    )
    tree = FileTree()
    tree.add_file("usr/lib/unlock.d/ephemeral", script.encode(), 0o755)
    initrd = add_to_initramfs(built.initramfs, folder / "late-reader.cpio", tree)
    offset = root_block(built, UNREAD, UNREAD_BLOCK) * BLOCK
    return boot_flipped(
        built, folder, "root", offset, initrd=initrd, until=lambda console: LATE_READER_DONE in console
    )


def boot_relabelled(built: Built, folder: Path) -> Run:
    """A root hash that is none, on a disk whose partitions claim to belong to it."""
    wrong = bytes([built.root_hash[0] ^ 1]) + built.root_hash[1:]
    data, hashes = verity.partition_uuids(wrong)
    names = {"root": data, "root-verity": hashes}

    def relabel(table: gpt.PartitionTable) -> gpt.PartitionTable:
        parts = tuple(replace(part, guid=names.get(part.name, part.guid)) for part in table.partitions)
        return replace(table, partitions=parts)

    with altered(built, folder) as disk:
        edit_table(disk, relabel)
        return boot_kernel(built, built.command_line(wrong), [DriveFile(path=str(disk))])


@dataclass(frozen=True)
class Tampered:
    """What a boot of a tampered disk showed, and what it left of the flipped bytes."""

    run: Run
    table: bytes
    slack: bytes


def esp_slack(disk: Path) -> int:
    """Offset of the last block of the EFI system partition, which no file reaches."""
    esp = partitions(disk)["esp"]
    return esp.offset + esp.size - BLOCK


def boot_tampered(built: Built, folder: Path) -> Tampered:
    """By firmware: one bit of the UKI, and bits that should change no register."""
    with altered(built, folder) as disk:
        found = partitions(disk)
        esp = read_at(disk, found["esp"].offset, found["esp"].size)
        assert esp.count(OSREL_MARKER) == 1
        slack, data = esp_slack(disk), found["data"].offset
        flip(disk, found["esp"].offset + esp.index(OSREL_MARKER) + len(OSREL_MARKER))
        for offset in (slack, data, data + found["data"].size // 2, PRIMARY_DISK_GUID):
            flip(disk, offset)
        run = boot_uefi(built, built.machine(MACHINE), [disk])
        return Tampered(run, read_at(disk, 0, PRIMARY), read_at(disk, slack, BLOCK))


BOOTS: dict[str, Boot] = {
    "tampered": boot_tampered,
    "unread": boot_late_reader,
    "read": boot_flipped_root,
    "tree": boot_flipped_tree,
    "relabelled": boot_relabelled,
}


@pytest.fixture(scope="module")
def tampered(boots: Boots) -> Tampered:
    found: Tampered = boots["tampered"].result()
    return found


def test_a_bit_of_the_uki_shows_in_the_registers_that_cover_it(built: Built, tampered: Tampered) -> None:
    report = parse_report(tampered.run.console, "console")
    assert report.facts["state"] == "running"
    comparison = compare(built.expected(MACHINE), report.observation)
    seen = {
        difference.register: (difference.expected.description, difference.expected.source)
        for difference in comparison.differences
        if difference.expected is not None
    }
    uki = "disk.raw EFI/BOOT/BOOTX64.EFI"
    assert seen == {
        "PCR4": ("UKI", uki),
        "PCR9": ("Linux initrd", f"{uki} combined initrd"),
        "PCR11": (".osrel content", f"{uki} .osrel"),
    }
    for difference in comparison.differences:
        assert difference.message.startswith(f"{difference.register} differs at event ")
    wrong = {result.register for result in comparison.results if not result.equal}
    phases = {f"PCR11:{phase}" for phase in PHASES}
    assert wrong == {"PCR4", "PCR9", "PCR11"} | phases


def test_firmware_mends_the_primary_table_before_it_measures_it(built: Built, tampered: Tampered) -> None:
    assert tampered.table == read_at(built.disk, 0, PRIMARY)
    observation = parse_report(tampered.run.console, "console").observation
    expected = built.expected(MACHINE)
    for algorithm in HashAlgorithm:
        assert observation.values["PCR5", algorithm] == expected.value("PCR5", algorithm)


def test_what_no_register_covers_is_said_in_the_manifest(built: Built, tampered: Tampered) -> None:
    """Bits of ESP slack and of the data partition were flipped too; the registers above did not notice."""
    slack = read_at(built.disk, esp_slack(built.disk), BLOCK)
    assert tampered.slack == bytes([slack[0] ^ 1]) + slack[1:]
    notes = "\n".join(built.manifest.unmeasured)
    for part in ("backup GPT", "file slack", "free clusters", "data partition"):
        assert part in notes


def test_a_bit_of_a_block_that_the_boot_reads_stops_it(built: Built, boots: Boots) -> None:
    run = boots["read"].result()
    assert run.stopped
    assert f"data block {root_block(built, READ)} is corrupted" in run.text
    assert f"{PANIC}dm-verity device corrupted" in run.text
    assert "GOLDSMITH-REPORT" not in run.text


def test_a_bit_of_the_hash_tree_stops_the_boot(built: Built, boots: Boots) -> None:
    run = boots["tree"].result()
    assert run.stopped
    assert f"metadata block {hash_block(built, root_block(built, READ))} is corrupted" in run.text
    assert f"{PANIC}dm-verity device corrupted" in run.text
    assert "GOLDSMITH-REPORT" not in run.text


def test_a_bit_of_an_unread_block_stops_the_machine_when_it_is_read(built: Built, boots: Boots) -> None:
    run = boots["unread"].result()
    assert parse_report(run.console, "console").facts["state"] == "running"
    before, begins, after = run.text.partition("late-reader: begins\n")
    assert begins
    assert "is corrupted" not in before
    assert f"data block {root_block(built, UNREAD, UNREAD_BLOCK)} is corrupted" in after
    assert f"{PANIC}dm-verity device corrupted" in after
    assert LATE_READER_DONE not in run.console
    assert run.stopped


def test_a_root_hash_that_is_not_the_roots_stops_the_boot(boots: Boots) -> None:
    run = boots["relabelled"].result()
    assert run.stopped
    assert re.search(r"metadata block \d+ is corrupted", run.text)
    assert f"{PANIC}dm-verity device corrupted" in run.text
    assert "GOLDSMITH-REPORT" not in run.text
