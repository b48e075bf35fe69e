#!/usr/bin/python3
"""The attestation service: HTTPS for whoever wants to know what this machine booted, and for its operators.

It only speaks with the network. What it tells is made by attest-evidence, and a workload that comes is taken
by attest-workload; both are asked over a socket, and this program has no other rights. It uses Python's
standard library alone. ``goldsmith attest --protocol`` is the whole of what it answers.

A connection is one request, and has a time by which it is over, whatever it is that takes long. Anybody may
connect, so what comes is read in a time that grows with its length and no faster, and who only holds a
connection gives way to others.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SCHEMA = 1
KIB, MIB = 1024, 1024 * 1024
MAX_HEAD = 8 * KIB
# A firmware log of 1 MiB and one of user space make less than this in base64.
MAX_EVIDENCE = 4 * MIB
PIECE = 64 * KIB
# RFC 8446 section 5.1.
RECORD = 16 * KIB
# Each has a thread, of which the unit's TasksMax allows twice as many.
MAX_CONNECTIONS = 16
MAX_PER_CLIENT = 4
# Seconds for TLS and the head of a request, for making evidence, and between two pieces of a workload.
HEAD_TIME, EVIDENCE_TIME, PIECE_TIME = 15.0, 90.0, 20.0
# For a workload: to arrive, and then to be checked, measured and started.
BODY_TIME, TAKE_TIME = 1800.0, 1800.0
# For an answer: 5 s, and one more for so many bytes (1 Mbit/s). Only evidence is long; at most it has 37 s.
ANSWER_TIME, ANSWER_RATE = 5.0, 128 * KIB
# Quotes, which make the TPM work: so many at once, and one more in so many seconds, for each client.
BURST, REFILL = 10, 2.0
MAX_CLIENTS = 256
# Seconds until the next connection is looked for where one could not be taken.
PAUSE = 0.5
# For the thread of a connection that makes room to end; its socket is shut down, so nothing holds it up.
ROOM_TIME = 3.0
# What is read and thrown away behind an answer, so that it is not lost with the rest of a request.
MAX_DISCARDED, DISCARD_TIME = 4 * MIB, 3.0

REQUEST = re.compile(r"([A-Z]{1,16}) (/[!-~]{0,1024}) HTTP/1\.1")
# The blanks around a value are not told apart here: several ways to match them are tried one after the other.
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):([ -~\t]*)")
NONCE = re.compile(r"/v1/collateral\?nonce=((?:[0-9a-f]{2}){16,64})")
COLLATERAL, WORKLOAD = "/v1/collateral", "/v1/workload"
REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class RefusedError(Exception):
    """A request that is turned down: an HTTP status, the part of the request that is meant, and why.

    Attributes:
        measured: the word that was extended all the same; empty where none was.
    """

    def __init__(self, status: int, field: str, reason: str, measured: str = "") -> None:
        super().__init__(reason)
        self.status, self.field, self.measured = status, field, measured


@dataclass(frozen=True)
class Settings:
    """Where the two other services listen, and how large a workload may be."""

    evidence: str
    workload: str
    limit: int


@dataclass(frozen=True)
class Request:
    """The head of a request, and what came of its body with it."""

    method: str
    target: str
    length: int | None
    waits: bool
    rest: bytes


@dataclass(eq=False)
class Place:
    """Of a connection, from when it is taken until its thread ends.

    Attributes:
        busy: a request is there and not answered yet, so nobody else gets the place.
        lost: somebody else gets it.
    """

    client: str
    plain: socket.socket
    busy: bool = False
    lost: bool = False


class Clients:
    """Which connections there are, and when each client last asked for a quote."""

    def __init__(self) -> None:
        # Sockets of places are shut down and closed under it, so none is shut down that is closed.
        self._lock = threading.Condition()
        self._places: list[Place] = []
        self._buckets: dict[str, tuple[float, float]] = {}

    def enter(self, client: str, plain: socket.socket) -> Place | None:
        """A place for one more connection; where all are taken, that of one which is not busy.

        Waits until the thread of that one is done, so there are never more of them than places.
        """
        with self._lock:
            if sum(place.client == client for place in self._places) >= MAX_PER_CLIENT:
                return None
            if len(self._places) >= MAX_CONNECTIONS:
                if not self._displace(client):
                    return None
                if not self._lock.wait_for(lambda: len(self._places) < MAX_CONNECTIONS, ROOM_TIME):
                    return None
            place = Place(client, plain)
            self._places.append(place)
            return place

    def _displace(self, newcomer: str) -> bool:
        """Ends the oldest connection that is not busy, of the client that has most; whether there is one.

        Who has fewer than the newcomer keeps them.
        """
        held = Counter(place.client for place in self._places)
        idle = [place for place in self._places if not (place.busy or place.lost)]
        found = max(idle, key=lambda place: held[place.client], default=None)
        if found is None or held[found.client] < held[newcomer]:
            return False
        found.lost = True
        log(found.client, 0, f"makes room for {newcomer}")
        # Whoever reads or writes it finds it ended; where the other side has done so already, this fails.
        with contextlib.suppress(OSError):
            found.plain.shutdown(socket.SHUT_RDWR)
        return True

    def begin(self, place: Place) -> None:
        """Notes that a request is there.

        Raises:
            ConnectionAbortedError: too late.
        """
        with self._lock:
            if place.lost:
                raise ConnectionAbortedError("somebody else has its place")
            place.busy = True

    def end(self, place: Place) -> None:
        """Notes that it is answered; the other side may take its time to say good-bye."""
        with self._lock:
            place.busy = False

    def leave(self, place: Place) -> None:
        """Closes and forgets a connection."""
        with self._lock:
            self._places.remove(place)
            self._lock.notify()
            place.plain.close()

    def may_ask(self, client: str) -> bool:
        """Whether a client may have a quote now."""
        now = time.monotonic()
        with self._lock:
            tokens, at = self._buckets.pop(client, (float(BURST), now))
            tokens = min(float(BURST), tokens + (now - at) / REFILL)
            allowed = tokens >= 1
            self._buckets[client] = (tokens - 1 if allowed else tokens, now)
            while len(self._buckets) > MAX_CLIENTS:
                del self._buckets[next(iter(self._buckets))]
            return allowed


class Line:
    """A TLS connection that is read and written until a moment that does not move."""

    def __init__(self, tls: ssl.SSLSocket, seconds: float) -> None:
        self.tls = tls
        self.give(seconds)

    def give(self, seconds: float) -> None:
        """Sets the moment."""
        self._end = time.monotonic() + seconds

    def receive(self, size: int, at_most: float = HEAD_TIME) -> bytes:
        """What came, or nothing when the other side has ended it.

        Raises:
            RefusedError: nothing came in time.
        """
        self._limit(at_most)
        try:
            return self.tls.recv(size)
        except TimeoutError:
            raise RefusedError(408, "request", "it took too long to arrive") from None
        except OSError as error:
            raise RefusedError(400, "request", f"the connection broke: {error}") from None

    def send(self, data: bytes) -> None:
        """Writes all of it.

        Raises:
            RefusedError: the other side does not read it in time.
        """
        rest = memoryview(data)
        # One record of TLS at a time: each call has a limit of its own, however much it is given.
        while rest:
            self._limit(HEAD_TIME)
            rest = rest[self.tls.send(rest[:RECORD]) :]

    def _limit(self, at_most: float) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise RefusedError(408, "request", "it took too long to arrive")
        self.tls.settimeout(min(left, at_most))


class Service:
    """Answers connections."""

    def __init__(self, settings: Settings, context: ssl.SSLContext) -> None:
        self._settings, self._context = settings, context
        self._clients = Clients()
        self._quoting, self._taking = threading.Lock(), threading.Lock()

    def run(self, listener: socket.socket) -> None:
        """Answers until the process ends."""
        while True:
            try:
                connection, address = listener.accept()
            except OSError as error:
                # Who gave up before it was taken, or files that ran out: others are served all the same.
                log("nobody", 0, f"no connection: {error}")
                time.sleep(PAUSE)
                continue
            client = group(address[0])
            place = self._clients.enter(client, connection)
            if place is None:
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(place,), daemon=True).start()
            except RuntimeError as error:
                log(client, 0, f"no thread: {error}")
                self._clients.leave(place)
                time.sleep(PAUSE)

    def _serve(self, place: Place) -> None:
        what, client = "no request", place.client
        try:
            place.plain.settimeout(HEAD_TIME)
            # TLS has a copy: the place's own socket is open for as long as it may be shut down by others.
            with place.plain.dup() as copy, self._context.wrap_socket(copy, server_side=True) as tls:
                line = Line(tls, HEAD_TIME)
                try:
                    request = read_request(line)
                    self._clients.begin(place)
                    what = f"{request.method} {request.target[:80]}"
                    status, body = 200, self._answer(request, line, client)
                except RefusedError as refusal:
                    status, body = refusal.status, refusal_body(refusal)
                    what += f": {refusal.field}: {refusal}"
                log(client, status, what)
                answer = head(status, len(body)) + body
                line.give(ANSWER_TIME + len(answer) / ANSWER_RATE)
                line.send(answer)
                self._clients.end(place)
                tls.settimeout(DISCARD_TIME)
                with contextlib.suppress(OSError):
                    tls.unwrap()
        except (OSError, RefusedError) as error:
            log(client, 0, f"{what}: {error}")
        finally:
            try:
                drain(place.plain)
            finally:
                self._clients.leave(place)

    def _answer(self, request: Request, line: Line, client: str) -> bytes:
        path = request.target.partition("?")[0]
        if path not in (COLLATERAL, WORKLOAD):
            raise RefusedError(404, "path", f"unknown; there are {COLLATERAL} and {WORKLOAD}")
        wanted = "GET" if path == COLLATERAL else "POST"
        if request.method != wanted:
            raise RefusedError(405, "method", f"use {wanted}")
        if path == WORKLOAD:
            return self._workload(request, line)
        if request.length or request.rest:
            raise RefusedError(400, "body", "there is one; a GET has none")
        found = NONCE.fullmatch(request.target)
        if found is None:
            raise RefusedError(
                400, "nonce", "give ?nonce= and 16 to 64 bytes in lower-case hex, nothing else"
            )
        if not self._clients.may_ask(client):
            raise RefusedError(429, "client", f"too many quotes; one more every {REFILL:.0f} s")
        return self._collateral(found[1])

    def _collateral(self, nonce: str) -> bytes:
        if not self._quoting.acquire(timeout=HEAD_TIME):
            raise RefusedError(503, "quote", "others are being made; ask again")
        try:
            with reach(self._settings.evidence, EVIDENCE_TIME) as other:
                other.sendall(f"{nonce}\n".encode("ascii"))
                data = read_all(other, MAX_EVIDENCE)
        except OSError as error:
            raise RefusedError(500, "quote", f"no evidence: {error}") from None
        finally:
            self._quoting.release()
        if not data.startswith(b"{") or not data.endswith(b"}\n"):
            raise RefusedError(500, "quote", "no evidence; the log of attest-evidence says why")
        return data

    def _workload(self, request: Request, line: Line) -> bytes:
        """Hands a workload on, from a client that an operator's certificate vouches for."""
        certificate = line.tls.getpeercert(binary_form=True)
        if not certificate:
            raise RefusedError(403, "certificate", "none was shown; a workload takes an operator's")
        if request.target != WORKLOAD:
            raise RefusedError(400, "path", f"{WORKLOAD} takes no parameters")
        if not request.length:
            raise RefusedError(411, "Content-Length", "say how long the workload is")
        if request.length > self._settings.limit:
            what = f"{request.length} bytes; at most {self._settings.limit} are taken"
            raise RefusedError(413, "body", what)
        if len(request.rest) > request.length:
            raise RefusedError(400, "body", "longer than Content-Length says")
        if not self._taking.acquire(blocking=False):
            raise RefusedError(503, "workload", "another one is being taken; wait for it")
        try:
            log("operator", 0, f"sha256:{hashlib.sha256(certificate).hexdigest()} sends a workload")
            return self._hand_on(request, request.length, line)
        finally:
            self._taking.release()

    def _hand_on(self, request: Request, length: int, line: Line) -> bytes:
        line.give(BODY_TIME)
        if request.waits and not request.rest:
            line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            with reach(self._settings.workload, TAKE_TIME) as other:
                # Whoever takes it may have said no already, and then reads no more.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    other.sendall(f"{length}\n".encode("ascii"))
                    pass_on(line, other, request.rest, length)
                    other.shutdown(socket.SHUT_WR)
                verdict, _, reason = read_all(other, PIECE).decode("utf-8", "replace").strip().partition(" ")
        except OSError as error:
            raise RefusedError(500, "workload", f"nobody takes it: {error}") from None
        if verdict == "measured":
            return document(measured=reason)
        if verdict == "refused":
            raise RefusedError(422, "workload", reason)
        if verdict == "unstarted":
            what = "it does not start; see the log of workload.service"
            raise RefusedError(500, "measured", what, measured=reason)
        if verdict == "failed":
            raise RefusedError(500, "workload", reason)
        raise RefusedError(500, "workload", "no word of it; the log of attest-workload says why")


