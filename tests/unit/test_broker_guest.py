"""A guest with an attestation key in software, and what it makes of the broker's answers.

The guest's half of the protocol is written here from its text alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from recipes.broker.audit import AuditLog
from recipes.broker.clock import Clock
from recipes.broker.config import BrokerConfig
from recipes.broker.core import Broker, Reply
from recipes.broker.release import read_point, wrap
from recipes.broker.trust import EnrolledKeys
from recipes.formats import eventlog
from recipes.formats.eventlog import Event, EventLog, EventType
from recipes.formats.tpm2 import Alg, PcrSelection, sized
from recipes.formats.tpm2_attest import Attest, AttestType, QuoteInfo
from recipes.formats.tpm2_public import Attribute, Public, Scheme, stored_key
from recipes.formats.tpm2_signature import EccSignature
from recipes.golden.manifest import GoldenMachine, GoldenManifest, Policy, RegisterPolicy, RegisterRow
from recipes.measure.trace import Established, HashAlgorithm

SHA256 = HashAlgorithm.SHA256
KEY = bytes(range(64))
CLIENT = "192.0.2.7"
PHASE = b"enter-initrd"
# What firmware measures, and then the driver in the initramfs.
EVENTS = (
    *((4, b"kernel"), (7, b"Secure Boot"), (0, b"firmware"), (9, b"command line")),
    *((11, b".linux"), (11, b"content")),
)
REGISTERS = (0, 2, 4, 7, 9, 11, 12)
SELECTION = "sha256:0,2,4,7,9,11,12"
AK_ATTRIBUTES = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.USER_WITH_AUTH
    | Attribute.RESTRICTED
    | Attribute.SIGN
)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def extended(contents: Iterable[bytes]) -> bytes:
    """A SHA-256 PCR after these were measured."""
    value = bytes(32)
    for content in contents:
        value = hashlib.sha256(value + hashlib.sha256(content).digest()).digest()
    return value


def pcr(index: int, events: Iterable[tuple[int, bytes]] = EVENTS) -> bytes:
    return extended([content for at, content in events if at == index])


def firmware_log(events: Iterable[tuple[int, bytes]] = EVENTS) -> bytes:
    algorithms = (eventlog.algorithm("sha256"),)
    entries = (
        Event(at, EventType.EV_IPL, {"sha256": hashlib.sha256(content).digest()}, content)
        for at, content in events
    )
    return eventlog.pack(EventLog(algorithms, (eventlog.spec_id_event(algorithms), *entries)))


def golden_machine(name: str = "q35", **changed: bytes) -> GoldenMachine:
    """Values that the events lead to; ``PCR11=value`` changes one, with ``_`` for the colon of a phase."""
    values = {
        "PCR1": bytes(32),
        **{f"PCR{index}": pcr(index) for index in REGISTERS},
        "PCR11:enter-initrd": pcr(11, (*EVENTS, (11, PHASE))),
        "PCR11:leave-initrd": pcr(11, (*EVENTS, (11, PHASE), (11, b"leave-initrd"))),
    }
    values |= {key.replace("_", ":").replace("::", "-"): value for key, value in changed.items()}
    rows = [
        RegisterRow(register=key, algorithm=SHA256, value=value, established=Established.ORACLE)
        for key, value in values.items()
    ]
    policies = [
        RegisterPolicy(
            register=key, policy=Policy.RECORD if key == "PCR1" else Policy.ENFORCE, covers="something"
        )
        for key in values
        if ":" not in key
    ]
    return GoldenMachine(
        name=name,
        vmm="qemu 7.2.22",
        identity="{}",
        launch="run.sh",
        registers=tuple(rows),
        policies=tuple(policies),
        omitted=(),
        traces=(),
    )


def manifest(*machines: GoldenMachine, image: str = "image", version: str = "1") -> GoldenManifest:
    found = machines or (golden_machine(),)
    return GoldenManifest(image=image, version=version, artefacts=(), machines=found, unmeasured=())


def write_keys(folder: Path, **keys: bytes) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, data in (keys or {"data": KEY}).items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)
    return folder


@dataclass
class Ticks:
    """Time that passes when it is told to."""

    seconds: float = 1_750_000_000.0

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.seconds, monotonic=lambda: self.seconds)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Guest:
    """A machine that booted, with an attestation key of its own."""

    private: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    ephemeral: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    events: tuple[tuple[int, bytes], ...] = (*EVENTS, (11, PHASE))

    @property
    def public(self) -> Public:
        return Public(
            name_algorithm=Alg.SHA256,
            attributes=AK_ATTRIBUTES,
            key=stored_key(self.private.public_key()),
            scheme=Scheme(Alg.ECDSA, Alg.SHA256),
        )

    @property
    def point(self) -> bytes:
        return self.ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(self, message: bytes) -> bytes:
        r, s = utils.decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
        signature = EccSignature(Alg.SHA256, r.to_bytes(32, "big"), s.to_bytes(32, "big"))
        return signature.pack()

    def quote(self, nonce: bytes, registers: tuple[int, ...] = REGISTERS) -> Attest:
        values = b"".join(pcr(index, self.events) for index in registers)
        info = QuoteInfo((PcrSelection(Alg.SHA256, registers),), hashlib.sha256(values).digest())
        return Attest(type=AttestType.QUOTE, extra_data=nonce, body=info.pack())

    def evidence(
        self, challenge: Mapping[str, Any], volume: str = "data", attest: Attest | None = None
    ) -> dict[str, Any]:
        """The body of an attest request."""
        bound = hashlib.sha256(base64.b64decode(challenge["nonce"]) + self.point + volume.encode()).digest()
        quote = (attest or self.quote(bound)).pack()
        return {
            "schema": 1,
            "session": challenge["session"],
            "quote": b64(quote),
            "signature": b64(self.sign(quote)),
            "ak_public": b64(sized(self.public.pack())),
            "event_log": b64(firmware_log()),
            "ephemeral": b64(self.point),
        }

    def unwrap(self, challenge: Mapping[str, Any], answer: Mapping[str, Any], volume: str = "data") -> bytes:
        """The volume's key."""
        nonce, theirs = base64.b64decode(challenge["nonce"]), base64.b64decode(answer["ephemeral"])
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), theirs)
        shared = self.ephemeral.exchange(ec.ECDH(), peer)
        okm = hkdf(nonce, shared, b"goldsmith key release 1" + theirs + self.point, 44)
        additional = challenge["session"].encode() + volume.encode() + nonce
        return AESGCM(okm[:32]).decrypt(okm[32:], base64.b64decode(answer["key"]), additional)


