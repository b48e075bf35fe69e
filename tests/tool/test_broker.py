"""The broker asked by a TPM: swtpm with tpm2-tools quotes and activates, over HTTPS on a loopback address.

The TPM is software, so none of this proves any hardware: it proves that what a TPM says is understood, and
that a request which differs from a good one in one thing gets no key. Every attack first sees a key released.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from recipes.broker.audit import AuditLog
from recipes.broker.config import BrokerConfig
from recipes.broker.limits import Rate
from recipes.broker.policy import VolumeRule
from recipes.broker.protocol import MAX_BODY
from recipes.broker.server import running
from recipes.broker.trust import EndorsedKeys, EnrolledKeys, KeyTrust
from tests.support import require_tool
from tests.tool.software_tpm import SoftwareTpm
from tests.unit.test_broker_guest import (
    EVENTS,
    KEY,
    PHASE,
    SELECTION,
    Guest,
    Ticks,
    b64,
    firmware_log,
    golden_machine,
    manifest,
    write_keys,
)
from tests.unit.test_broker_server import ask, write_certificate

pytestmark = pytest.mark.tool
RULES = (VolumeRule(volume="data"), VolumeRule(volume="root"))

Body = dict[str, Any]


class MadeTpm(SoftwareTpm):
    """A TPM that left its maker with certificates for its endorsement keys, signed by a CA of its own."""

    def _start(self) -> None:
        authority = self.folder / "authority"
        authority.mkdir()
        names = {"signingkey": "key.pem", "issuercert": "issuer.pem", "certserial": "serial"}
        lines = [f"statedir = {authority}", *(f"{key} = {authority / name}" for key, name in names.items())]
        self.write("ca.conf", "\n".join(lines).encode())
        self.write("ca.options", b"--tpm-manufacturer IBM\n--tpm-model swtpm\n--tpm-version 2\n")
        setup = (
            f"create_certs_tool = {require_tool('swtpm_localca')}",
            f"create_certs_tool_config = {self.folder / 'ca.conf'}",
            f"create_certs_tool_options = {self.folder / 'ca.options'}",
        )
        self.write("setup.conf", "\n".join(setup).encode())
        argv = [require_tool("swtpm_setup"), "--tpm2", "--tpmstate", str(self.folder), "--create-ek-cert"]
        argv += ["--config", f"{self.folder}/setup.conf", "--write-ek-cert-files", str(self.folder)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        super()._start()

    @property
    def root(self) -> Path:
        """The CA above the one that signs."""
        return self.folder / "authority" / "swtpm-localca-rootca-cert.pem"

    def chain(self) -> list[bytes]:
        """The endorsement key's certificate and the one above it, in DER."""
        pem = (self.folder / "authority" / "issuer.pem").read_text()
        return [self.read("ek-rsa2048.crt"), ssl.PEM_cert_to_DER_cert(pem)]