def group(address: str) -> str:
    """Whom an address is counted for: an IPv4 address, or the 64 bits of an IPv6 network (RFC 6177)."""
    packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]) if ":" in address else b""
    if packed[:12] == bytes(10) + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return f"{socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8))}/64" if packed else address


def read_request(line: Line) -> Request:
    """The head of a request. Spec: RFC 9112 sections 2 to 6.

    Raises:
        RefusedError: it is none, or of a kind that is not needed here.
    """
    data = b""
    while b"\r\n\r\n" not in data and len(data) <= MAX_HEAD:
        piece = line.receive(MAX_HEAD)
        if not piece:
            raise RefusedError(400, "head", "it ends before an empty line")
        data += piece
    text, _, rest = data.partition(b"\r\n\r\n")
    if len(text) > MAX_HEAD:
        raise RefusedError(413, "head", f"more than {MAX_HEAD} bytes")
    first, *lines = text.decode("latin-1").split("\r\n")
    request = REQUEST.fullmatch(first)
    if request is None:
        raise RefusedError(400, "head", "the first line is no request of HTTP/1.1")
    headers: dict[str, str] = {}
    for each in lines:
        found = HEADER.fullmatch(each)
        if found is None or found[1].lower() in headers:
            raise RefusedError(400, "head", "a header is malformed, or there twice")
        headers[found[1].lower()] = found[2].strip(" \t")
    if "transfer-encoding" in headers:
        raise RefusedError(411, "Transfer-Encoding", "not known here; send Content-Length")
    length = headers.get("content-length")
    if length is not None and not re.fullmatch(r"[0-9]{1,15}", length):
        raise RefusedError(400, "Content-Length", "no number of bytes")
    waits = headers.get("expect", "").lower() == "100-continue"
    return Request(request[1], request[2], None if length is None else int(length), waits, rest)


