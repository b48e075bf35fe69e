from __future__ import annotations

import base64
import json

import pytest

from recipes.errors import FormatError
from recipes.formats import luks2
from recipes.formats.luks2_model import Expected, KdfBounds, Pbkdf2, TokenShape
from recipes.formats.luks2_template import matches, template
from recipes.formats.tpm2_token import (
    DEFAULT_BLOB_SIZE,
    blob_place,
    literal_shape,
    signed_shape,
)
from tests.unit import luks2_forgeries as forge

PEM = b"-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n"
PEM64 = "LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0KTUlJQgotLS0tLUVORCBQVUJMSUMgS0VZLS0tLS0K"
POLICY = bytes(range(32))
BLOB = "Bl0b" * 80  # the base64 of 240 bytes


def volume(shape: TokenShape, *values: str) -> tuple[Expected, bytes]:
    expected = Expected(keyslots=(KdfBounds(Pbkdf2(1000)),), tokens=(shape,))
    data = luks2.format(
        expected,
        uuid=forge.VOLUME_UUID,
        seed=luks2.Seed(bytes(32)),
        volume_key=forge.VOLUME_KEY,
        passphrases=[forge.PASSPHRASE],
        tokens=[values],
    )
    return expected, data


def text_of(data: bytes) -> str:
    """The token as it stands in the primary copy."""
    text = data[4096:16384].rstrip(b"\0").decode()
    return text.partition('"tokens":{"0":')[2].partition('},"segments"')[0]


def test_a_signed_token_is_systemds() -> None:
    _, data = volume(signed_shape(PEM, POLICY), BLOB)
    assert text_of(data) == (
        f'{{"type":"systemd-tpm2","keyslots":["0"],"tpm2-blob":"{BLOB}","tpm2-pcrs":[],"tpm2-pcr-bank":"sha256",'
        f'"tpm2-primary-alg":"ecc","tpm2-policy-hash":"{POLICY.hex()}","tpm2-pin":false,'
        f'"tpm2_pubkey_pcrs":[11],"tpm2_pubkey":"{PEM64}"}}'
    )
    assert base64.b64decode(json.loads(text_of(data))["tpm2_pubkey"]) == PEM


def test_a_token_with_a_counter_is_our_own() -> None:
    _, data = volume(signed_shape(PEM, POLICY, counter=0x01801C00), BLOB)
    assert text_of(data).startswith('{"type":"goldsmith-tpm2","keyslots":["0"],"tpm2-blob":"Bl0b')
    assert text_of(data).endswith(f'"tpm2_pubkey":"{PEM64}","counter":25172992}}')


def test_a_literal_token_has_its_registers_and_any_policy() -> None:
    shape = literal_shape((4, 7, 11))
    expected, data = volume(shape, BLOB, POLICY.hex())
    assert text_of(data) == (
        f'{{"type":"systemd-tpm2","keyslots":["0"],"tpm2-blob":"{BLOB}","tpm2-pcrs":[4,7,11],'
        f'"tpm2-pcr-bank":"sha256","tpm2-primary-alg":"ecc","tpm2-policy-hash":"{POLICY.hex()}","tpm2-pin":false}}'
    )
    _, other = volume(shape, BLOB[::-1].replace("=", "A"), "ab" * 32)
    assert matches(other, template(expected))
    with pytest.raises(FormatError, match="hex"):
        volume(shape, BLOB, "AB" * 32)


@pytest.mark.parametrize(("size", "text"), [(240, BLOB), (241, "A" * 322 + "=="), (242, "A" * 323 + "=")])
@pytest.mark.parametrize("counter", [None, 0x01801C00])
def test_where_the_blob_stands(size: int, text: str, counter: int | None) -> None:
    expected, data = volume(signed_shape(PEM, POLICY, blob_size=size, counter=counter), text.rstrip("="))
    offset, length = blob_place(expected)
    assert data[offset : offset + length].decode() == text
    assert data[offset - 13 : offset] == b'"tpm2-blob":"'
    assert data[offset + length : offset + length + 1] == b'"'
    assert len(base64.b64decode(text)) == size


def test_the_size_that_is_assumed() -> None:
    """As the reference implementation makes it; a test with a software TPM measures it."""
    assert DEFAULT_BLOB_SIZE == 240


def test_a_blob_has_one_place() -> None:
    two = Expected(tokens=(signed_shape(PEM, POLICY), literal_shape([7])))
    for expected, count in ((forge.PLAIN, 0), (forge.OWNED, 0), (two, 2)):
        with pytest.raises(FormatError) as caught:
            blob_place(expected)
        assert str(caught.value) == f"tpm2 token: {count} tokens have a sealed blob, expected one"


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        ((), "registers none, expected some of 0 to 23, ascending, each once"),
        ((7, 4), "registers 7,4, expected some of 0 to 23, ascending, each once"),
        ((4, 4), "registers 4,4, expected some of 0 to 23, ascending, each once"),
        ((24,), "registers 24, expected some of 0 to 23, ascending, each once"),
        ((-1, 4), "registers -1,4, expected some of 0 to 23, ascending, each once"),
        ((4, 16), "PCR 16 can be reset by software and binds nothing; leave it out"),
        ((23,), "PCR 23 can be reset by software and binds nothing; leave it out"),
    ],
)
def test_registers_that_bind_nothing(registers: tuple[int, ...], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        literal_shape(registers)
    assert str(caught.value) == f"tpm2 token: {message}"


@pytest.mark.parametrize(
    ("pem", "policy", "size", "counter", "message"),
    [
        (PEM, POLICY[:-1], 240, None, "policy of 31 bytes, expected 32 (SHA-256)"),
        (PEM, POLICY, 127, None, "blob of 127 bytes, expected 128 to 1024"),
        (PEM, POLICY, 1025, None, "blob of 1025 bytes, expected 128 to 1024"),
        (PEM, POLICY, 240, 0x81000001, "counter 0x81000001, expected an NV index: 0x1000000 to 0x1ffffff"),
        (PEM, POLICY, 240, -1, "counter -0x1, expected an NV index: 0x1000000 to 0x1ffffff"),
        (b"MIIB", POLICY, 240, None, "the key is no PEM public key; write a SubjectPublicKeyInfo"),
        (PEM + b"\xff", POLICY, 240, None, "the key is no PEM public key; write a SubjectPublicKeyInfo"),
    ],
)
def test_tokens_that_are_none(
    pem: bytes, policy: bytes, size: int, counter: int | None, message: str
) -> None:
    with pytest.raises(FormatError) as caught:
        signed_shape(pem, policy, blob_size=size, counter=counter)
    assert str(caught.value) == f"tpm2 token: {message}"
