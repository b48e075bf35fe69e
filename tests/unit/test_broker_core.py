"""A key is released for exactly one kind of request; each attack differs from it in one thing."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.broker.audit import AuditLog
from recipes.broker.core import Broker
from recipes.broker.limits import Rate
from recipes.broker.policy import VolumeRule
from recipes.broker.trust import EnrolledKeys
from recipes.errors import SpecError
from recipes.formats.tpm2 import Alg, sized
from recipes.formats.tpm2_attest import AttestType
from recipes.formats.tpm2_public import Attribute, Scheme
from recipes.golden.manifest import Omitted
from tests.unit.test_broker_guest import (
    CLIENT,
    EVENTS,
    KEY,
    PHASE,
    REGISTERS,
    SELECTION,
    Guest,
    Harness,
    answer,
    b64,
    extended,
    firmware_log,
    golden_machine,
    harness,
    manifest,
    pcr,
    write_keys,
)

__all__ = ["harness"]
Body = dict[str, Any]


def nonce_of(challenge: Body, guest: Guest, volume: str = "data") -> bytes:
    nonce = base64.b64decode(challenge["nonce"])
    return hashlib.sha256(nonce + guest.point + volume.encode()).digest()


def test_the_key_is_released(harness: Harness) -> None:
    assert harness.release() == KEY
    challenged, released = harness.audit
    assert challenged == {
        "time": "2025-06-15T15:06:40.000000Z",
        "request": "challenge",
        "client": CLIENT,
        "session": challenged["session"],
        "volume": "data",
        "result": "challenged",
        "status": 200,
    }
    assert released == {
        "time": "2025-06-15T15:06:40.000000Z",
        "request": "attest",
        "client": CLIENT,
        "session": challenged["session"],
        "volume": "data",
        "machine": "image 1 q35",
        "ak": "host-1",
        "quote": released["quote"],
        "result": "released",
        "status": 200,
    }


def test_a_challenge_says_what_to_quote(harness: Harness) -> None:
    found = harness.challenge()
    assert found["selection"] == SELECTION
    assert found["expires"] == 60
    assert len(base64.b64decode(found["nonce"])) == 32
    assert list(found) == ["schema", "session", "nonce", "expires", "selection"]


def test_nonces_and_sessions_are_new_each_time(harness: Harness) -> None:
    found = [harness.challenge() for _ in range(8)]
    assert len({each["nonce"] for each in found}) == len({each["session"] for each in found}) == 8


def test_a_measure_log_stands_in_for_the_phases(harness: Harness) -> None:
    challenge = harness.challenge()
    record = {
        "pcr": 11,
        "digests": [{"hashAlg": "sha256", "digest": hashlib.sha256(PHASE).hexdigest()}],
        "content": {"string": PHASE.decode()},
        "eventType": "phase",
    }
    body = harness.guest.evidence(challenge)
    body["measure_log"] = b64(b"\x1e" + json.dumps(record).encode() + b"\n")
    assert harness.attest(body).status == 200
    body = harness.guest.evidence(harness.challenge())
    body["measure_log"] = ""
    assert harness.refused(harness.attest(body))[:2] == (403, "event_log")


# One thing about the evidence that is changed, and what is said about it.
def other_nonce(guest: Guest, challenge: Body) -> Body:
    return guest.evidence(challenge, attest=guest.quote(bytes(32)))


def raw_nonce(guest: Guest, challenge: Body) -> Body:
    return guest.evidence(challenge, attest=guest.quote(base64.b64decode(challenge["nonce"])))


def other_volume(guest: Guest, challenge: Body) -> Body:
    return guest.evidence(challenge, "root")


def other_ephemeral(guest: Guest, challenge: Body) -> Body:
    return guest.evidence(challenge) | {"ephemeral": b64(Guest().point)}


def other_key(guest: Guest, challenge: Body) -> Body:
    return Guest(ephemeral=guest.ephemeral).evidence(challenge)


def other_signer(guest: Guest, challenge: Body) -> Body:
    return Guest(ephemeral=guest.ephemeral).evidence(challenge) | {
        "ak_public": b64(sized(guest.public.pack()))
    }


def unrestricted(guest: Guest, challenge: Body) -> Body:
    public = replace(guest.public, attributes=guest.public.attributes & ~Attribute.RESTRICTED)
    return guest.evidence(challenge) | {"ak_public": b64(sized(public.pack()))}


def flipped_quote(guest: Guest, challenge: Body) -> Body:
    body = guest.evidence(challenge)
    quote = bytearray(base64.b64decode(body["quote"]))
    quote[-1] ^= 1
    return body | {"quote": b64(bytes(quote))}


def other_phase(guest: Guest, challenge: Body) -> Body:
    return replace(guest, events=(*guest.events, (11, b"leave-initrd"))).evidence(challenge)


def before_phase(guest: Guest, challenge: Body) -> Body:
    return replace(guest, events=EVENTS).evidence(challenge)


def other_kernel(guest: Guest, challenge: Body) -> Body:
    events = ((4, b"other kernel"), *EVENTS[1:])
    body = replace(guest, events=(*events, (11, PHASE))).evidence(challenge)
    return body | {"event_log": b64(firmware_log(events))}


def two_registers(guest: Guest, challenge: Body) -> Body:
    events = ((4, b"other kernel"), (7, b"none"), *EVENTS[2:])
    body = replace(guest, events=(*events, (11, PHASE))).evidence(challenge)
    return body | {"event_log": b64(firmware_log(events))}


def flipped_log(guest: Guest, challenge: Body) -> Body:
    return guest.evidence(challenge) | {"event_log": b64(firmware_log(((4, b"kerneL"), *EVENTS[1:])))}


def longer_log(guest: Guest, challenge: Body) -> Body:
    return guest.evidence(challenge) | {"event_log": b64(firmware_log((*EVENTS, (7, b"more"))))}


def no_log(guest: Guest, challenge: Body) -> Body:
    return guest.evidence(challenge) | {"event_log": ""}


def fewer_registers(guest: Guest, challenge: Body) -> Body:
    return guest.evidence(challenge, attest=guest.quote(nonce_of(challenge, guest), (4, 11)))


def more_registers(guest: Guest, challenge: Body) -> Body:
    return guest.evidence(challenge, attest=guest.quote(nonce_of(challenge, guest), (*REGISTERS, 16)))


def certification(guest: Guest, challenge: Body) -> Body:
    attest = replace(guest.quote(nonce_of(challenge, guest)), type=AttestType.CERTIFY)
    return guest.evidence(challenge, attest=attest)


def no_tpm(guest: Guest, challenge: Body) -> Body:
    attest = replace(guest.quote(nonce_of(challenge, guest)), magic=0x00544347)
    return guest.evidence(challenge, attest=attest)


OTHER_KERNEL, OTHER_STATE = extended([b"other kernel"]).hex(), extended([b"none"]).hex()
OTHER_PCR4 = f"expected {pcr(4).hex()}, got {OTHER_KERNEL}"
DENIED: dict[Callable[[Guest, Body], Body], tuple[str, str]] = {
    other_nonce: ("nonce", f"expected ????, got {'00' * 32}"),
    raw_nonce: ("nonce", "expected ????, got ????"),
    other_volume: ("nonce", "expected ????, got ????"),
    other_ephemeral: ("nonce", "expected ????, got ????"),
    other_key: ("ak", "not enrolled (its name is 000b????)"),
    unrestricted: ("ak", "not enrolled (its name is 000b????)"),
    other_signer: ("signature", "expected one by the key 000b????, got not by it or not over these bytes"),
    flipped_quote: ("signature", "expected one by the key 000b????, got not by it or not over these bytes"),
    other_phase: ("event_log", "expected one that replays to ????, got ????"),
    before_phase: ("event_log", "expected one that replays to ????, got ????"),
    flipped_log: ("event_log", "expected one that replays to ????, got ????"),
    longer_log: ("event_log", "expected one that replays to ????, got ????"),
    no_log: ("event_log", "expected one that replays to ????, got ????"),
    other_kernel: ("PCR4", OTHER_PCR4),
    two_registers: ("PCR4", f"{OTHER_PCR4}; PCR7 sha256: expected {pcr(7).hex()}, got {OTHER_STATE}"),
    fewer_registers: ("selection", f"expected {SELECTION}, got sha256:4,11"),
    more_registers: ("selection", f"expected {SELECTION}, got {SELECTION},16"),
    certification: ("quote", "expected 0x8018 (QUOTE), got 0x8017 (CERTIFY)"),
    no_tpm: ("quote", "expected 0xff544347, got 0x00544347"),
}


@pytest.mark.parametrize("attack", DENIED, ids=lambda attack: attack.__name__)
def test_evidence_that_differs_in_one_thing_is_denied(
    harness: Harness, attack: Callable[[Guest, Body], Body]
) -> None:
    assert harness.release() == KEY
    status, field, reason = harness.refused(harness.attest(attack(harness.guest, harness.challenge())))
    expected_field, expected = DENIED[attack]
    assert (status, field) == (403, expected_field)
    parts = expected.split("????")
    assert reason.startswith(parts[0])
    assert reason.endswith(parts[-1])
    assert all(part in reason for part in parts)
    assert harness.release() == KEY


def test_a_log_is_not_parsed_for_somebody_unknown(harness: Harness) -> None:
    """Of two wrong things, the one is named that costs less and believes less."""
    for attack in (other_key, other_signer, other_nonce, fewer_registers):
        body = attack(harness.guest, harness.challenge()) | {"event_log": b64(b"no log")}
        assert harness.refused(harness.attest(body))[:2] == (403, DENIED[attack][0])
    body = harness.guest.evidence(harness.challenge()) | {"event_log": b64(b"no log")}
    assert harness.refused(harness.attest(body))[:2] == (400, "event_log")


def test_a_guest_is_held_to_the_machine_that_it_named(tmp_path: Path) -> None:
    machines = (golden_machine(), golden_machine("q35-2", PCR4=extended([b"other kernel"])))
    harness = Harness(tmp_path, golden=(manifest(*machines),))
    for machine, status in (("q35-2", 200), ("", 200), ("q35", 403)):
        challenge = harness.challenge(**({"machine": machine} if machine else {}))
        assert harness.attest(other_kernel(harness.guest, challenge)).status == status
    assert harness.audit[-1]["machine"] == "q35"


def test_a_reason_is_bounded(harness: Harness) -> None:
    reply = harness.post("/v1/challenge", {"schema": 1, "volume": "data", "x" * 100_000: 1})
    assert harness.refused(reply)[:2] == (400, "body")
    assert len(reply.body) < 1000
    assert len(harness.lines[-1]) < 1000


def test_a_quote_is_good_once(harness: Harness) -> None:
    challenge = harness.challenge()
    body = harness.guest.evidence(challenge)
    assert harness.attest(body).status == 200
    found = harness.refused(harness.attest(body))
    assert found == (401, "session", "unknown or used already; begin with a new challenge")
    fresh = harness.challenge()
    replayed = harness.refused(harness.attest(body | {"session": fresh["session"]}))
    assert replayed[:2] == (403, "nonce")


def test_a_failed_try_ends_the_session(harness: Harness) -> None:
    challenge = harness.challenge()
    assert harness.attest(other_nonce(harness.guest, challenge)).status == 403
    assert harness.refused(harness.attest(harness.guest.evidence(challenge)))[:2] == (401, "session")


def test_a_session_expires(harness: Harness) -> None:
    challenge = harness.challenge()
    harness.time.seconds += 59.9
    assert harness.attest(harness.guest.evidence(challenge)).status == 200
    challenge = harness.challenge()
    harness.time.seconds += 60
    found = harness.refused(harness.attest(harness.guest.evidence(challenge)))
    assert found == (401, "session", "expired, it lives 60 s; begin with a new challenge")


def test_sessions_are_bounded(tmp_path: Path) -> None:
    harness = Harness(tmp_path, sessions=3, sessions_per_client=2)
    first = harness.challenge()
    harness.challenge()
    request = {"schema": 1, "volume": "data"}
    found = harness.refused(harness.post("/v1/challenge", request))
    assert found == (429, "session", "2 of yours are open; use them or wait")
    harness.challenge(client="192.0.2.8")
    found = harness.refused(harness.post("/v1/challenge", request, "192.0.2.9"))
    assert found == (429, "session", "3 are open; try again later")
    assert harness.attest(harness.guest.evidence(first)).status == 200
    harness.challenge(client="192.0.2.9")
    harness.time.seconds += 60
    for _ in range(2):
        harness.challenge()


def test_rates_are_bounded(tmp_path: Path) -> None:
    harness = Harness(tmp_path, rate=Rate(1, 3), rate_per_client=Rate(0.5, 2))
    admit = harness.broker.admit
    assert [admit(CLIENT) for _ in range(2)] == [None, None]
    reply = admit(CLIENT)
    assert reply is not None
    expected = "this client asks more than 0.5 times a second; wait and try again"
    assert harness.refused(reply) == (429, "rate", expected)
    again = admit(CLIENT)
    assert again is not None
    assert again.status == 429
    # A flood is one line.
    assert len(harness.lines) == 1
    assert admit("192.0.2.8") is None
    reply = admit("192.0.2.9")
    assert reply is not None
    expected = "all clients together ask more than 1 times a second; wait and try again"
    assert harness.refused(reply) == (429, "rate", expected)
    harness.time.seconds += 2
    assert admit(CLIENT) is None
    assert admit("192.0.2.9") is None


def test_rules_name_machines_and_attestation_keys(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys", data=KEY, root=KEY[::-1])
    other = Guest()
    harness = Harness(
        tmp_path,
        golden=(manifest(golden_machine(), golden_machine("q35-2", PCR4=extended([b"other kernel"]))),),
        rules=(
            VolumeRule(volume="data", machines=("q35",), attestation_keys=("host-1",)),
            VolumeRule(volume="root", machines=("q35-2",)),
        ),
    )
    trust = EnrolledKeys({"host-1": harness.guest.public, "host-2": other.public})
    broker = Broker(replace(harness.config, trust=trust), AuditLog(harness.lines.append))
    harness.broker = broker
    assert harness.release() == KEY
    found = harness.refused(harness.attest(other.evidence(harness.challenge())))
    assert found == (403, "volume", "data is not for the attestation key host-2")
    found = harness.refused(harness.attest(harness.guest.evidence(harness.challenge("root"), "root")))
    assert found == (403, "PCR4", f"expected {OTHER_KERNEL}, got {pcr(4).hex()}")
    events = ((4, b"other kernel"), *EVENTS[1:], (11, PHASE))
    challenge = harness.challenge("root", machine="q35-2")
    body = replace(other, events=events).evidence(challenge, "root")
    body["event_log"] = b64(firmware_log(events[:-1]))
    reply = harness.attest(body)
    assert other.unwrap(challenge, answer(reply), "root") == KEY[::-1]
    assert harness.audit[-1]["machine"] == "image 1 q35-2"
    reply = harness.post("/v1/challenge", {"schema": 1, "volume": "data", "machine": "q35-2"})
    assert harness.refused(reply) == (404, "machine", "'q35-2' is none of volume data's machines")


def test_several_volumes_need_rules(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys", data=KEY, root=KEY[::-1])
    with pytest.raises(SpecError) as caught:
        Harness(tmp_path)
    what = "has 2 volumes; say with --rules which machines may have which"
    assert str(caught.value) == f"{tmp_path / 'keys'} {what}"
    assert Harness(tmp_path, rules=(VolumeRule(volume="root"),)).release("root") == KEY[::-1]


def test_what_is_accepted_is_said_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = golden_machine()
    kept = tuple(row for row in machine.registers if row.register != "PCR2")
    reason = "q35: whether a card brings an option ROM is not known"
    omitted = (Omitted(register="PCR2", reason=reason),)
    golden = (manifest(replace(machine, registers=kept, omitted=omitted)),)
    with pytest.raises(SpecError, match="accept that with --accept-omitted"):
        Harness(tmp_path, golden=golden)
    caplog.clear()
    harness = Harness(tmp_path, golden=golden, accept_omitted=True)
    assert harness.challenge()["selection"] == "sha256:0,4,7,9,11,12"
    expected = (
        "machine q35: PCR1, PCR2 are not in the golden manifest (no value to enforce in the bank sha256; "
        f"{reason}); a host's ACPI tables or boot order or option ROM would not be seen"
    )
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_the_next_release_may_have_the_same_key(tmp_path: Path) -> None:
    following = manifest(golden_machine(PCR4=extended([b"other kernel"])), version="2")
    harness = Harness(tmp_path, golden=(manifest(), following))
    assert harness.release() == KEY
    challenge = harness.challenge()
    assert harness.attest(other_kernel(harness.guest, challenge)).status == 200
    assert harness.audit[-1]["machine"] == "image 2 q35"


def test_a_machine_is_named_where_registers_differ(tmp_path: Path) -> None:
    harness = Harness(tmp_path, golden=(manifest(golden_machine(), golden_machine("more", PCR13=bytes(32))),))
    reply = harness.post("/v1/challenge", {"schema": 1, "volume": "data"})
    assert harness.refused(reply) == (400, "machine", "say which; not all have the same registers: more, q35")
    assert harness.challenge(machine="more")["selection"] == f"{SELECTION},13"
    assert harness.challenge(machine="q35")["selection"] == SELECTION


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("POST", "/", 404, "path: unknown; use /v1/challenge"),
        ("POST", "/v1/attest/", 404, "path: unknown; use /v1/challenge"),
        ("GET", "/v1/challenge", 400, "method: not known here; use POST"),
    ],
)
def test_other_requests(harness: Harness, method: str, path: str, status: int, error: str) -> None:
    reply = harness.broker.handle(method, path, b"", CLIENT)
    assert (reply.status, answer(reply)["error"]) == (status, error)
    assert harness.audit[-1]["result"] == "refused"


def test_an_unknown_volume(harness: Harness) -> None:
    reply = harness.post("/v1/challenge", {"schema": 1, "volume": "root"})
    assert harness.refused(reply) == (404, "volume", "root is not kept here")


@pytest.mark.parametrize(
    ("field", "data", "error"),
    [
        (
            "quote",
            b"",
            "quote: TPMS_ATTEST: offset 0x0: magic needs 4 bytes, 0 are left; the data is truncated",
        ),
        ("signature", b"\0\0", "signature: TPMT_SIGNATURE: offset 0x0: sigAlg is 0x0000, expected"),
        ("ak_public", b"\0", "ak_public: TPM2B_PUBLIC size needs 2 bytes, 1 are left; the data is truncated"),
        ("ephemeral", b"\x04" + bytes(64), "ephemeral: not a point on P-256"),
        (
            "event_log",
            bytes(31) + b"\1",
            "event_log: event log: offset 0x20: event data of 16777216 bytes, 0 are left",
        ),
        ("measure_log", b"{}", "measure_log: measurement log: offset 0x0: starts with 7b, expected 1e; "),
    ],
)
def test_bytes_that_do_not_parse(harness: Harness, field: str, data: bytes, error: str) -> None:
    """A quote that is none is signed by the right key, as no quote is looked at before."""
    challenge = harness.challenge()
    body = harness.guest.evidence(challenge) | {field: b64(data)}
    if field == "quote":
        body["signature"] = b64(harness.guest.sign(data))
    reply = harness.attest(body)
    assert harness.refused(reply)[:2] == (400, field)
    assert answer(reply)["error"].startswith(error)


def test_a_signature_of_another_scheme(harness: Harness) -> None:
    public = replace(harness.guest.public, scheme=Scheme(Alg.ECDSA, Alg.SHA384))
    body = harness.guest.evidence(harness.challenge())
    harness.broker._trust = EnrolledKeys({"host-1": public})
    body["ak_public"] = b64(sized(public.pack()))
    found = harness.refused(harness.attest(body))
    assert found == (403, "signature", "expected ECDSA with SHA384, got ECDSA with SHA256")


def test_a_key_that_is_gone_is_the_brokers_trouble(harness: Harness) -> None:
    assert harness.release() == KEY
    (harness.config.keys / "data").chmod(0o640)
    reply = harness.attest(harness.guest.evidence(harness.challenge()))
    assert reply.status == 500
    assert answer(reply) == {
        "schema": 1,
        "error": "broker: something is wrong here; its log says what",
        "field": "broker",
    }
    assert harness.audit[-1]["result"] == "failed"
    assert "data: mode 0640 lets others in" in harness.audit[-1]["reason"]


def test_no_line_no_key(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    body = harness.guest.evidence(harness.challenge())
    harness.broker._audit = AuditLog(full)
    with caplog.at_level(logging.ERROR):
        reply = harness.attest(body)
    assert reply.status == 500
    assert set(answer(reply)) == {"schema", "error", "field"}
    assert caplog.messages == ["audit log: No space left on device; make room for it, no key is released"]


def test_nothing_that_is_said_or_logged_holds_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    key = b"this-is-the-key-of-the-data-volume-and-nobody-may-ever-read-it!!"
    write_keys(tmp_path / "keys", data=key)
    harness = Harness(tmp_path)
    replies = []
    with caplog.at_level(logging.DEBUG):
        for change in ({}, {"event_log": ""}, {"quote": "AA=="}, {"x": 1}):
            body = harness.guest.evidence(harness.challenge()) | change
            replies.append(harness.attest(body).body)
        (harness.config.keys / "data").write_bytes(key[:31])
        replies.append(harness.attest(harness.guest.evidence(harness.challenge())).body)
    out = capfd.readouterr()
    said = "".join(harness.lines) + caplog.text + out.out + out.err + repr(harness.broker.__dict__)
    said += b"".join(replies).decode()
    for secret in (key, key[:31]):
        for form in (secret.decode(), secret.hex(), b64(secret).rstrip("=")[:-1], repr(secret)):
            assert form not in said
    quotes = [line for line in harness.audit if "quote" in line]
    assert all(len(line["quote"]) == 64 for line in quotes)
