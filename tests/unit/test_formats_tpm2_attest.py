from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, VerifyError
from recipes.formats.tpm2 import Alg, PcrSelection
from recipes.formats.tpm2_attest import TPM_GENERATED, Attest, AttestType, ClockInfo, QuoteInfo, read_attest
from recipes.formats.tpm2_signature import EccSignature, RsaSignature, read_signature, verify_signature
from tests.unit.tpm2_vectors import ATTESTATION_KEYS, NONCE, RECORD, field, mutations, public

SPEC = " [TCG TPM 2.0 Library part 2]"
QUOTE = field("rsassa", "message")
SIGNATURES = [field(key, "signature") for key in ATTESTATION_KEYS]


def test_fields_of_a_quote() -> None:
    attest = read_attest(QUOTE, "quote")
    assert (attest.magic, attest.type) == (TPM_GENERATED, AttestType.QUOTE)
    assert attest.extra_data == NONCE
    assert attest.qualified_signer[:2] == b"\0\x0b"
    assert (attest.clock.reset_count, attest.clock.restart_count, attest.clock.safe) == (1, 0, 1)
    quote = attest.quote()
    assert quote.selections == (PcrSelection(Alg.SHA256, (4, 7, 11)), PcrSelection(Alg.SHA384, (11,)))
    assert len(quote.digest) == 32
    assert attest.pack() == QUOTE
    assert quote.pack() == attest.body


def test_a_certification_is_read_and_is_no_quote() -> None:
    attest = read_attest(bytes.fromhex(RECORD["certify"]["message"]), "certification")
    assert attest.type == AttestType.CERTIFY
    assert attest.body[2:36] == field("ecdsa", "name")
    with pytest.raises(FormatError):
        attest.quote()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "quote: offset 0x0: magic needs 4 bytes, 0 are left; the data is truncated"),
        (bytes(5000), "quote: offset 0x0: TPMS_ATTEST of 5000 bytes, at most 4096 are read"),
        (QUOTE[:6] + b"\0\x43", "quote: offset 0x6: qualifiedSigner of 67 bytes, at most 66 are expected"),
        (
            QUOTE[:6] + b"\0\0" + b"\0\x10" + NONCE + bytes(16) + b"\x02" + QUOTE[-60:],
            "quote: offset 0x2a: clockInfo safe is 2, expected 0 or 1",
        ),
        (QUOTE[:70], "quote: offset 0x3c: clockInfo needs 17 bytes, 10 are left; the data is truncated"),
        (QUOTE[:80], "quote: offset 0x4d: firmwareVersion needs 8 bytes, 3 are left; the data is truncated"),
    ],
)
def test_bad_attestations(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_attest(data, "quote")
    assert str(caught.value) == message + SPEC


def test_bad_quotes() -> None:
    attest = read_attest(QUOTE, "quote")
    with pytest.raises(FormatError) as caught:
        replace(attest, body=attest.body + b"\0").quote("quote")
    expected = "quote attested: offset 0x32: 1 bytes follow the structure, expected none"
    assert str(caught.value) == expected + SPEC
    with pytest.raises(FormatError, match="pcrDigest of 65 bytes, at most 64 are expected"):
        replace(attest, body=bytes(4) + b"\0\x41" + bytes(65)).quote("quote")


@settings(max_examples=60)
@given(
    st.binary(max_size=66),
    st.binary(max_size=66),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=64),
    st.sets(st.integers(0, 23)),
)
def test_attestations_come_back(
    signer: bytes, nonce: bytes, clock: int, count: int, digest: bytes, registers: set[int]
) -> None:
    quote = QuoteInfo((PcrSelection(Alg.SHA256, tuple(sorted(registers))),), digest)
    attest = Attest(
        type=AttestType.QUOTE,
        qualified_signer=signer,
        extra_data=nonce,
        clock=ClockInfo(clock=clock, reset_count=count, restart_count=count, safe=0),
        firmware_version=clock,
        body=quote.pack(),
    )
    assert read_attest(attest.pack(), "quote") == attest
    assert attest.quote() == quote


