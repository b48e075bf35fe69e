"""qcow2: read back by a reader of its own, which also counts every reference."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.disks.format import lookup
from recipes.disks.qcow2 import Qcow2
from recipes.disks.source import RawDisk
from recipes.errors import FormatError

KIB = 1024
CLUSTER = 64 * KIB
PIB = 1 << 50
NAMES = ("qcow2", "qcow2-zstd", "qcow2-zlib")


def variant(name: str) -> Qcow2:
    found = lookup(name)
    assert isinstance(found, Qcow2)
    return found


def noise(size: int, seed: object = 0) -> bytes:
    return hashlib.shake_128(repr(seed).encode()).digest(size)


def convert(path: Path, raw: bytes, kind: Qcow2, *, size: int | None = None, seed: bytes = b"seed") -> bytes:
    path.write_bytes(raw)
    target = path.with_suffix(".out")
    with path.open("rb") as file, target.open("wb") as out:
        kind.write(RawDisk("raw", file, size or len(raw)), out, seed=seed)
    return target.read_bytes()


class Reader:
    """Reads an image as docs/interop/qcow2.txt has it, and counts how often each cluster is referred to."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        magic, version, backing, _, bits, self.size, crypt, entries, l1, table, tables, snapshots, _ = (
            struct.unpack_from(">4sIQIIQIIQQIIQ", image)
        )
        self.incompatible, compatible, autoclear, order, self.length = struct.unpack_from(">QQQII", image, 72)
        assert (magic, version, bits, order) == (b"QFI\xfb", 3, 16, 4)
        assert (backing, crypt, snapshots, compatible, autoclear) == (0, 0, 0, 0, 0)
        assert len(image) % CLUSTER == 0
        self.compression = image[104] if self.length > 104 else 0
        self.used: Counter[int] = Counter({0: 1})
        self.copied: list[int] = []
        self.l1_entries = entries
        for start, clusters in ((l1, -(-entries * 8 // CLUSTER)), (table, tables)):
            assert start % CLUSTER == 0
            self.used.update(range(start // CLUSTER, start // CLUSTER + clusters))
        self.clusters: dict[int, bytes] = {}
        self.packed = 0
        for number, entry in enumerate(struct.unpack_from(f">{entries}Q", image, l1)):
            if entry:
                self._table(number * 8192, self._standard(entry))
        self.counts: list[int] = []
        blocks = list(struct.unpack_from(f">{tables * 8192}Q", image, table))
        while not blocks[-1]:
            blocks.pop()
        for block in blocks:
            self.used[block // CLUSTER] += 1
            self.counts += struct.unpack_from(">32768H", image, block)

    def _standard(self, entry: int) -> int:
        offset = entry & 0x00FFFFFFFFFFFE00
        assert entry == offset | 1 << 63
        assert offset % CLUSTER == 0
        self.used[offset // CLUSTER] += 1
        self.copied.append(offset // CLUSTER)
        return offset

    def _table(self, first: int, offset: int) -> None:
        for number, entry in enumerate(struct.unpack_from(">8192Q", self.image, offset), first):
            if entry >> 62 & 1:
                start, sectors = entry & (1 << 54) - 1, (entry >> 54 & 0xFF) + 1
                assert not entry >> 63
                end = (start // 512 + sectors) * 512
                self.used.update(range(start // CLUSTER, (end - 1) // CLUSTER + 1))
                self.clusters[number] = self._unpack(self.image[start:end])
                self.packed += 1
            elif entry:
                start = self._standard(entry)
                self.clusters[number] = self.image[start : start + CLUSTER]

    def _unpack(self, stream: bytes) -> bytes:
        if self.compression == 1:
            reader = zstandard.ZstdDecompressor().decompressobj()
            return reader.decompress(stream)
        # In one go and with a window of 4 KiB, as QEMU does: it reaches back to all that is unpacked already.
        inflater = zlib.decompressobj(-12)
        found = inflater.decompress(stream, CLUSTER)
        assert inflater.eof
        return found

    def check(self) -> None:
        held = {index: count for index, count in enumerate(self.counts) if count}
        assert held == dict(self.used)
        assert all(self.used[index] == 1 for index in self.copied)
        assert max(held) < len(self.image) // CLUSTER

    def raw(self) -> bytes:
        count = -(-self.size // CLUSTER)
        found = b"".join(self.clusters.get(number, bytes(CLUSTER)) for number in range(count))
        assert not any(found[self.size :])
        return found[: self.size]


SAMPLES = {
    "one sector": noise(512),
    "one sector of zeros": bytes(512),
    "a cluster less a sector": noise(CLUSTER - 512),
    "a cluster": noise(CLUSTER),
    "a cluster and a sector": noise(CLUSTER) + b"\1" * 512,
    "zeros": bytes(5 * CLUSTER + 1024),
    "text": b"what is not zero and repeats itself " * 20480,
    "full": noise(3 * CLUSTER),
    "noise behind text": b"text" * (CLUSTER // 4)
    + noise(CLUSTER)
    + b"more" * (CLUSTER // 4)
    + bytes(CLUSTER),
    "last byte": bytes(4 * CLUSTER - 1) + b"\1",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sample", SAMPLES)
def test_reads_back(tmp_path: Path, name: str, sample: str) -> None:
    reader = Reader(convert(tmp_path / "raw", SAMPLES[sample], variant(name)))
    reader.check()
    assert reader.size == len(SAMPLES[sample])
    assert reader.raw() == SAMPLES[sample]


@pytest.mark.parametrize("name", NAMES)
def test_zeros_are_absent_whatever_the_file_says(tmp_path: Path, name: str) -> None:
    raw = noise(CLUSTER) + bytes(9 * CLUSTER) + b"\1" + bytes(CLUSTER - 1)
    written = convert(tmp_path / "written", raw, variant(name))
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.write(raw[:CLUSTER])
        file.seek(10 * CLUSTER)
        file.write(b"\1")
        file.truncate(len(raw))
    with sparse.open("rb") as source, (tmp_path / "other").open("wb") as out:
        variant(name).write(RawDisk.of("other name", source), out, seed=b"another seed")
    assert (tmp_path / "other").read_bytes() == written
    assert sorted(Reader(written).clusters) == [0, 10]


def test_header_of_each_variant(tmp_path: Path) -> None:
    found = {name: Reader(convert(tmp_path / name, noise(512), variant(name))) for name in NAMES}
    assert {
        name: (reader.incompatible, reader.compression, reader.length) for name, reader in found.items()
    } == {
        "qcow2": (0, 0, 112),
        "qcow2-zstd": (8, 1, 112),
        "qcow2-zlib": (0, 0, 112),
    }
    assert found["qcow2"].image[112:120] == bytes(8)
    # Feature name table, one entry of 48 bytes: incompatible, bit 3; and the end of the extensions.
    named = found["qcow2-zstd"].image[112:176]
    assert named == b"\x68\x03\xf8\x57\0\0\0\x30\x00\x03compression type".ljust(64, b"\0")


@pytest.mark.parametrize("name", ["qcow2-zstd", "qcow2-zlib"])
def test_workers_never_change_bytes(tmp_path: Path, name: str) -> None:
    raw = b"".join(noise(KIB, number % 7) * 60 + noise(4 * KIB, number) for number in range(40))
    images = {
        convert(tmp_path / f"raw{workers}", raw, replace(variant(name), workers=workers))
        for workers in (1, 2, 3)
    }
    assert len(images) == 1
    reader = Reader(images.pop())
    assert reader.packed == 40
    assert len(reader.image) < 16 * CLUSTER


def test_compressed_clusters_share_a_cluster(tmp_path: Path) -> None:
    reader = Reader(convert(tmp_path / "raw", b"ab" * (32 * CLUSTER), variant("qcow2-zstd")))
    reader.check()
    assert max(reader.counts) == 64


def test_noise_is_not_compressed(tmp_path: Path) -> None:
    raw = b"".join(noise(CLUSTER, number) for number in range(3))
    assert Reader(convert(tmp_path / "raw", raw, variant("qcow2-zstd"))).packed == 0


@pytest.mark.parametrize("name", NAMES)
def test_tables_far_apart(tmp_path: Path, name: str) -> None:
    # An L2 table covers 512 MiB: the first, and two with one without content between them.
    places = (0, (512 << 20) - CLUSTER, 512 << 20, (1536 << 20) + 5 * CLUSTER)
    raw = tmp_path / "raw"
    with raw.open("wb") as file:
        for place in places:
            file.seek(place)
            file.write(b"%d" % place)
        file.truncate((1 << 31) + 512)
    with raw.open("rb") as source, (tmp_path / "out").open("wb") as out:
        variant(name).write(RawDisk.of("raw", source), out, seed=b"")
    reader = Reader((tmp_path / "out").read_bytes())
    reader.check()
    assert reader.l1_entries == 5
    assert {place // CLUSTER: (b"%d" % place).ljust(CLUSTER, b"\0") for place in places} == reader.clusters


CONTENT = st.sampled_from(["zeros", "noise", "text", "byte"])


def content(kind: str, number: int) -> bytes:
    if kind == "noise":
        return noise(CLUSTER, number)
    if kind == "text":
        return noise(256, number) * 256
    return (bytes(number * 1000) + b"\1" * (kind == "byte")).ljust(CLUSTER, b"\0")


@settings(max_examples=40)
@given(st.lists(CONTENT, min_size=1, max_size=20), st.integers(0, 127), st.sampled_from(NAMES[:2]))
def test_any_mixture(tmp_path_factory: pytest.TempPathFactory, kinds: list[str], cut: int, name: str) -> None:
    contents = b"".join(content(kind, number) for number, kind in enumerate(kinds))
    raw = contents[: len(kinds) * CLUSTER - cut * 512]
    path = tmp_path_factory.mktemp("mixture") / "raw"
    reader = Reader(convert(path, raw, replace(variant(name), workers=1)))
    reader.check()
    assert reader.raw() == raw


def test_largest_disk(tmp_path: Path) -> None:
    kind = variant("qcow2")
    image = tmp_path / "out"
    (tmp_path / "raw").write_bytes(noise(512))
    with (tmp_path / "raw").open("rb") as source, image.open("wb") as out:
        kind.write(RawDisk.of("raw", source).grown(2 * PIB), out, seed=b"")
    with image.open("rb") as file:
        assert struct.unpack(">Q", file.read(32)[24:]) == (2 * PIB,)
    # 32 MiB of L1 table, and a cluster each for header, data, L2 table, reference counts and their table.
    assert image.stat().st_size == (32 << 20) + 5 * CLUSTER


def test_one_sector_too_many(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(noise(512))
    message = (
        "disk format qcow2: a disk of 2251799813685760 bytes is larger than 2251799813685248, the most this "
        "format holds; make it smaller or choose another format"
    )
    with (tmp_path / "raw").open("rb") as source, (tmp_path / "out").open("wb") as out:
        disk = RawDisk.of("raw", source).grown(2 * PIB + 512)
        with pytest.raises(FormatError) as caught:
            variant("qcow2").write(disk, out, seed=b"")
    assert str(caught.value) == message


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(noise(3 << 20))
    seen: list[tuple[int, int]] = []
    with (tmp_path / "raw").open("rb") as source, (tmp_path / "out").open("wb") as out:
        variant("qcow2-zstd").write(
            RawDisk.of("raw", source), out, seed=b"", progress=lambda done, total: seen.append((done, total))
        )
    assert seen == sorted(seen)
    assert seen[-1] == (3 << 20, 3 << 20)


def test_changed_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(noise(1 << 20))
    with path.open("rb") as source, (tmp_path / "out").open("wb") as out:
        disk = RawDisk.of("raw", source)
        path.write_bytes(noise(512))
        with pytest.raises(FormatError, match="raw: changed while it was read"):
            variant("qcow2").write(disk, out, seed=b"")
