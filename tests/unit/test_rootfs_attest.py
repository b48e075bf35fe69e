"""Who has a connection to the attestation service, who gives way, and what it reads: overlay ``attest``."""

from __future__ import annotations

import importlib
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import pytest

from tests.support import ROOT

OVERLAY = ROOT / "rootfs/attest/usr/lib"
PARTS = ("admission", "exchange", "journal")


@pytest.fixture(scope="module", autouse=True)
def service() -> Iterator[None]:
    """Its folder as Python has it that is told to run it: on the path, and no bytecode is left there."""
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(OVERLAY / "goldsmith/attest"))
    try:
        yield
    finally:
        sys.path.remove(str(OVERLAY / "goldsmith/attest"))
        sys.dont_write_bytecode = bytecode
        for name in PARTS:
            sys.modules.pop(name, None)


@pytest.fixture
def admission() -> ModuleType:
    return importlib.import_module("admission")


@pytest.fixture
def exchange() -> ModuleType:
    return importlib.import_module("exchange")


class Crowd:
    """Connections of clients, without threads: one that is displaced leaves when it is told to."""

    def __init__(self, admission: ModuleType, stack: ExitStack) -> None:
        self.clients, self._stack = admission.Clients(), stack
        self._far: dict[int, socket.socket] = {}

    def enter(self, client: str) -> Any:
        near, far = socket.socketpair()
        self._stack.enter_context(far)
        place = self.clients.enter(client, near)
        if place is None:
            near.close()
            return None
        self._far[id(place)] = far
        self._stack.callback(near.close)
        return place

    def ended(self, place: Any) -> bool:
        """Whether the client sees it ended."""
        far = self._far[id(place)]
        far.setblocking(False)
        try:
            return far.recv(1) == b""
        except BlockingIOError:
            return False


