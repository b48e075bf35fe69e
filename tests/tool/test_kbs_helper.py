"""The helper that gets a volume's key from a broker, and the provider around it.

With a real broker its TPM is swtpm, which proves no hardware: it proves that both sides mean the same.
Servers that lie or are slow are scripts; they have a certificate of the pinned CA, as a broker that was taken
over has. Every attack first sees a key released.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from recipes.broker.audit import AuditLog
from recipes.broker.config import BrokerConfig
from recipes.broker.policy import VolumeRule
from recipes.broker.server import running
from recipes.broker.trust import EndorsedKeys, EnrolledKeys, KeyTrust
from recipes.sources.providers import read_provider
from tests.support import ROOT, require_tool
from tests.tool.built_helpers import helper as helper_program
from tests.tool.kbs_lab import (
    CANNED,
    LOGGED,
    Authority,
    Body,
    Conversation,
    Ended,
    Helper,
    Script,
    Server,
    Talk,
    answering,
    http,
    library,
)
from tests.tool.software_tpm import SoftwareTpm
from tests.tool.test_broker import MadeTpm
from tests.tool.tpm_bridge import TpmBridge, through
from tests.unit.test_broker_guest import (
    EVENTS,
    KEY,
    PHASE,
    SELECTION,
    b64,
    firmware_log,
    golden_machine,
    manifest,
    write_keys,
)

pytestmark = pytest.mark.tool
RULES = (VolumeRule(volume="data"), VolumeRule(volume="root"))

LATER, DENIED, ABSENT, MALFORMED = 10, 20, 30, 40


@pytest.fixture(scope="module")
def program() -> Path:
    return helper_program("kbs")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


# A real broker, and machines with a TPM.


@dataclass
class Machine:
    """A machine that booted."""

    tpm: SoftwareTpm
    helper: Helper
    events: list[tuple[int, bytes]] = field(default_factory=list)

    def measure(self, *events: tuple[int, bytes], logged: bool = True) -> None:
        for index, content in events:
            self.tpm.run("tpm2_pcrextend", f"{index}:sha256={hashlib.sha256(content).hexdigest()}")
        if logged:
            self.events += events
            self.helper.log.write_bytes(firmware_log(self.events))

    def attestation_key(self) -> bytes:
        """The public area of its key, as an operator finds it with tpm2-tools and enrols it."""
        attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"
        kind = ("-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes)
        self.tpm.run("tpm2_createprimary", *kind, "-c", "ak.ctx")
        self.tpm.run("tpm2_readpublic", "-c", "ak.ctx", "-o", "ak.pub")
        return self.tpm.read("ak.pub")


@contextlib.contextmanager
def machine(program: Path, authority: Authority, tpm: SoftwareTpm) -> Iterator[Machine]:
    with tpm, TpmBridge(through(tpm.server)) as bridge:
        folder = tpm.folder / "machine"
        folder.mkdir()
        wrapper = library(folder / "library", LOGGED.format(program=helper_program("tpm2")))
        environment = {"GOLDSMITH_TPM": bridge.path}
        found = Machine(tpm, Helper(program, folder, wrapper, authority.file, environment))
        found.measure(*EVENTS)
        found.measure((11, PHASE), logged=False)
        yield found


@pytest.fixture(scope="module")
def guest(program: Path, authority: Authority) -> Iterator[Machine]:
    with machine(program, authority, MadeTpm()) as found:
        yield found


@pytest.fixture(scope="module")
def other(program: Path, authority: Authority) -> Iterator[Machine]:
    """The host's own software TPM, with the same values in its PCRs."""
    with machine(program, authority, SoftwareTpm()) as found:
        yield found


@contextlib.contextmanager
def broker(
    folder: Path, authority: Authority | None, trust: KeyTrust, **changes: Any
) -> Iterator[tuple[str, list[Body]]]:
    """Its URL, and its log as it grows."""
    lines: list[Body] = []
    certificate = private_key = None
    if authority is not None:
        certificate, private_key = authority.server("127.0.0.1", "::1", "localhost", file="broker")
    config = BrokerConfig(
        golden=(manifest(golden_machine()),),
        keys=write_keys(folder / "keys", data=KEY, root=KEY[::-1]),
        trust=trust,
        certificate=certificate,
        private_key=private_key,
        **{"port": 0, "rules": RULES, **changes},
    )
    with running(config, audit=AuditLog(lambda line: lines.append(json.loads(line)))) as url:
        yield url, lines


