from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.disks.enlarge import gpt_event, open_disk, shipped
from recipes.disks.source import RawDisk
from recipes.errors import FormatError
from recipes.formats import gpt
from recipes.units import MIB

QUIET = settings(max_examples=60)
DISK = uuid.UUID(int=7)
SIZE = 4 * MIB
PLAN = gpt.PartitionPlan(name="one", type_guid=gpt.TYPE_LINUX_GENERIC, guid=uuid.UUID(int=9), size=MIB)
CONTENT = hashlib.shake_128(b"content").digest(MIB)
# Spec: UEFI 2.10 section 5.3.1: the first and the last sectors of a disk.
PRIMARY, BACKUP = 34 * 512, 33 * 512


@contextmanager
def raw_disk() -> Iterator[RawDisk]:
    table = gpt.lay_out(DISK, [PLAN], sectors=SIZE // 512)
    with tempfile.TemporaryFile() as file:
        file.truncate(SIZE)
        file.write(table.primary())
        file.seek(MIB)
        file.write(CONTENT)
        file.seek(SIZE - BACKUP)
        file.write(table.backup())
        file.flush()
        yield RawDisk.of("disk", file)


def all_of(disk: RawDisk) -> bytes:
    return b"".join(disk.read(start, min(MIB, disk.size - start)) for start in range(0, disk.size, MIB))


# One sector more, up to and behind the point from which the two backups no longer overlap, and much more.
@pytest.mark.parametrize("more", [512, 31 * 512, 32 * 512, 33 * 512, 34 * 512, MIB, 12 * MIB])
def test_the_backup_moves_to_the_end_and_leaves_nothing_behind(more: int) -> None:
    with raw_disk() as disk:
        before = all_of(disk)
        grown = shipped(disk, SIZE + more)
        data = all_of(grown)
        table = gpt.read(open_disk(grown), "grown")
    assert len(data) == SIZE + more
    assert table.sectors * 512 == SIZE + more
    assert [part.name for part in table.partitions] == ["one"]
    assert data[PRIMARY : SIZE - BACKUP] == before[PRIMARY : SIZE - BACKUP]
    assert not any(data[SIZE - BACKUP : -BACKUP])
    assert data[-512:].startswith(b"EFI PART")
    assert data.count(b"EFI PART") == 2


def test_a_disk_that_ends_where_its_table_does_stays_as_it_is() -> None:
    with raw_disk() as disk:
        assert shipped(disk, SIZE) == disk


def test_a_disk_that_was_merely_enlarged_gets_its_backup_to_the_end() -> None:
    with raw_disk() as disk:
        once = all_of(shipped(disk, SIZE + MIB))
        assert all_of(shipped(disk.grown(SIZE + MIB), SIZE + MIB)) == once


def test_growing_twice_is_growing_once() -> None:
    """From a file that has the first growth in it: patches are no second kind of content."""
    with raw_disk() as disk, tempfile.TemporaryFile() as file:
        file.write(all_of(shipped(disk, SIZE + MIB)))
        file.flush()
        twice = shipped(RawDisk.of("grown", file), SIZE + 3 * MIB)
        assert all_of(twice) == all_of(shipped(disk, SIZE + 3 * MIB))


def test_what_is_measured_follows_the_table_and_not_the_disk() -> None:
    with raw_disk() as disk:
        event = gpt_event(disk)
        assert gpt_event(disk.grown(SIZE + MIB)) == event
        other = gpt_event(shipped(disk, SIZE + MIB))
    assert len(event) == len(other) == 92 + 8 + 128
    # Spec: UEFI 2.10 table 5.5: checksum at 16, AlternateLBA at 32, LastUsableLBA at 48.
    differing = {index for index in range(len(event)) if event[index] != other[index]}
    assert differing <= {*range(16, 20), *range(32, 40), *range(48, 56)}
    assert int.from_bytes(other[32:40], "little") == (SIZE + MIB) // 512 - 1
    assert int.from_bytes(other[48:56], "little") == (SIZE + MIB) // 512 - 34
    assert other[92:] == event[92:]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (SIZE - 512, f"disk: {SIZE - 512} bytes are fewer than the {SIZE} it has; a disk only grows"),
        (SIZE + 100, f"disk: {SIZE + 100} bytes are not whole sectors of 512; was the image cut short?"),
    ],
)
def test_sizes_that_cannot_be(size: int, message: str) -> None:
    with raw_disk() as disk, pytest.raises(FormatError) as caught:
        shipped(disk, size)
    assert str(caught.value) == message


def test_a_disk_without_a_table_is_refused() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(MIB)
        with pytest.raises(FormatError, match=r"^bare: .*MBR signature is 0x0000"):
            shipped(RawDisk.of("bare", file), 2 * MIB)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-600, 6 * MIB), st.integers(-1, 4096)), max_size=8))
@QUIET
def test_a_disk_reads_as_the_file_of_its_bytes(moves: list[tuple[int, int, int]]) -> None:
    with raw_disk() as disk, tempfile.TemporaryFile() as file:
        grown = shipped(disk, SIZE + MIB)
        file.write(all_of(grown))
        file.seek(0)
        ours = open_disk(grown)
        for whence, offset, size in moves:
            offset = abs(offset) if whence == 0 else offset
            if whence == 1:
                offset = max(offset, -ours.tell())
            assert ours.seek(offset, whence) == file.seek(offset, whence)
            if size >= 0:
                assert ours.read(size) == file.read(size)
        ours.seek(SIZE)
        file.seek(SIZE)
        assert ours.read() == file.read()
