"""How much memory writing a disk takes: the same for every disk, however much is in it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.disks.format import registry
from recipes.units import GIB, MIB
from tests.support import ROOT

pytestmark = pytest.mark.tool

# Writing takes about 30 MiB, of which Python has 20 before it begins.
LIMIT = 64 * MIB
RUN, RUNS, NOISE = 2 * MIB, 48, 24

# The kernel's own mark of this program's memory: what getrusage says begins with that of the program before.
WRITE = """
import os, sys
from recipes.disks.format import lookup
from recipes.disks.source import RawDisk
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
with open(sys.argv[2], "rb") as file, open("made", "wb") as out:
    disk = RawDisk.of("raw", file)
    if sys.argv[1]:
        lookup(sys.argv[1]).write(disk, out, seed=b"seed")
    else:
        kept = list(disk.pieces(65536))
with open("/proc/self/status") as status:
    (line,) = (line for line in status if line.startswith("VmHWM:"))
print(int(line.split()[1]) * 1024)
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 4 GiB with 96 MiB in it, 48 of them such that nothing makes them smaller."""
    path = tmp_path_factory.mktemp("memory") / "raw"
    chance = random.Random(0)
    with path.open("wb") as file:
        file.truncate(4 * GIB)
        for number in range(RUNS):
            file.seek(number * (4 * GIB // RUNS // 512 * 512))
            file.write(chance.randbytes(RUN) if number < NOISE else b"%08d" % number * (RUN // 8))
    yield path
    path.unlink()


def peak(folder: Path, name: str, raw: Path) -> int:
    """The most bytes that a program had in memory while it wrote; without a name it keeps the whole disk."""
    argv = [sys.executable, "-c", WRITE, name, str(raw)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "made").unlink()
    return int(done.stdout)


@pytest.mark.parametrize("name", registry())
def test_writing_takes_little_memory(tmp_path: Path, name: str, raw: Path) -> None:
    assert peak(tmp_path, name, raw) < LIMIT


def test_whoever_kept_the_disk_would_be_seen(tmp_path: Path, raw: Path) -> None:
    assert peak(tmp_path, "", raw) > LIMIT + 32 * MIB