def enrolled(folder: Path, *machines: Machine) -> EnrolledKeys:
    place = folder / "enrolled"
    place.mkdir(exist_ok=True)
    for number, each in enumerate(machines):
        (place / f"host-{number}.pub").write_bytes(each.attestation_key())
    return EnrolledKeys.read(place)


@pytest.fixture
def real(tmp_path: Path, authority: Authority, guest: Machine) -> Iterator[str]:
    """The URL of a broker that knows the guest."""
    with broker(tmp_path, authority, enrolled(tmp_path, guest)) as (url, _):
        yield url


def test_the_key_arrives_on_descriptor_3_and_nowhere_else(
    tmp_path: Path, authority: Authority, guest: Machine
) -> None:
    with broker(tmp_path, authority, enrolled(tmp_path, guest)) as (url, lines):
        calls = guest.helper.library / "calls"
        assert guest.helper.run(url) == Ended(0, KEY, "")
        assert guest.helper.run(url, volume="root", machine="q35") == Ended(0, KEY[::-1], "")
        assert guest.helper.run(url, volume="root", machine='no "such" machi\\ne').code == DENIED
        assert guest.helper.run(url, volume="none").code == DENIED
        # What it starts gets arguments and an environment, and the key is in neither.
        assert calls.read_text().count(f"quote {SELECTION} ") == 2
    results = [(line["result"], line.get("volume"), line.get("machine")) for line in lines]
    assert results[:2] == [("challenged", "data", None), ("released", "data", "image 1 q35")]
    assert results[3] == ("released", "root", "image 1 q35")
    assert lines[4]["machine"] == 'no "such" machi\\ne'


def test_the_measurement_log_of_the_boot_goes_along(real: str, guest: Machine) -> None:
    log = guest.helper.folder / "measure-log"
    digest = hashlib.sha256(PHASE).hexdigest()
    record = (
        f'\x1e{{"pcr":11,"digests":[{{"hashAlg":"sha256","digest":"{digest}"}}],"content_type":"systemd",'
        f'"content":{{"string":"enter-initrd","bootId":"{"0" * 32}","timestamp":1,"eventType":"phase"}}}}\n'
    )
    try:
        log.write_text(record)
        assert guest.helper.run(real).key == KEY
        log.write_text(record.replace("enter-initrd", "leave-initrd").replace(digest, "00" * 32))
        ended = guest.helper.run(real)
        assert (ended.code, ended.words[:38]) == (DENIED, "the broker answers 403: event_log: exp")
        log.write_bytes(bytes(64 * 1024 + 1))
        assert guest.helper.run(real).words == f"{log} cannot be read, or is longer than 65536 bytes\n"
    finally:
        log.unlink()
    assert guest.helper.run(real).key == KEY


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_other_ways_to_name_the_host(tmp_path: Path, authority: Authority, guest: Machine, host: str) -> None:
    """A name may lead to an address where nobody listens, and then to one where somebody does."""
    listen = "::1" if host == "::1" else "127.0.0.1"
    with broker(tmp_path, authority, enrolled(tmp_path, guest), host=listen) as (url, _):
        port = urlsplit(url).port
        name = f"[{host}]" if ":" in host else host
        assert guest.helper.run(f"https://{name}:{port}").key == KEY
        assert guest.helper.run(f"https://{name}:{port}/").key == KEY
        ended = guest.helper.run(f"https://{name}:{port}/elsewhere")
        assert (ended.code, ended.words) == (
            DENIED,
            "the broker answers 404: path: unknown; use /v1/challenge\n",
        )


def test_an_unknown_attestation_key_is_denied_and_shown(
    tmp_path: Path, authority: Authority, guest: Machine, other: Machine
) -> None:
    with broker(tmp_path, authority, enrolled(tmp_path, guest)) as (url, _):
        assert guest.helper.run(url).key == KEY
        ended = other.helper.run(url)
        assert ended.code == DENIED
        first, second = ended.words.splitlines()
        assert first.startswith("the broker answers 403: ak: not enrolled (its name is 000b")
        assert second == f"attestation key: {b64(other.attestation_key())}"
        assert guest.helper.run(url).key == KEY
    # The line is what an operator needs to enrol the machine.
    (tmp_path / "enrolled" / "new.pub").write_bytes(base64.b64decode(second.split(" ")[2]))
    with broker(tmp_path, authority, EnrolledKeys.read(tmp_path / "enrolled")) as (url, _):
        assert other.helper.run(url).key == KEY


