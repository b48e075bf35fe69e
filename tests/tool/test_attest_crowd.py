"""Clients that want the attestation service for themselves: what others get meanwhile."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.tool.attest_lab import AttestLab, word

pytestmark = pytest.mark.tool

PATIENCE = 60


@pytest.fixture(scope="module")
def lab() -> Iterator[AttestLab]:
    with AttestLab() as made:
        yield made


def plain(lab: AttestLab, client: int, stack: ExitStack) -> socket.socket:
    """A connection of 127.0.0.``client`` that says nothing."""
    line = socket.create_connection(("127.0.0.1", lab.port), PATIENCE, (f"127.0.0.{client}", 0))
    return stack.enter_context(line)


def secure(lab: AttestLab, client: int, stack: ExitStack, who: Sequence[object] = ()) -> ssl.SSLSocket:
    """One that says nothing behind its TLS handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if who:
        context.load_cert_chain(*map(str, who))
    return stack.enter_context(context.wrap_socket(plain(lab, client, stack)))


def answer(line: socket.socket) -> bytes:
    return b"".join(iter(lambda: line.recv(65536), b""))


def ended(line: socket.socket) -> bool:
    """Whether it has ended, without a word."""
    line.settimeout(0)
    try:
        return line.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False


def test_a_header_of_blanks_holds_up_nobody(lab: AttestLab) -> None:
    """Told apart in every possible way, these are hours of work, during which no other thread runs."""
    with ExitStack() as stack:
        line = secure(lab, 2, stack)
        line.sendall(b"GET / HTTP/1.1\r\nA:" + b" " * 8000 + b"\x80\r\n\r\n")
        status, document = lab.curl("/", "--max-time", PATIENCE)
        assert (status, document["field"]) == (404, "path")
        assert answer(line).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(("connect", "first"), [(plain, 32), (secure, 42)])
def test_idle_connections_make_room(
    lab: AttestLab, connect: Callable[[AttestLab, int, ExitStack], socket.socket], first: int
) -> None:
    with ExitStack() as stack:
        idle = [connect(lab, client, stack) for _ in range(4) for client in range(first, first + 4)]
        done = lab.goldsmith("--ak", lab.ak)
        assert (done.returncode, done.stderr) == (0, "")
        assert ended(idle[0])
    assert f"127.0.0.{first} - makes room for 127.0.0." in lab.log


def test_a_request_that_is_there_keeps_its_place(lab: AttestLab) -> None:
    (lab.folder / "busy").touch()
    with ExitStack() as stack:
        line = secure(lab, 12, stack, lab.operator)
        line.sendall(b"POST /v1/workload HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")
        end = time.monotonic() + PATIENCE
        while not (lab.folder / "taken").exists() and time.monotonic() < end:
            time.sleep(0.02)
        idle = [plain(lab, client, stack) for client in range(13, 16)]
        idle += [plain(lab, client, stack) for _ in range(3) for client in range(12, 16)]
        for _ in range(3):
            assert lab.goldsmith("--ak", lab.ak).returncode == 0
        (lab.folder / "busy").unlink()
        assert answer(line).endswith(b'{"schema":1,"measured":"%s"}\n' % word(b"x").encode())
        assert ended(idle[0])
    assert "127.0.0.13 - makes room for 127.0.0." in lab.log
    assert "127.0.0.12 - makes room" not in lab.log


def test_who_is_answered_and_stays_makes_room(lab: AttestLab) -> None:
    """Requests that are quickly made, by clients that never end a connection: its end takes seconds."""
    with ExitStack() as stack:
        lines = [secure(lab, client, stack) for _ in range(4) for client in range(22, 26)]
        for line in lines:
            line.sendall(b"GET / HTTP/1.1\r\n\r\n")
        for line in lines:
            assert line.recv(65536).startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert lab.goldsmith("--ak", lab.ak).returncode == 0
