"""Every disk format, judged by readers of other people; see ``disk_conformance.py``."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from io import FileIO
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from recipes.disks.format import aligned_size, lookup, registry
from recipes.disks.gce import tar_pieces
from recipes.disks.source import RawDisk
from recipes.errors import FormatError
from recipes.units import KIB, MIB
from tests.support import ROOT
from tests.tool.disk_conformance import ROWS, SAMPLES, Row, assert_holds, run
from tests.unit.test_disks_vhd import read_vhd
from tests.unit.test_disks_vhdx import read_vhdx

pytestmark = pytest.mark.tool

SEED = hashlib.sha256(b"seed").digest()
each_row = pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)


def write(row: Row, raw: Path, made: Path, *, seed: bytes = SEED) -> bytes:
    """The digest of what the format makes of ``raw``."""
    with raw.open("rb") as file, made.open("wb") as out:
        lookup(row.name).write(RawDisk.of(raw.name, file), out, seed=seed)
    with made.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def sparse_file(path: Path, data: bytes) -> Path:
    with path.open("wb") as file:
        file.truncate(len(data))
        for start in range(0, len(data), 4096):
            if any(data[start : start + 4096]):
                file.seek(start)
                file.write(data[start : start + 4096])
    return path


def test_every_format_has_a_row() -> None:
    assert sorted(ROWS) == list(registry())


@each_row
@pytest.mark.parametrize("name", SAMPLES)
def test_readers_give_the_disk_back(tmp_path: Path, row: Row, name: str) -> None:
    data = SAMPLES[name]()
    raw, made = tmp_path / "raw", tmp_path / "made"
    raw.write_bytes(data)
    written = write(row, raw, made)
    size = aligned_size(lookup(row.name), len(data))
    for number, reader in enumerate(row.readers):
        back = tmp_path / f"back{number}"
        reader(made, back)
        assert_holds(back, data, size)
        back.unlink()
    for check in row.checks:
        check(made)
    # The same bytes with holes where there were none, and once more.
    assert write(row, sparse_file(tmp_path / "sparse", data), made) == written


@each_row
def test_the_seed_changes_identifiers_alone(tmp_path: Path, row: Row) -> None:
    data = SAMPLES["sparse"]()
    raw, one, other = sparse_file(tmp_path / "raw", data), tmp_path / "one", tmp_path / "other"
    is_same = write(row, raw, one) == write(row, raw, other, seed=b"another")
    assert is_same != row.follows_seed
    assert one.stat().st_size == other.stat().st_size
    row.readers[0](other, tmp_path / "back")
    assert_holds(tmp_path / "back", data, aligned_size(lookup(row.name), len(data)))


@each_row
def test_a_very_large_disk(tmp_path: Path, row: Row) -> None:
    """Up to the limit, where numbers in the file are as long as they get."""
    made = tmp_path / "made"
    with (tmp_path / "raw").open("w+b") as file, made.open("wb") as out:
        file.write(b"\xa5" * 64 * KIB)
        file.flush()
        disk = RawDisk.of("raw", file).grown(row.large)
        disk = disk.patched(row.large - 64 * KIB, b"\x5a" * 64 * KIB).patched(row.large // 2, b"\x3c" * 512)
        lookup(row.name).write(disk, out, seed=SEED)
    row.peek(made, 0, 64 * KIB, 0xA5)
    row.peek(made, 64 * KIB, 64 * KIB, 0)
    row.peek(made, row.large // 2, 512, 0x3C)
    row.peek(made, row.large // 2 + 512, 512, 0)
    row.peek(made, row.large - 128 * KIB, 64 * KIB, 0)
    row.peek(made, row.large - 64 * KIB, 64 * KIB, 0x5A)
    assert [size(made) for size in row.sizes] == [row.large] * len(row.sizes)


@each_row
def test_one_past_the_limit_is_refused_before_anything_is_written(tmp_path: Path, row: Row) -> None:
    disk_format = lookup(row.name)
    limit = disk_format.max_size
    assert aligned_size(disk_format, limit) == limit
    made = tmp_path / "made"
    with (tmp_path / "raw").open("w+b") as file, made.open("wb") as out:
        file.truncate(512)
        disk = RawDisk.of("raw", file).grown(limit + 512)
        with pytest.raises(FormatError, match=rf"^disk format {row.name}: .* {limit}.*; .*another format$"):
            disk_format.write(disk, out, seed=SEED)
    assert made.stat().st_size == 0


class Meddling(FileIO):
    """A raw image that is touched when it is used for the third time: measured, but not yet read."""

    uses = 0

    def fileno(self) -> int:
        number = super().fileno()
        self.uses += 1
        if self.uses == 3:
            os.utime(number, ns=(1, 1))
        return number


@each_row
def test_a_change_while_it_is_read_is_noticed(tmp_path: Path, row: Row) -> None:
    (tmp_path / "raw").write_bytes(SAMPLES["full"]())
    with Meddling(tmp_path / "raw") as file, (tmp_path / "made").open("wb") as out:
        disk = RawDisk.of("raw", cast("BinaryIO", file))
        with pytest.raises(FormatError, match=r"^raw: changed while it was read: it has been written to"):
            lookup(row.name).write(disk, out, seed=SEED)


@each_row
def test_progress_ends_with_the_whole_disk(tmp_path: Path, row: Row) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(SAMPLES["full"]())
    disk_format = lookup(row.name)
    size = aligned_size(disk_format, 3 * MIB)
    seen: list[tuple[int, int]] = []
    with raw.open("rb") as file, (tmp_path / "made").open("wb") as out:
        disk_format.write(
            RawDisk.of("raw", file), out, seed=SEED, progress=lambda *report: seen.append(report)
        )
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {size}
    assert seen[-1] == (size, size)
    assert len(seen) > 1


SURROUNDINGS = """
import hashlib, sys
from recipes.disks.format import registry
from recipes.disks.source import RawDisk
for name, disk_format in registry().items():
    with open(sys.argv[1], "rb") as file, open("made", "w+b") as out:
        disk_format.write(RawDisk.of("raw", file), out, seed=b"seed")
        out.seek(0)
        print(name, hashlib.file_digest(out, "sha256").hexdigest())