@pytest.fixture
def changed(program: Path, authority: Authority) -> Iterator[Machine]:
    """A machine of its own, whose registers may be changed."""
    with machine(program, authority, SoftwareTpm()) as found:
        yield found


def test_a_wrong_register_is_denied_by_its_name(
    tmp_path: Path, authority: Authority, changed: Machine
) -> None:
    with broker(tmp_path, authority, enrolled(tmp_path, changed)) as (url, _):
        assert changed.helper.run(url).key == KEY
        changed.measure((7, b"another"))
        ended = changed.helper.run(url)
        changed.tpm.run("tpm2_pcrread", "sha256:7", "-o", "value")
        assert ended.code == DENIED
        assert ended.words.startswith("the broker answers 403: PCR7: expected ")
        assert f"got {changed.tpm.read('value').hex()}" in " ".join(ended.words.splitlines())


def test_a_boot_that_went_on_is_denied(tmp_path: Path, authority: Authority, changed: Machine) -> None:
    """After the cap that follows unlocking, the running system gets no key."""
    with broker(tmp_path, authority, enrolled(tmp_path, changed)) as (url, _):
        assert changed.helper.run(url).key == KEY
        changed.measure((11, b"leave-initrd"), logged=False)
        ended = changed.helper.run(url)
        assert (ended.code, ended.words[:34]) == (DENIED, "the broker answers 403: event_log:")


def test_an_endorsement_certificate(
    tmp_path: Path, authority: Authority, guest: Machine, other: Machine
) -> None:
    """The certificate that swtpm's maker left in the TPM; the host's TPM has none."""
    assert isinstance(guest.tpm, MadeTpm)
    # The TPM has only its own certificate, so the CA that signed it is the one to pin.
    trust = EndorsedKeys.read([guest.tpm.folder / "authority" / "issuer.pem"])
    with broker(tmp_path, authority, trust) as (url, lines):
        assert guest.helper.run(url, "activate").key == KEY
        assert [line["result"] for line in lines] == ["challenged", "activated", "released"]
        assert lines[-1]["ak"] == "ek:" + hashlib.sha256(guest.tpm.read("ek-rsa2048.crt")).hexdigest()
        ended = guest.helper.run(url)
        assert (ended.code, ended.words[:35]) == (DENIED, "the broker answers 403: ak: nobody ")
        # Its certificate in the host's TPM: that cannot open the credential.
        other.tpm.write("ek.crt", guest.tpm.read("ek-rsa2048.crt"))
        index = ("0x01c00002", "-C", "o", "-s", len(guest.tpm.read("ek-rsa2048.crt")))
        other.tpm.run("tpm2_nvdefine", *index, "-a", "ownerread|ownerwrite|authread")
        other.tpm.run("tpm2_nvwrite", "0x01c00002", "-C", "o", "-i", "ek.crt")
        ended = other.helper.run(url, "activate")
        assert (ended.code, lines[-1]["result"]) == (DENIED, "activated")
        assert ended.words.endswith("\ntpm2 activate ended with 20\n")
    with broker(tmp_path, authority, EndorsedKeys.read([authority.file])) as (url, _):
        ended = guest.helper.run(url, "activate")
        assert (ended.code, ended.words[:32]) == (DENIED, "the broker answers 403: ek: its ")


# A front of the broker that was taken over: it has the certificate, and passes on what it likes.


class Proxy:
    """Passes requests on to a broker; ``ask`` and ``tell`` may change what they say."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ask: Callable[[str, Body], Body] = lambda path, body: body
        self.tell: Callable[[str, bytes], bytes] = lambda path, reply: reply
        self.seen: list[tuple[str, Body, bytes]] = []

    def post(self, path: str, body: Body) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        with contextlib.closing(HTTPConnection(parts.netloc, timeout=20)) as connection:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            return response.status, response.read()

    def reply(self, path: str, body: Body) -> bytes:
        status, reply = self.post(path, self.ask(path, body))
        self.seen.append((path, body, reply))
        return http(status, self.tell(path, reply))


@pytest.fixture
def proxy(tmp_path: Path, guest: Machine) -> Iterator[Proxy]:
    with broker(tmp_path, None, enrolled(tmp_path, guest)) as (url, _):
        yield Proxy(url)


def of_attest(change: Callable[[Body], Body]) -> Callable[[str, Body], Body]:
    return lambda path, body: change(body) if path == "/v1/attest" else body


def replayed_quote(proxy: Proxy) -> None:
    _, old, _ = proxy.seen[1]
    proxy.ask = of_attest(lambda body: body | {"quote": old["quote"], "signature": old["signature"]})


def stale_nonce(proxy: Proxy) -> None:
    """The nonce of a session that is over, in one that is open."""
    nonce = json.loads(proxy.seen[0][2])["nonce"]
    proxy.tell = lambda path, reply: re.sub(rb'(?<="nonce":")[^"]*', nonce.encode(), reply)


def own_ephemeral_key(proxy: Proxy) -> None:
    """The attacker's key in the guest's request, so that the answer would be the attacker's to read."""
    _, old, _ = proxy.seen[1]
    proxy.ask = of_attest(lambda body: body | {"ephemeral": old["ephemeral"]})


