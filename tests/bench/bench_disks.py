"""Every disk format against qemu-img, or GNU tar: ``python -m tests.bench.bench_disks``.

The disk is a sparse file of 10 GiB with 600 MB of content in it: over and over again what the disk of the
default image in ``out/`` holds, which is programs, modules, and what is compressed already. The two take
turns, with the same level of compression, and the pair whose ratio is the median is shown; the sizes compared
are what the files take up. Times depend on what else the machine does, so the table says how busy it is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
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

STREAM = ("-O", "vmdk", "-o", "subformat=streamOptimized")
# Arguments of qemu-img convert, and how often: what compresses takes longer, and varies less. An OVA is
# compared with the VMDK in it.
JOBS = (
    ("raw", ("-O", "raw"), 7),
    ("vhd", ("-O", "vpc", "-o", "subformat=fixed,force_size"), 7),
    ("vhd-dynamic", ("-O", "vpc"), 7),
    ("vhdx", ("-O", "vhdx"), 7),
    ("qcow2", ("-O", "qcow2"), 7),
    ("qcow2-zstd", ("-O", "qcow2", "-c", "-o", "compression_type=zstd"), 3),
    ("qcow2-zlib", ("-O", "qcow2", "-c"), 1),
    ("vmdk", STREAM, 1),
    ("ova", STREAM, 1),
)


def rows() -> list[Row]:
    """The measured jobs; without a built image there is nothing to measure."""
    if not DISK.exists():
        return []
    qemu_img, tar = require_tool("qemu-img"), require_tool("tar")
    with tempfile.TemporaryDirectory() as name:
        raw, theirs = Path(name, "disk.raw"), Path(name, "theirs")
        _sparse(raw)
        found: list[Row] = []
        for kind, arguments, runs in JOBS:
            found += _pair(kind, raw, (qemu_img, "convert", "-f", "raw", *arguments, raw, theirs), runs)
        archive = (tar, "--format=oldgnu", "-Sczf", theirs, "-C", raw.parent, raw.name)
        return [*found, *_pair("gce", raw, archive, 1)]


def _pair(kind: str, raw: Path, argv: Sequence[str | Path], runs: int) -> tuple[Row, Row]:
    """A format of ours and its peer; whatever either leaves behind is gone before the next starts."""
    ours, theirs = raw.with_name("ours"), raw.with_name("theirs")
    peer_name = Path(argv[0]).name
    found: list[tuple[Row, Row]] = []
    for _ in range(runs):
        mine = measure(f"disk format {kind}", CONTENT, f"{HERE}:job_write", kind, raw, ours)
        peer = measure(f"{peer_name} for {kind}", CONTENT, argv)
        larger = 100 * _taken(ours) / _taken(theirs) - 100
        ours.unlink()
        theirs.unlink()
        label = f"{peer_name} ({larger:+.0f} % bytes, load {os.getloadavg()[0]:.1f})"
        found.append((mine.against(peer, label, wall=True), peer))
    return sorted(found, key=lambda pair: pair[0].ratio or 0)[runs // 2]


def job_write(kind: str, raw: str, out: str) -> None:
    """Writes a disk in a format."""
    with Path(raw).open("rb") as source, Path(out).open("wb") as target:
        FORMATS[kind].write(RawDisk.of(raw, source), target, seed=b"seed")


def _taken(path: Path) -> int:
    """Bytes of the file system: Linux stat(2), st_blocks."""
    return path.stat().st_blocks * 512


def _sparse(path: Path) -> None:
    """A file of SIZE bytes with CONTENT in it, 1 MiB at a time and evenly spread."""
    pieces = CONTENT // MIB
    places = range(0, SIZE, SIZE // pieces // 4096 * 4096)[:pieces]
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
