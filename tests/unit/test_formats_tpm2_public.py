from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given, settings

from recipes.errors import FormatError
from recipes.formats.tpm2 import Alg
from recipes.formats.tpm2_nv import NvAttribute, NvPublic, read_nv_public, rollback_counter
from recipes.formats.tpm2_public import (
    ENDORSEMENT_ATTRIBUTES,
    ENDORSEMENT_POLICY,
    Attribute,
    Curve,
    EccKey,
    RsaKey,
    Scheme,
    endorsement_public,
    external_public,
    read_public,
    read_sized_public,
    stored_key,
)
from tests.unit.tpm2_vectors import KEYS, RECORD, field, mutations, public

SPEC = " [TCG TPM 2.0 Library part 2]"
RSA, ECC = field("rsassa", "public")[2:], field("ecdsa", "public")[2:]
ENDORSEMENT = field("ek-rsa", "public")[2:]


def patched(data: bytes, at: int, new: str) -> bytes:
    return data[:at] + bytes.fromhex(new) + data[at + len(new) // 2 :]


@pytest.mark.parametrize("key", KEYS)
def test_names_are_those_of_the_tpm(key: str) -> None:
    read = read_sized_public(field(key, "public"), key)
    assert read.name == field(key, "name")
    assert read.pack() == field(key, "public")[2:]


def test_fields_of_an_attestation_key() -> None:
    read = public("ecdsa-sha384")
    assert read.scheme == Scheme(Alg.ECDSA, Alg.SHA384)
    assert read.symmetric.key_bits == 0
    assert isinstance(read.key, EccKey)
    assert read.key.curve is Curve.NIST_P256
    restricted = Attribute.RESTRICTED | Attribute.SIGN | Attribute.USER_WITH_AUTH
    assert (
        read.attributes
        == Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN | restricted
    )


@pytest.mark.parametrize("family", ["rsa", "ecc"])
def test_a_certified_key_is_a_default_endorsement_key(family: str) -> None:
    read = public(f"ek-{family}")
    assert read.policy == ENDORSEMENT_POLICY
    assert read.attributes == ENDORSEMENT_ATTRIBUTES
    assert endorsement_public(read.public_key()) == read
    assert endorsement_public(read.public_key()).name == field(f"ek-{family}", "name")


@pytest.mark.parametrize("family", ["rsa", "ecc"])
def test_a_key_from_a_file_has_the_name_it_gets_when_loaded(family: str) -> None:
    key = load_pem_public_key(KEYS[f"external-{family}"]["pem"].encode())
    assert isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey))
    assert external_public(key).name == field(f"external-{family}", "name")
    assert external_public(key).public_key() == key


