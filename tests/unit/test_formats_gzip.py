from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.formats import deflate
from recipes.formats.gzip import compress_gzip
from tests.support import ROOT


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
    def drain(chunks: Iterable[bytes], *, workers: int) -> Iterator[bytes]:
        for _ in chunks:
            pass
        yield deflate.END

    quarter = bytes(1 << 28)  # never touched, so it takes no memory
    monkeypatch.setattr(deflate, "read_chunks", lambda _: iter([*[quarter] * 16, b"abc"]))
    monkeypatch.setattr(deflate, "compress", drain)
    monkeypatch.setattr(zlib, "crc32", lambda piece, _: len(piece))
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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=60), max_size=6), st.integers(1, 200))
def test_round_trips(parts: list[bytes], number: int) -> None:
    data = b"".join(part * number for part in parts)
    assert gzip.decompress(packed(data)) == data


def test_workers_do_not_change_the_bytes() -> None:
    data = sample(700_001)
    assert packed(data) == packed(data, 2) == packed(data, 5)


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_the_hash_seed_does_not_change_the_bytes(seed: str) -> None:
    program = (
        "import hashlib; from tests.unit.test_formats_gzip import packed, sample\n"
        "print(hashlib.sha256(packed(sample(300_000), 2)).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == hashlib.sha256(packed(sample(300_000))).hexdigest()
