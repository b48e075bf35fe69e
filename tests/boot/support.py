"""Machines for the boot tests: the shipped disk with something done to it, started by firmware or kernel.

A direct kernel boot runs the same kernel and the same initramfs as the UKI, without the firmware, in a third
of the time. It measures nothing worth comparing; it serves where only the initramfs, the kernel or a file
system is judged.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pytest
import zstandard

from recipes.errors import ToolError
from recipes.formats import cpio, gpt
from recipes.formats.tree import FileTree
from recipes.golden import manifest_reader
from recipes.golden.manifest import GoldenMachine, GoldenManifest
from recipes.golden.report import is_complete
from recipes.machine import Disk, QemuMachine
from recipes.schema import DiskImage, Image, load_project
from recipes.sources.initramfs import command_line
from recipes.steps import disk, disk_formats, golden, initramfs, kernel, packages, rootfs, verity
from recipes.steps.develop import TESTED_IMAGE
from recipes.steps.firmware import code_path, variables_path
from recipes.steps.task import OUT
from recipes.units import SECTOR_SIZE
from recipes.vmm.launch import Qemu, Swtpm
from recipes.vmm.qemu import PROGRAM, DriveFile, LaunchFiles, escape, render
from tests.support import ROOT, require_tool

# On two quiet cores a boot takes a fifth of this.
TIMEOUT = 420.0
# Ends every wait when the test session ends early.
STOP = threading.Event()

# Looks at the console, and ends the boot when it has seen enough.
Until = Callable[[bytes], bool]
# What the console has to show first, behind what it showed for the line before; and a line to type.
Typed = tuple[str, str]


@dataclass(frozen=True)
class Built:
    """A finished image that the tests start. Nothing in its folder is ever written.

    It is looked for when it is first asked for something: a boot of another image does not need it.
    """

    name: str = TESTED_IMAGE

    @cached_property
    def image(self) -> DiskImage:
        """The built image; without it the tests are skipped at home and fail in CI."""
        project = load_project(ROOT)
        images: tuple[DiskImage, ...] = (*project.images, *project.converted)
        image = next(image for image in images if image.name == self.name)
        missing = [path for path in (golden.golden_path(image), disk.raw_disk(image)) if not path.is_file()]
        if missing:
            what = (
                f"out/{missing[0].relative_to(OUT)} is not there; build it with `python3 dodo.py {self.name}`"
            )
            if os.environ.get("CI"):
                pytest.fail(what)
            pytest.skip(what)
        require_tool(PROGRAM)
        require_tool("swtpm")
        return image

    @cached_property
    def manifest(self) -> GoldenManifest:
        return manifest_reader.load(self.golden.read_text(encoding="utf-8"), self.golden.name)

    @property
    def golden(self) -> Path:
        return golden.golden_path(self.image)

    @property
    def disk(self) -> Path:
        return disk.raw_disk(self.image)

    def shipped_disk(self, disk_format: str) -> Path:
        """The disk in one of the recipe's formats."""
        return dict(disk_formats.shipped_disks(self.image))[disk_format]

    @property
    def kernel(self) -> Path:
        return kernel.vmlinuz(self.image)

    @property
    def kernel_release(self) -> str:
        return kernel.release_of(kernel.kernel_facts(self.image))

    @property
    def initramfs(self) -> Path:
        return initramfs.archive(self.image)

    @property
    def verified(self) -> Image:
        """The image, which has a verified root."""
        assert isinstance(self.image, Image)
        return self.image

    @property
    def root(self) -> Path:
        return rootfs.filesystem(self.verified)

    @property
    def lock(self) -> Path:
        return packages.resolved_lock(self.image)

    @property
    def root_hash(self) -> bytes:
        return verity.read_facts(verity.verity_facts(self.verified)).root_hash

    def command_line(self, root_hash: bytes | None = None) -> str:
        """What stands in the UKI, or the same with another root hash."""
        return command_line(self.image.recipe.kernel.cmdline, root_hash or self.root_hash)

    def machine(self, name: str) -> QemuMachine:
        return next(machine for machine in self.image.machines if machine.name == name)

    def expected(self, name: str) -> GoldenMachine:
        found = self.manifest.machine(name)
        assert found is not None
        return found