def other_volume(proxy: Proxy) -> None:
    """The guest wants one volume's key, and is to make a quote that gets another's."""
    proxy.ask = lambda path, body: body | {"volume": "root"} if path == "/v1/challenge" else body


def cut_event_log(proxy: Proxy) -> None:
    proxy.ask = of_attest(lambda body: body | {"event_log": b64(firmware_log(EVENTS[:-1]))})


def fewer_registers(proxy: Proxy) -> None:
    proxy.tell = lambda path, reply: reply.replace(f'"{SELECTION}"'.encode(), b'"sha256:4,7"')


def old_answer(proxy: Proxy) -> None:
    """A key that was encrypted for an earlier request."""
    old = proxy.seen[1][2]
    proxy.tell = lambda path, reply: old if path == "/v1/attest" else reply


ATTACKS: dict[Callable[[Proxy], None], str] = {
    replayed_quote: "the broker answers 403: nonce: expected ",
    stale_nonce: "the broker answers 403: nonce: expected ",
    own_ephemeral_key: "the broker answers 403: nonce: expected ",
    other_volume: "the broker answers 403: nonce: expected ",
    cut_event_log: "the broker answers 403: event_log: expected ",
    fewer_registers: f"the broker answers 403: selection: expected {SELECTION}, got sha256:4,7",
    old_answer: "the answer to /v1/attest is not as the protocol has it: the key is not encrypted for ",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_replay_is_denied(
    proxy: Proxy, authority: Authority, guest: Machine, attack: Callable[[Proxy], None]
) -> None:
    with Server(answering(proxy.reply), authority.server()) as server:
        assert guest.helper.run(server.url).key == KEY
        attack(proxy)
        ended = guest.helper.run(server.url)
        assert (ended.code, ended.words[: len(ATTACKS[attack])]) == (DENIED, ATTACKS[attack])
        restored = Proxy(proxy.url)
        proxy.ask, proxy.tell = restored.ask, restored.tell
        assert guest.helper.run(server.url).key == KEY


def test_an_old_challenge_is_begun_again_once(proxy: Proxy, authority: Authority, guest: Machine) -> None:
    with Server(answering(proxy.reply), authority.server()) as server:
        assert guest.helper.run(server.url).key == KEY
        old = proxy.seen[0][2]
        times = 1

        def tell(path: str, reply: bytes) -> bytes:
            nonlocal times
            times -= path == "/v1/challenge"
            return old if path == "/v1/challenge" and times >= 0 else reply

        proxy.tell = tell
        ended = guest.helper.run(server.url)
        said = "the broker answers 401: session: unknown or used already; begin with a new challenge\n"
        assert (ended.key, ended.words) == (KEY, said)
        times = 9
        ended = guest.helper.run(server.url)
        twice = "the broker forgot the session twice; see whether two brokers answer at the URL\n"
        assert (ended.code, ended.words) == (LATER, said + said + twice)


# Scripted servers. The TPM behind these always says the same, and they do not look at what it says.


@pytest.fixture
def helper(tmp_path: Path, program: Path, authority: Authority) -> Helper:
    return Helper(program, tmp_path, library(tmp_path / "library", CANNED), authority.file)


CLOCK = r"the machine's clock says 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC; set the clock"
CERTIFICATES: dict[str, tuple[dict[str, Any], str]] = {
    "another host": (
        {"names": ("192.0.2.1", "localhost")},
        "the certificate of 127.0.0.1 is for another name; give the broker one for the host of the URL",
    ),
    "a name that looks like the address": (
        {"names": ("127.0.0.1.example",)},
        "the certificate of 127.0.0.1 is for another name; give the broker one for the host of the URL",
    ),
    "expired": ({"days": (-3, -1)}, f"the certificate of 127.0.0.1 has expired: {CLOCK}, or renew it"),
    "not yet valid": ({"days": (1, 3)}, f"the certificate of 127.0.0.1 is not yet valid: {CLOCK}"),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_certificate_that_does_not_do(helper: Helper, authority: Authority, name: str) -> None:
    options, words = CERTIFICATES[name]
    script = answering(Conversation().reply)
    with Server(script, authority.server()) as server:
        assert helper.run(server.url).key == KEY
    with Server(
        script, authority.server(*options.get("names", ()), days=options.get("days", (-1, 1)))
    ) as server:
        ended = helper.run(server.url)
        assert ended.code == DENIED
        assert re.fullmatch(words + "\n", ended.words)


def test_a_certificate_of_another_ca(helper: Helper, authority: Authority, tmp_path: Path) -> None:
    """The same names throughout; only the key of the CA differs."""
    script = answering(Conversation().reply)
    with Server(script, authority.server()) as server:
        assert helper.run(server.url).key == KEY
    stranger = Authority(tmp_path / "stranger")
    with Server(script, stranger.server()) as server:
        # What the system trusts is of no account.
        ended = helper.run(server.url, SSL_CERT_FILE=str(stranger.file))
        assert ended.code == DENIED
        assert ended.words.startswith("the certificate of 127.0.0.1 is not from the pinned CA: ")
        helper.authority = stranger.file
        assert helper.run(server.url).key == KEY


def test_no_configuration_of_the_system(helper: Helper, authority: Authority, tmp_path: Path) -> None:
    """One that would keep TLS from the only version that the server speaks."""
    sections = ("[init]", "ssl_conf = ssl", "[ssl]", "system_default = all", "[all]", "MaxProtocol = TLSv1.2")
    path = tmp_path / "openssl.cnf"
    path.write_text("\n".join(("openssl_conf = init", *sections, "")))
    script, newest = answering(Conversation().reply), ssl.TLSVersion.TLSv1_3
    with Server(script, authority.server(), minimum_version=newest) as server:
        assert helper.run(server.url, OPENSSL_CONF=str(path)).key == KEY


def test_a_ca_between(helper: Helper, tmp_path: Path) -> None:
    """Either of two CAs may be the pinned one, and a third that the first also signed vouches for nobody."""
    root = Authority(tmp_path / "root", "root")
    middle, sibling = Authority(tmp_path / "a", "a", root), Authority(tmp_path / "b", "b", root)
    with Server(answering(Conversation().reply), middle.server()) as server:
        for pinned in (root, middle):
            helper.authority = pinned.file
            assert helper.run(server.url).key == KEY
        helper.authority = sibling.file
        assert helper.run(server.url).code == DENIED


def test_files_that_pin_nothing(helper: Helper, authority: Authority, tmp_path: Path) -> None:
    one = authority.file.read_bytes()
    cases = {
        b"": "is no certificate in PEM; put the broker's CA there",
        b"\x30\x82" + bytes(100): "is no certificate in PEM; put the broker's CA there",
        one[:200]: "is no certificate in PEM; put the broker's CA there",
        one + one: "has more than one certificate; exactly one is pinned",
        one + one.replace(b"M", b"!"): "has more than one certificate; exactly one is pinned",
    }
    helper.authority = tmp_path / "ca.pem"
    for content, words in cases.items():
        helper.authority.write_bytes(content)
        ended = helper.run("https://127.0.0.1:1")
        assert (ended.code, ended.words) == (MALFORMED, f"{helper.authority} {words}\n")
    helper.authority.write_bytes(b"some words\n" + one)
    assert helper.run("https://127.0.0.1:1").code == LATER


def test_no_tls_to_speak_of(helper: Helper, authority: Authority) -> None:
    script = answering(Conversation().reply)
    with Server(script, authority.server()) as server:
        assert helper.run(server.url).key == KEY
    with Server(lambda talk: talk.send(b"HTTP/1.1 400 \r\n\r\n"), None) as server:
        ended = helper.run(server.url)
        assert (ended.code, ended.words[:42]) == (LATER, "the TLS handshake with 127.0.0.1 failed: w")
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        old = Server(script, authority.server(), maximum_version=ssl.TLSVersion.TLSv1_1)
    with old as server:
        ended = helper.run(server.url)
        assert (ended.code, ended.words[:40]) == (LATER, "the TLS handshake with 127.0.0.1 failed:")
    with Server(script, authority.server(), maximum_version=ssl.TLSVersion.TLSv1_2) as server:
        assert helper.run(server.url).key == KEY


def refusing(conversation: Conversation, path: str, reply: bytes, times: int = 99) -> Script:
    """As the protocol has it, but for the first answers to one path."""
    left = times

    def script(talk: Talk) -> None:
        nonlocal left
        talk.shake_hands()
        asked, body = talk.read()
        good = conversation.reply(asked, body)
        if asked == path and left > 0:
            left -= 1
            good = reply
        talk.send(good)

    return script


def refused(status: int, error: str, fieldname: str = "x") -> bytes:
    return http(status, {"schema": 1, "error": error, "field": fieldname})


STATUSES = {
    400: MALFORMED,
    403: DENIED,
    404: DENIED,
    408: LATER,
    413: MALFORMED,
    429: LATER,
    500: LATER,
    502: LATER,
    503: LATER,
    302: DENIED,
    204: DENIED,
    418: DENIED,
    600: DENIED,
}


@pytest.mark.parametrize("path", ["/v1/challenge", "/v1/activate", "/v1/attest"])
def test_statuses(helper: Helper, authority: Authority, path: str) -> None:
    with Server(answering(Conversation().reply), authority.server()) as server:
        assert helper.run(server.url, "activate").key == KEY
        for status, code in STATUSES.items():
            server.script = refusing(Conversation(), path, refused(status, "x: because; do that"))
            ended = helper.run(server.url, "activate")
            assert (ended.code, ended.words) == (
                code,
                f"the broker answers {status}: x: because; do that\n",
            )
        for times, code in ((1, 0), (2, LATER)):
            server.script = refusing(Conversation(), path, refused(401, "session: gone"), times)
            ended = helper.run(server.url, "activate")
            assert (ended.code, ended.words.count("401: session: gone\n")) == (code, times)


def test_what_a_broker_says_is_made_plain(helper: Helper, authority: Authority) -> None:
    said = 'a "quote" \\ \x1b[2J é \n' + "long " * 100 + "x" * 300
    script = refusing(Conversation(), "/v1/attest", refused(403, said))
    with Server(script, authority.server()) as server:
        ended = helper.run(server.url)
        first, *rest = ended.words.splitlines()
        assert (ended.code, len(rest)) == (DENIED, 4)
        assert first.startswith('the broker answers 403: a "quote" \\ ?[2J ? ?long long ')
        assert "".join(rest).endswith("x" * 300)
        server.script = refusing(Conversation(), "/v1/attest", http(403, b"<html>\0no</html>"))
        assert helper.run(server.url).words == "the broker answers 403: without a reason\n"
        server.script = refusing(Conversation(), "/v1/attest", refused(403, "ak: who?"))
        ak = b64(b"ak_public of a machine")
        said = f"the broker answers 403: ak: who?\nattestation key: {ak}\n"
        assert helper.run(server.url).words == said


# Time.


def silent(talk: Talk) -> None:
    talk.wait()


def a_byte_at_a_time_of_the_handshake(talk: Talk) -> None:
    """The start of a TLS record of 16 KiB, the rest of which comes in time for every single wait."""
    talk.send(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    while not talk.wait(0.1):
        talk.send(b"\0")


def silent_after_the_handshake(talk: Talk) -> None:
    talk.shake_hands()
    talk.wait()


def silent_after_the_request(talk: Talk) -> None:
    talk.shake_hands()
    talk.read()
    talk.wait()


def silent_within_the_head(talk: Talk) -> None:
    talk.shake_hands()
    talk.send(Conversation().reply(*talk.read())[:50])
    talk.wait()


def silent_within_the_body(talk: Talk) -> None:
    talk.shake_hands()
    talk.send(Conversation().reply(*talk.read())[:-1])
    talk.wait()


def a_byte_at_a_time(talk: Talk) -> None:
    talk.shake_hands()
    for byte in Conversation().reply(*talk.read()):
        talk.send(bytes([byte]))
        if talk.wait(0.1):
            return


def endless_head(talk: Talk) -> None:
    """Within every limit of size for as long as it lasts."""
    talk.shake_hands()
    talk.read()
    talk.send(b"HTTP/1.1 200 \r\n")
    while not talk.wait(0.05):
        talk.send(b"a: b\r\n")


ANSWER, REQUEST = "the answer of 127.0.0.1 took too long", "the request to 127.0.0.1 took too long"
SLOW: dict[Script, str] = {
    silent: "the TLS handshake with 127.0.0.1 took too long",
    a_byte_at_a_time_of_the_handshake: "the TLS handshake with 127.0.0.1 took too long",
    silent_after_the_handshake: ANSWER,
    silent_after_the_request: ANSWER,
    silent_within_the_head: ANSWER,
    silent_within_the_body: ANSWER,
    a_byte_at_a_time: ANSWER,
    endless_head: ANSWER,
}


@pytest.mark.parametrize("script", SLOW, ids=lambda script: getattr(script, "__name__", "script"))
def test_a_server_that_does_not_hurry(helper: Helper, authority: Authority, script: Script) -> None:
    with Server(script, authority.server()) as server:
        start = time.monotonic()
        ended = helper.run(server.url, timeout=1)
        assert (ended.code, ended.words) == (
            LATER,
            f"{SLOW[script]}; see whether the broker and the network are well\n",
        )
        assert 0.9 < time.monotonic() - start < 4


def test_a_server_that_does_not_take_the_request(helper: Helper, authority: Authority) -> None:
    def script(talk: Talk) -> None:
        # A small window, so that the event log does not fit into what the kernels keep.
        talk.shake_hands()
        if server.count == 1:
            talk.send(Conversation().reply(*talk.read()))
        else:
            talk.wait()

    helper.log.write_bytes(bytes(256 * 1024))
    with Server(script, authority.server()) as server:
        server.shrink()
        ended = helper.run(server.url, timeout=1)
        # How much of it is on its way before nothing moves any more is the kernel's to say.
        assert (ended.code, ended.words.split(";")[0] in (REQUEST, ANSWER)) == (LATER, True)


def test_nobody_there(helper: Helper) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    ended = helper.run(f"https://127.0.0.1:{port}")
    words = (
        f"no connection to 127.0.0.1 port {port}: Connection refused; see whether the broker runs and the "
    )
    assert (ended.code, ended.words) == (LATER, f"{words}network reaches it\n")
    # Addresses that are set aside for documents: nobody answers, or the network says so at once.
    start = time.monotonic()
    assert helper.run("https://192.0.2.1", timeout=1).code == LATER
    assert time.monotonic() - start < 4
    ended = helper.run("https://no-such-host.invalid", timeout=2)
    assert (ended.code, ended.words[:8]) == (LATER, "the name")


# The machine's side.


def test_exit_codes_of_the_tpm(helper: Helper, authority: Authority) -> None:
    good = (helper.library / "tpm2").read_text()
    with Server(answering(Conversation().reply), authority.server()) as server:
        for step in ("quote", "ek", "activate"):
            for code, words in (
                (10, f"tpm2 {step} ended with 10"),
                (20, f"tpm2 {step} ended with 20"),
                (30, f"tpm2 {step} ended with 30"),
                (40, f"tpm2 {step} ended with 40"),
                (3, f"tpm2 {step} ended with 3, which means nothing here"),
            ):
                library(helper.library, good + f'[ "$1" != {step} ] || {{ echo why >&2; exit {code}; }}\n')
                ended = helper.run(server.url, "activate")
                assert (ended.code, ended.words) == (20 if code == 3 else code, f"why\n{words}\n")
            library(helper.library, good + f'[ "$1" != {step} ] || kill -SEGV $$\n')
            ended = helper.run(server.url, "activate")
            assert (ended.code, ended.words) == (DENIED, f"tpm2 {step} was ended by signal 11\n")
        # What it prints is nobody's key, and it does not have the key's descriptor.
        library(helper.library, good + "echo words; if (: >&3) 2>/dev/null; then echo open; fi\n")
        assert helper.run(server.url) == Ended(0, KEY, "words\n")
        library(helper.library, good + "exec sleep 60\n")
        ended = helper.run(server.url, timeout=1)
        assert (ended.code, ended.words) == (
            LATER,
            "tpm2 quote did not end in time; see whether the TPM answers\n",
        )
        (helper.library / "tpm2").unlink()
        ended = helper.run(server.url)
        words = f"{helper.library}/tpm2 does not start: No such file or directory; build the image again\n"
        assert (ended.code, ended.words) == (MALFORMED, words)


# The provider around it.


@dataclass
class Provider:
    """The provider as the driver starts it, with its places below a folder."""

    helper: Helper
    shell: str

    def __post_init__(self) -> None:
        folder = self.helper.folder
        for name in ("securityfs/tpm0", "run", "conf/data.d"):
            (folder / name).mkdir(parents=True)
        text = (ROOT / "initrd/unlock.d/kbs").read_text()
        assert "/sys/kernel/security" in text
        self.script = folder / "provider"
        self.script.write_text(text.replace("/sys/kernel/security", str(folder / "securityfs")))
        (folder / "conf/data.d/kbs-ca.pem").write_bytes(self.helper.authority.read_bytes())
        (self.helper.library / "kbs").symlink_to(self.helper.program)

    def run(self, url: str, seconds: int = 20, **options: str) -> Ended:
        conf = self.helper.folder / "conf/data.conf"
        values = {
            "KBS_URL": url,
            "KBS_VOLUME": "disk",
            "KBS_MACHINE": "",
            **options,
        }
        conf.write_text("".join(f"{key}='{value}'\n" for key, value in values.items()))
        environment = {
            "UNLOCK_VOLUME": "data",
            "UNLOCK_CONF": str(conf),
            "UNLOCK_PURPOSE": "format",
            "UNLOCK_KIND": "volume-key",
            "UNLOCK_SECONDS": str(seconds),
            "UNLOCK_FOLDER": tempfile.mkdtemp(dir=self.helper.folder / "run"),
            "GOLDSMITH_LIB": str(self.helper.library),
            "GOLDSMITH_EVENT_LOG": str(self.helper.log),
            "GOLDSMITH_MEASURE_LOG": str(self.helper.folder / "measure-log"),
        }
        shell = [require_tool(self.shell), *(["sh"] if self.shell == "busybox" else [])]
        return self.helper.execute([*shell, str(self.script)], environment, 40)


@pytest.fixture(params=["dash", "busybox"])
def provider(request: pytest.FixtureRequest, helper: Helper) -> Provider:
    return Provider(helper, request.param)


def test_the_provider(provider: Provider, authority: Authority) -> None:
    conversation = Conversation()
    with Server(answering(conversation.reply), authority.server()) as server:
        assert provider.run(server.url) == Ended(0, KEY, "")
        assert conversation.asked[0] == ("/v1/challenge", {"schema": 1, "volume": "disk"})
        assert provider.run(server.url, KBS_MACHINE="a b", KBS_ACTIVATE="yes") == Ended(0, KEY, "")
        assert conversation.asked[2][1]["machine"] == "a b"
        assert [path for path, _ in conversation.asked[2:]] == ["/v1/challenge", "/v1/activate", "/v1/attest"]
        assert provider.run(server.url, KBS_ACTIVATE="no") == Ended(0, KEY, "")
        ended = provider.run(server.url, KBS_ACTIVATE="maybe")
        assert (ended.code, ended.words) == (MALFORMED, "KBS_ACTIVATE is 'maybe'; write yes or no\n")
        assert provider.run("http://127.0.0.1").code == MALFORMED
        for status, code in ((403, DENIED), (500, LATER), (400, MALFORMED)):
            server.script = refusing(Conversation(), "/v1/attest", refused(status, "x"))
            assert provider.run(server.url).code == code
        server.script = silent
        start = time.monotonic()
        ended = provider.run(server.url, seconds=2)
        assert (ended.code, time.monotonic() - start < 5) == (LATER, True)
        assert ended.words.startswith("the TLS handshake with 127.0.0.1 took too long; ")


def test_a_helper_that_fails(provider: Provider) -> None:
    program = provider.helper.library / "kbs"
    program.unlink()
    for line, code in (("exit 7", 7), ("kill -SEGV $$", 139)):
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        ended = provider.run("https://127.0.0.1")
        words = f"the helper kbs ended with {code}; this is a bug, see the kernel log\n"
        assert (ended.code, ended.words[-len(words) :]) == (DENIED, words)
    program.write_text("#!/bin/sh\nexit 30\n")
    assert provider.run("https://127.0.0.1") == Ended(ABSENT, b"", "")


def test_what_the_provider_says_about_itself() -> None:
    found = read_provider("kbs", (ROOT / "initrd/unlock.d/kbs").read_bytes())
    assert (found.kinds, found.formats, found.network) == (("passphrase", "volume-key"), True, True)
    assert (found.helpers, found.files, found.registers) == (("kbs", "tpm2"), ("kbs-ca.pem",), ())


def test_descriptor_3_has_to_be_open(program: Path) -> None:
    """What is opened next would be the key's way out otherwise."""
    argv = [str(program), "https://127.0.0.1", "ca.pem", "data", "", "folder"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    words = "descriptor 3, where the key goes, is not open\n"
    assert (done.returncode, done.stdout, done.stderr) == (MALFORMED, "", words)
