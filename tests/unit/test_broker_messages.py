from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.broker.messages import ChallengeRequest, read_activate, read_attest, read_challenge
from recipes.broker.protocol import MAX_BODY, PROTOCOL
from recipes.broker.refusal import MAX_REASON, RefusedError
from tests.unit.test_broker_guest import Guest, b64
from tests.unit.tpm2_vectors import mutations

SESSION = "5e" * 16
READERS = (read_challenge, read_activate, read_attest)
ATTEST = Guest().evidence({"session": SESSION, "nonce": b64(bytes(32))})
CHALLENGE: dict[str, Any] = {"schema": 1, "volume": "data", "machine": "q35"}
ACTIVATE: dict[str, Any] = {
    "schema": 1,
    "session": SESSION,
    "ak_public": b64(b"key"),
    "ek_certificates": [b64(b"one"), b64(b"two")],
}
OPTIONAL = {
    "measure_log": b64(b"log"),
    "activation": b64(b"answer"),
    "report": b64(b"report"),
    "report_certificates": b64(b"table"),
}


def text(value: object) -> bytes:
    return json.dumps(value).encode()


def test_requests() -> None:
    assert read_challenge(text(CHALLENGE)) == ChallengeRequest("data", "q35")
    assert read_challenge(b'{"schema":1,"volume":"a"}') == ChallengeRequest("a")
    assert read_activate(text(ACTIVATE)).ek_certificates == (b"one", b"two")
    plain = read_attest(text(ATTEST))
    assert (plain.measure_log, plain.activation) == (None, b"")
    assert (plain.report, plain.report_certificates) == (b"", b"")
    full = read_attest(text(ATTEST | OPTIONAL))
    assert (full.measure_log, full.activation) == (b"log", b"answer")
    assert (full.report, full.report_certificates) == (b"report", b"table")
    assert full.session == SESSION


BAD_CHALLENGES = [
    (b"", "body: no JSON: Expecting value: line 1 column 1 (char 0)"),
    (b"\xff", "body: not UTF-8 at byte 0"),
    (b"[]", "body: not a JSON object"),
    (b"{}", "body: 'schema' is missing"),
    (b'{"schema":2}', "body: schema 2; this version reads schema 1"),
    (b'{"schema":true}', "body: 'schema' is not a whole number from 0 to 2**64-1"),
    (b'{"schema":1}', "volume: 'volume' is missing"),
    (b'{"schema":1,"volume":1}', "volume: 'volume' is not a string"),
    (b'{"schema":1,"volume":"a\\n"}', "volume: 'volume' holds a character that is not printable"),
    *(
        (
            text({"schema": 1, "volume": name}),
            "volume: not a volume's name; use letters, digits, '.', '_' and '-'",
        )
        for name in ("", ".", "..", "../data", "a/b", "-a", "\N{GREEK SMALL LETTER ALPHA}", "a" * 65)
    ),
    (b'{"schema":1,"volume":"a","volume":"a"}', "body: no JSON: a key is written twice in one object"),
    (
        b'{"schema":1,"volume":"a","x":1}',
        "body: 'x' is unknown; remove it or use a newer version",
    ),
    (b'{"schema":1,"volume":"a","machine":""}', "machine: 0 characters, expected 1 to 128"),
    (text({"schema": 1, "volume": "a", "machine": "m" * 129}), "machine: 129 characters, expected 1 to 128"),
    (b'{"schema":1,"volume":"a","machine":null}', "machine: 'machine' is not a string"),
]


