"""Formats that leave sectors as they are, and the archive for Google: ``python -m tests.bench.bench_disks``.

The disk is a sparse file of 10 GiB with 600 MB of content in it: over and over again what the disk of the
default image in ``out/`` holds, which is programs, modules, and what is compressed already.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from recipes.disks.format import registry
from recipes.disks.source import RawDisk
from recipes.units import GIB, MIB
from tests.bench.common import ROOT, Row, measure, print_table
from tests.support import require_tool

HERE = "tests.bench.bench_disks"
DISK = ROOT / "out" / "debian-cvm" / "disk.raw"
SIZE = 10 * GIB
CONTENT = 600 * 1000 * 1000
FORMATS = registry()  # imported before the clock starts
LITTLE = 30 * 1000 * 1000  # for what is too slow to wait for


def rows() -> list[Row]:
    """The measured jobs; without a built image there is nothing to measure."""
    if not DISK.exists():
        return []
    qemu_img, tar = require_tool("qemu-img"), require_tool("tar")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, little = folder / "disk.raw", folder / "little" / "disk.raw"
        little.parent.mkdir()
        _sparse(raw, CONTENT)
        _sparse(little, LITTLE)
        theirs = folder / "theirs"
        convert = (qemu_img, "convert", "-f", "raw")
        archive = (tar, "--format=oldgnu", "-Sczf", theirs, "-C")
        jobs: tuple[tuple[str, Path, tuple[str | Path, ...], int], ...] = (
            ("raw", raw, (*convert, "-O", "raw", raw, theirs), 3),
            ("vhd", raw, (*convert, "-O", "vpc", "-o", "subformat=fixed,force_size", raw, theirs), 3),
            ("vhd-dynamic", raw, (*convert, "-O", "vpc", raw, theirs), 3),
            ("vhdx", raw, (*convert, "-O", "vhdx", raw, theirs), 3),
            ("gce", raw, (*archive, raw.parent, raw.name), 1),
            ("gce-exact", little, (*archive, little.parent, little.name), 1),
        )
        return [row for job in jobs for row in _pair(folder, *job)]


def _pair(folder: Path, kind: str, raw: Path, argv: tuple[str | Path, ...], runs: int) -> Iterator[Row]:
    """A format of ours and its peer; whatever either leaves behind is gone before the next starts."""
    ours, theirs = folder / "ours", folder / "theirs"
    content = CONTENT if raw.parent == folder else LITTLE
    peer = measure(f"{Path(argv[0]).name} for {kind}", content, argv, runs=runs)
    mine = measure(f"disk format {kind}", content, f"{HERE}:job_write", kind, raw, ours, runs=runs)
    larger = 100 * ours.stat().st_size / theirs.stat().st_size - 100
    for made in (ours, theirs):
        made.unlink()
    yield mine.against(peer, f"{Path(argv[0]).name} ({larger:+.0f} % bytes)", wall=True)
    yield peer


def job_write(kind: str, raw: str, out: str) -> None:
    """Writes a disk in a format."""
    with Path(raw).open("rb") as source, Path(out).open("wb") as target:
        FORMATS[kind].write(RawDisk.of(raw, source), target, seed=b"seed")


def _sparse(path: Path, content: int) -> None:
    """A file of SIZE bytes with that much content, 1 MiB at a time and evenly spread."""
    places = range(0, SIZE, SIZE // (content // MIB) // 4096 * 4096)[: content // MIB]
    with path.open("wb") as out:
        out.truncate(SIZE)
        for place, piece in zip(places, _content(), strict=False):
            out.seek(place)
            out.write(piece)


def _content() -> Iterator[bytes]:
    """Pieces of 1 MiB of the disk, those that start with something, again and again."""
    with DISK.open("rb") as file:
        starts = [
            start
            for start in range(0, DISK.stat().st_size - MIB, MIB)
            if any(_at(file.fileno(), start, 4096))
        ]
        for start in cycle(starts):
            yield _at(file.fileno(), start, MIB)


def _at(number: int, start: int, size: int) -> bytes:
    return os.pread(number, size, start)


if __name__ == "__main__":
    print_table(rows())
