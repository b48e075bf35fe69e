from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import luks2_segment as segment
from recipes.formats.luks2_segment import SectorCipher, encrypt_image

# IEEE 1619-2018 annex B, vectors 10 and 14: AES-256, the digits of e and of pi as keys, 00..ff twice as data.
KEY = bytes.fromhex(
    "2718281828459045235360287471352662497757247093699959574966967627"
    "3141592653589793238462643383279502884197169399375105820974944592"
)
PLAIN = bytes(range(256)) * 2
VECTOR_10 = bytes.fromhex(
    "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"
    "5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd"
    "5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0"
    "c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca"
    "2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0"
    "b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f"
    "93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec"
    "583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a"
    "84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1"
    "505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae"
    "9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29"
    "a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac"
    "6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f"
    "645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385"
    "1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa"
    "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151"
)
VECTOR_14_START = bytes.fromhex("64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed23")


def test_sectors_are_those_of_ieee_1619() -> None:
    cipher = SectorCipher(KEY, 512)
    assert cipher.encrypt(PLAIN, 0xFF) == VECTOR_10
    assert cipher.decrypt(VECTOR_10, 0xFF) == PLAIN
    assert cipher.encrypt(PLAIN, 0xFFFFFFFFFF)[:32] == VECTOR_14_START


def test_each_sector_has_its_own_number() -> None:
    """Vector 10 is sector 255: the last of 256."""
    out = bytes(SectorCipher(KEY, 512).encrypt(bytes(255 * 512) + PLAIN))
    assert out[-512:] == VECTOR_10
    assert len({out[at : at + 512] for at in range(0, 255 * 512, 512)}) == 255


def test_large_sectors_are_counted_in_small_ones() -> None:
    """dm-crypt without iv_large_sectors: the second sector of 4096 bytes has tweak 8."""
    plain = PLAIN * 24
    out = bytes(SectorCipher(KEY, 4096).encrypt(plain))
    assert out[:4096] == SectorCipher(KEY, 4096).encrypt(plain[:4096], 0)
    assert out[4096:8192] == SectorCipher(KEY, 4096).encrypt(plain[:4096], 8)
    assert out[:512] == SectorCipher(KEY, 512).encrypt(PLAIN, 0)
    assert out[4096 : 4096 + 512] == SectorCipher(KEY, 512).encrypt(PLAIN, 8)
    assert out[512:1024] != SectorCipher(KEY, 512).encrypt(PLAIN, 1)
    # 31 blocks on, the tweak goes on doubling inside the sector: it starts like the first 512 bytes of 4096
    longer = SectorCipher(KEY, 4096).encrypt(PLAIN * 7 + bytes(512), 0xFF)
    assert longer[:512] == VECTOR_10