def reach(path: str, seconds: float) -> socket.socket:
    """A connection to another service of this machine."""
    other = socket.socket(socket.AF_UNIX)
    try:
        other.settimeout(seconds)
        other.connect(path)
    except OSError:
        other.close()
        raise
    return other


def read_all(other: socket.socket, limit: int) -> bytes:
    """All that comes; what is longer is not believed."""
    data = bytearray()
    while piece := other.recv(PIECE):
        data += piece
        if len(data) > limit:
            return b""
    return bytes(data)


def pass_on(line: Line, other: socket.socket, first: bytes, length: int) -> None:
    """Hands so many bytes on, piece by piece.

    Raises:
        RefusedError: they end too early, or take too long.
    """
    other.sendall(first)
    passed = len(first)
    while passed < length:
        piece = line.receive(min(PIECE, length - passed), PIECE_TIME)
        if not piece:
            raise RefusedError(400, "body", f"it ends after {passed} of {length} bytes")
        other.sendall(piece)
        passed += len(piece)


def document(**values: str) -> bytes:
    """An answer in JSON."""
    return json.dumps({"schema": SCHEMA, **values}, separators=(",", ":")).encode("ascii") + b"\n"


def refusal_body(refusal: RefusedError) -> bytes:
    """The answer to a request that is turned down."""
    known = {"measured": refusal.measured} if refusal.measured else {}
    return document(error=str(refusal), field=refusal.field, **known)


