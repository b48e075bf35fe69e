from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from recipes.disks.format import aligned_size
from recipes.disks.gce import Gce, tar_pieces
from recipes.disks.source import RawDisk
from recipes.errors import FormatError
from recipes.formats.gzip import gzip_pieces
from recipes.units import GIB, KIB, MIB
from tests.unit.test_disks_source import disk_of
from tests.unit.test_disks_vhd import scattered, write


def tar_of(disk: RawDisk) -> bytes:
    return b"".join(tar_pieces(disk))


@contextmanager
def member(data: bytes) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The only member of an archive, and its content, as Python reads them."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (info,) = archive.getmembers()
        stream = archive.extractfile(info)
        assert stream is not None
        yield info, stream


def test_the_only_member(tmp_path: Path) -> None:
    data = scattered(3 * MIB, 0, 2 * MIB)
    with member(gzip.decompress(write(Gce(), data, tmp_path).read_bytes())) as (info, stream):
        assert (info.name, info.size, info.mode, info.mtime) == ("disk.raw", GIB, 0o644, 0)
        assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", "")
        assert info.type == tarfile.GNUTYPE_SPARSE
        assert stream.read(len(data)) == data
        stream.seek(GIB - 5)
        assert stream.read() == bytes(5)


@pytest.mark.parametrize("runs", [0, 1, 2, 3, 4, 5, 23, 24, 25, 45, 46, 47])
def test_the_map_goes_on_in_extensions(runs: int) -> None:
    """Four runs, of which one is the end, fit into the header and 21 into each extension."""
    data = scattered(max(runs * 128 * KIB, 512), *range(0, runs * 128 * KIB, 128 * KIB))
    with disk_of(data) as disk:
        made = tar_of(disk)
    extensions = -(-max(runs + 1 - 4, 0) // 21)
    assert len(made) == -(-(512 + 512 * extensions + runs * 64 * KIB + 1024) // 10240) * 10240
    with member(made) as (_, stream):
        assert stream.read() == data


def test_more_than_eleven_octal_digits_are_base_256() -> None:
    with disk_of(b"\x01" * 512) as disk:
        size = 64 << 40
        made = tar_of(disk.grown(size).patched(size - 512, b"\x02" * 512))
    assert made[483:495] == bytes.fromhex("800000000000400000000000")
    assert made[410:434] == bytes.fromhex("8000000000003fffffff0000") + b"00000200000\0"
    with member(made) as (info, stream):
        assert info.size == size
        stream.seek(size - 513)
        assert stream.read() == b"\0" + b"\x02" * 512


def test_octal_goes_up_to_8_gib() -> None:
    with disk_of(b"\x01" * 512) as disk:
        assert tar_of(disk.grown(8 * GIB - 512))[483:495] == b"77777777000\0"
        assert tar_of(disk.grown(8 * GIB))[483:495] == bytes.fromhex("800000000000000200000000")


def test_the_size_rule() -> None:
    sizes = {512: GIB, GIB: GIB, GIB + 512: 2 * GIB, 65536 * GIB: 65536 * GIB}
    assert {size: aligned_size(Gce(), size) for size in sizes} == sizes
    with pytest.raises(FormatError) as caught:
        aligned_size(Gce(), 65536 * GIB + 512)
    want = "disk format gce: a disk of 70369817919488 bytes is larger than 70368744177664, "
    want += "the most this format holds; make it smaller or choose another format"
    assert str(caught.value) == want


def test_the_seed_is_for_nothing(tmp_path: Path) -> None:
    data = scattered(MIB, 5)
    assert write(Gce(), data, tmp_path).read_bytes() == write(Gce(), data, tmp_path, seed=b"x").read_bytes()


def test_a_failure_in_the_source_comes_through() -> None:
    with disk_of(b"\x01" * 2 * MIB) as disk:
        pieces = tar_pieces(disk)
        next(pieces)
        disk.file.truncate(MIB)
        with pytest.raises(FormatError, match="it had 2097152 bytes and now ends at 1048576"):
            gzip_pieces(pieces, io.BytesIO())


def test_both_readings_are_progress() -> None:
    """A sixteenth is for the first; what comes between has no content to write."""
    with disk_of(scattered(MIB, 0, 512 * KIB)) as disk:
        seen: list[int] = []
        for _ in tar_pieces(disk, lambda done, total: seen.append(done * 64 // total)):
            pass
        assert disk.size == MIB
    # A chunk of 256 KiB each, and all; then what has been written, behind 64 and 576 KiB.
    assert seen == [1, 2, 3, 4, 7, 37, 64]
