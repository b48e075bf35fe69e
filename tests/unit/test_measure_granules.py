from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.measure.granules import Blob, BytesBlob, GranuleHasher
from recipes.measure.trace import HashAlgorithm

SHA256, SHA512 = HashAlgorithm.SHA256, HashAlgorithm.SHA512


@dataclass(eq=False)
class Pieces:
    """A blob that comes in the pieces it was made of, each in the same buffer, and counts its readings."""

    pieces: list[bytes]
    size: int
    name: str = "Image"
    readings: int = field(default=0)

    def windows(self) -> Iterator[memoryview]:
        self.readings += 1
        buffer = bytearray(max(map(len, self.pieces), default=0))
        for piece in self.pieces:
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def expected(data: bytes, lead: int, algorithm: HashAlgorithm) -> bytes:
    """The whole region in memory, granule by granule."""
    region = bytes(lead) + data
    region += bytes(-len(region) % 4096)
    pages = [region[start : start + 4096] for start in range(0, len(region), 4096)]
    return b"".join(hashlib.new(algorithm.value, page).digest() for page in pages)


@settings(max_examples=100)
@given(
    st.integers(1, 20000),
    st.integers(0, 4095),
    st.lists(st.integers(0, 1 << 20), max_size=8),
    st.sampled_from([SHA256, HashAlgorithm.SHA384, SHA512]),
)
def test_windows_do_not_matter(size: int, lead: int, places: list[int], algorithm: HashAlgorithm) -> None:
    data = hashlib.shake_128(size.to_bytes(4, "big")).digest(size)
    blob = Pieces(cut(data, places), size)
    granules = GranuleHasher().granules(blob, lead, algorithm)
    assert granules.digests == expected(data, lead, algorithm)
    assert granules == GranuleHasher().granules(BytesBlob("Image", data), lead, algorithm)
    assert granules.content == hashlib.new(algorithm.value, granules.digests).digest()


@pytest.mark.parametrize("size", [1, 4091, 4092, 4093, 4095, 4096, 4097, 8191, 8192, 8193])
@pytest.mark.parametrize("lead", [0, 1, 4095])
@pytest.mark.parametrize("window", [1000, 4096, 8192])
def test_edges(size: int, lead: int, window: int) -> None:
    data = hashlib.shake_128(b"edges").digest(size)
    pieces = [data[start : start + window] for start in range(0, size, window)]
    granules = GranuleHasher().granules(Pieces(pieces, size), lead, SHA256)
    assert granules.digests == expected(data, lead, SHA256)


def test_large_blob() -> None:
    data = hashlib.shake_128(b"large").digest(3 << 20)
    pieces = [data[: 5 << 18], data[5 << 18 :]]
    granules = GranuleHasher().granules(Pieces(pieces, len(data)), 12, SHA256)
    assert granules.digests == expected(data, 12, SHA256)


def test_a_blob_is_read_once() -> None:
    hasher, blob = GranuleHasher(), Pieces([b"a" * 5000], 5000)
    first = hasher.granules(blob, 0, SHA256)
    assert hasher.granules(blob, 0, SHA256) is first
    assert blob.readings == 1
    shifted, other = hasher.granules(blob, 8, SHA256), hasher.granules(blob, 0, SHA512)
    assert blob.readings == 3
    assert len({first.digests, shifted.digests, other.digests}) == 3


def test_equal_bytes_are_one_blob() -> None:
    hasher = GranuleHasher()
    kept = BytesBlob("tree", b"a" * 5000)
    assert hasher.granules(BytesBlob("tree", b"b"), 0, SHA256) != hasher.granules(kept, 0, SHA256)
    assert hasher.granules(BytesBlob("tree", b"a" * 5000), 0, SHA256) is hasher.granules(kept, 0, SHA256)


BAD: dict[str, tuple[Blob, int, HashAlgorithm, str]] = {
    "grew": (
        Pieces([b"a" * 10], 9),
        0,
        SHA256,
        "Image: had 9 bytes and now has more; leave it alone while it is measured",
    ),
    "grew by a window": (
        Pieces([b"a" * 10, b"b" * 9000], 10),
        0,
        SHA256,
        "Image: had 10 bytes and now has more; leave it alone while it is measured",
    ),
    "shrank": (
        Pieces([b"a" * 10], 5000),
        0,
        SHA256,
        "Image: had 5000 bytes and now has 10; leave it alone while it is measured",
    ),
    "went": (
        Pieces([], 4096),
        0,
        SHA256,
        "Image: had 4096 bytes and now has 0; leave it alone while it is measured",
    ),
    "empty": (BytesBlob("initrd", b""), 0, SHA256, "initrd: is empty; there is nothing to populate"),
    "lead": (BytesBlob("a", b"b"), 4096, SHA256, "a: starts 4096 bytes into a granule of 4096 bytes"),
    "negative lead": (BytesBlob("a", b"b"), -1, SHA256, "a: starts -1 bytes into a granule of 4096 bytes"),
    "sha1": (
        BytesBlob("a", b"b"),
        0,
        HashAlgorithm.SHA1,
        "realm: no RMM measures with sha1; use one of sha256, sha384, sha512",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    blob, lead, algorithm, message = BAD[name]
    with pytest.raises(MeasureError) as caught:
        GranuleHasher().granules(blob, lead, algorithm)
    assert str(caught.value) == message


def test_what_failed_is_not_remembered() -> None:
    hasher, blob = GranuleHasher(), Pieces([b"a" * 10], 9)
    for _ in range(2):
        with pytest.raises(MeasureError):
            hasher.granules(blob, 0, SHA256)
    assert blob.readings == 2
