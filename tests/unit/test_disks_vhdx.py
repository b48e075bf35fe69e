"""VHDX files taken apart field by field; the reader shares nothing with the writer but the specification."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from recipes.disks.format import aligned_size
from recipes.disks.source import RawDisk
from recipes.disks.vhdx import Vhdx, block_size_of
from recipes.errors import FormatError
from recipes.units import GIB, KIB, MIB
from tests.unit.test_disks_vhd import SAMPLES, SEED, scattered, write

TIB = 1024 * GIB
BAT = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")
ITEMS = {
    uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B"): ("file parameters", 4),
    uuid.UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8"): ("size", 6),
    uuid.UUID("BECA12AB-B2E6-4523-93EF-C309E000C746"): ("disk id", 6),
    uuid.UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F"): ("logical sector", 6),
    uuid.UUID("CDA348C7-445D-4471-9CC9-E9885251C556"): ("physical sector", 6),
}


def castagnoli(data: bytes) -> int:
    """CRC-32C bit by bit over the polynomial as RFC 3720 prints it, most significant bit first."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= int(f"{byte:08b}"[::-1], 2) << 24
        for _ in range(8):
            register = (register << 1 ^ (0x1EDC6F41 if register >> 31 else 0)) & 0xFFFFFFFF
    return int(f"{register ^ 0xFFFFFFFF:032b}"[::-1], 2)


def checked(data: bytes) -> bytes:
    """A structure whose checksum is at offset 4."""
    (stored,) = struct.unpack_from("<I", data, 4)
    assert stored == castagnoli(data[:4] + bytes(4) + data[8:])
    return data


def read_headers(data: bytes, *, ours: bool) -> None:
    assert data[:8] == b"vhdxfile"
    assert data[8:520].decode("utf-16-le").rstrip("\0") == "Goldsmith" or not ours
    assert not any(data[520 : 64 * KIB])
    numbers, identifiers = [], set()
    for place in (64 * KIB, 128 * KIB):
        header = checked(data[place : place + 4 * KIB])
        assert header[:4] == b"head"
        (number,) = struct.unpack_from("<Q", header, 8)
        numbers.append(number)
        identifiers |= {header[16:32], header[32:48]}
        assert header[48:64] == bytes(16), "no log to replay"
        assert struct.unpack_from("<HHIQ", header, 64) == (0, 1, MIB, MIB)
        assert not any(data[place + 80 : place + 64 * KIB])
    assert numbers[0] != numbers[1]
    assert len(identifiers) == 2 or not ours
    assert bytes(16) not in identifiers
    assert not any(data[MIB : 2 * MIB]) or not ours


def read_regions(data: bytes, *, ours: bool) -> dict[uuid.UUID, tuple[int, int]]:
    table = checked(data[192 * KIB : 256 * KIB])
    assert table == data[256 * KIB : 320 * KIB]
    assert table[:4] == b"regi"
    count, reserved = struct.unpack_from("<II", table, 8)
    assert (count, reserved) == (2, 0)
    regions = {}
    for index in range(count):
        which, offset, length, required = struct.unpack_from("<16sQII", table, 16 + 32 * index)
        assert offset % MIB == length % MIB == 0 < length
        assert required == 1 or not ours
        regions[uuid.UUID(bytes_le=which)] = offset, length
    assert not any(table[16 + 32 * count :])
    assert not any(data[320 * KIB : MIB])
    return regions


def read_metadata(region: bytes) -> dict[str, bytes]:
    assert region[:8] == b"metadata"
    assert struct.unpack_from("<HH", region, 8) == (0, len(ITEMS))
    assert not any(region[12:32])
    found = {}
    for index in range(len(ITEMS)):
        item, offset, length, flags, reserved = struct.unpack_from("<16sIIII", region, 32 + 32 * index)
        name, wanted_flags = ITEMS[uuid.UUID(bytes_le=item)]
        assert (flags, reserved) == (wanted_flags, 0)
        assert offset >= 64 * KIB
        found[name] = region[offset : offset + length]
    return found


