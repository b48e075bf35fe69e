from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.clouds.registry import lookup
from recipes.clouds.vmdk_file import findings
from recipes.disks.vmdk import StreamOptimizedVmdk
from recipes.units import KIB, MIB
from tests.unit.cloud_disks import Counted, patched, shipped
from tests.unit.test_clouds_rules import AWS

SPEC = " [VMware Virtual Disk Format 5.0]"
ANSWER = "aws answers that disk validation failed"
REMAKE = "make the disk again in format vmdk"
AGAIN = f"; {ANSWER}; {REMAKE}{SPEC}"
NO_STREAM = "header: it is no compressed stream"
WRONG = "which cannot be right in a file of {size} bytes"
NOT_OF_IT = "do not go with a header of capacity"
SIZE = 70 * MIB
SECTORS = SIZE // 512
# Places in the header: struct SparseExtentHeader, packed.
VERSION, FLAGS, CAPACITY, GRAIN, DESCRIPTOR, DIRECTORY, DIRTY, NEWLINES, METHOD = (
    4,
    8,
    12,
    20,
    28,
    56,
    72,
    73,
    77,
)
FOOTER = -1024


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three grain tables, with content in the first and the last."""
    return shipped(StreamOptimizedVmdk(workers=1), SIZE, tmp_path_factory.mktemp("vmdk"), 0, SIZE - 100)


def said(data: bytes, size: int = SIZE) -> list[str]:
    return [str(finding) for finding in findings(io.BytesIO(data), size)]


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def test_a_good_one(good: bytes, tmp_path: Path) -> None:
    assert said(good) == []
    path = tmp_path / "disk.vmdk"
    path.write_bytes(good)
    cloud = lookup("aws")
    assert [finding.subject for finding in cloud.file_problems(AWS, path)] == ["disk"]


def test_little_is_read(good: bytes) -> None:
    file = Counted(good)
    assert findings(file, SIZE) == ()
    assert file.count < 16 * KIB


def test_what_is_no_file_of_sectors(good: bytes) -> None:
    for data, size in (
        (b"", "0 bytes"),
        (good[:-1], f"{len(good) - 1} bytes ({(len(good) - 1) / 1024:.1f} KiB)"),
    ):
        what = f"{size} are not the whole sectors of a header and a footer; was it cut short?"
        assert said(data) == [f"file: {what} {ANSWER}; {REMAKE}{SPEC}"]


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"COWD", f"header: it starts with b'COWD', not with b'KDMV'{AGAIN}"),
        (VERSION, b"\4", f"header: the format has version 4, expected 3{AGAIN}"),
        (
            FLAGS,
            bytes(4),
            f"{NO_STREAM}: flags 0x0 and compression 1, expected 0x30000 and 1{AGAIN}",
        ),
        (
            METHOD,
            b"\0",
            f"{NO_STREAM}: flags 0x30001 and compression 0, expected 0x30000 and 1{AGAIN}",
        ),
        (
            NEWLINES,
            b"\n \n\n",
            f"header: line ends are b'\\n \\n\\n'; the file was changed as if it were text{AGAIN}",
        ),
        (DIRTY, b"\1", f"header: it was not closed by what wrote it{AGAIN}"),
        (GRAIN, u64(64), f"header: grains of 64 sectors, 512 in a table, expected 128 and 512{AGAIN}"),
        (
            DESCRIPTOR,
            u64(0),
            f"descriptor: it has 20 sectors from sector 0, {WRONG}{AGAIN}",
        ),
        (
            DESCRIPTOR + 8,
            u64(2**60),
            f"descriptor: it has {2**60} sectors from sector 1, {WRONG}{AGAIN}",
        ),
        (-1, b"\1", f"end: the last sector is not the end-of-stream marker; was the file cut short?{AGAIN}"),
        (FOOTER, b"KDMW", f"footer: there is none in front of the end: marker (1, 0, 3), b'KDMW'{AGAIN}"),
        (FOOTER - 500, b"\1", f"footer: there is none in front of the end: marker (1, 0, 1), b'KDMV'{AGAIN}"),
        (
            FOOTER + CAPACITY,
            u64(7),
            f"footer: capacity 7 and directory at sector {{at}} {NOT_OF_IT} 143360{AGAIN}",
        ),
        (
            FOOTER + DIRECTORY,
            u64(2**63),
            f"directory: it starts at sector {2**63}, outside the file{AGAIN}",
        ),
    ],
)
def test_bad_files(good: bytes, at: int, new: bytes, message: str) -> None:
    directory = struct.unpack_from("<Q", good, len(good) + FOOTER + DIRECTORY)[0]
    expected = message.replace("{size}", str(len(good))).replace("{at}", f"{directory:#x}")
    assert said(patched(good, at, new)) == [expected]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b'"streamOptimized"',
            b'"monolithicSparse',
            "descriptor: createType is 'monolithicSparse', expected 'streamOptimized'",
        ),
        (
            b"parentCID=ffffffff",
            b"parentCID=12345678",
            "descriptor: parentCID is '12345678', expected 'ffffffff': it needs another disk",
        ),
        (
            b" SPARSE ",
            b" VMFS   ",
            f"descriptor: extents are {SECTORS} VMFS, expected {SECTORS} SPARSE as in the header",
        ),
        (b"RW ", b"RO ", f"descriptor: extents are none, expected {SECTORS} SPARSE as in the header"),
    ],
)
def test_bad_descriptors(good: bytes, old: bytes, new: bytes, message: str) -> None:
    assert good.count(old) == 1
    assert said(good.replace(old, new)) == [f"{message}{AGAIN}"]


def test_another_disk(good: bytes) -> None:
    assert said(good, 71 * MIB) == [
        (
            "disk: it holds a disk of 73400320 bytes (70 MiB), and 74448896 bytes (71 MiB) were to be"
            f" shipped; {REMAKE}"
        )
    ]


def test_a_directory_that_points_nowhere(good: bytes) -> None:
    directory = struct.unpack_from("<Q", good, len(good) + FOOTER + DIRECTORY)[0]
    found = said(patched(good, directory * 512, struct.pack("<I", 0xFFFFFFF0)))
    assert found == [
        f"directory: a grain table is at sector 4294967280, and the directory at {directory}{AGAIN}"
    ]
    found = said(patched(good, directory * 512 - 512 + 12, b"\1"))
    assert found == [f"directory: at sector {directory} is none: marker (1, 0, 1){AGAIN}"]


def test_a_disk_beyond_the_limit(good: bytes) -> None:
    huge = patched(patched(good, CAPACITY, u64(2**33)), FOOTER + CAPACITY, u64(2**33))
    assert said(huge)[-1] == f"header: a capacity of {2**33} sectors is more than 2 TiB{AGAIN}"


QUIET = settings(max_examples=120)


@QUIET
@given(st.binary(max_size=3000))
def test_any_bytes(data: bytes) -> None:
    assert findings(io.BytesIO(data), SIZE)


@QUIET
@given(at=st.integers(-1536, 1535), new=st.binary(min_size=1, max_size=16))
def test_any_change(good: bytes, at: int, new: bytes) -> None:
    findings(io.BytesIO(patched(good, at, new)[: len(good)]), SIZE)


@QUIET
@given(st.integers(0, 3000))
def test_cut_anywhere(good: bytes, sectors: int) -> None:
    data = good[: sectors * 512]
    assert bool(findings(io.BytesIO(data), SIZE)) == (len(data) < len(good))
