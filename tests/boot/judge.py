"""One direct kernel boot for two modules: ``judge.sh`` runs in place of the initramfs' first program.

It asks the unlock driver for the volumes of ``providers.CASES`` and reads the EROFS image of ``specimen``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from recipes.formats import erofs
from recipes.formats.tree import FileTree
from recipes.units import MIB
from recipes.vmm.qemu import DriveFile

from .luks_machine import IMAGE, add_volume, facts_of, write_initramfs
from .providers import PROGRAM, PROVIDERS, volumes
from .specimen import BIG, specimen
from .support import Built, Run, boot_kernel, read_at

JUDGE = Path(__file__).with_name("judge.sh")
COMMAND_LINE = "console=ttyS0 panic=-1 loglevel=7 rdinit=/test/judge.sh"
EPOCH = 1_700_000_000
# The volume is there already: what the driver says so with stands in its first block.
NOTE = b"goldsmith volume 1 formatted".ljust(512, b"\0")


@dataclass(frozen=True)
class Judged:
    """What the judge found.

    Attributes:
        files: the tree that it was given as EROFS.
        disk: what is on the disk of the volumes afterwards.
        facts: the rest of each of its lines, by topic.
    """

    run: Run
    files: FileTree
    disk: bytes
    facts: dict[str, list[str]]

    def of(self, topic: str, name: str) -> list[str]:
        """The facts of a topic that begin with ``name``."""
        return [fact.removeprefix(f"{name} ") for fact in self.facts[topic] if fact.startswith(f"{name} ")]


def boot_judge(_: Built, folder: Path) -> Judged:
    """Boots it; the machine powers itself off."""
    initrd, disk, image = folder / "judge.cpio", folder / "volumes.raw", folder / "erofs.raw"
    files = specimen(write_initramfs(initrd, JUDGE, _add_files))
    with image.open("w+b") as out:
        erofs.write(files, out, epoch=EPOCH, uuid=UUID(int=3))
    with disk.open("wb") as out:
        out.write(NOTE)
        out.truncate(2 * MIB)
    drives = [DriveFile(path=str(disk)), DriveFile(path=str(image))]
    run = boot_kernel(IMAGE, COMMAND_LINE, drives, initrd=initrd)
    return Judged(run, files, read_at(disk, 0, 2 * MIB), facts_of(run))


def _add_files(tree: FileTree) -> None:
    for name, settings in volumes().items():
        add_volume(tree, name, settings)
    for name, script in PROVIDERS.items():
        tree.add_file(f"usr/lib/unlock.d/{name}", f"#!/bin/sh\n{script}".encode(), 0o755)
    tree.add_file("test/program", PROGRAM.encode(), 0o755)
    tree.add_file("test/names", "".join(f"{name}\n" for name in BIG).encode())
    tree.add_file("etc/passwd", b"judge:x:1000:1000::/:/usr/bin/sh\n")