def read_vhdx(path: Path, *, ours: bool = True) -> bytes:
    """The sectors of a VHDX file.

    Args:
        ours: there is nothing but what our writer puts in.
    """
    data = path.read_bytes()
    read_headers(data, ours=ours)
    regions = read_regions(data, ours=ours)
    offset, length = regions[METADATA]
    metadata = read_metadata(data[offset : offset + length])
    block, flags = struct.unpack("<II", metadata["file parameters"])
    assert flags == 0
    assert metadata["logical sector"] == (512).to_bytes(4, "little")
    assert metadata["physical sector"] == (4096).to_bytes(4, "little") or not ours
    assert len(metadata["disk id"]) == 16
    (size,) = struct.unpack("<Q", metadata["size"])
    start, length = regions[BAT]
    ratio = (1 << 23) * 512 // block
    blocks = -(-size // block)
    out = bytearray()
    used = []
    for index in range(blocks):
        place = start + 8 * (index + index // ratio)
        assert place + 8 <= start + length
        (entry,) = struct.unpack_from("<Q", data, place)
        assert not entry & 0xFFFF8, "reserved bits"
        if entry & 7 == 2 or (entry & 7 == 0 and not ours):
            assert entry >> 20 == 0
            out += bytes(block)
            continue
        assert entry & 7 == 6
        used.append(entry >> 20 << 20)
        out += data[used[-1] :][:block]
    if not ours:
        return bytes(out[:size])
    assert used == [start + length + index * block for index in range(len(used))]
    assert len(data) == start + length + len(used) * block
    assert not any(out[size:])
    return bytes(out[:size])


@pytest.mark.parametrize("name", SAMPLES)
def test_a_reader_of_our_own_gets_the_sectors(tmp_path: Path, name: str) -> None:
    data = SAMPLES[name]
    read = read_vhdx(write(Vhdx(), data, tmp_path))
    assert len(read) == -(-len(data) // MIB) * MIB
    assert read == data.ljust(len(read), b"\0")


def test_identifiers_follow_the_seed(tmp_path: Path) -> None:
    def parts(seed: bytes) -> set[bytes]:
        data = write(Vhdx(), SAMPLES["odd"], tmp_path, seed=seed).read_bytes()
        disk = read_metadata(data[2 * MIB : 3 * MIB])["disk id"]
        return {data[64 * KIB + 16 :][:16], data[64 * KIB + 32 :][:16], disk}

    assert parts(SEED) == parts(SEED)
    assert len(parts(SEED) | parts(b"other")) == 6


@pytest.mark.parametrize("size", [4 * GIB, 4 * GIB + MIB, 8 * GIB, 2 * TIB, 2 * TIB + MIB, 64 * TIB])
def test_bitmap_entries_stand_between_the_blocks(tmp_path: Path, size: int) -> None:
    """Of one sector bitmap block each: every 4 GiB, and none behind the last payload block."""
    made = tmp_path / "made"
    with (tmp_path / "raw").open("w+b") as file, made.open("wb") as out:
        file.write(b"\x01" * 512)
        file.flush()
        disk = RawDisk.of("raw", file).grown(size).patched(size - 512, b"\x02" * 512)
        Vhdx().write(disk, out, seed=SEED)
    block = 2 * MIB if size <= 2 * TIB else 32 * MIB
    assert block_size_of(size) == block
    ratio, blocks = 4 * GIB // block, -(-size // block)
    with made.open("rb") as file:
        file.seek(192 * KIB)
        regions = {
            uuid.UUID(bytes_le=part[:16]): struct.unpack_from("<QI", part, 16)
            for part in struct.unpack_from("32s32s", file.read(64 * KIB), 16)
        }
        offset, length = regions[BAT]
        file.seek(offset)
        entries = struct.unpack(f"<{length // 8}Q", file.read(length))
        total = blocks + (blocks - 1) // ratio
        want = [2] * total
        want[ratio :: ratio + 1] = [0] * len(want[ratio :: ratio + 1])
        want[0], want[-1] = offset + length | 6, offset + length + block | 6
        assert list(entries[:total]) == want
        assert not any(entries[total:])
        assert length == -(-8 * total // MIB) * MIB
        file.seek(offset + length + 2 * block - (block - (size - 1) % block - 1) - 512)
        assert file.read() == (b"\x02" * 512).ljust(block - (size - 1) % block - 1 + 512, b"\0")


def test_the_size_rule() -> None:
    sizes = {512: MIB, MIB: MIB, MIB + 512: 2 * MIB, 64 * TIB: 64 * TIB}
    assert {size: aligned_size(Vhdx(), size) for size in sizes} == sizes
    with pytest.raises(FormatError) as caught:
        aligned_size(Vhdx(), 64 * TIB + 512)
    want = "disk format vhdx: a disk of 70368745226240 bytes is larger than 70368744177664, "
    want += "the most this format holds; make it smaller or choose another format"
    assert str(caught.value) == want


def test_a_block_without_content_takes_no_space(tmp_path: Path) -> None:
    made = write(Vhdx(), scattered(9 * MIB, 5 * MIB), tmp_path)
    assert made.stat().st_size == 4 * MIB + 2 * MIB
