from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import deb
from recipes.formats.decompress import Compression, decompress
from recipes.formats.tree import FilePayload, Node
from tests.packages import ar, control, control_tar, directory, entry, hardlink, symlink, tar, write_deb

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
CONTROL = control_tar(control("hello"))
DATA = tar(directory("./"), directory("./usr/"), entry("./usr/a", b"0123"), hardlink("./usr/b", "./usr/a"))


def package(
    binary: bytes = b"2.0\n", control_: bytes = CONTROL, data: bytes = DATA, ending: str = "", extra: str = ""
) -> bytes:
    members = [("debian-binary", binary), ("control.tar", control_), (f"data.tar{ending}", data)]
    return ar(*members, *([(extra, b"x")] if extra else []))


def unpack(path: Path, limit: int = 1 << 20) -> list[tuple[str, Node]]:
    spool_path = path.with_suffix(".spool")
    with spool_path.open("wb") as spool:
        spool.write(b"earlier")
        return deb.open_deb(path).unpack(spool, spool_path, owner="hello", limit=limit)


def read_all(path: Path) -> list[tuple[str, Node]]:
    deb.read_control(path)
    return unpack(path)


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_every_compression(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "x.deb"
    compress = COMPRESSORS[ending]
    members = [("debian-binary", b"2.0\n"), (f"control.tar{ending}", compress(CONTROL))]
    path.write_bytes(ar(*members, (f"data.tar{ending}", compress(DATA))))
    assert deb.read_control(path).get("Package") == "hello"
    found = unpack(path)
    assert [name for name, _ in found] == ["", "usr", "usr/a", "usr/b"]
    file = found[2][1]
    assert file.read() == b"0123"
    assert isinstance(file.payload, FilePayload)
    assert (file.payload.path, file.source) == (path.with_suffix(".spool"), "hello")
    assert found[3][1].target == "usr/a"


def test_control_files(tmp_path: Path) -> None:
    conffiles = b"/etc/a\nremove-on-upgrade /etc/b\n/etc/c d\n"
    path = write_deb(tmp_path, control("hello"), md5sums=b"0  usr/a\n", conffiles=conffiles)
    about = deb.open_deb(path).control()
    assert about.conffiles == ("/etc/a", "/etc/c d")
    assert about.md5sums == b"0  usr/a\n"


def test_members_to_ignore(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(
        ar(("debian-binary", b"2.1\nmore\n"), ("_gpg", b""), ("control.tar", CONTROL), ("data.tar", DATA))
    )
    assert deb.read_control(path).get("Version") == "1"


EXPECTED = "expected debian-binary, control.tar and data.tar"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ar(), f"x.deb: members are none; {EXPECTED}"),
        (ar(("control.tar", CONTROL)), f"x.deb: members are control.tar; {EXPECTED}"),
        (
            ar(("debian-binary", b"2.0\n"), ("data.tar", DATA), ("control.tar", CONTROL)),
            f"x.deb: members are debian-binary, data.tar, control.tar; {EXPECTED}",
        ),
        (package(extra="x"), f"x.deb: members are debian-binary, control.tar, data.tar, x; {EXPECTED}"),
        (
            package(b"3.0\n"),
            (
                "x.deb: offset 0x44: debian-binary is b'3.0\\n', expected `2.0`, in the first member; "
                "another package format"
            ),
        ),
        (package(ending=".lzma"), "x.deb: offset 0x28c0: data.tar.lzma has a compression that is not known"),
        (
            package(control_=b""),
            (
                "x.deb: control.tar: offset 0x0: ends without an end-of-archive block (0 bytes are "
                "left); truncated"
            ),
        ),
        (
            package(control_=tar(entry("control"), entry("control"))),
            "x.deb: control.tar: control is there twice",
        ),
        (package(control_=tar(directory("./"))), "x.deb: control.tar: no control file"),
        (package(control_=control_tar("Package: a\n")), "x.deb: control.tar: control: no field Version"),
        (
            package(control_=control_tar(control("a"), conffiles=b"etc/a\n")),
            "x.deb: control.tar: conffiles: 'etc/a' is not an absolute path",
        ),
        (
            package(control_=control_tar(control("a"), conffiles=b"/\xff\n")),
            "x.deb: control.tar: conffiles: offset 0x1: not UTF-8",
        ),
        (package(data=tar(entry("a"), entry("./a"))), "x.deb: data.tar: path 'a' is there twice"),
        (
            package(data=tar(hardlink("a", "b"), entry("b"))),
            "x.deb: data.tar: hard link 'a' to 'b', which is no file that comes before it",
        ),
        (
            package(data=tar(symlink("a", "/etc"), entry("a/passwd"))),
            "x.deb: data.tar: path 'a/passwd' lies below the symlink 'a'",
        ),
        (
            package(data=tar(entry("../a"))),
            "x.deb: data.tar: offset 0x0: path '../a' is empty or leaves the archive's own tree",
        ),
        (
            package(data=lzma.compress(DATA)[:-4], ending=".xz"),
            "x.deb: data.tar.xz: the xz stream is truncated; fetch the file again",
        ),
        (
            package(data=gzip.compress(DATA) + b"junk", ending=".gz"),
            (
                "x.deb: data.tar.gz: bad gz data (error -3 while decompressing data: incorrect header "
                "check); damaged, or followed by something else"
            ),
        ),
        (
            package(data=bz2.compress(DATA)[:40], ending=".bz2"),
            "x.deb: data.tar.bz2: the bz2 stream is truncated; fetch the file again",
        ),
        (
            package(data=b"BZh9nonsense", ending=".bz2"),
            "x.deb: data.tar.bz2: bad bz2 data (invalid data stream); damaged, or followed by something else",
        ),
        (
            package(data=b"\x28\xb5\x2f\xfd", ending=".zst"),
            "x.deb: data.tar.zst: the zst stream is truncated; fetch the file again",
        ),
        (
            package(data=b"", ending=".xz"),
            "x.deb: data.tar.xz: the xz stream is truncated; fetch the file again",
        ),
        (
            package(data=bytes(2 << 20)),
            "x.deb: data.tar: unpacks to more than 1 MiB; damaged, or made to fill the disk",
        ),
    ],
)
def test_bad_packages(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        read_all(path)
    assert str(caught.value) == message


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
def test_bombs_stop_early(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(package(data=COMPRESSORS[ending](bytes(16 << 20)), ending=ending))
    with pytest.raises(FormatError) as caught:
        unpack(path)
    assert (
        str(caught.value)
        == f"x.deb: data.tar{ending}: unpacks to more than 1 MiB; damaged, or made to fill the disk"
    )
    assert path.with_suffix(".spool").stat().st_size <= len(b"earlier") + (1 << 20)


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_streams_in_any_pieces(ending: str, step: int) -> None:
    content = bytes(range(256)) * 40 + bytes(3 << 20)
    # Two streams one behind the other unpack to both contents.
    data = COMPRESSORS[ending](content) + COMPRESSORS[ending](b"end")
    pieces = (data[start : start + step] for start in range(0, len(data), step))
    output = list(decompress(pieces, Compression(ending), source="s", limit=1 << 30))
    assert b"".join(output) == content + b"end"
    assert max(map(len, output)) <= 16 << 20


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
def test_every_truncation_is_noticed(ending: str) -> None:
    data = COMPRESSORS[ending](b"some content that is not empty")
    for length in range(len(data)):
        with pytest.raises(FormatError, match=r"the .* stream is truncated; fetch the file again"):
            list(decompress([data[:length]], Compression(ending), source="s", limit=1 << 20))


def test_greedy_decoders_are_refused() -> None:
    # The .xz file format 1.2.1, 3.1: the dictionary size is in a block header, which ends with a CRC32.
    stream = lzma.compress(b"x")
    header = stream[12:16] + b"\x28" + stream[17:20]
    data = stream[:12] + header + zlib.crc32(header).to_bytes(4, "little") + stream[24:]
    with pytest.raises(FormatError, match=r"bad xz data .memory usage limit exceeded"):
        list(decompress([data], Compression.XZ, source="s", limit=10))
    # A frame header whose window descriptor asks for 1 GiB (RFC 8878, 3.1.1.1.2: exponent 20).
    data = b"\x28\xb5\x2f\xfd\x00" + bytes([20 << 3]) + b"\x01\x00\x00"
    with pytest.raises(FormatError, match="bad zst data"):
        list(decompress([data], Compression.ZSTD, source="s", limit=10))


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(COMPRESSORS)), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)
)
def test_mutations_never_escape(
    tmp_path_factory: pytest.TempPathFactory, ending: str, place: float, patch: bytes
) -> None:
    sample = package(data=COMPRESSORS[ending](DATA), ending=ending)
    offset = int(place * len(sample))
    path = tmp_path_factory.getbasetemp() / "mutated.deb"
    path.write_bytes(sample[:offset] + patch + sample[offset + len(patch) :])
    try:
        deb.read_control(path)
        for _, node in unpack(path):
            node.read()
    except FormatError:
        pass


@settings(max_examples=100)
@given(
    st.binary(max_size=200), st.sampled_from([item for item in Compression if item is not Compression.NONE])
)
def test_random_streams_never_escape(data: bytes, compression: Compression) -> None:
    with pytest.raises(FormatError):
        list(decompress(iter(io.BytesIO(data).readline, b""), compression, source="s", limit=1 << 20))
