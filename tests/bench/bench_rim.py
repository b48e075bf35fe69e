"""How long the measurement of a realm takes beside the hashing alone, and many beside one.

A 40 MiB kernel and a 64 MiB initrd that do not compress, read from files in windows of a few MiB. A matrix is
10 x 20 launches of the same kernel and initrd that differ in their device tree alone.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipes.measure.granules import BytesBlob
from recipes.measure.realm_launch import CreateRec, InitRipas, Operation, PopulateData, RealmCreate, Replayer
from recipes.measure.rmm import REC_RUNNABLE, RealmParams, RecParams
from recipes.measure.trace import HashAlgorithm
from recipes.units import KIB, MIB
from tests.bench.common import Row, measure

HERE = "tests.bench.bench_rim"
KERNEL_SIZE, INITRD_SIZE, DTB_SIZE = 40 * MIB, 64 * MIB, 64 * KIB
WINDOW = 2 * MIB
RAM = 0x8000_0000
# As kvmtool places them with 256 MiB and more: the initrd ends four bytes below the device tree.
DTB = RAM + 0xFE0_0000
INITRD = DTB - INITRD_SIZE - 4
BSS_END = RAM + KERNEL_SIZE + MIB
MATRIX = 10 * 20
RUNS = 5


def rows() -> list[Row]:
    """The measured jobs."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder))
        return [row for name in ("sha256", "sha512") for row in _rows(name, folder)]


def _rows(name: str, folder: str) -> list[Row]:
    size = KERNEL_SIZE + INITRD_SIZE
    pages = measure(f"4 KiB pages, {name}", size, f"{HERE}:job_pages", name, folder, runs=RUNS)
    one = measure(f"RIM, {name}", size, f"{HERE}:job_rim", name, folder, 1, runs=RUNS)
    many = measure(f"RIM of {MATRIX}, {name}", size, f"{HERE}:job_rim", name, folder, MATRIX, runs=RUNS)
    return [
        pages,
        one.against(pages, "4 KiB pages", wall=True),
        one.against(pages, "4 KiB pages"),
        many.against(one, "1 RIM", wall=True),
    ]


def _write(folder: Path) -> None:
    noise = random.Random(1)
    for name, size in (("Image", KERNEL_SIZE), ("initrd", INITRD_SIZE)):
        with (folder / name).open("wb") as file:
            for _ in range(size // MIB):
                file.write(noise.randbytes(MIB))


@dataclass(frozen=True)
class FileBlob:
    """A file, read in windows and not mapped: mapped pages would count as resident."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def windows(self) -> Iterator[memoryview]:
        # One buffer for all: fresh memory for each window would cost a tenth of the hashing in page faults.
        buffer = memoryview(bytearray(WINDOW))
        with self.path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]


def job_pages(name: str, folder: str) -> None:
    """Nothing but the hashes of the pages: what no measurement can do without."""
    new = getattr(hashlib, name)
    for blob in (FileBlob(Path(folder, "Image")), FileBlob(Path(folder, "initrd"))):
        for window in blob.windows():
            view = memoryview(window)
            for start in range(0, len(view), 4096):
                new(view[start : start + 4096]).digest()


def job_rim(name: str, folder: str, launches: str) -> None:
    """The RIM of so many launches with device trees of their own."""
    kernel, initrd = FileBlob(Path(folder, "Image")), FileBlob(Path(folder, "initrd"))
    replayer = Replayer(HashAlgorithm(name))
    values = set()
    for number in range(int(launches)):
        tree = number.to_bytes(4, "big").ljust(DTB_SIZE, b"\0")
        values.add(replayer.replay(_operations(kernel, initrd, tree)).rim)
    assert len(values) == int(launches)


def _operations(kernel: FileBlob, initrd: FileBlob, tree: bytes) -> tuple[Operation, ...]:
    rec = RecParams(flags=REC_RUNNABLE, pc=RAM, gprs=(DTB, *(0,) * 7))
    return (
        RealmCreate(params=RealmParams(s2sz=33), source="--realm"),
        PopulateData(address=RAM, blob=kernel, source="-k"),
        InitRipas(base=RAM + KERNEL_SIZE, top=BSS_END, source="-k"),
        PopulateData(address=INITRD, blob=initrd, source="-i"),
        PopulateData(address=DTB, blob=BytesBlob("device tree", tree), source="device tree"),
        CreateRec(rec=rec, source="-c"),
    )
