from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.disks.source import RawDisk
from recipes.errors import FormatError
from recipes.units import KIB, MIB

QUIET = settings(max_examples=60)


@contextmanager
def disk_of(data: bytes, *, sparse: bool = False) -> Iterator[RawDisk]:
    with tempfile.TemporaryFile() as file:
        write(file, data, sparse=sparse)
        yield RawDisk.of("disk", file)


def write(file: BinaryIO, data: bytes, *, sparse: bool) -> None:
    """All of it, or only pages that are not zero."""
    file.truncate(len(data))
    for start in range(0, len(data), 4096):
        page = data[start : start + 4096]
        if not sparse or any(page):
            file.seek(start)
            file.write(page)
    file.flush()


def content(seed: int, size: int, places: list[int]) -> bytes:
    data = bytearray(size)
    for place in places:
        data[place % size] = random.Random(seed + place).randrange(1, 256)
    return bytes(data)


def slow_extents(data: bytes, granule: int) -> list[tuple[int, int]]:
    """By the definition, a granule at a time."""
    found: list[tuple[int, int]] = []
    for start in range(0, len(data), granule):
        length = len(data[start : start + granule])
        if data[start : start + granule].strip(b"\0"):
            if found and sum(found[-1]) == start:
                found[-1] = (found[-1][0], found[-1][1] + length)
            else:
                found.append((start, length))
    return found


disks = st.builds(
    content,
    st.integers(0, 9),
    st.integers(1, 6 * 2048).map(lambda sectors: sectors * 512),
    st.lists(st.integers(0, 6 * MIB), max_size=12),
)
granules = st.sampled_from([512, 4096, 64 * KIB, MIB, 2 * MIB, 3 * 512])


@QUIET
@given(disks, granules)
def test_extents_are_those_of_the_content(data: bytes, granule: int) -> None:
    want = slow_extents(data, granule)
    for sparse in (False, True):
        with disk_of(data, sparse=sparse) as disk:
            assert list(disk.extents(granule)) == want


