"""How many keys the broker releases in a second: ``python -m tests.bench.bench_broker``.

200 requests from 4 threads on a loopback address: a challenge and an attestation for each key, with a
connection for each guest and one quote that was made beforehand for a nonce that does not change. The limit
is as many requests that are turned down at once: what is above it is the checking. Clients and broker share
the processors, and rates leave out what it takes to start and to stop a broker.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import ssl
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from recipes.broker import server
from recipes.broker.audit import AuditLog
from recipes.broker.core import Broker
from recipes.broker.limits import Rate
from recipes.broker.protocol import NONCE_SIZE
from tests.bench.common import Row, measure, print_table
from tests.unit.test_broker_guest import Harness, b64
from tests.unit.test_broker_server import connect, post, write_certificate

HERE = "tests.bench.bench_broker"
THREADS = 4
# Two requests each.
RELEASES = 100
_NONCE = bytes(range(NONCE_SIZE))
_UNLIMITED = Rate(1e6, 10**6)


def rows() -> list[Row]:
    """The measured jobs; their names say how many requests were answered in a second."""
    done = measure("broker: challenge and attest, HTTPS", 0, f"{HERE}:job_release", "https")
    plain = measure("broker: challenge and attest, HTTP", 0, f"{HERE}:job_release", "http")
    limit = measure("broker: turned down, HTTPS", 0, f"{HERE}:job_refused", "https")
    idle = measure("broker: started and stopped", 0, f"{HERE}:job_idle")
    alone = measure("broker: challenge and attest, no network", 0, f"{HERE}:job_alone")
    served = [_named(row, row.wall - idle.wall) for row in (done, plain, limit)]
    return [served[0].against(limit, "turned down", wall=True), *served[1:], _named(alone, alone.wall)]


def _named(row: Row, seconds: float) -> Row:
    return replace(row, name=f"{row.name}: {2 * RELEASES / seconds:.0f}/s")


def _entropy() -> Callable[[int], bytes]:
    """Nonces that are all alike, and sessions that are not."""
    numbers = itertools.count()
    return lambda size: _NONCE if size == NONCE_SIZE else next(numbers).to_bytes(size, "big")


def _harness(folder: Path, **changes: Any) -> tuple[Harness, dict[str, Any]]:
    """A broker's configuration, and the body of an attestation that only lacks its session."""
    rates = {"rate": _UNLIMITED, "rate_per_client": _UNLIMITED}
    harness = Harness(folder, port=0, sessions_per_client=2 * RELEASES, **rates, **changes)
    return harness, harness.guest.evidence({"session": "", "nonce": b64(_NONCE)})


def _serve(scheme: str, job: Callable[[str, dict[str, Any], dict[str, Any], int], None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        certificate, private_key = write_certificate(Path(name))
        secured = {"certificate": certificate, "private_key": private_key} if scheme == "https" else {}
        harness, body = _harness(Path(name), **secured)
        options = {"context": ssl.create_default_context(cafile=certificate)} if secured else {}
        # One quote is good for every session only where all of them have the same nonce.
        broker = functools.partial(Broker, entropy=_entropy())
        silent = AuditLog(lambda line: None)
        with (
            mock.patch.object(server, "Broker", broker),
            server.running(harness.config, audit=silent) as url,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            for _ in pool.map(lambda number: job(url, options, body, number), range(RELEASES)):
                pass


def job_release(scheme: str) -> None:
    """Releases keys, each over a connection of its own."""

    def release(url: str, options: dict[str, Any], body: dict[str, Any], number: int) -> None:
        with contextlib.closing(connect(url, **options)) as connection:
            status, challenge = post(connection, "/v1/challenge", b'{"schema":1,"volume":"data"}')
            assert status == 200
            request = json.dumps(body | {"session": challenge["session"]}).encode()
            status, _ = post(connection, "/v1/attest", request)
            assert status == 200

    _serve(scheme, release)


def job_refused(scheme: str) -> None:
    """As many requests of the same size that are turned down before anything is looked at."""

    def refused(url: str, options: dict[str, Any], body: dict[str, Any], number: int) -> None:
        data = json.dumps(body).encode()
        for _ in range(2):
            with contextlib.closing(connect(url, **options)) as connection:
                assert post(connection, "/", data)[0] == 404

    _serve(scheme, refused)


def job_idle() -> None:
    """Starts a broker and stops it."""
    with tempfile.TemporaryDirectory() as name:
        harness, _ = _harness(Path(name))
        with server.running(harness.config, audit=AuditLog(lambda line: None)):
            pass


def job_alone() -> None:
    """Releases keys without a network."""
    with tempfile.TemporaryDirectory() as name:
        harness, body = _harness(Path(name))
        harness.broker = Broker(harness.config, AuditLog(lambda line: None), entropy=_entropy())
        for _ in range(RELEASES):
            challenge = harness.challenge()
            assert harness.attest(body | {"session": challenge["session"]}).status == 200


if __name__ == "__main__":
    print_table(rows())
