from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings

from recipes.disks.content import write_at, write_content
from recipes.errors import FormatError
from recipes.units import KIB, MIB
from tests.support import ROOT
from tests.unit.test_disks_source import disk_of, disks, granules

QUIET = settings(max_examples=60)


@QUIET
@given(disks, granules)
def test_everything_is_where_it_was_told_to_be(data: bytes, granule: int) -> None:
    told: list[tuple[int, int]] = []

    def mirrored(offset: int, length: int) -> int:
        """The last run of the disk first."""
        told.append((offset, length))
        return len(data) - offset - length

    with disk_of(data, sparse=True) as disk, tempfile.TemporaryFile() as out:
        write_content(disk, out, granule, mirrored)
        assert out.tell() == 0
        pieces = [(offset, len(piece)) for offset, piece in disk.pieces(granule)]
        out.seek(0)
        found = out.read().ljust(len(data), b"\0")
    assert told == pieces
    want = bytearray(len(data))
    for offset, length in pieces:
        start = len(data) - offset - length
        want[start : start + length] = data[offset : offset + length]
    assert found == want


def test_places_are_asked_for_one_at_a_time() -> None:
    busy = threading.Lock()
    threads = set()

    def place(offset: int, _: int) -> int:
        assert busy.acquire(blocking=False)
        threads.add(threading.get_ident())
        busy.release()
        return offset

    with disk_of(b"\x01" * 16 * MIB) as disk, tempfile.TemporaryFile() as out:
        write_content(disk, out, 4 * KIB, place)
    assert 1 <= len(threads) <= 2
    assert threading.get_ident() not in threads


def test_progress_goes_up_and_ends() -> None:
    seen: list[tuple[int, int]] = []
    with disk_of(b"\x01" * 3 * MIB) as disk, tempfile.TemporaryFile() as out:
        write_content(disk, out, 4 * KIB, lambda offset, _: offset, lambda *report: seen.append(report))
    assert seen == [(step, 3 * MIB) for step in range(256 * KIB, 3 * MIB + 1, 256 * KIB)]


def test_a_failure_stops_both_threads() -> None:
    told = []

    def place(offset: int, _: int) -> int:
        told.append(offset)
        if len(told) == 3:
            raise FormatError("disk", "no more")
        return offset

    before = threading.active_count()
    wanted = pytest.raises(FormatError, match=r"^disk: no more$")
    with disk_of(b"\x01" * 16 * MIB) as disk, tempfile.TemporaryFile() as out, wanted:
        write_content(disk, out, 4 * KIB, place)
    assert told[:3] == [0, 256 * KIB, 512 * KIB]
    assert len(told) <= 4  # the other thread may be at it already
    assert threading.active_count() == before


def test_a_change_is_noticed() -> None:
    def place(offset: int, _: int) -> int:
        if offset == 0:
            disk.file.truncate(MIB)
        return offset

    message = r"^disk: changed while it was read: it had 2097152 bytes and now"
    wanted = pytest.raises(FormatError, match=message)
    with disk_of(b"\x01" * 2 * MIB) as disk, tempfile.TemporaryFile() as out, wanted:
        write_content(disk, out, 4 * KIB, place)


def test_what_is_written_in_part_is_written_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda number, data, offset: whole(number, data[:7], offset))
    with tempfile.TemporaryFile() as out:
        write_at(out.fileno(), bytes(range(100)), 5)
        out.seek(0)
        assert out.read() == bytes(5) + bytes(range(100))


LIMITED = """
import resource, signal, sys, threading
from recipes.disks.format import registry
from recipes.disks.source import RawDisk
signal.alarm(60)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
for name, disk_format in registry().items():
    try:
        with open(sys.argv[1], "rb") as file, open(sys.argv[2], "wb") as out:
            disk_format.write(RawDisk.of("raw", file), out, seed=b"seed")
    except OSError as error:
        print(name, error.errno, threading.active_count())
"""


def test_a_file_that_cannot_grow_stops_every_format(tmp_path: Path) -> None:
    """The one error of the system comes out, and no thread stays behind; see also the full file system."""
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(6 * MIB))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(raw), str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) >= 10
    assert {tuple(line[1:]) for line in lines} == {(str(errno.EFBIG), "1")}
