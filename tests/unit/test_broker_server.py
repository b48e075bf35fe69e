"""The broker on a loopback address: what HTTP and TLS add, and clients that are slow, large or many."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import ipaddress
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from recipes.broker import core
from recipes.broker.audit import AuditLog
from recipes.broker.keystore import check_private
from recipes.broker.limits import Rate
from recipes.broker.protocol import MAX_BODY
from recipes.broker.server import running, serve
from recipes.errors import ImageError, SpecError
from tests.support import ROOT
from tests.unit.test_broker_guest import KEY, Harness, new_key

CHALLENGE = json.dumps({"schema": 1, "volume": "data"}).encode()
FAST = 0.4


def connect(url: str, **options: Any) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    assert parts.hostname is not None
    return kind(parts.hostname, parts.port, timeout=20, **options)


def post(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    connection.request("POST", path, body, headers or {})
    response = connection.getresponse()
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    return response.status, json.loads(response.read())


def ask(
    url: str,
    path: str,
    body: bytes,
    context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own."""
    options = {} if context is None else {"context": context}
    with contextlib.closing(connect(url, **options)) as connection:
        return post(connection, path, body, headers)


@contextlib.contextmanager
def plain(url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=20) as found:
        yield found


def until_closed(found: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := found.recv(4096):
            data += piece
    return data


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path, port=0, timeout=FAST)


@contextlib.contextmanager
def served(harness: Harness, **options: Any) -> Iterator[str]:
    with running(harness.config, audit=AuditLog(harness.lines.append), **options) as url:
        yield url