@QUIET
@given(disks, granules)
def test_pieces_hold_the_content_and_end_where_the_offset_says(data: bytes, granule: int) -> None:
    rebuilt = bytearray(len(data))
    with disk_of(data, sparse=True) as sparse, disk_of(data) as full:
        pieces = list(sparse.pieces(granule))
        assert pieces == list(full.pieces(granule))
    for offset, piece in pieces:
        assert offset % granule == 0
        assert len(piece) % granule == 0 or offset + len(piece) == len(data)
        chunk = -(-256 * KIB // granule) * granule
        assert offset // chunk == (offset + len(piece) - 1) // chunk
        rebuilt[offset : offset + len(piece)] = piece
    assert rebuilt == data


@QUIET
@given(disks, st.integers(0, 7 * MIB), st.integers(1, 70_000), st.integers(0, 4))
def test_patches_are_part_of_the_content(data: bytes, offset: int, length: int, more: int) -> None:
    size = len(data) + more * 512
    offset %= size
    patch = random.Random(offset).randbytes(min(length, size - offset))
    want = bytearray(data.ljust(size, b"\0"))
    want[offset : offset + len(patch)] = patch
    with disk_of(data, sparse=True) as disk:
        patched = disk.grown(size).patched(offset, patch)
        assert patched.read(0, size) == want
        middle = max(offset - 100, 0)
        assert patched.read(middle, 300) == bytes(want[middle : middle + 300]).ljust(300, b"\0")
        assert list(patched.extents(4096)) == slow_extents(bytes(want), 4096)


def test_beyond_the_file_there_are_zeros() -> None:
    with disk_of(b"\x01" * 1024) as disk:
        grown = disk.grown(1 << 50)
        assert grown.read(1000, 100) == b"\x01" * 24 + bytes(76)
        assert grown.read(1 << 49, 10) == bytes(10)
        assert list(grown.extents(4096)) == [(0, 4096)]
        assert grown.grown(1 << 51).size == 1 << 51


def test_a_patch_far_out_is_found() -> None:
    with disk_of(bytes(512)) as disk:
        grown = disk.grown(1 << 50).patched((1 << 50) - 512, b"\x01").patched(1 << 45, b"\x02")
        assert list(grown.extents(64 * KIB)) == [(1 << 45, 64 * KIB), ((1 << 50) - 64 * KIB, 64 * KIB)]


def test_a_patch_of_zeros_takes_content_away() -> None:
    with disk_of(b"\x01" * 8192) as disk:
        assert list(disk.patched(4096, bytes(4096)).extents(4096)) == [(0, 4096)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "disk: is empty; a disk has at least one sector of 512 bytes"),
        (bytes(511), "disk: 511 bytes are not whole sectors of 512; was the image cut short?"),
        (bytes(513), "disk: 513 bytes are not whole sectors of 512; was the image cut short?"),
    ],
)
def test_what_is_no_disk(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught, disk_of(data):
        pass
    assert str(caught.value) == message


def test_what_cannot_be_done_to_a_disk() -> None:
    with disk_of(bytes(2048)) as disk:
        cases: list[tuple[Callable[[], object], str]] = [
            (lambda: disk.grown(1024), "disk: 1024 bytes are fewer than the 2048 it has; a disk only grows"),
            (
                lambda: disk.grown(2049),
                "disk: 2049 bytes are not whole sectors of 512; was the image cut short?",
            ),
            (
                lambda: RawDisk("disk", disk.file, 512),
                "disk: a disk of 512 bytes has no room for a file of 2048; a disk only grows",
            ),
            (
                lambda: disk.patched(2000, bytes(49)),
                "disk: offset 0x7d0: 49 bytes do not fit there, the disk ends at 2048; grow it first",
            ),
            (
                lambda: disk.patched(10, bytes(10)).patched(19, b"\x01"),
                "disk: offset 0x13: two patches overlap; join them",
            ),
        ]
        for call, message in cases:
            with pytest.raises(FormatError) as caught:
                call()
            assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda file: file.truncate(3 * MIB - 512),
            "it had 3145728 bytes and now ends at 3145216",
        ),
        (
            lambda file: file.truncate(3 * MIB + 512),
            "it had 3145728 bytes and now has 3146240",
        ),
        (
            lambda file: os.utime(file.fileno(), ns=(0, 1)),
            "it has been written to since it was opened",
        ),
    ],
)
def test_a_change_while_it_is_read_is_noticed(change: Callable[[BinaryIO], object], message: str) -> None:
    with disk_of(b"\x01" * 3 * MIB) as disk:
        pieces = disk.pieces(4096)
        next(pieces)
        change(disk.file)
        with pytest.raises(FormatError) as caught:
            list(pieces)
        want = f"disk: changed while it was read: {message}; stop what writes to it, then retry"
        assert str(caught.value) == want


def test_a_change_before_the_first_read_counts_too() -> None:
    with disk_of(bytes(4096)) as disk:
        grown = disk.grown(8192)
        os.utime(disk.file.fileno(), ns=(0, 1))
        with pytest.raises(FormatError, match="written to since it was opened"):
            list(grown.extents(512))


def test_progress_goes_up_and_ends() -> None:
    with disk_of(b"\x01" * 768 * KIB + bytes(512)) as disk:
        seen: list[tuple[int, int]] = []
        list(disk.pieces(512, lambda done, total: seen.append((done, total))))
        steps = [(step, disk.size) for step in (256 * KIB, 512 * KIB, 768 * KIB, disk.size)]
        assert seen == steps
        seen.clear()
        list(disk.extents(512, lambda done, total: seen.append((done, total))))
        assert seen == steps


def test_a_device_has_a_size(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to("/dev/null")
    with path.open("rb") as file, pytest.raises(FormatError, match="is empty"):
        RawDisk.of("null", file)
