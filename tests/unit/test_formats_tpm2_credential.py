"""Credentials, opened by the TPM's rules written down once more, with hmac and hashlib alone."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings

from recipes.errors import FormatError
from recipes.formats.tpm2 import Alg
from recipes.formats.tpm2_credential import Credential, make_credential, read_credential
from recipes.formats.tpm2_public import Public, Symmetric, endorsement_public, stored_key
from tests.unit.tpm2_vectors import field, mutations, public

NAME = field("ecdsa", "name")
SECRET = b"opened by one TPM"


def kdfa(digest: str, key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """TPM 2.0 Library part 1 section 11.4.10.2, one block after the other."""
    found, counter = b"", 0
    while len(found) < size:
        counter += 1
        block = struct.pack(">I", counter) + label + b"\0" + context + struct.pack(">I", 8 * size)
        found += hmac.digest(key, block, digest)
    return found[:size]


def kdfe(digest: str, shared: bytes, party_u: bytes, party_v: bytes) -> bytes:
    """Section 11.4.10.3, for as many bits as the hash has."""
    return hashlib.new(digest, struct.pack(">I", 1) + shared + b"IDENTITY\0" + party_u + party_v).digest()


def rsa_seed(key: rsa.RSAPrivateKey, encrypted: bytes, digest: str) -> bytes:
    kind = hashes.SHA256() if digest == "sha256" else hashes.SHA384()
    return key.decrypt(encrypted, padding.OAEP(padding.MGF1(kind), kind, b"IDENTITY\0"))


def ecc_seed(key: ec.EllipticCurvePrivateKey, encrypted: bytes, digest: str) -> bytes:
    size = (key.curve.key_size + 7) // 8
    assert encrypted[:2] == encrypted[2 + size : 4 + size] == struct.pack(">H", size)
    x, y = encrypted[2 : 2 + size], encrypted[4 + size :]
    point = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), key.curve)
    shared = key.exchange(ec.ECDH(), point.public_key())
    own = key.public_key().public_numbers().x.to_bytes(size, "big")
    return kdfe(digest, shared, x, own)


def opened(credential: Credential, seed: bytes, name: bytes, digest: str, key_bits: int = 128) -> bytes:
    size = hashlib.new(digest).digest_size
    assert credential.blob[:2] == struct.pack(">H", size)
    integrity, encrypted = credential.blob[2 : 2 + size], credential.blob[2 + size :]
    assert hmac.digest(kdfa(digest, seed, b"INTEGRITY", b"", size), encrypted + name, digest) == integrity
    key = kdfa(digest, seed, b"STORAGE", name, key_bits // 8)
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    plain, previous = b"", bytes(16)
    for at in range(0, len(encrypted), 16):
        piece = encrypted[at : at + 16]
        plain += bytes(a ^ b for a, b in zip(piece, block.update(previous), strict=False))
        previous = piece.ljust(16, b"\0")
    assert plain[:2] == struct.pack(">H", len(plain) - 2)
    return plain[2:]


@pytest.mark.parametrize("size", [1, 14, 15, 30, 32])
def test_an_rsa_endorsement_key_opens_it(size: int) -> None:
    key = rsa.generate_private_key(65537, 2048)
    credential = make_credential(endorsement_public(key.public_key()), NAME, bytes(range(size)))
    seed = rsa_seed(key, credential.encrypted_seed, "sha256")
    assert opened(credential, seed, NAME, "sha256") == bytes(range(size))


@pytest.mark.parametrize(("curve", "bits"), [(ec.SECP256R1, 128), (ec.SECP384R1, 256), (ec.SECP521R1, 256)])
def test_an_ecc_endorsement_key_opens_it(curve: Callable[[], ec.EllipticCurve], bits: int) -> None:
    template = public("ek-ecc")
    for _ in range(4):
        key = ec.generate_private_key(curve())
        stored = stored_key(key.public_key())
        endorsement = replace(
            template, key=stored, symmetric=Symmetric(bits), name_algorithm=Alg.SHA384, policy=bytes(48)
        )
        credential = make_credential(endorsement, NAME, SECRET)
        seed = ecc_seed(key, credential.encrypted_seed, "sha384")
        assert opened(credential, seed, NAME, "sha384", bits) == SECRET


def test_credentials_are_never_the_same() -> None:
    for endorsement in (public("ek-rsa"), public("ek-ecc")):
        first, second = (make_credential(endorsement, NAME, SECRET) for _ in range(2))
        assert first.blob != second.blob
        assert first.encrypted_seed != second.encrypted_seed
        assert SECRET not in first.pack()
        assert SECRET.decode() not in repr(first)


def test_credentials_come_back() -> None:
    credential = make_credential(public("ek-ecc"), NAME, SECRET)
    assert read_credential(credential.pack(), "credential") == credential


NO_STORAGE = replace(public("ek-rsa"), symmetric=Symmetric())
SHA1_NAMED = replace(public("ek-rsa"), name_algorithm=Alg.SHA1)


@pytest.mark.parametrize(
    ("endorsement", "name", "secret", "message"),
    [
        (public("ek-rsa"), NAME, b"", "credential: secret of 0 bytes, expected 1 to 32"),
        (public("ek-rsa"), NAME, bytes(33), "credential: secret of 33 bytes, expected 1 to 32"),
        (public("ek-rsa"), NAME[:-1], b"x", "credential: name of 33 bytes is no nameAlg with its digest"),
        (public("ek-rsa"), b"", b"x", "credential: name of 0 bytes is no nameAlg with its digest"),
        (
            public("ek-rsa"),
            b"\x40\0\0\x0b",
            b"x",
            "credential: name of 4 bytes is no nameAlg with its digest",
        ),
        (NO_STORAGE, NAME, b"x", "endorsement key: it protects nothing; take a restricted decryption key"),
        (SHA1_NAMED, NAME, b"x", "endorsement key: nameAlg is SHA1; take a key named with SHA-256 or longer"),
    ],
)
def test_what_cannot_be_wrapped(endorsement: Public, name: bytes, secret: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        make_credential(endorsement, name, secret)
    assert str(caught.value).startswith(message)


def test_a_secret_is_not_in_a_message() -> None:
    for secret in (b"passphrase " * 3, b"passphrase " * 9):
        with pytest.raises(FormatError) as caught:
            make_credential(NO_STORAGE if len(secret) < 34 else public("ek-rsa"), NAME, secret)
        assert "passphrase" not in str(caught.value)


@settings(max_examples=100)
@given(mutations(Credential(bytes(34) + bytes(range(16)), bytes(68)).pack()))
def test_only_format_errors_come_out(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert read_credential(data, "credential").pack() == data
