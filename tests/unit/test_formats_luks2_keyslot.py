from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import luks2_keyslot as keyslot
from recipes.formats.luks2_model import Argon2id, Keyslot, Pbkdf2

SALT = bytes(range(32))


def test_pbkdf2_is_that_of_rfc_7914() -> None:
    """Section 11 has PBKDF2-HMAC-SHA256 values; the longer count is 80000, P "Password", S "NaCl"."""
    got = keyslot.derive(Pbkdf2(80000), b"Password", b"NaCl", 64)
    assert got.hex() == (
        "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"
        "a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d"
    )


def test_argon2id_is_that_of_its_authors() -> None:
    """From test.c of the reference implementation (version 0x13): t=2, 256 KiB, 1 and 2 lanes, "somesalt"."""
    for lanes, want in (
        (1, "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"),
        (2, "6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037"),
    ):
        got = keyslot.derive(Argon2id(2, 256, lanes), b"password", b"somesalt", 32)
        assert got.hex() == want


@pytest.mark.parametrize("size", [32, 64, 96, 33, 16])
def test_split_is_the_construction_of_the_specification(size: int) -> None:
    """LUKS1 1.2.3 section 2.4, written out bit by bit and without our functions."""
    stripes = hashlib.shake_256(b"stripes").digest(size * 3999)
    key = hashlib.shake_256(b"key").digest(size)
    block = [0] * size
    for number in range(3999):
        stripe = stripes[number * size : (number + 1) * size]
        mixed = bytes(one ^ other for one, other in zip(block, stripe, strict=True))
        block = []
        for index in range(-(-size // 32)):
            part = mixed[index * 32 : (index + 1) * 32]
            block += hashlib.sha256(index.to_bytes(4, "big") + part).digest()[: len(part)]
    last = bytes(one ^ other for one, other in zip(block, key, strict=True))
    material = keyslot.split(key, stripes)
    assert material == stripes + last
    assert keyslot.merge(material, size) == key


def test_every_stripe_is_needed() -> None:
    key = bytes(range(64))
    material = keyslot.split(key, hashlib.shake_256(b"").digest(64 * 3999))
    for at in (0, 64 * 2000 + 5, 64 * 3999, 64 * 4000 - 1):
        changed = bytearray(material)
        changed[at] ^= 0x40
        assert keyslot.merge(bytes(changed), 64) != key


def test_sizes_are_checked() -> None:
    slot = Keyslot(Pbkdf2(), SALT)
    calls: tuple[tuple[Callable[[], bytes], str], ...] = (
        (lambda: keyslot.split(bytes(64), bytes(10)), "luks2 splitter: 10 random bytes, expected 255936"),
        (lambda: keyslot.merge(bytes(10), 64), "luks2 splitter: 10 bytes, expected 256000"),
        (
            lambda: keyslot.unseal(slot, bytes(255999), b"x", 64),
            "luks2 key slot area: 255999 bytes, 256000 are needed",
        ),
    )
    for call, message in calls:
        with pytest.raises(FormatError) as caught:
            call()
        assert str(caught.value) == message


def test_an_area_is_padded_with_zeros() -> None:
    slot = Keyslot(Pbkdf2(), SALT)
    area = keyslot.seal(slot, bytes(64), b"x", stripes=bytes(64 * 3999), area_size=258048)
    assert len(area) == 258048
    assert not any(area[256000:])
    assert any(area[255000:256000])
    assert keyslot.unseal(slot, area, b"x", 64) == bytes(64)


@settings(max_examples=20)
@given(st.binary(min_size=64, max_size=64), st.binary(max_size=70), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_is_unsealed(key: bytes, passphrase: bytes, salt: bytes) -> None:
    slot = Keyslot(Pbkdf2(1000), salt)
    stripes = hashlib.shake_256(salt).digest(64 * 3999)
    area = keyslot.seal(slot, key, passphrase, stripes=stripes, area_size=258048)
    assert keyslot.unseal(slot, area, passphrase, 64) == key
    digest = keyslot.digest_of(key, Pbkdf2(1000), salt)
    assert keyslot.is_key(key, digest)
    assert not keyslot.is_key(bytes([key[0] ^ 1]) + key[1:], digest)
