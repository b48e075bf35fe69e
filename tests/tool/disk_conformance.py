"""What every disk format has to stand up to: a row for each, with programs of other people that read it back.

A new format adds one row to ROWS; ``test_disks.py`` runs all of it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recipes.units import KIB, MIB
from tests.support import require_tool

Reader = Callable[[Path, Path], None]  # file made, raw file to write
Check = Callable[[Path], None]
Peek = Callable[[Path, int, int, int], None]  # file made, offset, length, the byte that is there throughout
Size = Callable[[Path], int]  # of the disk in the file made

TIB = 1 << 40


@dataclass(frozen=True)
class Row:
    """How one format is judged.

    Attributes:
        judges: the programs that read it, for people.
        readers: each gives the whole disk back, as a raw file.
        large: bytes of a nearly empty disk to write: the limit of the format where a file can be that large.
        peek: looks into the large disk, which nobody could unpack.
        checks: programs that look for mistakes in the file itself.
        sizes: programs that say how large the large disk is; they too could not unpack it.
        follows_seed: has identifiers.
    """

    name: str
    judges: str
    readers: tuple[Reader, ...]
    large: int
    peek: Peek
    checks: tuple[Check, ...] = ()
    sizes: tuple[Size, ...] = ()
    follows_seed: bool = True


def run(*argv: str | Path) -> str:
    """Output of a program that has to succeed."""
    command = [require_tool(str(argv[0])), *map(str, argv[1:])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout + done.stderr


def qemu_reader(driver: str) -> Reader:
    """``qemu-img convert``, told the format: guessing, it takes a fixed VHD for a raw disk with a tail."""

    def read(made: Path, raw: Path) -> None:
        run("qemu-img", "convert", "-f", driver, "-O", "raw", made, raw)

    return read


def qemu_check(driver: str) -> Check:
    """``qemu-img check``; what is unused counts as a mistake too."""

    def check(made: Path) -> None:
        output = run("qemu-img", "check", "-f", driver, made)
        assert "No errors were found" in output, output

    return check


def qemu_peek(driver: str) -> Peek:
    """``qemu-io`` compares a stretch with a byte."""

    def peek(made: Path, offset: int, length: int, value: int) -> None:
        command = f"read -P {value} {offset} {length}"
        output = run("qemu-io", "-r", "-f", driver, "-c", command, made)
        assert "verification failed" not in output, output
        assert f"read {length}/{length} bytes at offset {offset}" in output, output

    return peek


def zip7_reader(kind: str) -> Reader:
    """7-Zip unpacks the only file that it sees in an image of that kind."""

    def read(made: Path, raw: Path) -> None:
        folder = raw.with_suffix(".unpacked")
        run("7z", "x", f"-t{kind}", f"-o{folder}", made)
        (disk,) = folder.iterdir()
        disk.rename(raw)
        folder.rmdir()

    return read


def zip7_size(kind: str) -> Size:
    """7-Zip lists the only file that it sees in an image of that kind."""

    def size(made: Path) -> int:
        output = run("7z", "l", "-slt", f"-t{kind}", made)
        (line,) = (line for line in output.splitlines() if line.startswith("Size = "))
        return int(line.removeprefix("Size = "))

    return size


def copy_reader(made: Path, raw: Path) -> None:
    """A raw disk is what it is."""
    run("cp", "--sparse=always", made, raw)


def cut_reader(made: Path, raw: Path) -> None:
    """A fixed VHD is the disk and 512 bytes: coreutils alone can unpack it."""
    run("cp", "--sparse=always", made, raw)
    run("truncate", "--size=-512", raw)


def gnu_tar_reader(made: Path, raw: Path) -> None:
    """GNU tar unpacks the archive, without a word of complaint."""
    folder = raw.with_suffix(".unpacked")
    folder.mkdir()
    output = run("tar", "--extract", "--gzip", "--directory", folder, "--file", made)
    assert not output, output
    assert [path.name for path in folder.iterdir()] == ["disk.raw"]
    (folder / "disk.raw").rename(raw)
    folder.rmdir()


def python_tar_reader(made: Path, raw: Path) -> None:
    """Python's tarfile unpacks the archive, holes and all."""
    folder = raw.with_suffix(".unpacked")
    with tarfile.open(made) as archive:
        archive.extractall(folder, filter="data")
    (folder / "disk.raw").rename(raw)
    shutil.rmtree(folder)


def tar_peek(made: Path, offset: int, length: int, value: int) -> None:
    """Python's tarfile reads a stretch of the archived disk."""
    with tarfile.open(made) as archive, archive.extractfile("disk.raw") or made.open("rb") as stream:
        stream.seek(offset)
        assert stream.read(length) == bytes((value,)) * length


def _ova_disk(made: Path) -> Path:
    """The only disk of the archive, unpacked by GNU tar beside it."""
    folder = made.parent / "appliance"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run("tar", "--extract", "--directory", folder, "--file", made)
    (disk,) = folder.glob("*.vmdk")
    return disk


def ova_reader(made: Path, raw: Path) -> None:
    """GNU tar and ``qemu-img``."""
    qemu_reader("vmdk")(_ova_disk(made), raw)