@dataclass
class TpmGuest(Guest):
    """A guest whose quotes are a TPM's."""

    software: SoftwareTpm = field(kw_only=True)
    key: str = "ak"

    def measure(self, events: tuple[tuple[int, bytes], ...] = (*EVENTS, (11, PHASE))) -> None:
        for index, content in events:
            self.software.run("tpm2_pcrextend", f"{index}:sha256={hashlib.sha256(content).hexdigest()}")

    def make_keys(self, *names: str) -> None:
        self.software.run("tpm2_createek", "-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub")
        for name in names:
            self.software.run(
                *("tpm2_createak", "-C", "ek.ctx", "-c", f"{name}.ctx", "-u", f"{name}.pub"),
                *("-G", "ecc", "-g", "sha256", "-s", "ecdsa"),
            )

    def evidence_of(self, challenge: Body, volume: str = "data", key: str | None = None) -> Body:
        """The body of an attest request, by tpm2_quote."""
        name = key or self.key
        bound = hashlib.sha256(
            base64.b64decode(challenge["nonce"]) + self.point + volume.encode()
        ).hexdigest()
        self.software.run(
            *("tpm2_quote", "-c", f"{name}.ctx", "-l", challenge["selection"], "-q", bound),
            *("-m", "message", "-s", "signature", "-g", "sha256", "--scheme", "ecdsa"),
        )
        return {
            "schema": 1,
            "session": challenge["session"],
            "quote": b64(self.software.read("message")),
            "signature": b64(self.software.read("signature")),
            "ak_public": b64(self.software.read(f"{name}.pub")),
            "event_log": b64(firmware_log()),
            "ephemeral": b64(self.point),
        }

    def activate(self, credential: bytes) -> bytes:
        """What the TPM gives back, or nothing."""
        # The file is tpm2-tools' own: magic, version, both structures.
        self.software.write("credential", bytes.fromhex("badcc0de00000001") + credential)
        self.software.run("tpm2_startauthsession", "--policy-session", "-S", "ek.session")
        self.software.run("tpm2_policysecret", "-S", "ek.session", "-c", "e")
        arguments = ("-c", f"{self.key}.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "opened")
        done = self.software.attempt("tpm2_activatecredential", *arguments, "-P", "session:ek.session")
        self.software.run("tpm2_flushcontext", "ek.session")
        return self.software.read("opened") if done.returncode == 0 else b""


@dataclass
class Scene:
    """A broker that listens, a guest that may have its key, and an attacker's TPM with the same PCRs."""

    url: str
    context: ssl.SSLContext
    guest: TpmGuest
    other: TpmGuest
    time: Ticks
    lines: list[str]

    def post(self, path: str, body: object) -> tuple[int, Body]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return ask(self.url, path, data, self.context)

    def challenge(self, volume: str = "data") -> Body:
        status, found = self.post("/v1/challenge", {"schema": 1, "volume": volume})
        assert status == 200, found
        return found

    def release(self, volume: str = "data") -> bytes:
        challenge = self.challenge(volume)
        status, found = self.post("/v1/attest", self.guest.evidence_of(challenge, volume))
        assert status == 200, found
        return self.guest.unwrap(challenge, found, volume)

    def denied(self, body: object, path: str = "/v1/attest") -> tuple[int, str, str]:
        """What is said; the log has the same, and nothing was released."""
        status, found = self.post(path, body)
        logged = json.loads(self.lines[-1])
        assert (logged["result"], logged["status"]) == ("refused", status)
        assert found["error"] == f"{found['field']}: {logged['reason']}"
        return status, found["field"], logged["reason"]


@pytest.fixture(scope="module")
def guests() -> Iterator[tuple[TpmGuest, TpmGuest]]:
    with MadeTpm() as first, SoftwareTpm() as second:
        guest, other = TpmGuest(software=first), TpmGuest(software=second)
        for each in (guest, other):
            each.measure()
            each.make_keys("ak", "unknown")
        yield guest, other


@contextlib.contextmanager
def scene(
    folder: Path, guests: tuple[TpmGuest, TpmGuest], trust: KeyTrust | None = None, **changes: Any
) -> Iterator[Scene]:
    certificate, private_key = write_certificate(folder)
    if trust is None:
        (folder / "enrolled").mkdir(mode=0o755)
        shutil.copyfile(guests[0].software.folder / "ak.pub", folder / "enrolled" / "host-1.pub")
        trust = EnrolledKeys.read(folder / "enrolled")
    keys = write_keys(folder / "keys", data=KEY, root=KEY[::-1])
    config = BrokerConfig(
        golden=(manifest(golden_machine()),),
        keys=keys,
        trust=trust,
        certificate=certificate,
        private_key=private_key,
        **{
            "port": 0,
            "rules": RULES,
            "rate_per_client": Rate(1000, 1000),
            "rate": Rate(1000, 1000),
            **changes,
        },
    )
    ticks, lines = Ticks(time.time()), list[str]()
    context = ssl.create_default_context(cafile=certificate)
    with running(config, audit=AuditLog(lines.append), clock=ticks.clock) as url:
        yield Scene(url, context, *guests, ticks, lines)


@pytest.fixture
def enrolled(tmp_path: Path, guests: tuple[TpmGuest, TpmGuest]) -> Iterator[Scene]:
    with scene(tmp_path, guests) as found:
        yield found


def test_the_key_is_released(enrolled: Scene) -> None:
    assert enrolled.release() == KEY
    assert enrolled.release("root") == KEY[::-1]
    released = [json.loads(line) for line in enrolled.lines if '"released"' in line]
    assert [(each["volume"], each["ak"], each["machine"]) for each in released] == [
        ("data", "host-1", "image 1 q35"),
        ("root", "host-1", "image 1 q35"),
    ]
    assert not any(KEY.hex() in line or b64(KEY) in line for line in enrolled.lines)


def replayed_quote(now: Scene) -> Body:
    challenge = now.challenge()
    body = now.guest.evidence_of(challenge)
    assert now.post("/v1/attest", body)[0] == 200
    return body | {"session": now.challenge()["session"]}


def used_session(now: Scene) -> Body:
    body = now.guest.evidence_of(now.challenge())
    assert now.post("/v1/attest", body)[0] == 200
    return body


def stale_nonce(now: Scene) -> Body:
    old, new = now.challenge(), now.challenge()
    return now.guest.evidence_of(old | {"session": new["session"]})


def expired_session(now: Scene) -> Body:
    body = now.guest.evidence_of(now.challenge())
    now.time.seconds += 60
    return body


def unknown_key_of_the_same_tpm(now: Scene) -> Body:
    return now.guest.evidence_of(now.challenge(), key="unknown")


def unknown_tpm_with_the_same_pcrs(now: Scene) -> Body:
    return replace(now.other, ephemeral=now.guest.ephemeral).evidence_of(now.challenge())


def unknown_tpm_that_poses(now: Scene) -> Body:
    return unknown_tpm_with_the_same_pcrs(now) | {"ak_public": b64(now.guest.software.read("ak.pub"))}


def wrong_volume(now: Scene) -> Body:
    """A quote that was made for one volume, in a session for another."""
    return now.guest.evidence_of(now.challenge("root"))


def flipped_event_log(now: Scene) -> Body:
    return now.guest.evidence_of(now.challenge()) | {
        "event_log": b64(firmware_log(((4, b"kernal"), *EVENTS[1:])))
    }


def cut_event_log(now: Scene) -> Body:
    return now.guest.evidence_of(now.challenge()) | {"event_log": b64(firmware_log()[:-1])}


def stolen_answer(now: Scene) -> Body:
    """Somebody else's ephemeral key beside the guest's quote."""
    return now.guest.evidence_of(now.challenge()) | {"ephemeral": b64(now.other.point)}


def other_selection(now: Scene) -> Body:
    return now.guest.evidence_of(now.challenge() | {"selection": "sha256:4,7"})


ATTACKS: dict[Callable[[Scene], Body], tuple[int, str, str]] = {
    replayed_quote: (403, "nonce", "expected "),
    used_session: (401, "session", "unknown or used already; begin with a new challenge"),
    stale_nonce: (403, "nonce", "expected "),
    expired_session: (401, "session", "expired, it lives 60 s; begin with a new challenge"),
    unknown_key_of_the_same_tpm: (403, "ak", "not enrolled (its name is 000b"),
    unknown_tpm_with_the_same_pcrs: (403, "ak", "not enrolled (its name is 000b"),
    unknown_tpm_that_poses: (403, "signature", "expected one by the key 000b"),
    wrong_volume: (403, "nonce", "expected "),
    flipped_event_log: (403, "event_log", "expected one that replays to "),
    cut_event_log: (400, "event_log", "event log: offset 0x"),
    stolen_answer: (403, "nonce", "expected "),
    other_selection: (403, "selection", f"expected {SELECTION}, got sha256:4,7"),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_one_attacked_input_is_denied(enrolled: Scene, attack: Callable[[Scene], Body]) -> None:
    assert enrolled.release() == KEY
    body = attack(enrolled)
    status, found, reason = enrolled.denied(body)
    expected = ATTACKS[attack]
    assert (status, found, reason[: len(expected[2])]) == expected
    assert enrolled.release() == KEY


def test_another_pcr_value_is_denied(tmp_path: Path) -> None:
    """The same TPM, before and after one more extend."""
    with SoftwareTpm() as software:
        guest = TpmGuest(software=software)
        guest.measure()
        guest.make_keys("ak")
        with scene(tmp_path, (guest, guest)) as now:
            assert now.release() == KEY
            guest.measure(((7, b"another"),))
            log = b64(firmware_log((*EVENTS, (7, b"another"))))
            status, found, reason = now.denied(guest.evidence_of(now.challenge()) | {"event_log": log})
            software.run("tpm2_pcrread", "sha256:7", "-o", "value")
            assert (status, found) == (403, "PCR7")
            assert reason.endswith(f", got {software.read('value').hex()}")
            # Without owning up to it in the log.
            assert now.denied(guest.evidence_of(now.challenge()))[:2] == (403, "event_log")


def test_a_boot_that_went_on_is_denied(tmp_path: Path) -> None:
    """After the cap that follows unlocking, the running system gets no key."""
    with SoftwareTpm() as software:
        guest = TpmGuest(software=software)
        guest.measure()
        guest.make_keys("ak")
        with scene(tmp_path, (guest, guest)) as now:
            assert now.release() == KEY
            guest.measure(((11, b"leave-initrd"),))
            assert now.denied(guest.evidence_of(now.challenge()))[:2] == (403, "event_log")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 400, "body: no JSON: Expecting property name enclosed in double quotes"),
        (b'{"schema":1,"volume":"data","volume":"root"}', 400, "body: no JSON: a key is written twice"),
        (b'{"schema":1,"volume":"../keys/data"}', 400, "volume: not a volume's name"),
        (b'{"schema":1,"volume":"none"}', 404, "volume: none is not kept here"),
        (bytes(MAX_BODY + 1), 413, "body: more than 655360 bytes"),
    ],
)
def test_bodies_that_are_refused(enrolled: Scene, body: bytes, status: int, error: str) -> None:
    assert enrolled.release() == KEY
    found = enrolled.denied(body, "/v1/challenge")
    assert (found[0], f"{found[1]}: {found[2]}"[: len(error)]) == (status, error)
    assert enrolled.release() == KEY