def head(status: int, length: int) -> bytes:
    """The head of an answer."""
    lines = (
        f"HTTP/1.1 {status} {REASONS[status]}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        "Cache-Control: no-store",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


def drain(plain: socket.socket) -> None:
    """Ends a connection so that what was said last arrives, whatever of the request is still on its way."""
    with contextlib.suppress(OSError):
        plain.shutdown(socket.SHUT_WR)
        plain.settimeout(DISCARD_TIME)
        end, left = time.monotonic() + DISCARD_TIME, MAX_DISCARDED
        while left > 0 and time.monotonic() < end and (piece := plain.recv(PIECE)):
            left -= len(piece)


def log(client: str, status: int, what: str) -> None:
    """One line, without anything that could steer a terminal."""
    sys.stderr.write(f"{client} {status or '-'} {ascii(what)[1:-1]}\n")
    sys.stderr.flush()


def server_context(certificate: Path, key: Path, operators: Path) -> ssl.SSLContext:
    """TLS 1.3 with this boot's key. A client may show a certificate, and then it is an operator's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A ticket would carry an operator's certificate into another connection.
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    if operators.exists():
        context.verify_mode = ssl.CERT_OPTIONAL
        # The certificate of one operator will do, as will that of a CA that vouches for several.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(operators)
    return context


def main() -> None:
    """Answers on a socket that whoever starts this has opened."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--certificate", "--private-key", "--operators"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--evidence", "--workload"):
        parser.add_argument(name, required=True)
    parser.add_argument("--limit", type=int, default=4096 * MIB)
    # The first socket that systemd passes on: sd_listen_fds(3).
    parser.add_argument("--socket", type=int, default=3)
    options = parser.parse_args()
    context = server_context(options.certificate, options.private_key, options.operators)
    settings = Settings(options.evidence, options.workload, options.limit)
    with socket.socket(fileno=options.socket) as listener:
        listener.setblocking(True)
        Service(settings, context).run(listener)


if __name__ == "__main__":
    main()
