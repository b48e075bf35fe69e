from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.clouds.registry import lookup
from recipes.clouds.vhd_file import findings
from recipes.disks.vhd import FixedVhd
from recipes.units import MIB
from tests.unit.cloud_disks import Counted, patched, shipped
from tests.unit.test_clouds_rules import AZURE

SPEC = " [Microsoft, Virtual Hard Disk Image Format Specification 1.0, Hard Disk Footer Format]"
SIZE = 2 * MIB
REMAKE = "make the disk again in format vhd"
# Places in the footer: "Hard Disk Footer Format".
VERSION, DATA_OFFSET, CURRENT, KIND, CHECKSUM = 12, 16, 48, 60, 64


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return shipped(FixedVhd(), SIZE, tmp_path_factory.mktemp("vhd"), 5000)


def said(data: bytes, size: int = SIZE) -> list[str]:
    return [str(finding) for finding in findings(io.BytesIO(data), size)]


def summed(footer: bytes) -> bytes:
    """The footer with its checksum made right."""
    plain = patched(footer, CHECKSUM, bytes(4))
    return patched(plain, CHECKSUM, struct.pack(">I", ~sum(plain) & 0xFFFFFFFF))


def footer_with(good: bytes, at: int, new: bytes) -> bytes:
    return good[:-512] + summed(patched(good[-512:], at, new))


def test_a_good_one(good: bytes, tmp_path: Path) -> None:
    assert said(good) == []
    path = tmp_path / "disk.vhd"
    path.write_bytes(good)
    cloud = lookup("azure")
    assert cloud.file_problems(AZURE, path) == findings(io.BytesIO(good), AZURE.disk_size) != ()


def test_the_footer_is_all_that_is_read(good: bytes) -> None:
    file = Counted(good)
    assert findings(file, SIZE) == ()
    assert file.count == 512


def test_what_is_no_page_blob(good: bytes) -> None:
    for data, size in ((b"", "0 bytes"), (good[:511], "511 bytes"), (good[:-1], "2097663 bytes (2.0 MiB)")):
        what = f"{size} are not whole pages of 512 bytes; azure answers InvalidHeaderValue"
        assert said(data) == [f"file: {what} (x-ms-blob-content-length); {REMAKE}"]


def test_without_a_footer(good: bytes) -> None:
    what = f"the last 512 bytes start with {bytes(8)!r}; azure answers InvalidParameter"
    assert said(good[:-512]) == [
        f"footer: {what} (disk is expected to have cookie value 'conectix'); {REMAKE}{SPEC}"
    ]


def test_one_flipped_bit(good: bytes) -> None:
    bad = patched(good, -1, b"\1")
    noted = struct.unpack_from(">I", good, len(good) - 512 + CHECKSUM)[0]
    what = (
        f"the checksum is {noted:#010x} and should be {noted - 1:#010x}; azure takes the footer for damaged"
    )
    assert said(bad) == [f"footer: {what}; {REMAKE}{SPEC}"]


@pytest.mark.parametrize(
    ("at", "new", "what"),
    [
        (VERSION, "00020000", f"footer: the version is 0x00020000, expected 0x00010000; {REMAKE}{SPEC}"),
        (
            KIND,
            "00000003",
            f"footer: the disk is a dynamic one; azure answers that it takes fixed VHDs only; {REMAKE}{SPEC}",
        ),
        (
            KIND,
            "00000009",
            f"footer: the disk is a type 9 one; azure answers that it takes fixed VHDs only; {REMAKE}{SPEC}",
        ),
        (
            DATA_OFFSET,
            "0000000000000200",
            f"footer: the data offset is 0x200, and in a fixed disk all its bits are set; {REMAKE}{SPEC}",
        ),
    ],
)
def test_bad_footers(good: bytes, at: int, new: str, what: str) -> None:
    assert said(footer_with(good, at, bytes.fromhex(new))) == [what]


def test_a_size_that_is_not_what_is_there(good: bytes) -> None:
    bad = footer_with(good, CURRENT, struct.pack(">Q", 3 * MIB))
    there = "2097152 bytes (2 MiB)"
    cut = "was the file cut short? make the disk again in format vhd"
    assert said(bad, 3 * MIB) == [
        f"footer: the footer says 3145728 bytes (3 MiB), and in front of it are {there}; {cut}{SPEC}"
    ]
    assert said(good[512:]) == [
        f"footer: the footer says {there}, and in front of it are 2096640 bytes (2.0 MiB); {cut}{SPEC}"
    ]


def test_a_size_that_azure_does_not_take(good: bytes) -> None:
    bad = footer_with(good[512:], CURRENT, struct.pack(">Q", SIZE - 512))
    answer = "azure answers InvalidParameter (unsupported virtual size; it must be a whole number in MBs)"
    assert said(bad, SIZE - 512) == [
        f"footer: the disk has 2096640 bytes (2.0 MiB), which is not a multiple of 1 MiB; {answer}; {REMAKE}"
    ]


def test_another_disk(good: bytes) -> None:
    assert said(good, 4 * MIB) == [
        f"disk: the disk has 2097152 bytes (2 MiB), and 4194304 bytes (4 MiB) were to be shipped; {REMAKE}"
    ]


QUIET = settings(max_examples=100)


@QUIET
@given(st.binary(max_size=1100))
def test_any_bytes(data: bytes) -> None:
    assert findings(io.BytesIO(data), SIZE)


@QUIET
@given(at=st.integers(0, 511), new=st.binary(min_size=1, max_size=8), right=st.booleans())
def test_any_change(good: bytes, at: int, new: bytes, right: bool) -> None:
    bad = patched(good[-512:], at, new[: 512 - at])
    found = findings(io.BytesIO(good[:-512] + (summed(bad) if right else bad)), SIZE)
    assert found or right or bad == good[-512:]
