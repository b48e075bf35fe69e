from __future__ import annotations

import gzip
import io
import os
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zlib_ng import zlib_ng

from recipes.formats import gzip as gzip_format
from recipes.formats.gzip import compress_gzip, gzip_pieces, rechunked, worker_count


def packed(data: bytes, workers: int = 1) -> bytes:
    out = io.BytesIO()
    compress_gzip(io.BytesIO(data), out, workers=workers)
    return out.getvalue()


def sample(size: int) -> bytes:
    """Noise of few different bytes with copies in it; the same in every process."""
    chance = random.Random(3)
    data = bytearray()
    while len(data) < size:
        data += bytes(chance.choices(b"abcdefgh\0", k=200)) + data[-chance.randrange(1, 40_000) :][:100]
    return bytes(data[:size])


def test_the_header_says_nothing_that_changes() -> None:
    """RFC 1952 section 2.3.1: magic, method 8, no flags, time 0, extra flags 0, system unknown."""
    assert packed(b"content")[:10] == bytes.fromhex("1f8b0800 00000000 00ff")


@pytest.mark.parametrize("data", [b"", b"a", b"content", bytes(300_000), random.Random(1).randbytes(200_000)])
def test_the_trailer_has_checksum_and_size(data: bytes) -> None:
    stream = packed(data)
    assert struct.unpack("<II", stream[-8:]) == (zlib.crc32(data), len(data))
    assert gzip.decompress(stream) == data


def test_one_member_with_nothing_behind_it() -> None:
    reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert reader.decompress(packed(sample(400_000), 2)) == sample(400_000)
    assert reader.eof
    assert reader.unused_data == b""


def test_sizes_wrap_at_four_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    quarter = bytes(1 << 28)  # never touched, so it takes no memory
    monkeypatch.setattr(gzip_format, "rechunked", lambda _pieces, _size: iter([*[quarter] * 16, b"abc"]))
    monkeypatch.setattr(gzip_format, "_blocks", lambda _window, _chunk: b"")
    monkeypatch.setattr(zlib_ng, "crc32", lambda piece, _: len(piece))
    out = io.BytesIO()
    compress_gzip(io.BytesIO(), out)
    assert struct.unpack("<II", out.getvalue()[-8:]) == (3, 3)


def test_it_begins_where_the_source_stands_and_ends_where_the_output_stands() -> None:
    source, out = io.BytesIO(b"skipped, content"), io.BytesIO(b"before")
    source.seek(9)
    out.seek(6)
    compress_gzip(source, out)
    assert out.getvalue()[:6] == b"before"
    assert gzip.decompress(out.getvalue()[6:]) == b"content"


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=60), max_size=6), st.integers(1, 200))
def test_round_trips(parts: list[bytes], number: int) -> None:
    data = b"".join(part * number for part in parts)
    assert gzip.decompress(packed(data)) == data


CHUNK = 512 * 1024


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 17])
def test_neither_workers_nor_pieces_change_the_bytes(size: int) -> None:
    noise = random.Random(size).randbytes(size // 2)
    data = noise + noise[: size - len(noise)]
    made = set()
    for workers in (1, 2, 5):
        for pieces in ([data], [data[:1000], data[1000:]]):
            out = io.BytesIO()
            gzip_pieces(pieces, out, workers=workers)
            made.add(out.getvalue())
    assert len(made) == 1
    assert gzip.decompress(made.pop()) == data


def test_a_chunk_points_back_into_the_one_before() -> None:
    noise = random.Random(1).randbytes(16 * 1024)
    assert len(packed(noise * 64)) < 2 * len(noise)


def test_the_zlib_of_the_host_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    want = packed(sample(300_000))
    for name in ("compressobj", "compress"):
        monkeypatch.delattr(zlib, name)
    assert packed(sample(300_000)) == want


def test_a_failure_in_a_thread_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_window: bytes, chunk: bytes) -> bytes:
        raise MemoryError(len(chunk))

    monkeypatch.setattr(gzip_format, "_blocks", fail)
    with pytest.raises(MemoryError, match=r"^524288$"):
        packed(bytes(50 * CHUNK))


def test_a_failure_of_the_output_comes_through() -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        compress_gzip(io.BytesIO(bytes(50 * CHUNK)), Full())


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_rechunked(pieces: list[bytes], size: int) -> None:
    found = list(rechunked(pieces, size))
    assert b"".join(found) == b"".join(pieces)
    assert all(len(piece) == size for piece in found[:-1])
    assert all(0 < len(piece) <= size for piece in found)


def test_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert [worker_count(asked) for asked in (0, 1, 3, 100)] == [8, 1, 3, 8]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert worker_count(0) == 1
