"""One direct kernel boot for two modules: ``judge.sh`` runs in place of the initramfs' first program.

It asks the unlock driver for the volumes of ``providers.CASES`` and reads the EROFS image of ``specimen``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from recipes.formats import cpio, erofs
from recipes.formats.tree import FileTree
from recipes.sources import initramfs
from recipes.sources.initramfs import InitramfsSpec
from recipes.steps.initramfs import SCRIPTS, phase_commands
from recipes.steps.unpack import unpacked
from recipes.units import MIB
from recipes.vmm.qemu import DriveFile

from .providers import volumes
from .specimen import BIG, specimen
from .support import Built, Run, boot_kernel, read_at

JUDGE = Path(__file__).with_name("judge.sh")
COMMAND_LINE = "console=ttyS0 panic=-1 loglevel=7 rdinit=/test/judge.sh"
EPOCH = 1_700_000_000


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


def boot_judge(built: Built, folder: Path) -> Judged:
    """Boots it; the machine powers itself off."""
    initrd, disk, image = folder / "judge.cpio", folder / "volumes.raw", folder / "erofs.raw"
    files = specimen(write_initramfs(built, initrd))
    with image.open("w+b") as out:
        erofs.write(files, out, epoch=EPOCH, uuid=UUID(int=3))
    with disk.open("wb") as out:
        out.truncate(MIB)
    drives = [DriveFile(path=str(disk)), DriveFile(path=str(image))]
    run = boot_kernel(built, COMMAND_LINE, drives, initrd=initrd)
    facts: dict[str, list[str]] = {}
    for line in run.text.split("\n"):
        if line.startswith("JUDGE "):
            topic, _, rest = line.removeprefix("JUDGE ").partition(" ")
            facts.setdefault(topic, []).append(rest)
    assert run.stopped
    assert "end" in facts, run.text[-3000:]
    return Judged(run, files, read_at(disk, 0, MIB), facts)


def write_initramfs(built: Built, target: Path) -> bytes:
    """Writes an initramfs like the image's, with the volumes of the tests and the judge; returns busybox."""
    spec = InitramfsSpec(
        architecture=built.image.recipe.architecture.value,
        kernel_release=built.kernel_release,
        modules=built.image.recipe.initramfs.modules,
        volumes=volumes(),
    )
    scripts = {path.name: path.read_bytes() for path in SCRIPTS.iterdir() if path.is_file()}
    with (
        unpacked(built.lock, "initramfs", target) as (packages, _),
        unpacked(built.lock, "kernel", target) as (modules, _),
    ):
        tree = initramfs.assemble(packages, modules, spec, scripts, phase_commands())
        del tree.nodes["usr/lib/unlock.d/absent"]
        tree.add_file("test/judge.sh", JUDGE.read_bytes(), 0o755)
        tree.add_file("test/names", "".join(f"{name}\n" for name in BIG).encode())
        tree.add_file("etc/passwd", b"judge:x:1000:1000::/:/usr/bin/sh\n")
        with target.open("wb") as out:
            cpio.write_newc(tree, out, epoch=0)
        return tree["usr/bin/busybox"].read()