def hkdf(salt: bytes, secret: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 section 2 with SHA-256."""
    key, block, found = hmac.digest(salt, secret, "sha256"), b"", b""
    for number in range(1, -(-size // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        found += block
    return found[:size]


class Harness:
    """A broker without a network, and what it logged."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.guest, self.time, self.lines = Guest(), Ticks(), list[str]()
        defaults: dict[str, Any] = {
            "golden": (manifest(),),
            "keys": folder / "keys",
            "trust": EnrolledKeys({"host-1": self.guest.public}),
        }
        if not (folder / "keys").exists():
            write_keys(folder / "keys")
        self.config = BrokerConfig(**{**defaults, **changes})
        self.broker = Broker(self.config, AuditLog(self.lines.append), clock=self.time.clock)

    def post(self, path: str, body: object, client: str = CLIENT) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.broker.handle("POST", path, data, client)

    def challenge(self, volume: str = "data", client: str = CLIENT, **more: str) -> dict[str, Any]:
        reply = self.post("/v1/challenge", {"schema": 1, "volume": volume, **more}, client)
        assert reply.status == 200, reply
        return answer(reply)

    def attest(self, body: object) -> Reply:
        return self.post("/v1/attest", body)

    def release(self, volume: str = "data") -> bytes:
        """The key, by the whole protocol."""
        challenge = self.challenge(volume)
        reply = self.attest(self.guest.evidence(challenge, volume))
        assert reply.status == 200, reply
        return self.guest.unwrap(challenge, answer(reply), volume)

    def refused(self, reply: Reply) -> tuple[int, str, str]:
        """Status, field and reason, which the log has too."""
        found = answer(reply)
        assert sorted(found) == ["error", "field", "schema"]
        logged = self.audit[-1]
        assert (logged["status"], logged["result"]) == (reply.status, "refused")
        assert found["error"] == f"{logged['field']}: {logged['reason']}"
        assert found["field"] == logged["field"]
        return reply.status, found["field"], logged["reason"]

    @property
    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def answer(reply: Reply) -> dict[str, Any]:
    """An answer's body, which is one line of ASCII without blanks between its parts."""
    found: dict[str, Any] = json.loads(reply.body)
    assert reply.body == json.dumps(found, separators=(",", ":")).encode("ascii") + b"\n"
    assert found["schema"] == 1
    return found


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@pytest.mark.parametrize("size", [32, 64, 512])
def test_a_wrapped_key_is_for_one_guest_and_one_request(size: int) -> None:
    guest, key = Guest(), os.urandom(size)
    challenge = {"session": "5e" * 16, "nonce": b64(bytes(range(32)))}
    wrapped = wrap(
        key, guest=read_point(guest.point), session="5e" * 16, volume="data", nonce=bytes(range(32))
    )
    found = {"ephemeral": b64(wrapped.ephemeral), "key": b64(wrapped.data)}
    assert guest.unwrap(challenge, found) == key
    assert len(wrapped.data) == size + 16
    others = (
        (guest, {**challenge, "session": "5f" * 16}, "data"),
        (guest, {**challenge, "nonce": b64(bytes(32))}, "data"),
        (guest, challenge, "root"),
        (replace(guest, ephemeral=Guest().ephemeral), challenge, "data"),
    )
    for who, what, volume in others:
        with pytest.raises(InvalidTag):
            who.unwrap(what, found, volume)


def test_no_two_answers_share_a_key_pair() -> None:
    point = read_point(Guest().point)
    first, second = (wrap(KEY, guest=point, session="", volume="data", nonce=bytes(32)) for _ in range(2))
    assert first.ephemeral != second.ephemeral
    assert first.data != second.data


def test_the_hkdf_of_these_tests_is_that_of_the_rfc() -> None:
    """RFC 5869 appendix A.1."""
    okm = hkdf(bytes(range(13)), b"\x0b" * 22, bytes(range(0xF0, 0xFA)), 42)
    assert okm.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