@pytest.fixture
def crowd(admission: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    # Here nobody leaves while somebody waits for it.
    monkeypatch.setattr(admission, "ROOM_TIME", 0.0)
    with ExitStack() as stack:
        yield Crowd(admission, stack)


def names(*counts: int) -> list[str]:
    """So many connections of each client, in turn."""
    return [f"c{client}" for turn in range(4) for client, count in enumerate(counts) if turn < count]


def test_a_client_has_four(crowd: Crowd) -> None:
    places = [crowd.enter("a") for _ in range(5)]
    assert [place is None for place in places] == [False] * 4 + [True]
    assert not any(crowd.ended(place) for place in places[:4])
    crowd.clients.leave(places[1])
    assert crowd.ended(places[1])
    assert crowd.enter("a") is not None


def test_the_oldest_of_whoever_has_most_gives_way(crowd: Crowd, capsys: pytest.CaptureFixture[str]) -> None:
    places = [crowd.enter(name) for name in names(2, 3, 4, 3, 4)]
    assert len(places) == 16
    # c2 and c4 have most; the oldest of these is c2's first.
    assert crowd.enter("new") is None
    assert [index for index, place in enumerate(places) if crowd.ended(place)] == [2]
    assert capsys.readouterr().err == "c2 - makes room for new\n"
    # It is not free until it is left, and nobody is asked for the same twice.
    assert crowd.enter("new") is None
    assert [index for index, place in enumerate(places) if crowd.ended(place)] == [2, 4]
    crowd.clients.leave(places[2])
    assert crowd.enter("new") is not None


def test_who_is_busy_does_not_give_way(crowd: Crowd) -> None:
    places = [crowd.enter(name) for name in names(4, 4, 4, 4)]
    for place in places[:15]:
        crowd.clients.begin(place)
    assert crowd.enter("new") is None
    assert [crowd.ended(place) for place in places] == [False] * 15 + [True]
    crowd.clients.leave(places[15])
    last = crowd.enter("new")
    crowd.clients.begin(last)
    assert crowd.enter("other") is None
    assert not any(crowd.ended(place) for place in (*places[:15], last))
    # An answer that is out frees the place for others, whatever the client does then.
    crowd.clients.end(places[9])
    assert crowd.enter("other") is None
    assert [index for index, place in enumerate(places[:15]) if crowd.ended(place)] == [9]


def test_a_request_that_comes_too_late_is_not_begun(crowd: Crowd) -> None:
    places = [crowd.enter(name) for name in names(4, 4, 4, 4)]
    assert crowd.enter("new") is None
    with pytest.raises(ConnectionAbortedError, match=r"^somebody else has its place$"):
        crowd.clients.begin(places[0])
    crowd.clients.begin(places[1])


def test_who_has_fewer_keeps_them(crowd: Crowd) -> None:
    """Thirteen clients with one each, and one that is busy with three and wants another."""
    ones = [crowd.enter(f"c{index}") for index in range(13)]
    for _ in range(3):
        crowd.clients.begin(crowd.enter("a"))
    assert crowd.enter("a") is None
    assert not any(crowd.ended(place) for place in ones)
    assert crowd.enter("new") is None
    assert [crowd.ended(place) for place in ones] == [True] + [False] * 12


def test_a_client_that_has_gone_gives_way_too(crowd: Crowd) -> None:
    places = [crowd.enter(name) for name in names(4, 4, 4, 4)]
    # What shutdown() says of a connection that the other side has reset: there is none.
    places[0].plain.close()
    assert crowd.enter("new") is None
    crowd.clients.leave(places[0])
    assert crowd.enter("new") is not None


def test_a_newcomer_waits_for_whoever_gives_way(
    admission: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "ROOM_TIME", 60.0)
    clients = admission.Clients()
    with ExitStack() as stack:

        def enter(client: str) -> Any:
            near, far = (stack.enter_context(each) for each in socket.socketpair())
            far.settimeout(60)
            return clients.enter(client, near), far

        places = [enter(name) for name in names(4, 4, 4, 4)]

        def serve() -> None:
            # What a thread of the service finds where somebody else gets its place.
            if places[0][0].plain.recv(1) == b"":
                clients.leave(places[0][0])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert enter("new")[0] is not None
        thread.join(60)
        assert places[0][1].recv(1) == b""


def test_the_unit_allows_a_thread_for_each(admission: ModuleType) -> None:
    unit = (OVERLAY / "systemd/system/attest.service").read_text()
    found = re.search(r"^TasksMax=([0-9]+)$", unit, re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= 2 * admission.MAX_CONNECTIONS


@pytest.mark.parametrize("blanks", ["", " ", "\t", " \t \t"])
def test_blanks_around_a_header_are_none_of_it(exchange: ModuleType, blanks: str) -> None:
    """Spec: RFC 9112 section 5: OWS before and behind a field's value."""

    class Line:
        def receive(self, size: int) -> bytes:
            return f"POST / HTTP/1.1\r\nContent-Length:{blanks}7{blanks}\r\nA:{blanks}\r\n\r\nrest".encode()

    request = exchange.read_request(Line())
    assert (request.method, request.target, request.length, request.rest) == ("POST", "/", 7, b"rest")


@pytest.mark.parametrize(
    "header",
    [
        "A:" + " " * 8000 + "\x80",
        "A:" + " \t" * 4000 + "\x7f",
        "A: b" + " " * 8000 + "\n",
        "A" * 8000,
        "A" * 65 + ": b",
        "a : b",
        " a: b",
        ": b",
        "a: \x00",
    ],
)
def test_headers_that_are_none(exchange: ModuleType, header: str) -> None:
    """Any of these is judged at once, long as it may be."""

    class Line:
        def receive(self, size: int) -> bytes:
            return f"GET / HTTP/1.1\r\n{header}\r\n\r\n".encode("latin-1")

    with pytest.raises(exchange.RefusedError, match=r"^a header is malformed, or there twice$") as caught:
        exchange.read_request(Line())
    assert caught.value.status == 400


def test_an_answer_has_one_time_for_all_of_it(exchange: ModuleType) -> None:
    """Who takes a little of it now and then does not get more."""
    now, gave = [0.0], []

    class Tls:
        def settimeout(self, seconds: float) -> None:
            gave.append(seconds)

        def send(self, data: memoryview) -> int:
            # As an SSLSocket: all of it, under the one limit.
            now[0] += 2.0 * -(-len(data) // 16384)
            return len(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange.time, "monotonic", lambda: now[0])
        line = exchange.Line(Tls(), 5.0)
        line.send(bytes(3 * 16384))
        assert gave == [5.0, 3.0, 1.0]
        line.give(5.0)
        with pytest.raises(exchange.RefusedError, match=r"^it took too long"):
            line.send(bytes(1 << 20))
