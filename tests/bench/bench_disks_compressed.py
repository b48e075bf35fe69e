"""qcow2, VMDK and OVA against qemu-img: ``python -m tests.bench.bench_disks_compressed``.

The disk is a sparse file of 10 GiB with 600 MB of content in it, taken over and over again from the disk of
the default image as it stands in ``out/``: programs, modules, and what is compressed already. Where DEFLATE
is our own, a tenth of that says as much and takes minutes less.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from recipes.disks.format import lookup
from recipes.disks.source import RawDisk
from recipes.units import GIB, KIB, MIB
from tests.bench.common import ROOT, Row, measure, print_table
from tests.support import require_tool

HERE = "tests.bench.bench_disks_compressed"
DISK = ROOT / "out" / "debian-cvm" / "disk.raw"
SIZE = 10 * GIB
CONTENT, LITTLE = 600 * 1000 * 1000, 60 * 1000 * 1000

# Format, bytes of content, arguments of qemu-img convert; an OVA is compared with the VMDK in it.
JOBS = (
    ("qcow2", CONTENT, ("-O", "qcow2")),
    ("qcow2-zstd", CONTENT, ("-O", "qcow2", "-c", "-o", "compression_type=zstd")),
    ("qcow2-zlib", LITTLE, ("-O", "qcow2", "-c")),
    ("vmdk", LITTLE, ("-O", "vmdk", "-o", "subformat=streamOptimized")),
    ("ova", LITTLE, ("-O", "vmdk", "-o", "subformat=streamOptimized")),
)


def rows() -> list[Row]:
    """The measured jobs; without a built image there is nothing to measure."""
    if not DISK.exists():
        return []
    qemu_img = require_tool("qemu-img")
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = Path(name, "ours"), Path(name, "theirs")
        raws = {size: _sparse(Path(name, f"raw{size}"), size) for size in (CONTENT, LITTLE)}
        for kind, size, arguments in JOBS:
            argv = (qemu_img, "convert", "-f", "raw", *arguments, raws[size], theirs)
            peer = measure(f"qemu-img {' '.join(arguments)}", size, argv)
            row = measure(f"disk format {kind}", size, f"{HERE}:job_write", kind, raws[size], ours)
            larger = 100 * ours.stat().st_size / theirs.stat().st_size - 100
            # Each writes a new file: to cut an old one to nothing takes as long as some of the formats do.
            ours.unlink()
            theirs.unlink()
            found += [row.against(peer, f"qemu-img ({larger:+.0f} % bytes)", wall=True), peer]
    return found


def job_write(kind: str, raw: str, out: str) -> None:
    """Writes a disk in a format."""
    with Path(raw).open("rb") as source, Path(out).open("wb") as target:
        lookup(kind).write(RawDisk.of(raw, source), target, seed=b"")


def _sparse(path: Path, content: int) -> Path:
    """A file of 10 GiB with that much of the default image in it, 1 MiB at a time and evenly spread."""
    pieces = content // MIB
    with DISK.open("rb") as source, path.open("wb") as out:
        for number in range(pieces):
            data = _content(source.read(MIB))
            while len(data) < MIB:
                more = source.read(MIB)
                if not more:
                    source.seek(0)
                data = (data + _content(more))[:MIB]
            out.seek(number * (SIZE // pieces) // MIB * MIB)
            out.write(data)
        out.truncate(SIZE)
    return path


def _content(data: bytes) -> bytes:
    """What is not zero of it, in pieces of 64 KiB."""
    step = 64 * KIB
    pieces = (data[start : start + step] for start in range(0, len(data), step))
    return b"".join(piece for piece in pieces if any(piece))


if __name__ == "__main__":
    print_table(rows())
