"""Many guests at once, each for its own key: over HTTPS on loopback, with every limit filled to the brim.

The broker's clock stands still, so that the limits count and do not wait; nothing here measures time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recipes.broker.config import BrokerConfig
from recipes.broker.limits import Rate
from recipes.broker.policy import VolumeRule
from recipes.broker.server import running
from recipes.broker.trust import EnrolledKeys
from recipes.formats.tpm2 import sized
from tests.unit.test_broker_guest import Guest, Ticks, b64, manifest, write_keys
from tests.unit.test_broker_server import CHALLENGE, ask, connect, post, write_certificate

GUESTS = 24
# Of them all: one whose key nobody has enrolled, and one that wants another's volume.
CLIENTS = GUESTS + 2
# All requests of the clients, and not one more.
BURST = 2 * CLIENTS
PATIENCE = 60.0
# Addresses of this host besides 127.0.0.1. Spec: RFC 1122 section 3.2.1.3 (g).
FLOODER, BYSTANDER = "127.0.0.2", "127.0.0.3"
CUT = (ConnectionError, http.client.BadStatusLine, ssl.SSLError)


@dataclass
class Client:
    """A guest, the volume that it asks for, and what it got."""

    guest: Guest
    volume: str
    status: int = 0
    answer: dict[str, Any] = field(default_factory=dict)
    key: bytes = b""

    def run(self, url: str, context: ssl.SSLContext, met: threading.Barrier) -> None:
        """Both requests on one connection; no quote is sent before everybody has a challenge."""
        try:
            with contextlib.closing(connect(url, context=context)) as connection:
                wanted = json.dumps({"schema": 1, "volume": self.volume}).encode()
                status, challenge = post(connection, "/v1/challenge", wanted)
                assert status == 200, challenge
                # Once for all challenges, once for what is tried while all these connections are open.
                met.wait()
                met.wait()
                body = json.dumps(self.guest.evidence(challenge, self.volume)).encode()
                self.status, self.answer = post(connection, "/v1/attest", body)
        except BaseException:
            met.abort()
            raise
        if self.status == 200:
            self.key = self.guest.unwrap(challenge, self.answer, self.volume)


@dataclass
class Scene:
    url: str
    context: ssl.SSLContext
    clients: list[Client]
    keys: dict[str, bytes]
    time: Ticks
    audit: Path

    def ask(self, source: str) -> int:
        """The status of one more challenge, on a connection of its own."""
        with contextlib.closing(
            connect(self.url, context=self.context, source_address=(source, 0))
        ) as connection:
            return post(connection, "/v1/challenge", CHALLENGE.replace(b"data", b"volume-0"))[0]

    def flood(self, count: int) -> list[int]:
        """Statuses of many challenges for one client, after one another."""
        return [self.ask(FLOODER) for _ in range(count)]

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    enrolled, audit, ticks = tmp_path / "enrolled", tmp_path / "audit", Ticks()
    enrolled.mkdir(mode=0o755)
    keys = {f"volume-{number}": os.urandom(32 + number) for number in range(GUESTS)}
    clients = [Client(Guest(), volume) for volume in keys]
    for number, each in enumerate(clients):
        path = enrolled / f"host-{number}.pub"
        path.touch(mode=0o600)
        path.write_bytes(sized(each.guest.public.pack()))
    clients += [Client(Guest(), "volume-1"), Client(clients[2].guest, "volume-3")]
    certificate, private_key = write_certificate(tmp_path)
    config = BrokerConfig(
        golden=(manifest(),),
        keys=write_keys(tmp_path / "keys", **keys),
        trust=EnrolledKeys.read(enrolled),
        rules=tuple(
            VolumeRule(volume=f"volume-{number}", attestation_keys=(f"host-{number}",))
            for number in range(GUESTS)
        ),
        certificate=certificate,
        private_key=private_key,
        port=0,
        rate=Rate(1, 2 * BURST),
        rate_per_client=Rate(1, BURST),
        connections=2 * CLIENTS,
        connections_per_client=CLIENTS,
        sessions_per_client=BURST,
        timeout=PATIENCE,
        audit=audit,
    )
    context = ssl.create_default_context(cafile=certificate)
    with running(config, clock=ticks.clock) as url:
        yield Scene(url, context, clients, keys, ticks, audit)


def test_many_guests_at_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    met = threading.Barrier(CLIENTS + 1, timeout=PATIENCE)
    with ThreadPoolExecutor(CLIENTS) as pool:
        done = [pool.submit(each.run, scene.url, scene.context, met) for each in scene.clients]
        try:
            met.wait()
            # As many connections as one client may have: the next is cut, and is none of its requests.
            with pytest.raises(CUT):
                scene.ask("127.0.0.1")
            met.wait()
            # Beside the quotes somebody asks more than he may, and takes nothing from the guests.
            flood = scene.flood(BURST + 5)
        except BaseException:
            met.abort()
            raise
        for each in done:
            each.result()
    assert Counter(flood) == {200: BURST, 429: 5}

    *guests, stranger, thief = scene.clients
    assert [each.status for each in guests] == [200] * GUESTS
    assert {each.volume: each.key for each in guests} == scene.keys
    assert (stranger.status, stranger.answer["field"]) == (403, "ak")
    assert (thief.status, thief.answer["error"]) == (
        403,
        "volume: volume-3 is not for the attestation key host-2",
    )

    # That was all that all clients together may ask, and a new one is told so.
    assert scene.ask(BYSTANDER) == 429
    released = [(line["volume"], line["ak"]) for line in scene.lines if line["result"] == "released"]
    assert sorted(released) == sorted((f"volume-{number}", f"host-{number}") for number in range(GUESTS))
    assert Counter((line["result"], line["status"]) for line in scene.lines) == {
        ("challenged", 200): CLIENTS + BURST,
        ("released", 200): GUESTS,
        ("refused", 403): 2,
        # The flooder's first too many, and the bystander's.
        ("refused", 429): 2,
    }
    said = scene.audit.read_text() + caplog.text
    for key in scene.keys.values():
        for form in (key.hex(), b64(key).rstrip("=")[:-1], repr(key)[2:-1]):
            assert form not in said

    scene.time.seconds += 2 * BURST
    assert scene.ask("127.0.0.1") == scene.ask(BYSTANDER) == 200
    assert ask(scene.url, "/", b"", scene.context)[0] == 404