# Boots something in a folder of its own and says what it showed; a module lists its own as BOOTS.
Boot = Callable[[Built, Path], Any]
Boots = Mapping[str, Future[Any]]


@dataclass(frozen=True)
class Run:
    """What a machine showed on its console; ``stopped`` when it ended by itself."""

    console: bytes
    stopped: bool
    seconds: float

    @property
    def text(self) -> str:
        return self.console.decode("utf-8", "replace").replace("\r", "")


def boot_uefi(
    built: Built,
    machine: QemuMachine,
    disks: Sequence[Path | DriveFile],
    *,
    until: Until = is_complete,
    tpm: Path | None = None,
    options: Sequence[str] = (),
) -> Run:
    """Boots ``machine`` from these disks, tried in this order; raw ones are written to by the guest.

    Args:
        tpm: folder that keeps the TPM between boots; without one it is a new one.
        options: further words for QEMU.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goldsmith-")))
        variables = folder / "vars.fd"
        shutil.copyfile(variables_path(built.image, machine.firmware), variables)
        variables.chmod(0o600)
        machine = replace(machine, disks=tuple(Disk(bootindex=index) for index in range(len(disks))))
        files = LaunchFiles(
            code=str(code_path(built.image, machine.firmware)),
            vars=str(variables),
            disks=tuple(item if isinstance(item, DriveFile) else DriveFile(path=str(item)) for item in disks),
            tpm_socket=stack.enter_context(Swtpm(tpm)).socket,
            serial=f"file:{folder / 'console'}",
            options=tuple(options),
        )
        qemu = stack.enter_context(Qemu(render(machine, files)))
        return watch(qemu, folder / "console", until)


def boot_kernel(
    built: Built,
    command_line: str,
    disks: Iterable[DriveFile],
    *,
    initrd: Path | None = None,
    until: Until | None = None,
    options: Sequence[str] = (),
    typed: Sequence[Typed] = (),
) -> Run:
    """Boots the image's kernel without firmware until it ends by itself.

    Args:
        initrd: instead of the image's initramfs.
        until: ends the boot before it ends by itself.
        options: further words for QEMU.
        typed: on the serial console.
    """
    machine = built.image.machines[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goldsmith-")))
        tpm = stack.enter_context(Swtpm())
        words = [PROGRAM, "-nodefaults", "-no-user-config", "-machine", machine.type, "-accel", "tcg"]
        words += ["-cpu", machine.cpu, "-m", "512", "-smp", "1", "-display", "none", "-vga", "none"]
        keyboard = stack.enter_context(Keyboard(folder / "console", typed))
        words += ["-nic", "none", "-no-reboot", "-serial", f"pipe:{folder / 'console'}"]
        words += ["-chardev", "socket,id=chrtpm,path=" + escape(tpm.socket)]
        words += ["-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-tis,tpmdev=tpm0"]
        for number, file in enumerate(disks):
            mode = ",snapshot=on" if file.snapshot else ""
            words += ["-drive", f"if=none,id=d{number},format=raw{mode},file={escape(file.path)}"]
            words += ["-device", f"virtio-blk-pci,drive=d{number}"]
        words += ["-kernel", str(built.kernel), "-initrd", str(initrd or built.initramfs)]
        qemu = stack.enter_context(Qemu([*words, "-append", command_line, *options]))
        return watch(qemu, folder / "console.out", keyboard.before(until or _never))


class Keyboard:
    """Who types on a console: QEMU writes to ``<path>.out`` and reads ``<path>.in``."""

    def __init__(self, path: Path, lines: Sequence[Typed]) -> None:
        self._path = path
        self._lines = list(lines)
        self._seen = 0

    def __enter__(self) -> Self:
        self._path.with_suffix(".out").touch()
        os.mkfifo(self._path.with_suffix(".in"))
        self._pipe = os.open(self._path.with_suffix(".in"), os.O_RDWR)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)

    def before(self, until: Until) -> Until:
        """``until``, and each time the console is looked at, what there is to type is typed."""

        def look(console: bytes) -> bool:
            self._type(console)
            return until(console)

        return look

    def _type(self, console: bytes) -> None:
        while self._lines:
            shown, line = self._lines[0]
            at = console.find(shown.encode(), self._seen)
            if at < 0:
                return
            os.write(self._pipe, f"{line}\n".encode())
            self._seen = at + len(shown)
            del self._lines[0]


def _never(console: bytes) -> bool:
    return False


def watch(qemu: Qemu, path: Path, until: Until) -> Run:
    """What the console in ``path`` shows until a machine ends or ``until`` is true of it."""
    started = time.monotonic()
    while True:
        running = qemu.running
        console = path.read_bytes() if path.exists() else b""
        seconds = time.monotonic() - started
        if not running or until(console):
            return Run(console, not running, seconds)
        if seconds > TIMEOUT or STOP.is_set():
            what = "the tests were ended" if STOP.is_set() else f"still running after {TIMEOUT:.0f} s"
            raise ToolError(qemu.argv, what, console[-3000:].decode("utf-8", "replace"))
        time.sleep(0.2)


@contextmanager
def altered(built: Built, folder: Path) -> Iterator[Path]:
    """A copy of the shipped disk, to be changed, and gone when its boot is over; holes stay holes."""
    path = folder / "disk.raw"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", built.disk, path], check=True)
    path.chmod(0o600)
    try:
        yield path
    finally:
        path.unlink()


def edit_table(disk: Path, edit: Callable[[gpt.PartitionTable], gpt.PartitionTable]) -> None:
    """Writes another partition table, both copies; what is in the partitions stays."""
    with disk.open("r+b") as file:
        table = edit(gpt.read(file, disk.name))
        file.seek(0)
        file.write(table.primary())
        file.seek(-gpt.BACKUP_SECTORS * SECTOR_SIZE, os.SEEK_END)
        file.write(table.backup())


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flips one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def partitions(path: Path) -> dict[str, gpt.Partition]:
    """The partitions of a disk by name."""
    with path.open("rb") as file:
        return {partition.name: partition for partition in gpt.read(file, path.name).partitions}


def file_offset(filesystem: Path, path: str, block: int) -> int:
    """Where a whole block of a file stands in an EROFS image, as erofs-utils see it."""
    program = require_tool("dump.erofs")
    result = subprocess.run(
        [program, f"--path={path}", "-e", filesystem], capture_output=True, text=True, check=True
    )
    # `   0:        0..  131072 |  131072 :   26279936..  26411008 |  131072`
    found = re.search(r"^ +0: +0\.\. *(\d+) .*: +(\d+)\.\.", result.stdout, re.MULTILINE)
    assert found is not None, result.stdout
    assert int(found[1]) >= (block + 1) * 4096, f"{path} has no whole block {block}"
    return int(found[2]) + block * 4096


def add_to_initramfs(initramfs: Path, target: Path, tree: FileTree) -> Path:
    """An initramfs in which files of ``tree`` take the place of those in it.

    The kernel unpacks one archive after the other, the later over the earlier.
    Spec: Linux Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    shutil.copyfile(initramfs, target)
    with target.open("r+b") as out:
        # An archive begins at a multiple of 4; zeros between archives are skipped.
        out.write(bytes(-out.seek(0, os.SEEK_END) % 4))
        cpio.write_newc(tree, out, epoch=0)
    return target


def shipped_file(initramfs: Path, path: str) -> bytes:
    """A file of a built initramfs."""
    plain = zstandard.ZstdDecompressor().stream_reader(initramfs.read_bytes()).read()
    return next(entry.data for entry in cpio.read_newc(plain, initramfs.name) if entry.name == path)
