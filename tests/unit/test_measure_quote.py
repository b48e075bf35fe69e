"""Quotes of a recorded TPM, and quotes that keys of our own make up."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given, settings

from recipes.errors import FormatError, MeasureError
from recipes.formats.eventlog import Event, EventLog, EventType, algorithm
from recipes.formats.tpm2 import Alg, PcrSelection
from recipes.formats.tpm2_attest import Attest, AttestType, QuoteInfo
from recipes.formats.tpm2_public import Attribute, Public, Scheme, stored_key
from recipes.formats.tpm2_signature import RsaSignature
from recipes.measure.quote import (
    Evidence,
    Expectation,
    QuoteError,
    Reason,
    check_attestation_key,
    replay_values,
    verify_quote,
)
from recipes.measure.tpm_policy import PcrValue
from recipes.measure.trace import HashAlgorithm
from recipes.measure.userspace import LogDigest, MeasureLogRecord
from tests.unit.tpm2_vectors import ATTESTATION_KEYS, NONCE, RECORD, field, mutations, pcr_values, public

SHA1, SHA256, SHA384 = HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384
RECORDED = Expectation("recorded", pcr_values(RECORD["pcrs"]))
PRIVATE = rsa.generate_private_key(65537, 2048)
OWN = Public(
    name_algorithm=Alg.SHA256,
    attributes=public("rsassa").attributes,
    key=stored_key(PRIVATE.public_key()),
    scheme=Scheme(Alg.RSASSA, Alg.SHA256),
)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def evidence(key: str) -> Evidence:
    return Evidence(field(key, "message"), field(key, "signature"))


def signed(attest: Attest, key: rsa.RSAPrivateKey = PRIVATE) -> Evidence:
    message = attest.pack()
    value = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return Evidence(message, RsaSignature(Alg.RSASSA, Alg.SHA256, value).pack())


def refusals(
    given: Evidence, key: Public, nonce: bytes = NONCE, *expectations: Expectation
) -> list[tuple[Reason, str, str, str]]:
    with pytest.raises(QuoteError) as caught:
        verify_quote(given, key, nonce, expectations or [RECORDED])
    assert caught.value.refusals
    return [(each.reason, each.field, each.expected, each.found) for each in caught.value.refusals]


@pytest.mark.parametrize("key", ATTESTATION_KEYS)
def test_a_recorded_quote(key: str) -> None:
    verified = verify_quote(evidence(key), public(key), NONCE, [RECORDED])
    assert verified.machine == "recorded"
    assert verified.attest.extra_data == NONCE


@pytest.mark.parametrize("key", ATTESTATION_KEYS)
def test_the_key_must_be_the_one(key: str) -> None:
    other = {"rsassa": "ek-rsa", "rsapss": "ek-rsa", "ecdsa": "ek-ecc", "ecdsa-sha384": "ek-ecc"}[key]
    posing = replace(public(other), attributes=public(key).attributes, scheme=public(key).scheme)
    name = posing.name.hex()
    assert refusals(evidence(key), posing) == [
        (Reason.SIGNATURE, "signature", f"one by the key {name}", "not by it or not over these bytes")
    ]


def test_nonce() -> None:
    wanted = bytes(reversed(NONCE))
    assert refusals(evidence("ecdsa"), public("ecdsa"), wanted) == [
        (Reason.NONCE, "extraData", wanted.hex(), NONCE.hex())
    ]


def test_a_quote_without_a_nonce() -> None:
    body = QuoteInfo((PcrSelection(Alg.SHA256, (11,)),), sha256(bytes(32))).pack()
    made = signed(Attest(type=AttestType.QUOTE, extra_data=b"", body=body))
    expectation = Expectation("q35", (PcrValue(SHA256, 11, bytes(32)),))
    assert refusals(made, OWN, NONCE, expectation) == [(Reason.NONCE, "extraData", NONCE.hex(), "empty")]


@pytest.mark.parametrize(
    ("selections", "shown"),
    [
        ((), "empty"),
        ((PcrSelection(Alg.SHA256, ()),), "sha256:"),
        ((PcrSelection(Alg.SHA256, (11, 12)),), "sha256:11,12"),
        ((PcrSelection(Alg.SHA384, (11,)),), "sha384:11"),
        ((PcrSelection(Alg.SHA256, (11,)), PcrSelection(Alg.SHA1, (11,))), "sha256:11+sha1:11"),
        ((PcrSelection(Alg.SHA256, (11,)), PcrSelection(Alg.SHA1, ())), "sha256:11+sha1:"),
    ],
)
def test_selection(selections: tuple[PcrSelection, ...], shown: str) -> None:
    """The digest alone is not enough: that of one PCR is also that of others with the same value."""
    expectation = Expectation("q35", (PcrValue(SHA256, 11, bytes(32)),))
    body = QuoteInfo(selections, sha256(bytes(32))).pack()
    made = signed(Attest(type=AttestType.QUOTE, extra_data=NONCE, body=body))
    assert refusals(made, OWN, NONCE, expectation) == [(Reason.SELECTION, "pcrSelect", "sha256:11", shown)]


def test_pcr_digest() -> None:
    values = (replace(RECORDED.values[0], value=bytes(32)), *RECORDED.values[1:])
    expected = hashlib.sha384(b"".join(each.value for each in values)).hexdigest()
    found = hashlib.sha384(b"".join(each.value for each in RECORDED.values)).hexdigest()
    assert refusals(evidence("ecdsa-sha384"), public("ecdsa-sha384"), NONCE, Expectation("q35", values)) == [
        (Reason.PCR_DIGEST, "pcrDigest", expected, found)
    ]


def test_one_of_several_machines() -> None:
    values = (replace(RECORDED.values[0], value=bytes(32)), *RECORDED.values[1:])
    machines = [Expectation("other", values), RECORDED]
    assert verify_quote(evidence("ecdsa"), public("ecdsa"), NONCE, machines).machine == "recorded"


def test_magic_and_type() -> None:
    body = QuoteInfo((PcrSelection(Alg.SHA256, (11,)),), sha256(bytes(32))).pack()
    expectation = Expectation("q35", (PcrValue(SHA256, 11, bytes(32)),))
    attest = Attest(type=AttestType.QUOTE, extra_data=NONCE, body=body)
    assert verify_quote(signed(attest), OWN, NONCE, [expectation]).machine == "q35"
    assert refusals(signed(replace(attest, magic=0)), OWN, NONCE, expectation) == [
        (Reason.MAGIC, "magic", "0xff544347", "0x00000000")
    ]
    assert refusals(signed(replace(attest, type=0x8017)), OWN, NONCE, expectation) == [
        (Reason.TYPE, "type", "0x8018 (QUOTE)", "0x8017 (CERTIFY)")
    ]
    assert refusals(signed(replace(attest, type=7)), OWN, NONCE, expectation) == [
        (Reason.TYPE, "type", "0x8018 (QUOTE)", "0x0007")
    ]
    message, signature = (bytes.fromhex(RECORD["certify"][name]) for name in ("message", "signature"))
    certify = Evidence(message, signature)
    assert [each[0] for each in refusals(certify, public("rsassa"))] == [Reason.TYPE]


def test_schemes_must_be_the_keys() -> None:
    found = refusals(evidence("rsapss"), public("rsassa"))
    assert found == [(Reason.SCHEME, "sigAlg", "RSASSA with SHA256", "RSAPSS with SHA256")]
    found = refusals(evidence("ecdsa"), public("ecdsa-sha384"))
    assert found == [(Reason.SCHEME, "sigAlg", "ECDSA with SHA384", "ECDSA with SHA256")]


@pytest.mark.parametrize(
    "attributes",
    [
        OWN.attributes & ~Attribute.RESTRICTED,
        OWN.attributes & ~Attribute.FIXED_TPM,
        OWN.attributes & ~Attribute.FIXED_PARENT,
        OWN.attributes & ~Attribute.SENSITIVE_DATA_ORIGIN,
        OWN.attributes & ~Attribute.SIGN,
        OWN.attributes | Attribute.DECRYPT,
    ],
)
def test_what_is_no_attestation_key(attributes: Attribute) -> None:
    check_attestation_key(OWN)
    with pytest.raises(QuoteError) as caught:
        check_attestation_key(replace(OWN, attributes=attributes))
    assert [each.reason for each in caught.value.refusals] == [Reason.KEY_ATTRIBUTES]
    wanted = "fixed_tpm|fixed_parent|sensitive_data_origin|restricted|sign and not decrypt".replace("_", "")
    assert str(caught.value).endswith(f", expected {wanted}")


@pytest.mark.parametrize(
    ("scheme", "shown"),
    [
        (Scheme(), "NULL"),
        (Scheme(Alg.RSASSA, Alg.SHA1), "RSASSA with SHA1"),
        (Scheme(Alg.OAEP, Alg.SHA256), "OAEP with SHA256"),
    ],
)
def test_what_is_no_signing_scheme(scheme: Scheme, shown: str) -> None:
    with pytest.raises(QuoteError) as caught:
        check_attestation_key(replace(OWN, scheme=scheme))
    (refusal,) = caught.value.refusals
    assert (refusal.reason, refusal.found) == (Reason.KEY_SCHEME, shown)


@pytest.mark.parametrize(
    ("nonce", "expectations", "message"),
    [
        (
            bytes(15),
            [RECORDED],
            (
                "quote: nonce of 15 bytes, expected 16 to 66; take random bytes or a SHA-256 of what "
                "the quote is to bind"
            ),
        ),
        (NONCE, [], "quote: there is nothing to expect, so nothing is accepted; name a machine"),
        (
            NONCE,
            [Expectation("q35", (PcrValue(SHA1, 11, bytes(20)),))],
            "quote: q35: SHA-1 PCRs prove nothing; take the SHA-256 bank",
        ),
        (
            NONCE,
            [Expectation("q35", ())],
            "PCR values: there are none, so they bind nothing; name at least one register",
        ),
        (
            NONCE,
            [
                Expectation("q35", (PcrValue(SHA256, 11, bytes(32)),)),
                Expectation("pc", (PcrValue(SHA256, 4, bytes(32)),)),
            ],
            "quote: pc has sha256:4, q35 has sha256:11; expect the same registers of every machine",
        ),
    ],
)
def test_what_nothing_can_be_compared_with(
    nonce: bytes, expectations: list[Expectation], message: str
) -> None:
    with pytest.raises(MeasureError) as caught:
        verify_quote(evidence("ecdsa"), public("ecdsa"), nonce, expectations)
    assert str(caught.value) == message


LOG = EventLog(
    (algorithm("sha256"),),
    (
        Event(11, EventType.EV_NO_ACTION, {"sha256": sha256(b"note")}, b"note"),
        Event(0, EventType.EV_POST_CODE, {"sha256": sha256(b"firmware")}, b"firmware"),
        Event(11, EventType.EV_IPL, {"sha256": sha256(b"a")}, b"a"),
    ),
    startup_locality=3,
)
RECORDS = (
    MeasureLogRecord(15, (LogDigest("sha256", sha256(b"id")),), "id", "machine-id"),
    MeasureLogRecord(11, (LogDigest("sha256", sha256(b"enter-initrd")),), "enter-initrd", "phase"),
)


def test_replayed_values() -> None:
    values = replay_values(LOG, RECORDS, [PcrSelection(Alg.SHA256, (0, 7, 11))])
    start = bytes(31) + b"\x03"
    assert values == (
        PcrValue(SHA256, 0, sha256(start + sha256(b"firmware"))),
        PcrValue(SHA256, 7, bytes(32)),
        PcrValue(SHA256, 11, sha256(sha256(bytes(32) + sha256(b"a")) + sha256(b"enter-initrd"))),
    )
    with pytest.raises(QuoteError) as caught:
        replay_values(LOG, RECORDS, [PcrSelection(Alg.SHA384, (11,))])
    expected = "quote: event log PCR11 is without one, expected a sha384 digest for every event"
    assert str(caught.value) == expected
    assert replay_values(LOG, RECORDS, [PcrSelection(Alg.SHA384, (9,))])[0].value == bytes(48)


def quoted(*values: bytes) -> Evidence:
    body = QuoteInfo((PcrSelection(Alg.SHA256, (7, 11)),), sha256(b"".join(values))).pack()
    made = signed(Attest(type=AttestType.QUOTE, extra_data=NONCE, body=body))
    return replace(made, log=LOG, records=RECORDS)


def test_registers_are_named_once_the_log_is_confirmed() -> None:
    pcr11 = sha256(sha256(bytes(32) + sha256(b"a")) + sha256(b"enter-initrd"))
    good = Expectation("q35", (PcrValue(SHA256, 7, bytes(32)), PcrValue(SHA256, 11, pcr11)))
    made = quoted(bytes(32), pcr11)
    assert verify_quote(made, OWN, NONCE, [good]).machine == "q35"
    bad = Expectation("pc", (PcrValue(SHA256, 7, b"\7" * 32), PcrValue(SHA256, 11, bytes(32))))
    near = Expectation("virt", (PcrValue(SHA256, 7, b"\7" * 32), PcrValue(SHA256, 11, pcr11)))
    seven = (Reason.REGISTER, "PCR7 sha256", "07" * 32, "00" * 32)
    assert refusals(made, OWN, NONCE, bad) == [
        seven,
        (Reason.REGISTER, "PCR11 sha256", "00" * 32, pcr11.hex()),
    ]
    assert refusals(made, OWN, NONCE, bad, near) == [seven]
    assert verify_quote(made, OWN, NONCE, [bad, near, good]).machine == "q35"


def test_a_lying_log_is_the_reason() -> None:
    """Even where the quote itself has the expected values: what comes along must be true."""
    pcr11 = sha256(sha256(bytes(32) + sha256(b"a")) + sha256(b"enter-initrd"))
    good = Expectation("q35", (PcrValue(SHA256, 7, bytes(32)), PcrValue(SHA256, 11, pcr11)))
    made = quoted(bytes(32), pcr11)
    assert verify_quote(replace(made, log=None, records=()), OWN, NONCE, [good]).machine == "q35"
    for lie in (replace(made, records=()), replace(made, log=replace(LOG, events=LOG.events[:1]))):
        (refusal,) = refusals(lie, OWN, NONCE, good)
        assert refusal[0] is Reason.EVENT_LOG
        assert refusal[2] == f"one that replays to {sha256(bytes(32) + pcr11).hex()}"
    (refusal,) = refusals(quoted(bytes(32), b"\1" * 32), OWN, NONCE, good)
    assert refusal[0] is Reason.EVENT_LOG


def test_records_without_a_log_prove_nothing() -> None:
    """They are not even looked at; the quote's own digest decides."""
    made = replace(evidence("ecdsa"), records=RECORDS)
    assert verify_quote(made, public("ecdsa"), NONCE, [RECORDED]).machine == "recorded"


