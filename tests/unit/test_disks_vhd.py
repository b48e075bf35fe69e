"""VHD files taken apart field by field; the reader shares nothing with the writer but the specification."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from recipes.disks.format import DiskFormat, aligned_size
from recipes.disks.source import RawDisk
from recipes.disks.vhd import FixedVhd
from recipes.disks.vhd_dynamic import DynamicVhd
from recipes.disks.vhd_footer import geometry
from recipes.errors import FormatError
from recipes.units import GIB, KIB, MIB

SEED = bytes(range(32))
FOOTER = ">8s4s4sQI4s4s4sQQHBBII16sB"


def write(disk_format: DiskFormat, data: bytes, folder: Path, *, seed: bytes = SEED) -> Path:
    raw, made = folder / "raw", folder / ("made" + disk_format.suffix)
    raw.write_bytes(data)
    with raw.open("rb") as file, made.open("wb") as out:
        disk_format.write(RawDisk.of("raw", file), out, seed=seed)
    return made


def scattered(size: int, *places: int) -> bytes:
    data = bytearray(size)
    for place in places:
        piece = random.Random(place).randbytes(1000)[: size - place]
        data[place : place + len(piece)] = piece
    return bytes(data)


def summed(data: bytes, at: int) -> int:
    """Hard Disk Footer Format, "Checksum": over all bytes but its own."""
    total = 0
    for index, byte in enumerate(data):
        if not at <= index < at + 4:
            total += byte
    return 0xFFFFFFFF - total


def read_footer(data: bytes, *, ours: bool = True) -> tuple[int, int, int]:
    """Size of the disk, its type and where the next structure is."""
    assert len(data) == 512
    fields = struct.unpack_from(FOOTER, data)
    assert fields[0] == b"conectix"
    assert fields[1:3] == (b"\0\0\0\x02", b"\0\1\0\0")
    assert fields[4:8] == (0, b"qem2", b"\0\1\0\0", b"Wi2k") or not ours
    assert fields[8] == fields[9]
    cylinders, heads, sectors = fields[10:13]
    assert 0 < cylinders * heads * sectors <= fields[9] // 512
    assert fields[14] == summed(data, 64)
    assert fields[15] != bytes(16)
    assert fields[16] == 0
    assert data[85:] == bytes(427)
    return fields[9], fields[13], fields[3]


def read_vhd(path: Path, *, ours: bool = True) -> bytes:
    """The sectors of a VHD of either kind.

    Args:
        ours: there is nothing but what our writers put in.
    """
    data = path.read_bytes()
    size, kind, following = read_footer(data[-512:], ours=ours)
    if kind == 2:
        assert following == 0xFFFFFFFFFFFFFFFF
        assert len(data) == size + 512
        return data[:-512]
    assert (kind, following) == (3, 512)
    assert data[:512] == data[-512:]
    cookie, none, table, version, entries, block, checksum = struct.unpack_from(">8sQQ4sIII", data, 512)
    assert (cookie, none, version) == (b"cxsparse", 0xFFFFFFFFFFFFFFFF, b"\0\1\0\0")
    assert checksum == summed(data[512:1536], 36)
    assert data[512 + 40 : 1536] == bytes(1024 - 40)
    assert entries * block >= size > (entries - 1) * block
    out = bytearray()
    used = []
    for (sector,) in struct.iter_unpack(">I", data[table : table + 4 * entries]):
        if sector == 0xFFFFFFFF:
            out += bytes(block)
            continue
        used.append(sector * 512)
        bitmap = data[sector * 512 :][: block // 512 // 8]
        assert bitmap == b"\xff" * len(bitmap) == b"\xff" * 512
        out += data[sector * 512 + 512 :][:block]
    if not ours:
        return bytes(out[:size])
    first = table + -(-4 * entries // 512) * 512
    assert data[table + 4 * entries : first].strip(b"\xff") == b""
    assert used == [first + index * (block + 512) for index in range(len(used))], "no gap, no overlap"
    assert len(data) == first + len(used) * (block + 512) + 512
    assert not any(out[size:])
    return bytes(out[:size])


SAMPLES = {
    "one sector": scattered(512, 0),
    "nothing in it": bytes(3 * MIB),
    "odd": scattered(MIB + 1536, MIB + 1024),
    "edges": scattered(9 * MIB, 2 * MIB - 500, 4 * MIB, 8 * MIB - 1, 9 * MIB - 3),
    "holes between": scattered(21 * MIB, 0, 20 * MIB + 70 * KIB),
}


@pytest.mark.parametrize("disk_format", [FixedVhd(), DynamicVhd()], ids=lambda item: item.name)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_reader_of_our_own_gets_the_sectors(tmp_path: Path, name: str, disk_format: DiskFormat) -> None:
    data = SAMPLES[name]
    read = read_vhd(write(disk_format, data, tmp_path))
    assert len(read) == -(-len(data) // MIB) * MIB
    assert read == data.ljust(len(read), b"\0")


def test_blocks_without_content_take_no_space(tmp_path: Path) -> None:
    made = write(DynamicVhd(), SAMPLES["holes between"], tmp_path)
    assert made.stat().st_size == 512 + 1024 + 512 + 2 * (512 + 2 * MIB) + 512


def test_the_identifier_follows_the_seed(tmp_path: Path) -> None:
    def unique(disk_format: DiskFormat, seed: bytes) -> bytes:
        return write(disk_format, SAMPLES["odd"], tmp_path, seed=seed).read_bytes()[-512:][68:84]

    fixed, dynamic = FixedVhd(), DynamicVhd()
    assert unique(fixed, SEED) == unique(fixed, SEED)
    assert len({unique(kind, seed) for kind in (fixed, dynamic) for seed in (SEED, b"other")}) == 4


@pytest.mark.parametrize(
    ("sectors", "cylinders_heads_sectors"),
    [
        # Current size and geometry as `qemu-img create -f vpc` of QEMU 7.2.22 writes them.
        (2108, (31, 4, 17)),
        (16388, (241, 4, 17)),
        (69700, (820, 5, 17)),
        (71740, (844, 5, 17)),
        (278752, (562, 16, 31)),
        (512064, (508, 16, 63)),
        (1032192, (1024, 16, 63)),
        (4195296, (4162, 16, 63)),
        (65011968, (64496, 16, 63)),
        (67111920, (16449, 16, 255)),
        (266338320, (65279, 16, 255)),
        (4278190080, (65535, 16, 255)),
    ],
)
def test_geometry(sectors: int, cylinders_heads_sectors: tuple[int, int, int]) -> None:
    assert geometry(sectors) == cylinders_heads_sectors


@pytest.mark.parametrize("disk_format", [FixedVhd(), DynamicVhd()], ids=lambda item: item.name)
def test_the_size_rule(tmp_path: Path, disk_format: DiskFormat) -> None:
    sizes = {512: MIB, MIB: MIB, MIB + 512: 2 * MIB, 2040 * GIB: 2040 * GIB}
    assert {size: aligned_size(disk_format, size) for size in sizes} == sizes
    with pytest.raises(FormatError) as caught:
        aligned_size(disk_format, 2040 * GIB + 512)
    want = f"disk format {disk_format.name}: a disk of 2190434369536 bytes is larger than 2190433320960, "
    want += "the most this format holds; make it smaller or choose another format"
    assert str(caught.value) == want
    made = tmp_path / "made"
    with (tmp_path / "raw").open("w+b") as file, made.open("wb") as out:
        file.truncate(512)
        disk = RawDisk.of("raw", file).grown(2040 * GIB + 512)
        with pytest.raises(FormatError, match="larger than 2190433320960"):
            disk_format.write(disk, out, seed=SEED)
    assert made.stat().st_size == 0