@settings(max_examples=150)
@given(mutations(QUOTE, bytes.fromhex(RECORD["certify"]["message"])))
def test_only_format_errors_come_out(data: bytes) -> None:
    try:
        attest = read_attest(data, "quote")
        assert attest.pack() == data
        assert attest.quote().pack() == attest.body
    except FormatError:
        pass


@pytest.mark.parametrize("key", ATTESTATION_KEYS)
def test_signatures_of_a_tpm(key: str) -> None:
    signature = read_signature(field(key, "signature"), key)
    assert signature.pack() == field(key, "signature")
    verify_signature(signature, public(key).public_key(), field(key, "message"), key)
    with pytest.raises(VerifyError) as caught:
        verify_signature(signature, public(key).public_key(), field(key, "message") + b"\0", key)
    assert str(caught.value) == f"{key}: the signature was not made with this key over these bytes"


def test_schemes_are_not_exchanged() -> None:
    """An RSASSA signature is no RSAPSS one, with the same key or another hash."""
    signature = read_signature(field("rsassa", "signature"), "rsassa")
    assert isinstance(signature, RsaSignature)
    key = public("rsassa").public_key()
    for other in (replace(signature, scheme=Alg.RSAPSS), replace(signature, hash=Alg.SHA384)):
        with pytest.raises(VerifyError):
            verify_signature(other, key, QUOTE, "quote")


def test_kinds_of_keys_are_not_exchanged() -> None:
    signature = read_signature(field("rsassa", "signature"), "rsassa")
    with pytest.raises(VerifyError) as caught:
        verify_signature(signature, public("ecdsa").public_key(), QUOTE, "quote")
    assert str(caught.value) == "quote: RSASSA signature, but the key is ECC; take its own key"


def test_sha1_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    value = key.sign(b"x", padding.PKCS1v15(), hashes.SHA1())
    signature = RsaSignature(Alg.RSASSA, Alg.SHA1, value)
    with pytest.raises(VerifyError) as caught:
        verify_signature(signature, key.public_key(), b"x", "quote")
    assert str(caught.value) == "quote: the signature is over SHA1; sign with SHA-256 or longer"


@pytest.mark.parametrize(
    ("r", "s"), [(b"", b""), (b"\0", b"\1"), (b"\xff" * 32, b"\1"), (bytes(66), bytes(66))]
)
def test_numbers_that_no_signature_has(r: bytes, s: bytes) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(VerifyError):
        verify_signature(EccSignature(Alg.SHA256, r, s), key, b"x", "quote")


@pytest.mark.parametrize("size", [0, 1, 255, 257, 512])
def test_signatures_of_another_length(size: int) -> None:
    with pytest.raises(VerifyError):
        verify_signature(
            RsaSignature(Alg.RSASSA, Alg.SHA256, bytes(size)), public("rsassa").public_key(), b"x", "quote"
        )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "signature: offset 0x0: sigAlg needs 2 bytes, 0 are left; the data is truncated"),
        (
            "001a000b",
            (
                "signature: offset 0x0: sigAlg is 0x001a, expected 0x0014 (RSASSA), 0x0016 (RSAPSS), "
                "0x0018 (ECDSA)"
            ),
        ),
        ("0014000b0201", "signature: offset 0x4: sig of 513 bytes, at most 512 are expected"),
        ("0018000b0043", "signature: offset 0x4: signatureR of 67 bytes, at most 66 are expected"),
        (
            "0018000b0001010001",
            "signature: offset 0x9: signatureS needs 1 bytes, 0 are left; the data is truncated",
        ),
        ("0018000b0001010001ffff", "signature: offset 0xa: 1 bytes follow the structure, expected none"),
    ],
)
def test_bad_signatures(data: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_signature(bytes.fromhex(data), "signature")
    assert str(caught.value) == message + SPEC


@settings(max_examples=150)
@given(mutations(*SIGNATURES))
def test_only_format_and_verify_errors_come_out(data: bytes) -> None:
    try:
        signature = read_signature(data, "signature")
    except FormatError:
        return
    assert signature.pack() == data
    for key in ("rsassa", "ecdsa"):
        try:
            verify_signature(signature, public(key).public_key(), b"another message", "quote")
        except VerifyError:
            continue
        pytest.fail("a signature over something else was accepted")