@settings(max_examples=120)
@given(mutations(field("ecdsa", "message")))
def test_no_other_message_is_accepted(data: bytes) -> None:
    original = evidence("ecdsa")
    if data == original.attest:
        return
    with pytest.raises((FormatError, QuoteError)):
        verify_quote(replace(original, attest=data), public("ecdsa"), NONCE, [RECORDED])


@settings(max_examples=120)
@given(mutations(field("rsassa", "signature")))
def test_no_other_signature_is_accepted(data: bytes) -> None:
    original = evidence("rsassa")
    if data == original.signature:
        return
    with pytest.raises((FormatError, QuoteError)):
        verify_quote(replace(original, signature=data), public("rsassa"), NONCE, [RECORDED])


@settings(max_examples=120)
@given(mutations(field("rsassa", "message")[70:]))
def test_only_known_errors_come_out_of_what_is_signed(data: bytes) -> None:
    """A hostile TPM signs anything."""
    head = field("rsassa", "message")[:70]
    value = PRIVATE.sign(head + data, padding.PKCS1v15(), hashes.SHA256())
    made = Evidence(head + data, RsaSignature(Alg.RSASSA, Alg.SHA256, value).pack())
    try:
        verified = verify_quote(made, OWN, NONCE, [RECORDED])
    except (FormatError, QuoteError):
        return
    assert verified.attest.quote().pack() == field("rsassa", "message")[-len(verified.attest.body) :]