@pytest.mark.parametrize(
    ("key", "sector", "message"),
    [
        (bytes(32), 512, "aes-xts key: 32 bytes, expected 64"),
        (bytes(64), 512, "aes-xts key: its halves are equal; draw a new one"),
        (KEY, 1024, "sector size: 1024 bytes; use 512 or 4096"),
    ],
)
def test_what_is_no_cipher(key: bytes, sector: int, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        SectorCipher(key, sector)
    assert str(caught.value) == message


def test_sectors_are_whole() -> None:
    with pytest.raises(FormatError) as caught:
        SectorCipher(KEY, 4096).encrypt(bytes(512))
    assert str(caught.value) == "data to encrypt: 512 bytes are not whole sectors of 4096; pad it"


@settings(max_examples=50)
@given(st.integers(0, 5), st.integers(0, 2**64 - 64), st.sampled_from([512, 4096]), st.binary(max_size=40))
def test_what_is_encrypted_is_decrypted(sectors: int, first: int, size: int, seed: bytes) -> None:
    cipher = SectorCipher(KEY, size)
    plain = hashlib.shake_256(seed).digest(sectors * size)
    assert cipher.decrypt(cipher.encrypt(plain, first), first) == plain


def image(path: Path, size: int) -> bytes:
    """A sparse image: data at both ends, a hole between; its bytes."""
    ends = hashlib.shake_256(b"image").digest(3 * 4096)
    with path.open("wb") as file:
        file.write(ends)
        file.seek(size - len(ends))
        file.write(ends)
    return path.read_bytes()


@pytest.mark.parametrize("sector", [512, 4096])
def test_an_image_is_encrypted_where_it_belongs(tmp_path: Path, sector: int) -> None:
    plain = image(tmp_path / "plain", 1 << 20)
    target = tmp_path / "disk"
    target.write_bytes(b"\xee" * (3 << 20))
    offset = 1 << 20
    assert encrypt_image(tmp_path / "plain", target, key=KEY, offset=offset, sector_size=sector) == 1 << 20
    out = target.read_bytes()
    assert out[:offset] == b"\xee" * offset
    assert out[2 << 20 :] == b"\xee" * offset
    body = out[offset : 2 << 20]
    assert body == SectorCipher(KEY, sector).encrypt(plain)
    assert SectorCipher(KEY, sector).decrypt(body) == plain


def test_holes_are_encrypted(tmp_path: Path) -> None:
    image(tmp_path / "plain", 4 << 20)
    target = tmp_path / "disk"
    target.touch()
    encrypt_image(tmp_path / "plain", target, key=KEY, offset=0, sector_size=4096)
    out = target.read_bytes()
    sectors = [out[at : at + 4096] for at in range(0, len(out), 4096)]
    assert len(set(sectors)) == len(sectors) == 1024
    assert target.stat().st_blocks * 512 >= 4 << 20


def test_the_result_does_not_depend_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "_ALONE", 0)
    monkeypatch.setattr(segment, "_RANGE", 128 * 1024)
    image(tmp_path / "plain", (2 << 20) + 4096)
    outs = []
    for workers in (1, 2, 3):
        target = tmp_path / f"disk{workers}"
        target.touch()
        encrypt_image(tmp_path / "plain", target, key=KEY, offset=8192, workers=workers)
        outs.append(target.read_bytes())
    assert outs[0] == outs[1] == outs[2]
    assert len(outs[0]) == 8192 + (2 << 20) + 4096


def test_part_of_a_file(tmp_path: Path) -> None:
    whole = image(tmp_path / "plain", 1 << 18)
    target = tmp_path / "disk"
    target.touch()
    encrypt_image(tmp_path / "plain", target, key=KEY, offset=0, source_offset=512, size=8192)
    assert target.read_bytes() == SectorCipher(KEY, 4096).encrypt(whole[512 : 512 + 8192])


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_shrinks(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "_ALONE", 0)
    (tmp_path / "plain").write_bytes(bytes(5000))
    (tmp_path / "disk").touch()
    with pytest.raises(FormatError, match=r"plain: ends at byte 5000, expected 8192; it changed while read$"):
        encrypt_image(tmp_path / "plain", tmp_path / "disk", key=KEY, offset=0, size=8192, workers=workers)


@pytest.mark.parametrize("size", [0, 5000])
def test_an_image_is_whole_sectors(tmp_path: Path, size: int) -> None:
    (tmp_path / "plain").write_bytes(bytes(size))
    (tmp_path / "disk").touch()
    with pytest.raises(FormatError) as caught:
        encrypt_image(tmp_path / "plain", tmp_path / "disk", key=KEY, offset=0)
    what = f"{size} bytes are not one or more whole 4096-byte sectors; pad the image"
    assert str(caught.value) == f"{tmp_path / 'plain'}: {what}"
    assert (tmp_path / "disk").stat().st_size == 0


def test_the_key_is_in_no_text() -> None:
    assert KEY.hex() not in repr(SectorCipher(KEY, 512))
    assert repr(KEY)[2:20] not in repr(SectorCipher(KEY, 512))
