from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.clouds.registry import lookup
from recipes.clouds.tar_file import findings
from recipes.disks.gce import Gce
from recipes.units import GIB, KIB, MIB
from tests.unit.cloud_disks import Counted, patched, shipped
from tests.unit.test_clouds_rules import GCP

SPEC = " [Google Cloud, Compute Engine, Manually import boot disks]"
ANSWER = "gcp answers that the tar archive is not a valid image"
REMAKE = "make the disk again in format gce"
AGAIN = f"; {ANSWER}; {REMAKE}{SPEC}"
# Places in the header: "Basic Tar Format".
SIZE_AT, CHECKSUM, TYPE, MAGIC, MAP, EXTENDED, REAL = 124, 148, 156, 257, 386, 482, 483


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The archive of a disk of 1 GiB with six pieces of content: the map goes on behind the header."""
    places = [number * 100 * MIB for number in range(6)]
    return gzip.decompress(shipped(Gce(), GIB, tmp_path_factory.mktemp("tar"), *places))


def packed(tar: bytes) -> bytes:
    return gzip.compress(tar, 1, mtime=0)


def said(data: bytes, size: int = GIB) -> list[str]:
    return [str(finding) for finding in findings(io.BytesIO(data), size)]


def summed(block: bytes) -> bytes:
    """The header with its checksum made right."""
    plain = patched(block, CHECKSUM, b" " * 8)
    return patched(plain, CHECKSUM, b"%06o\0 " % sum(plain))


def header_with(tar: bytes, at: int, new: bytes) -> bytes:
    return packed(summed(patched(tar[:512], at, new)) + tar[512:])


def test_a_good_one(tar: bytes, tmp_path: Path) -> None:
    assert said(packed(tar)) == []
    path = tmp_path / "disk.tar.gz"
    path.write_bytes(packed(tar))
    assert lookup("gcp").file_problems(GCP, path) == ()


def test_a_plain_file_is_one_too() -> None:
    """Nothing of it is sparse; it stands for 1 GiB, which is not there."""
    header = tarfile.TarInfo("disk.raw")
    header.size = GIB
    found = findings(io.BytesIO(packed(header.tobuf(tarfile.GNU_FORMAT))), GIB)
    assert [finding.subject for finding in found] == ["archive"]
    assert "it is cut short, or something else is in it" in found[0].message


def test_little_is_read(tmp_path: Path) -> None:
    noise = shipped(Gce(), GIB, tmp_path, 0) + bytes(4 * MIB)
    file = Counted(noise)
    findings(file, GIB)
    assert file.count < 200 * KIB


def test_what_is_no_gzip() -> None:
    assert said(b"disk") == [f"archive: it starts with b'dis', which is not gzip{AGAIN}"]
    assert said(b"") == [f"archive: it starts with b'', which is not gzip{AGAIN}"]


def test_what_is_cut_short(tar: bytes) -> None:
    good = packed(tar)
    assert said(good[:10]) == [f"archive: it ends 0 bytes into a block of 512{AGAIN}"]
    assert said(packed(tar[:700])) == [f"archive: it ends 188 bytes into a block of 512{AGAIN}"]
    bad = good[:12] + b"\xff\xff" + good[14:]
    assert said(bad)[0].startswith("archive: the gzip stream is damaged (Error -3 while decompressing data: ")


def test_content_that_is_cut_off(tar: bytes) -> None:
    (message,) = said(packed(tar[:-10240]))
    assert message == (
        f"archive: unpacked it has {len(tar) - 10240} bytes modulo 4 GiB, {len(tar)} with disk.raw alone;"
        f" it is cut short, or something else is in it; {REMAKE}{SPEC}"
    )


def test_another_file_in_it(tar: bytes) -> None:
    more = tarfile.TarInfo("other").tobuf(tarfile.GNU_FORMAT)
    end = len(tar.rstrip(b"\0"))
    end += -end % 512
    both = tar[:end] + more + bytes(10240)
    assert "something else is in it" in said(packed(both))[0]


@pytest.mark.parametrize(
    ("at", "new", "what"),
    [
        (0, b"disk.img", f"the file in it is called 'disk.img', and it has to be disk.raw{AGAIN}"),
        (
            MAGIC,
            b"ustar\00000",
            f"the format is b'ustar\\x0000', not oldgnu; {ANSWER}; use tar --format=oldgnu -S{SPEC}",
        ),
        (TYPE, b"5", f"disk.raw is of type b'5', neither a sparse nor a plain file{AGAIN}"),
        (REAL, b"0000000000x\0", f"b'0000000000x\\x00' is not a number of a tar header{AGAIN}"),
        (
            MAP,
            b"00000000001\0" + b"\x80" + bytes(2) + b"\xff" * 9,
            f"{2**72 - 1} bytes at 1 overlap what comes before or lie behind the end of disk.raw{AGAIN}",
        ),
    ],
)
def test_bad_headers(tar: bytes, at: int, new: bytes, what: str) -> None:
    assert said(header_with(tar, at, new))[0] == f"archive: {what}"


def test_a_checksum_that_is_wrong(tar: bytes) -> None:
    noted = tar[CHECKSUM : CHECKSUM + 8]
    right = int(noted.strip(b" \0"), 8)
    bad = packed(patched(tar, 0, b"e"))
    assert said(bad) == [
        f"archive: the first header's checksum is {noted!r} and should be {right + 1:o}, in octal{AGAIN}"
    ]
    assert "checksum is b'nonsense'" in said(packed(patched(tar, CHECKSUM, b"nonsense")))[0]


def test_a_disk_that_is_not_whole_gib(tar: bytes) -> None:
    bad = header_with(tar, REAL, b"%011o\0" % (GIB + MIB))
    assert said(bad, GIB + MIB) == [
        f"disk: disk.raw has 1074790400 bytes (1.0 GiB), not a multiple of 1 GiB{AGAIN}"
    ]
    empty = header_with(tar, REAL, b"%011o\0" % 0)
    assert said(empty, 0)[0] == f"disk: disk.raw has 0 bytes, not a multiple of 1 GiB{AGAIN}"


def test_another_disk(tar: bytes) -> None:
    assert said(packed(tar), 2 * GIB) == [
        (
            "disk: disk.raw has 1073741824 bytes (1 GiB), and 2147483648 bytes (2 GiB) were to be shipped;"
            f" {REMAKE}"
        )
    ]


def test_a_map_that_disagrees_with_the_size(tar: bytes) -> None:
    stored = int(tar[SIZE_AT : SIZE_AT + 11], 8)
    assert stored == 6 * 64 * KIB
    found = said(header_with(tar, SIZE_AT, b"%011o\0" % (stored + 512)))
    assert found[0] == (
        "archive: the map of disk.raw names 393216 bytes (384 KiB) of content, the header 393728 bytes"
        f" (384.5 KiB){AGAIN}"
    )


def test_a_map_without_end_is_left_alone() -> None:
    """A bomb of map entries: neither memory nor time goes up with it."""
    header = bytearray(tarfile.TarInfo("disk.raw").tobuf(tarfile.GNU_FORMAT))
    header[TYPE : TYPE + 1], header[EXTENDED] = b"S", 1
    header[REAL : REAL + 12] = b"%011o\0" % GIB
    block = bytes(504) + b"\1" + bytes(7)
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = (
        stream.compress(summed(bytes(header))) + stream.compress(block * (64 * MIB // 512)) + stream.flush()
    )
    assert said(data) == []


def test_numbers_beyond_octal(tar: bytes) -> None:
    size = 64 * 1024 * GIB
    big = header_with(tar, REAL, b"\x80" + size.to_bytes(11, "big"))
    assert [line for line in said(big, size) if line.startswith("disk")] == []


QUIET = settings(max_examples=120)


@QUIET
@given(st.binary(max_size=1500), st.booleans())
def test_any_bytes(data: bytes, as_gzip: bool) -> None:
    assert findings(io.BytesIO(gzip.compress(data, mtime=0) if as_gzip else data), GIB)


@QUIET
@given(at=st.integers(0, 1023), new=st.binary(min_size=1, max_size=24), right=st.booleans())
def test_any_change(tar: bytes, at: int, new: bytes, right: bool) -> None:
    bad = patched(tar[:1024], at, new[: 1024 - at])
    head = summed(bad[:512]) + bad[512:] if right else bad
    findings(io.BytesIO(packed(head + tar[1024:4096])), GIB)


@QUIET
@given(at=st.integers(0, 400), new=st.binary(min_size=1, max_size=4))
def test_any_change_to_the_compressed_bytes(tar: bytes, at: int, new: bytes) -> None:
    good = packed(tar)
    findings(io.BytesIO(patched(good, at % len(good), new)), GIB)


def test_layout_of_the_header() -> None:
    """As struct oldgnu_header has it; the writer's own class is not asked."""
    assert struct.calcsize("100s8s8s8s12s12s8s1s100s8s32s32s8s8s41s") == MAP