def write_certificate(folder: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    key, now = new_key(), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "broker.pem", folder / "broker.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].touch(mode=0o600)
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def test_a_key_over_https(tmp_path: Path) -> None:
    certificate, private_key = write_certificate(tmp_path)
    harness = Harness(tmp_path, port=0, certificate=certificate, private_key=private_key)
    trusting = ssl.create_default_context(cafile=certificate)
    with served(harness) as url:
        assert url.startswith("https://127.0.0.1:")
        connection = connect(url, context=trusting)
        status, challenge = post(connection, "/v1/challenge", CHALLENGE)
        assert status == 200
        body = json.dumps(harness.guest.evidence(challenge)).encode()
        status, found = post(connection, "/v1/attest", body)
        assert status == 200
        assert harness.guest.unwrap(challenge, found) == KEY
        connection.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(url, context=ssl.create_default_context()).connect()
        old = ssl.create_default_context(cafile=certificate)
        with pytest.warns(DeprecationWarning, match="TLSVersion"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            connect(url, context=old).connect()
    assert [line["result"] for line in harness.audit] == ["challenged", "released"]
    assert {line["client"] for line in harness.audit} == {"127.0.0.1"}


def test_an_ipv6_address(tmp_path: Path) -> None:
    harness = Harness(tmp_path, host="::1", port=0)
    with served(harness) as url:
        assert url.startswith("http://[::1]:")
        assert ask(url, "/v1/challenge", CHALLENGE)[0] == 200
    assert harness.audit[0]["client"] == "::1"


def test_a_body_that_is_too_large(harness: Harness) -> None:
    with served(harness) as url:
        for size in (MAX_BODY + 1, 2 * MAX_BODY):
            status, found = ask(url, "/v1/attest", bytes(size))
            assert (status, found["error"]) == (413, "body: more than 655360 bytes")
        status, found = ask(url, "/v1/attest", bytes(MAX_BODY))
        assert (status, found["field"]) == (400, "body")
        # Without end, and so without an answer.
        with plain(url) as found_socket:
            found_socket.sendall(b"POST /v1/attest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            endless = b"20000\r\n" + bytes(0x20000) + b"\r\n"
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                found_socket.sendall(100 * endless)
        assert ask(url, "/v1/challenge", CHALLENGE)[0] == 200
    assert harness.audit[-2]["status"] == 413


SLOW = {
    "silent": b"",
    "half a line": b"POST /v1/chal",
    "half a head": b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\n",
    "no body": b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
    "half a body": b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
}


@pytest.mark.parametrize("name", SLOW)
def test_a_client_that_stops_is_cut_off(harness: Harness, name: str) -> None:
    with served(harness) as url:
        assert ask(url, "/v1/challenge", CHALLENGE)[0] == 200
        with plain(url) as found:
            start = time.monotonic()
            found.sendall(SLOW[name])
            assert until_closed(found) == b""
            assert FAST * 0.9 < time.monotonic() - start < 10
        assert ask(url, "/v1/challenge", CHALLENGE)[0] == 200


def test_a_client_that_trickles_is_cut_off(harness: Harness) -> None:
    """One byte after the other is no reason to wait longer, and holds nobody else up."""
    with served(harness) as url, plain(url) as found:
        start = time.monotonic()
        found.sendall(b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() < start + 10:
                found.sendall(b"a")
                time.sleep(FAST / 10)
                assert ask(url, "/", b"")[0] == 404
        assert time.monotonic() - start < 5


def test_a_client_that_is_silent_in_its_handshake(tmp_path: Path) -> None:
    certificate, private_key = write_certificate(tmp_path)
    harness = Harness(tmp_path, port=0, certificate=certificate, private_key=private_key, timeout=FAST)
    trusting = ssl.create_default_context(cafile=certificate)
    with served(harness) as url, plain(url) as found:
        start = time.monotonic()
        # Others are served while it says nothing.
        assert ask(url, "/v1/challenge", CHALLENGE, trusting)[0] == 200
        assert until_closed(found) == b""
        assert time.monotonic() - start < 10


def test_a_connection_is_kept_for_the_next_request(harness: Harness) -> None:
    with served(harness) as url:
        connection = connect(url)
        for _ in range(4):
            assert post(connection, "/v1/challenge", CHALLENGE)[0] == 200
            time.sleep(FAST / 2)
        connection.close()


@pytest.mark.parametrize(("total", "per_client"), [(9, 2), (2, 9)])
def test_connections_are_bounded(tmp_path: Path, total: int, per_client: int) -> None:
    limits = {"connections": total, "connections_per_client": per_client}
    harness = Harness(tmp_path, port=0, timeout=2, **limits)
    with served(harness) as url:
        with plain(url) as first, plain(url), plain(url) as third:
            assert until_closed(third) == b""
            first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert until_closed(first).startswith(b"HTTP/1.1 404 ")
        time.sleep(0.1)
        assert ask(url, "/v1/challenge", CHALLENGE)[0] == 200


def test_a_connection_too_many_is_not_listened_to(tmp_path: Path) -> None:
    """Its request comes in one piece with the end of the handshake, before the connection can be cut."""
    certificate, private_key = write_certificate(tmp_path)
    options = {"certificate": certificate, "private_key": private_key, "connections_per_client": 1}
    harness = Harness(tmp_path, port=0, timeout=10, **options)
    trusting = ssl.create_default_context(cafile=certificate)
    head = f"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CHALLENGE)}\r\n\r\n".encode()
    with served(harness) as url, contextlib.closing(connect(url, context=trusting)) as first:
        assert post(first, "/v1/challenge", CHALLENGE)[0] == 200
        for _ in range(4):
            with plain(url) as found:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                secured = trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
                while True:
                    try:
                        secured.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        found.sendall(outgoing.read())
                        incoming.write(found.recv(65536))
                secured.write(head + CHALLENGE)
                found.sendall(outgoing.read())
                until_closed(found)
        assert len(harness.lines) == 1
        assert post(first, "/v1/challenge", CHALLENGE)[0] == 200
    assert [line["result"] for line in harness.audit] == ["challenged"] * 2


def test_what_is_no_http(harness: Harness) -> None:
    heads = (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"POST\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX: " + bytes(20000),
    )
    with served(harness) as url:
        for head in heads:
            with plain(url) as found:
                found.sendall(head)
                status, _, rest = until_closed(found).partition(b"\r\n")
                assert status == b"HTTP/1.1 400 Bad Request"
                body = json.loads(rest.partition(b"\r\n\r\n")[2])
                assert body["error"] == "http: Invalid HTTP request received."
        assert ask(url, "/v1/challenge", CHALLENGE)[0] == 200


def test_rates_go_by_the_address_and_not_by_what_a_header_says(tmp_path: Path) -> None:
    harness = Harness(tmp_path, port=0, rate_per_client=Rate(0.001, 2))
    with served(harness) as url:
        found = [
            ask(url, "/v1/challenge", CHALLENGE, headers={"X-Forwarded-For": f"192.0.2.{number}"})[0]
            for number in range(4)
        ]
    assert found == [200, 200, 429, 429]
    assert [line["client"] for line in harness.audit] == ["127.0.0.1"] * 3


def test_a_bug_is_a_failure_that_says_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(core, "wrap", broken)
    with served(harness) as url, caplog.at_level(logging.ERROR):
        _, challenge = ask(url, "/v1/challenge", CHALLENGE)
        status, found = ask(url, "/v1/attest", json.dumps(harness.guest.evidence(challenge)).encode())
    assert (status, found["field"]) == (500, "broker")
    assert "a bug" in caplog.text
    assert "bug" not in str(found)


def test_a_certificate_that_does_not_do(tmp_path: Path) -> None:
    certificate, private_key = write_certificate(tmp_path)
    options = {"port": 0, "certificate": certificate, "private_key": private_key}
    (tmp_path / "other").mkdir()
    _, other = write_certificate(tmp_path / "other")
    for key, error in ((other, "give PEM files that belong together"), (tmp_path / "none", "No such file")):
        with pytest.raises(SpecError, match=error):
            serve(Harness(tmp_path, **options | {"private_key": key}).config)
    locked = new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    private_key.write_bytes(locked)
    with pytest.raises(SpecError, match="the broker's private key is encrypted"):
        serve(Harness(tmp_path, **options).config)


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o644, 0o666])
def test_a_private_key_that_others_may_touch(tmp_path: Path, mode: int) -> None:
    certificate, private_key = write_certificate(tmp_path)
    options = {"port": 0, "certificate": certificate, "private_key": private_key}
    private_key.chmod(mode)
    with pytest.raises(ImageError) as caught:
        serve(Harness(tmp_path, **options).config)
    hint = f"`chmod 600 {private_key}`, and replace keys that may have been read"
    assert str(caught.value) == f"{private_key}: mode {mode:04o} lets others in; {hint}"
    private_key.chmod(0o400)
    with served(Harness(tmp_path, **options)) as url:
        assert url.startswith("https://")


def test_the_private_key_is_the_one_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name leads to another file as soon as it was opened."""
    certificate, private_key = write_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = write_certificate(tmp_path / "other")

    def swapped(path: Path, found: os.stat_result, mode: str) -> None:
        check_private(path, found, mode)
        other.replace(private_key)

    monkeypatch.setattr("recipes.broker.server.check_private", swapped)
    harness = Harness(tmp_path, port=0, certificate=certificate, private_key=private_key)
    with served(harness) as url:
        trusting = ssl.create_default_context(cafile=certificate)
        assert ask(url, "/v1/challenge", CHALLENGE, trusting)[0] == 200
    assert not other.exists()


def test_an_address_that_is_taken(harness: Harness) -> None:
    with served(harness) as url:
        port = urlsplit(url).port
        taken = Harness(harness.config.keys.parent, port=port)
        with pytest.raises(ImageError, match=f"127.0.0.1 port {port}: Address already in use"):
            serve(taken.config)


PROGRAM = """
import sys
from pathlib import Path
from recipes.broker.server import serve
from tests.unit.test_broker_guest import Harness
folder = Path(sys.argv[1])
serve(Harness(folder, port=0, audit=folder / "audit.log").config, ready=lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    argv = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert ask(url, "/v1/challenge", CHALLENGE)[0] == 200
        os.kill(process.pid, number)
        assert process.wait(timeout=20) in (-number, 1, 130)
    lines = (tmp_path / "audit.log").read_text().splitlines()
    assert [json.loads(line)["result"] for line in lines] == ["challenged"]