def test_a_slow_client_holds_nobody_up(tmp_path: Path, guests: tuple[TpmGuest, TpmGuest]) -> None:
    with scene(tmp_path, guests, timeout=2) as now:
        assert now.release() == KEY
        parts = urlsplit(now.url)
        plain = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)
        with now.context.wrap_socket(plain, server_hostname=parts.hostname) as slow:
            start = time.monotonic()
            slow.sendall(b"POST /v1/attest HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert now.release() == KEY
            with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
                assert slow.recv(1) == b""
            assert time.monotonic() - start < 10
        assert now.release() == KEY


def test_the_rate_is_limited(tmp_path: Path, guests: tuple[TpmGuest, TpmGuest]) -> None:
    with scene(tmp_path, guests, rate_per_client=Rate(1, 4)) as now:
        assert now.release() == KEY
        assert [now.post("/v1/challenge", b"{}")[0] for _ in range(3)] == [400, 400, 429]
        assert "429" in now.lines[-1]
        now.time.seconds += 2
        assert now.release() == KEY


def endorsed_request(now: Scene, guest: TpmGuest, challenge: Body, chain: list[bytes]) -> tuple[int, Body]:
    body = {
        "schema": 1,
        "session": challenge["session"],
        "ak_public": b64(guest.software.read("ak.pub")),
        "ek_certificates": [b64(each) for each in chain],
    }
    return now.post("/v1/activate", body)


def test_an_endorsement_certificate_and_an_activated_credential(
    tmp_path: Path, guests: tuple[TpmGuest, TpmGuest]
) -> None:
    """The certificate is one that swtpm's own CA made; the host's TPM cannot use it."""
    made, other = guests
    assert isinstance(made.software, MadeTpm)
    chain = made.software.chain()
    with scene(tmp_path, guests, EndorsedKeys.read([made.software.root])) as now:

        def released() -> None:
            challenge = now.challenge()
            status, found = endorsed_request(now, made, challenge, chain)
            assert status == 200, found
            answer = made.activate(base64.b64decode(found["credential"]))
            assert len(answer) == 32
            status, found = now.post("/v1/attest", made.evidence_of(challenge) | {"activation": b64(answer)})
            assert status == 200, found
            assert made.unwrap(challenge, found) == KEY

        released()
        assert json.loads(now.lines[-1])["ak"] == "ek:" + hashlib.sha256(chain[0]).hexdigest()
        # The host's own TPM with that certificate: it cannot open the credential.
        challenge = now.challenge()
        status, found = endorsed_request(now, other, challenge, chain)
        assert status == 200
        assert other.activate(base64.b64decode(found["credential"])) == b""
        # Nor can the TPM of the certificate vouch for a key that is not in it.
        assert made.activate(base64.b64decode(found["credential"])) == b""
        released()
        assert now.denied(made.evidence_of(now.challenge()))[:2] == (403, "ak")
        challenge = now.challenge()
        endorsed_request(now, made, challenge, chain)
        body = made.evidence_of(challenge) | {"activation": b64(bytes(32))}
        assert now.denied(body)[:2] == (403, "activation")
        assert endorsed_request(now, made, now.challenge(), chain[:1])[1]["field"] == "ek"
        released()


def test_another_maker_is_not_trusted(tmp_path: Path, guests: tuple[TpmGuest, TpmGuest]) -> None:
    made, _ = guests
    assert isinstance(made.software, MadeTpm)
    certificate, _ = write_certificate(tmp_path)
    with scene(tmp_path, guests, EndorsedKeys.read([certificate])) as now:
        status, found = endorsed_request(now, made, now.challenge(), made.software.chain())
        assert (status, found["field"]) == (403, "ek")
        assert found["error"].startswith("ek: its certificate does not lead to a pinned CA (")