"""


def test_surroundings_do_not_matter(tmp_path: Path) -> None:
    """Nor do time zone, locale, umask, hash seed, folder, name and time of the raw image."""
    found = []
    for number, (umask, zone) in enumerate(((0o22, "UTC"), (0o77, "Pacific/Chatham"))):
        folder = tmp_path / f"folder{number}"
        folder.mkdir()
        raw = sparse_file(folder / f"raw{number}", SAMPLES["edges"]())
        os.utime(raw, (number * 10**8, number * 10**8))
        variables = {
            **os.environ,
            "TZ": zone,
            "PYTHONHASHSEED": str(number),
            "PYTHONPATH": str(ROOT),
            "LC_ALL": ("C", "C.UTF-8")[number],
        }
        argv = [sys.executable, "-c", SURROUNDINGS, str(raw)]
        done = subprocess.run(
            argv, cwd=folder, env=variables, umask=umask, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert found[0] == found[1]
    assert len(found[0].splitlines()) == len(ROWS)


@pytest.mark.parametrize("driver", ["vpc", "vhdx"])
def test_readers_of_our_own_take_what_qemu_writes(tmp_path: Path, driver: str) -> None:
    """Or else they might just agree with our writers. QEMU leaves blocks out in a state of its own choice."""
    data = SAMPLES["edges"]()
    raw = tmp_path / "raw"
    raw.write_bytes(data)
    made = tmp_path / "made"
    run("qemu-img", "convert", "-f", "raw", "-O", driver, raw, made)
    reader = {"vpc": read_vhd, "vhdx": read_vhdx}[driver]
    assert reader(made, ours=False)[: len(data)] == data


@pytest.mark.parametrize("places", [(0,), (0, -1), (MIB,), (-1,), tuple(range(0, 60 * MIB, 2 * MIB))])
def test_the_tar_is_that_of_gnu_tar(tmp_path: Path, places: tuple[int, ...]) -> None:
    """Byte for byte, where holes are as large as ours: a file system with 4 KiB blocks keeps them."""
    size = 64 * MIB
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(size)
        for place in places:
            file.seek(place % size // (64 * KIB) * 64 * KIB)
            file.write(b"\x77" * 64 * KIB)
    theirs = tmp_path / "theirs.tar"
    options = ("--format=oldgnu", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--mode=0644")
    run("tar", *options, "-C", tmp_path, "-S", "-cf", theirs, "disk.raw")
    with raw.open("rb") as file:
        assert b"".join(tar_pieces(RawDisk.of("raw", file))) == theirs.read_bytes()