def ova_zip7_reader(made: Path, raw: Path) -> None:
    """7-Zip unpacks the archive, and then the disk that was in it."""
    folder = raw.with_suffix(".appliance")
    run("7z", "x", "-ttar", f"-o{folder}", made)
    (disk,) = folder.glob("*.vmdk")
    zip7_reader("VMDK")(disk, raw)
    shutil.rmtree(folder)


def ova_zip7_size(made: Path) -> int:
    """GNU tar and 7-Zip."""
    return zip7_size("VMDK")(_ova_disk(made))


def ova_check(made: Path) -> None:
    """GNU tar and ``qemu-img check``."""
    qemu_check("vmdk")(_ova_disk(made))


def ova_peek(made: Path, offset: int, length: int, value: int) -> None:
    """GNU tar and ``qemu-io``."""
    qemu_peek("vmdk")(_ova_disk(made), offset, length, value)


def qemu_row(
    name: str,
    driver: str,
    large: int,
    *more: Reader,
    zip7: str | None = None,
    check: bool = True,
    seed: bool = True,
) -> Row:
    """The row of a format that QEMU knows by ``driver``, and 7-Zip by ``zip7`` if it can read it.

    Args:
        more: readers made of coreutils.
    """
    judges = [f"QEMU ({driver})"] + ["coreutils"] * bool(more) + ["7-Zip"] * (zip7 is not None)
    return Row(
        name,
        ", ".join(judges),
        (qemu_reader(driver), *more, *((zip7_reader(zip7),) if zip7 else ())),
        large,
        qemu_peek(driver),
        (qemu_check(driver),) if check else (),
        (zip7_size(zip7),) if zip7 else (),
        follows_seed=seed,
    )


def gce_row(name: str) -> Row:
    """The row of an archive for Google Cloud."""
    judges = "GNU tar, Python's tarfile"
    return Row(name, judges, (gnu_tar_reader, python_tar_reader), 64 * TIB, tar_peek, follows_seed=False)


OVA_JUDGES = "GNU tar, QEMU (vmdk), 7-Zip"
OVA = (OVA_JUDGES, (ova_reader, ova_zip7_reader), 2 * TIB, ova_peek, (ova_check,), (ova_zip7_size,))

# The raw format itself ends where file offsets do; no file system here has room for that.
ROWS = {
    row.name: row
    for row in (
        qemu_row("raw", "raw", TIB, copy_reader, check=False, seed=False),
        qemu_row("vhd", "vpc", 2040 << 30, cut_reader, zip7="VHD", check=False),
        qemu_row("vhd-dynamic", "vpc", 2040 << 30, zip7="VHD", check=False),
        qemu_row("vhdx", "vhdx", 64 * TIB, zip7="VHDX"),
        gce_row("gce"),
        qemu_row("qcow2", "qcow2", 2048 * TIB, zip7="QCOW", seed=False),
        # 7-Zip 26 says "Unsupported method" to zstd in a qcow2.
        qemu_row("qcow2-zstd", "qcow2", 2048 * TIB, seed=False),
        qemu_row("qcow2-zlib", "qcow2", 2048 * TIB, zip7="QCOW", seed=False),
        qemu_row("vmdk", "vmdk", 2 * TIB, zip7="VMDK"),
        Row("ova", *OVA),
    )
}


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _places(size: int, *places: int) -> bytes:
    data = bytearray(size)
    for place in places:
        data[place % size] = 0x5A
    return bytes(data)


# What the formats cut disks into, and so where they may go wrong by one.
_EDGES = [
    edge + step for edge in (512, 4 * KIB, 64 * KIB, MIB, 2 * MIB, 4 * MIB, 6 * MIB) for step in (-1, 0, 512)
]

# Each is a disk in bytes.
SAMPLES: dict[str, Callable[[], bytes]] = {
    "one sector": lambda: _noise(1, 512),
    "one sector of zeros": lambda: bytes(512),
    "nothing in it": lambda: bytes(5 * MIB),
    "odd": lambda: _places(2 * MIB + 3 * 512, 0, -1),
    "sparse": lambda: _places(25 * MIB, 0, 9 * MIB + 5, 24 * MIB),
    "full": lambda: _noise(2, 3 * MIB),
    "edges": lambda: _places(8 * MIB, *_EDGES),
    "text": lambda: (b"all work and no play\n" * 100_000)[: 4 * 512 * KIB - 512],
}


def data_ranges(path: Path) -> Iterator[tuple[int, bytes]]:
    """What a file holds outside its holes, in pieces."""
    with path.open("rb") as file:
        size, position = file.seek(0, os.SEEK_END), 0
        while position < size:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            while position < end:
                piece = os.pread(file.fileno(), min(end - position, MIB), position)
                yield position, piece
                position += len(piece)


def assert_holds(raw: Path, data: bytes, size: int) -> None:
    """The file has ``size`` bytes: ``data``, and zeros behind it."""
    assert raw.stat().st_size == size
    rebuilt = bytearray(len(data))
    for offset, piece in data_ranges(raw):
        rebuilt[offset : offset + len(piece)] = piece[: max(len(data) - offset, 0)]
        assert not any(piece[max(len(data) - offset, 0) :]), f"content behind the end, from {offset}"
    assert rebuilt == data
