"""One request and its answer over TLS, each in a time that grows with its length and no faster."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import time
from dataclasses import dataclass

SCHEMA = 1
KIB, MIB = 1024, 1024 * 1024
MAX_HEAD = 8 * KIB
PIECE = 64 * KIB
# RFC 8446 section 5.1.
RECORD = 16 * KIB
# Seconds for TLS and the head of a request.
HEAD_TIME = 15.0
# What is read and thrown away behind an answer, so that it is not lost with the rest of a request.
MAX_DISCARDED, DISCARD_TIME = 4 * MIB, 3.0

REQUEST = re.compile(r"([A-Z]{1,16}) (/[!-~]{0,1024}) HTTP/1\.1")
# The blanks around a value are not told apart here: several ways to match them are tried one after the other.
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):([ -~\t]*)")
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
class Request:
    """The head of a request, and what came of its body with it."""

    method: str
    target: str
    length: int | None
    waits: bool
    rest: bytes


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
