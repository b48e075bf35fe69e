from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, VerifyError
from recipes.formats import verity
from recipes.formats.verity import VeritySuperblock

UUID = uuid.UUID("0f0e0d0c-0b0a-0908-0706-050403020100")
ALL_BYTES = bytes(range(256))


def pattern(blocks: int) -> bytes:
    """Blocks that differ from one another: SHA-256 of the decimal block number, 128 times."""
    return b"".join(hashlib.sha256(b"%d" % index).digest() * 128 for index in range(blocks))


def make(tmp_path: Path, data: bytes, salt: bytes = b"", workers: int = 1) -> tuple[Path, Path, bytes]:
    source, hashes = tmp_path / "data", tmp_path / "hashes"
    source.write_bytes(data)
    tree = verity.format(source, hashes, salt=salt, uuid=UUID, workers=workers)
    assert tree.hash_size == hashes.stat().st_size
    assert tree.data_blocks * 4096 == len(data)
    return source, hashes, tree.root_hash


# veritysetup 2.6.1: truncate -s N; veritysetup format --salt - --uuid ...
@pytest.mark.parametrize(
    ("blocks", "size", "root"),
    [
        (1, 4096, "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7"),
        (2, 8192, "90b10db56173e2e7c847f6ff3ed85a3aebb140bc0064ec9a156ae5b2e71db988"),
        (128, 8192, "b24a5dfc7087b09c7378bb9100b5ea913f283da2c8ca05297f39457cbdd651d4"),
        (129, 16384, "3e5d285ca1f11edfca6327028471f08b75634ff3361264b88d79ee2e95cacb84"),
        (16385, 544768, "b2a15c3af78d8202a3ad4464f14f1a09a52c3cfcfd9b5ba3a2febf5647978f7f"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_holes(tmp_path: Path, blocks: int, size: int, root: str, workers: int) -> None:
    data, hashes = tmp_path / "data", tmp_path / "hashes"
    with data.open("wb") as file:
        file.truncate(blocks * 4096)
    tree = verity.format(data, hashes, salt=b"", uuid=UUID, workers=workers)
    assert tree == verity.VerityTree(bytes.fromhex(root), blocks, size)
    assert hashes.stat().st_size == size
    verity.verify(data, hashes, tree.root_hash, workers=workers)


# veritysetup 2.6.1 over pattern(): root hash and SHA-256 of the whole hash file.
@pytest.mark.parametrize(
    ("blocks", "salt", "root", "digest"),
    [
        (
            1,
            b"",
            "91488f3d3918d46f4179adcf8486491ffe2e079e843419f53a0b9548ace74687",
            "d3956f15f79607bbf830e7b2dfe0b9bbec5a122ebe4b9e761f065c25f6c3586f",
        ),
        (
            1,
            b"\xab",
            "40ea01043c999d32c16be3a5b92da883e02cbcbac9eaaef0ebdb642075eeaf42",
            "ba975527521c58a0abebf4762cdcd2d2ce347b6c3398293cd94d39da7fd26360",
        ),
        (
            1,
            b"\x5a" * 32,
            "b7ef72cd76b2e5ab99d0041690ef4d04ca9afc1f5131bcc63506ce047170d52f",
            "3849c65af6fd69dd372187b099db1329c3dcac3fcd9a8c0e3af17a938ce146a0",
        ),
        (
            1,
            ALL_BYTES,
            "284345830a7f3bc188ad57a434c7595bd4c9c3224623356ba332558bdd658626",
            "658b2f8ac2c362b6113d2c84fc43a7626d26692b38ad2fe134d7ae839991824a",
        ),
        (
            131,
            b"",
            "92ad6366b71dfbf0320c5be4547ab2458512c20b38b60cc2d8f42dabaa0e1995",
            "129d2d774cdefd33292bda289087bf42a06dbde23f944b7eee368d3760abcdfc",
        ),
        (
            131,
            b"\xab",
            "27171aa55e89a8d470915a79c6cc639b787c1eeece424e08adeda4852a1b37ec",
            "edf3043f2e211b7d1cbdd6a2b816b4e6912770b0375c0ac15f77fe53dda0656b",
        ),
        (
            131,
            b"\x5a" * 32,
            "9950ebf609f014859c218996c7441cb5609e07d2d722649b3ca5aa514bcbc785",
            "370ec9dcabfde5ad04321f3724ecc5770e7aaf8478e2751c8f11b1b061b0112e",
        ),
        (
            131,
            ALL_BYTES,
            "ca702d40ed300c7b3a0df0fadbc1bbfc84cc737bc878da145f2788fd8c68930f",
            "8be7abf36081de74ce689a689db0c6bd558e39433b79e2a7afb3b372626567bc",
        ),
    ],
)
def test_hash_files_of_veritysetup(tmp_path: Path, blocks: int, salt: bytes, root: str, digest: str) -> None:
    _, hashes, got = make(tmp_path, pattern(blocks), salt)
    assert got.hex() == root
    assert hashlib.sha256(hashes.read_bytes()).hexdigest() == digest


def reference(data: bytes, salt: bytes) -> bytes:
    """The root hash, as verity.rst tells it, with everything in memory."""
    blocks = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    while True:
        digests = b"".join(hashlib.sha256(salt + block).digest() for block in blocks)
        if len(blocks) == 1:
            return digests
        blocks = [digests[start : start + 4096].ljust(4096, b"\0") for start in range(0, len(digests), 4096)]


@settings(max_examples=40)
@given(
    blocks=st.lists(
        st.sampled_from([bytes(4096), b"\1" * 4096, b"\0" * 4095 + b"\1"]), min_size=1, max_size=300
    ),
    salt=st.binary(max_size=256),
)
def test_any_data(tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes], salt: bytes) -> None:
    data = b"".join(blocks)
    source, hashes, root = make(tmp_path_factory.mktemp("verity"), data, salt)
    assert root == reference(data, salt)
    assert verity.verify(source, hashes, root, workers=1).salt_size == len(salt)


def test_the_result_depends_neither_on_workers_nor_on_holes(tmp_path: Path) -> None:
    size = 21 << 20
    dense = bytearray(size)
    marks = {0: b"a", (4 << 20) - 1: b"b", (9 << 20) + 5000: b"c" * 9000, size - 1: b"d"}
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
        for offset, data in marks.items():
            dense[offset : offset + len(data)] = data
            file.seek(offset)
            file.write(data)
    solid = tmp_path / "solid"
    solid.write_bytes(dense)
    want = reference(bytes(dense), b"salt")
    files = set()
    for source in (sparse, solid):
        for workers in (1, 2, 5):
            out = io.BytesIO()
            tree = verity.format(source, out, salt=b"salt", uuid=UUID, workers=workers)
            assert tree.root_hash == want
            files.add(out.getvalue())
    assert len(files) == 1


def test_the_tree_can_stand_inside_a_file(tmp_path: Path) -> None:
    source, hashes, root = make(tmp_path, pattern(200))
    out = io.BytesIO(b"x" * 100)
    out.seek(100)
    assert verity.format(source, out, salt=b"", uuid=UUID).root_hash == root
    assert out.getvalue() == b"x" * 100 + hashes.read_bytes()
    assert out.tell() == len(out.getvalue())


def test_the_superblock_reads_back(tmp_path: Path) -> None:
    _, hashes, _ = make(tmp_path, pattern(3), b"salt")
    block = VeritySuperblock.unpack(hashes.read_bytes())
    assert VeritySuperblock.SIZE == 512
    # libuuid keeps the printed byte order, unlike GPT.
    assert block.uuid == bytes.fromhex("0f0e0d0c0b0a09080706050403020100")
    assert (block.data_blocks, block.salt_size, block.salt[:5]) == (3, 4, b"salt\0")
    assert block.pack() == hashes.read_bytes()[:512]


@pytest.mark.parametrize("size", [0, 1, 4095, 4097])
def test_data_must_be_whole_blocks(tmp_path: Path, size: int) -> None:
    source = tmp_path / "data"
    source.write_bytes(bytes(size))
    with pytest.raises(FormatError) as caught:
        verity.format(source, tmp_path / "hashes", salt=b"", uuid=UUID)
    assert (
        str(caught.value)
        == f"{source}: {size} bytes are not one or more whole 4096-byte blocks; pad the file"
    )
    assert not (tmp_path / "hashes").exists()


def test_a_salt_has_at_most_256_bytes(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        make(tmp_path, bytes(4096), bytes(257))
    assert str(caught.value) == "verity salt: 257 bytes, at most 256 fit"


def test_data_that_shrinks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "data"
    source.write_bytes(pattern(2))
    monkeypatch.setattr(verity, "_size", lambda path: 12288)
    monkeypatch.setattr(os, "SEEK_DATA", 99)  # as on a file system without holes
    with pytest.raises(FormatError) as caught:
        verity.format(source, io.BytesIO(), salt=b"", uuid=UUID, workers=1)
    assert str(caught.value) == f"{source}: ends at 8192, before byte 12288; it changed while read"


def test_partition_uuids_are_the_two_ends_of_the_root_hash() -> None:
    root = bytes.fromhex("00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210")
    assert tuple(map(str, verity.partition_uuids(root))) == (
        "00112233-4455-6677-8899-aabbccddeeff",
        "01234567-89ab-cdef-fedc-ba9876543210",
    )
    with pytest.raises(FormatError) as caught:
        verity.partition_uuids(root[1:])
    assert str(caught.value) == "verity root hash: 31 bytes, expected 32"


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("block", [0, 17, 128, 5999])
def test_the_first_bad_data_block_is_named(tmp_path: Path, block: int, workers: int) -> None:
    source, hashes, root = make(tmp_path, pattern(1) * 6000)
    good = hashlib.sha256(pattern(1)).hexdigest()
    for index in (block, 5999):
        damage(source, index * 4096 + 4095)
    if block == 5999:
        damage(source, block * 4096)
    with pytest.raises(VerifyError) as caught:
        verity.verify(source, hashes, root, workers=workers)
    bad = hashlib.sha256(source.read_bytes()[block * 4096 : block * 4096 + 4096]).hexdigest()
    assert str(caught.value) == (
        f"{source}: offset {block * 4096:#x}: data block {block} has digest {bad}, "
        f"the tree says {good}; one was changed"
    )


@pytest.mark.parametrize(
    ("offset", "what"),
    [
        (4096, "offset 0x1000: hash block of level 1 0 has digest"),
        (8191, "offset 0x1000: hash block of level 1 0 has digest"),
        (8192, "offset 0x2000: hash block of level 0 0 has digest"),
        (8192 + 4096 + 32, "offset 0x3000: hash block of level 0 1 has digest"),
        (8192 + 4096 * 2 - 1, "offset 0x3000: hash block of level 0 1 has digest"),
    ],
)
def test_a_bad_hash_block_is_named(tmp_path: Path, offset: int, what: str) -> None:
    source, hashes, root = make(tmp_path, pattern(131))
    offset -= 4096 if offset >= 8192 + 8192 else 0
    damage(hashes, offset)
    with pytest.raises(VerifyError) as caught:
        verity.verify(source, hashes, root)
    assert str(caught.value).startswith(f"{hashes}: {what}")


@pytest.mark.parametrize("blocks", [1, 2])
def test_another_root_hash_is_refused(tmp_path: Path, blocks: int) -> None:
    source, hashes, root = make(tmp_path, pattern(blocks))
    other = bytes([root[0] ^ 1]) + root[1:]
    with pytest.raises(VerifyError, match=f"has digest {root.hex()}, the tree says {other.hex()}"):
        verity.verify(source, hashes, other)
    for wrong in (b"", root[:31], root + b"\0"):
        with pytest.raises(FormatError) as caught:
            verity.verify(source, hashes, wrong)
        assert str(caught.value) == f"verity root hash: {len(wrong)} bytes, expected 32"


def test_files_must_be_as_long_as_the_superblock_says(tmp_path: Path) -> None:
    source, hashes, root = make(tmp_path, pattern(131))
    for path, size, need in ((hashes, 12288, 16384), (source, 130 * 4096, 131 * 4096)):
        whole = path.read_bytes()
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError) as caught:
            verity.verify(source, hashes, root)
        assert str(caught.value) == f"{path}: {size} bytes, the verity superblock needs {need}"
        path.write_bytes(whole)


SUPERBLOCK = VeritySuperblock(
    signature=b"verity\0\0",
    version=1,
    hash_type=1,
    uuid=UUID.bytes,
    algorithm=b"sha256" + bytes(26),
    data_block_size=4096,
    hash_block_size=4096,
    data_blocks=3,
    salt_size=4,
    reserved_0x52=bytes(6),
    salt=b"salt" + bytes(252),
    reserved_0x158=bytes(168),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signature": b"verity\0\1"}, r"verity signature is b'verity\x00\x01', expected b'verity\x00\x00'"),
        ({"version": 2}, "verity version is 2, expected 1"),
        ({"hash_type": 0}, "verity hash type is 0, expected 1"),
        ({"algorithm": b"sha512" + bytes(26)}, "verity algorithm is b'sha512', expected b'sha256'"),
        ({"data_block_size": 512}, "verity data block size is 512, expected 4096"),
        ({"hash_block_size": 1024}, "verity hash block size is 1024, expected 4096"),
        ({"data_blocks": 0}, "verity superblock counts 0 data blocks"),
        ({"data_blocks": (1 << 51) + 1}, "verity superblock counts 2251799813685249 data blocks"),
        ({"salt_size": 3}, "verity salt of 3 bytes is over 256 or followed by other bytes"),
        ({"salt_size": 257}, "verity salt of 257 bytes is over 256 or followed by other bytes"),
        (
            {"reserved_0x52": b"\0\0\0\0\0\1"},
            f"verity reserved bytes at 0x52 is {bytes(5) + bytes([1])!r}, expected {bytes(6)!r}",
        ),
    ],
)
def test_bad_superblocks(changes: dict[str, int | bytes], message: str) -> None:
    data = dataclasses.replace(SUPERBLOCK, **changes).pack()  # type: ignore[arg-type]
    with pytest.raises(FormatError) as caught:
        VeritySuperblock.unpack(b"x" * 8 + data, 8, source="hashes")
    assert str(caught.value) == f"hashes: offset 0x8: {message}"


def test_a_truncated_superblock() -> None:
    with pytest.raises(FormatError, match="VeritySuperblock needs 512 bytes, 511 are left"):
        VeritySuperblock.unpack(SUPERBLOCK.pack()[:511])


@settings(max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=600),
        st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=3).map(
            lambda changes: patched(SUPERBLOCK.pack(), changes)
        ),
    )
)
def test_only_format_errors_come_out(data: bytes) -> None:
    try:
        block = VeritySuperblock.unpack(data)
    except FormatError:
        return
    assert block.pack() == data[:512]


def patched(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    out = bytearray(data)
    for offset, value in changes:
        out[offset] = value
    return bytes(out)