@pytest.mark.parametrize(("body", "error"), BAD_CHALLENGES)
def test_bad_challenges(body: bytes, error: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read_challenge(body)
    assert str(caught.value) == error
    assert caught.value.status == 400


def test_deep_nesting_is_no_crash() -> None:
    with pytest.raises(RefusedError) as caught:
        read_challenge(b"[" * 200_000)
    assert (caught.value.status, caught.value.field) == (400, "body")
    assert len(caught.value.reason) <= MAX_REASON + 4


def test_a_body_that_is_too_large() -> None:
    with pytest.raises(RefusedError) as caught:
        read_attest(bytes(MAX_BODY + 1))
    assert caught.value.status == 413
    assert str(caught.value) == "body: 655361 bytes; at most 655360 are read"


NOT_BASE64 = "not base64 as RFC 4648 section 4 has it, with padding"
BAD_FIELDS = [
    ("session", "5E" * 16, "not 32 lower-case hexadecimal digits"),
    ("session", "5e" * 15, "not 32 lower-case hexadecimal digits"),
    ("session", 5, "'session' is not a string"),
    ("quote", 5, "not a string"),
    ("quote", None, "not a string"),
    *(("quote", value, NOT_BASE64) for value in ("AA", "AB==", "AA==AA==", "A A=", "AA==\n", "_-==", "\xe4")),
    ("quote", b64(bytes(4097)), "4097 bytes; at most 4096 are read"),
    ("quote", b64(bytes(5000)), "6668 characters of base64; at most 4096 bytes are read"),
    ("signature", b64(bytes(1025)), "1025 bytes; at most 1024 are read"),
    ("ak_public", b64(bytes(1025)), "1025 bytes; at most 1024 are read"),
    ("event_log", b64(bytes(262145)), "262145 bytes; at most 262144 are read"),
    ("measure_log", b64(bytes(65537)), "65537 bytes; at most 65536 are read"),
    ("activation", b64(bytes(65)), "65 bytes; at most 64 are read"),
    ("report", b64(bytes(4097)), "4097 bytes; at most 4096 are read"),
    ("report_certificates", b64(bytes(16385)), "16385 bytes; at most 16384 are read"),
    *(
        ("ephemeral", b64(value), "not an uncompressed point on P-256, 65 bytes that start with 04")
        for value in (b"", b"\x04" + bytes(63), b"\x02" + bytes(64), b"\x02" + bytes(32))
    ),
]


@pytest.mark.parametrize(("field", "value", "reason"), BAD_FIELDS)
def test_bad_fields(field: str, value: object, reason: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read_attest(text(ATTEST | OPTIONAL | {field: value}))
    assert str(caught.value) == f"{field}: {reason}"
    assert caught.value.status == 400


@pytest.mark.parametrize("field", sorted(set(ATTEST) - {"schema"}))
def test_missing_fields(field: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read_attest(text({key: value for key, value in ATTEST.items() if key != field}))
    assert str(caught.value) == f"{field}: {field!r} is missing"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "0 certificates, expected 1 to 4"),
        (["AAAA"] * 5, "5 certificates, expected 1 to 4"),
        ("AAAA", "'ek_certificates' is not a list"),
        ([1], "not a string"),
        ([b64(bytes(4097))], "4097 bytes; at most 4096 are read"),
    ],
)
def test_bad_certificates(value: object, reason: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read_activate(text(ACTIVATE | {"ek_certificates": value}))
    assert str(caught.value) == f"ek_certificates: {reason}"


SAMPLES = (text(CHALLENGE), text(ACTIVATE), text(ATTEST | OPTIONAL))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(body=mutations(*SAMPLES))
def test_changed_requests_are_read_or_refused(body: bytes) -> None:
    for reader in READERS:
        try:
            reader(body)
        except RefusedError as error:
            assert error.status == 400


@settings(max_examples=150)
@given(field=st.sampled_from(sorted({*ATTEST, *OPTIONAL, *CHALLENGE, *ACTIVATE})), value=JSON)
def test_any_json_in_a_field_is_read_or_refused(field: str, value: object) -> None:
    for reader, sample in zip(READERS, (CHALLENGE, ACTIVATE, ATTEST | OPTIONAL), strict=True):
        try:
            reader(text(sample | {field: value}))
        except RefusedError as error:
            assert error.status == 400


def test_the_protocol_names_every_field() -> None:
    for field in {*ATTEST, *OPTIONAL, *CHALLENGE, *ACTIVATE, "nonce", "expires", "selection", "credential"}:
        assert f'"{field}"' in PROTOCOL or f'"{field}":' in PROTOCOL, field