def test_other_keys_are_no_default_endorsement_keys() -> None:
    for key in (rsa.generate_private_key(65537, 3072), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(FormatError, match="not made by template L-1 or L-2"):
            endorsement_public(key.public_key())
    with pytest.raises(FormatError, match="curve secp256k1 is not known here; use P-256"):
        stored_key(ec.generate_private_key(ec.SECP256K1()).public_key())
    with pytest.raises(FormatError, match="RSA-1024 with exponent 65537 does not fit; use RSA-2048"):
        stored_key(rsa.generate_private_key(65537, 1024).public_key())
    with pytest.raises(FormatError, match="nameAlg AES is no hash; use sha256"):
        external_public(public("ek-rsa").public_key(), Alg.AES)


@pytest.mark.parametrize("curve", list(Curve))
def test_every_curve(curve: Curve) -> None:
    key = ec.generate_private_key(curve.curve).public_key()
    read = read_public(external_public(key).pack(), "key")
    assert read.public_key() == key


def test_the_exponent_is_part_of_the_name() -> None:
    read = public("rsassa")
    assert isinstance(read.key, RsaKey)
    assert read.key.exponent == 0
    written = replace(read, key=replace(read.key, exponent=65537))
    assert written.public_key() == read.public_key()
    assert written.name != read.name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "key: offset 0x0: type needs 2 bytes, 0 are left; the data is truncated"),
        (patched(RSA, 0, "0008"), "key: offset 0x0: type is 0x0008, expected 0x0001 (RSA), 0x0023 (ECC)"),
        (
            patched(RSA, 2, "0010"),
            (
                "key: offset 0x2: nameAlg is 0x0010, expected 0x0004 (SHA1), 0x000b (SHA256), "
                "0x000c (SHA384), 0x000d (SHA512)"
            ),
        ),
        (patched(RSA, 4, "80"), "key: offset 0x4: objectAttributes 0x80050072 have reserved bits 0x80000000"),
        (patched(RSA, 7, "73"), "key: offset 0x4: objectAttributes 0x00050073 have reserved bits 0x1"),
        (patched(RSA, 8, "0041"), "key: offset 0x8: authPolicy of 65 bytes, at most 64 are expected"),
        (patched(RSA, 8, "0004"), "key: offset 0x8: authPolicy of 4 bytes, expected none or 32"),
        (
            patched(RSA, 10, "0025"),
            "key: offset 0xa: symmetric is 0x0025, expected 0x0010 (NULL), 0x0006 (AES)",
        ),
        (
            patched(RSA, 12, "0018"),
            (
                "key: offset 0xc: scheme is 0x0018, expected 0x0010 (NULL), 0x0014 (RSASSA), "
                "0x0016 (RSAPSS), 0x0015 (RSAES), 0x0017 (OAEP)"
            ),
        ),
        (patched(RSA, 16, "0400"), "key: offset 0x10: keyBits is 1024, expected 2048, 3072, 4096"),
        (patched(RSA, 16, "0c00"), "key: offset 0x16: modulus is not an odd number of 3072 bits"),
        (patched(RSA, 22, "0101"), "key: offset 0x16: modulus of 257 bytes, at most 256 are expected"),
        (patched(RSA, 24, "7f"), "key: offset 0x16: modulus is not an odd number of 2048 bits"),
        (RSA[:-1] + b"\x02", "key: offset 0x16: modulus is not an odd number of 2048 bits"),
        (RSA[:-1], "key: offset 0x18: modulus needs 256 bytes, 255 are left; the data is truncated"),
        (RSA + b"\0", "key: offset 0x118: 1 bytes follow the structure, expected none"),
        (
            patched(ENDORSEMENT, 44, "0040"),
            "key: offset 0x2c: symmetric keyBits is 64, expected 128, 192 or 256",
        ),
        (
            patched(ENDORSEMENT, 46, "0044"),
            "key: offset 0x2e: symmetric mode is 0x0044, expected 0x0043 (CFB)",
        ),
        (
            patched(ECC, 12, "001a"),
            "key: offset 0xc: scheme is 0x001a, expected 0x0010 (NULL), 0x0018 (ECDSA), 0x0019 (ECDH)",
        ),
        (
            patched(ECC, 16, "0010"),
            (
                "key: offset 0x10: curveID is 0x0010, expected 0x0003 (NIST_P256), 0x0004 (NIST_P384), "
                "0x0005 (NIST_P521)"
            ),
        ),
        (patched(ECC, 18, "0020"), "key: offset 0x12: kdf is 0x0020, expected 0x0010 (NULL)"),
        (patched(ECC, 20, "0021"), "key: offset 0x14: x of 33 bytes, at most 32 are expected"),
    ],
)
def test_bad_public_areas(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_public(data, "key")
    assert str(caught.value) == message + SPEC


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\1", "key: offset 0x2: TPM2B_PUBLIC needs 1 bytes, 0 are left; the data is truncated"),
        (b"\0\0\0", "key: offset 0x2: 1 bytes follow the structure, expected none"),
        (b"\xff\xff", "key: offset 0x0: TPM2B_PUBLIC of 65535 bytes, at most 2 are expected"),
    ],
)
def test_bad_sizes(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_sized_public(data, "key")
    assert str(caught.value) == message + SPEC


def test_numbers_that_are_no_key() -> None:
    off_curve = read_public(ECC[:-1] + bytes([ECC[-1] ^ 1]), "key")
    with pytest.raises(FormatError, match=r"key: the numbers are no public key \("):
        off_curve.public_key("key")
    even = read_public(patched(RSA, 18, "00010000"), "key")
    with pytest.raises(FormatError, match=r"key: the numbers are no public key \("):
        even.public_key("key")


@settings(max_examples=150)
@given(mutations(RSA, ECC, ENDORSEMENT))
def test_only_format_errors_come_out(data: bytes) -> None:
    try:
        read = read_public(data, "key")
        assert read.pack() == data
        read.public_key()
    except FormatError:
        pass


def test_names_of_a_counter() -> None:
    record = RECORD["counter"]
    counter = rollback_counter(record["index"])
    assert counter.name.hex() == record["defined"]
    assert counter.written().name.hex() == record["written"]
    assert read_nv_public(counter.written().pack(), "counter") == counter.written()


COUNTER = rollback_counter(0x01500016).pack()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01", "counter: offset 0x0: nvIndex needs 4 bytes, 1 are left; the data is truncated"),
        (
            patched(COUNTER, 0, "81"),
            "counter: offset 0x0: nvIndex is 0x81500016, expected 0x01000000 to 0x01ffffff",
        ),
        (patched(COUNTER, 8, "03"), "counter: offset 0x6: attributes 0x02060312 have reserved bits 0x300"),
        (
            patched(COUNTER, 10, "0003"),
            "counter: offset 0xc: authPolicy needs 3 bytes, 2 are left; the data is truncated",
        ),
        (
            patched(COUNTER, 12, "0010"),
            "counter: offset 0xc: dataSize is 16, expected 8 for a counter, at most 2048 otherwise",
        ),
        (COUNTER + b"\0", "counter: offset 0xe: 1 bytes follow the structure, expected none"),
    ],
)
def test_bad_nv_areas(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_nv_public(data, "counter")
    assert str(caught.value) == message + SPEC


def test_an_ordinary_index() -> None:
    index = NvPublic(index=0x01C00002, attributes=NvAttribute.OWNER_WRITE, size=1000, policy=bytes(32))
    assert read_nv_public(index.pack(), "index") == index


@settings(max_examples=100)
@given(mutations(COUNTER))
def test_only_format_errors_come_out_of_nv_areas(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert read_nv_public(data, "counter").pack() == data
