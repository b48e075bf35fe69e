"""How long the file-system writers take: ``python -m tests.bench.bench_filesystems``.

A root file system of 120 MB becomes an EROFS image and an archive; 512 MiB of noise get a hash tree. The
files are made up: 4000 of them, many small and few large, half of each compressible.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.formats import cpio, erofs, verity, zstd
from recipes.formats.tree import FilePayload, FileTree, Node, NodeType
from recipes.units import MIB
from tests.bench.common import Row, measure, print_table

HERE = "tests.bench.bench_filesystems"
FILES, TOTAL = 4000, 120_000_000
EPOCH = 1_700_000_000
UUID = uuid.UUID("0f0e0d0c-0b0a-0908-0706-050403020100")
SALT = bytes(range(32))


def rows() -> list[Row]:
    """Every row of this module."""
    return [*bench_erofs(), *bench_verity(), *bench_cpio_zstd()]


def bench_erofs() -> list[Row]:
    """Our EROFS writer beside mkfs.erofs, where there is one."""
    with _folder() as folder:
        content = _make_content(folder)
        ours = measure("erofs.write", TOTAL, f"{HERE}:job_erofs", content, folder / "ours", runs=3)
        program = shutil.which("mkfs.erofs")
        if program is None:
            return [ours]
        _make_files(content, folder / "root")
        argv: list[str | Path] = [
            program,
            "-T",
            str(EPOCH),
            "--all-root",
            "--quiet",
            folder / "theirs",
            folder / "root",
        ]
        theirs = measure("mkfs.erofs", TOTAL, argv, runs=3)
        return [ours.against(theirs, "mkfs.erofs"), theirs]


def bench_verity(size: int = 512 * MIB) -> list[Row]:
    """Our hash tree beside veritysetup and beside nothing but the hashing of the same blocks."""
    with _folder() as folder:
        data = folder / "data"
        noise = random.Random(2)
        with data.open("wb") as out:
            for _ in range(size // MIB):
                out.write(noise.randbytes(MIB))
        job = f"{HERE}:job_verity"
        two = measure("verity.format, 2 workers", size, job, data, folder / "h2", 2, runs=2)
        one = measure("verity.format, 1 worker", size, job, data, folder / "h1", 1, runs=2)
        plain = measure("hashlib over the blocks", size, f"{HERE}:job_hashlib", data, runs=2)
        found = [one.against(plain, "hashlib"), two.against(plain, "hashlib", wall=True), plain]
        program = shutil.which("veritysetup", path="/usr/sbin:/sbin:/usr/bin")
        if program is not None:
            argv: list[str | Path] = [
                program,
                "format",
                data,
                folder / "theirs",
                "--salt",
                SALT.hex(),
                "--uuid",
                str(UUID),
            ]
            theirs = measure("veritysetup format", size, argv, runs=2)
            found += [theirs, two.against(theirs, "veritysetup", wall=True)]
        return found


def bench_cpio_zstd() -> list[Row]:
    """Our archive and its compression, beside GNU cpio and the zstd program."""
    with _folder() as folder:
        content = _make_content(folder)
        archive = folder / "archive"
        made = measure("cpio.write_newc", TOTAL, f"{HERE}:job_cpio", content, archive, runs=3)
        size = archive.stat().st_size
        packed = measure("compress_zstd, level 3", size, f"{HERE}:job_zstd", archive, folder / "z", runs=2)
        found = [made, packed]
        if shutil.which("cpio"):
            _make_files(content, folder / "root")
            shell = f"cd '{folder / 'root'}' && find . -print0 | cpio --quiet -0 -o -H newc > ../theirs"
            theirs = measure("cpio -o -H newc", TOTAL, ["/bin/sh", "-c", shell], runs=3)
            found[0] = made.against(theirs, "GNU cpio")
            found.append(theirs)
        if shutil.which("zstd"):
            argv: list[str | Path] = ["zstd", "-3", "-T2", "-q", "-f", archive, "-o", folder / "z2"]
            theirs = measure("zstd -3 -T2", size, argv, runs=2)
            found[1] = packed.against(theirs, "zstd")
            found.append(theirs)
        return found


def job_erofs(content: str, out: str) -> None:
    """Writes the made-up tree as EROFS."""
    with Path(out).open("wb") as file:
        erofs.write(_tree(Path(content)), file, epoch=EPOCH, uuid=UUID)


def job_cpio(content: str, out: str) -> None:
    """Writes the made-up tree as an archive."""
    with Path(out).open("wb") as file:
        cpio.write_newc(_tree(Path(content)), file, epoch=EPOCH)


def job_zstd(source: str, out: str) -> None:
    """Compresses a file."""
    with Path(source).open("rb") as file, Path(out).open("wb") as packed:
        zstd.compress_zstd(file, packed)


def job_verity(data: str, hashes: str, workers: str) -> None:
    """Makes a hash tree."""
    verity.format(Path(data), Path(hashes), salt=SALT, uuid=UUID, workers=int(workers))


def job_hashlib(data: str) -> None:
    """Hashes salt and block for every block of a file, and does nothing else."""
    salted = hashlib.sha256(SALT)
    with Path(data).open("rb") as file:
        while piece := memoryview(file.read(4 * MIB)):
            for start in range(0, len(piece), 4096):
                state = salted.copy()
                state.update(piece[start : start + 4096])
                state.digest()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="goldsmith-bench-") as name:
        yield Path(name)


def _sizes() -> list[int]:
    """File sizes: many small, few large, ``TOTAL`` together."""
    dice = random.Random(1)
    raw = [dice.lognormvariate(8, 1.9) for _ in range(FILES)]
    scale = TOTAL / sum(raw)
    sizes = [int(value * scale) for value in raw]
    sizes[0] += TOTAL - sum(sizes)
    return sizes


def _make_content(folder: Path) -> Path:
    """One file with the content of all files, as an unpacked package leaves it."""
    path = folder / "content"
    dice = random.Random(3)
    words = b" ".join(dice.randbytes(4).hex().encode() for _ in range(40_000))
    with path.open("wb") as out:
        written = 0
        while written < TOTAL:
            start = dice.randrange(len(words) - 4096)
            written += out.write(dice.randbytes(4096) + words[start : start + 4096])
    return path


def _names() -> Iterator[tuple[str, int, int]]:
    """Path, offset and size of each file."""
    offset = 0
    for index, size in enumerate(_sizes()):
        yield f"usr/lib/d{index % 97}/file-{index}", offset, size
        offset += size


def _tree(content: Path) -> FileTree:
    tree = FileTree()
    for path, offset, size in _names():
        tree.add_parents(path)
        payload = FilePayload(content, offset, size)
        tree[path] = Node(type=NodeType.FILE, mode=0o644, mtime=EPOCH, payload=payload)
    return tree


def _make_files(content: Path, root: Path) -> None:
    """The same files in a folder, for other programs."""
    with content.open("rb") as file:
        for path, _, size in _names():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read(size))


if __name__ == "__main__":
    print_table(rows())
