"""The attestation service: HTTPS for whoever wants to know what this machine booted, and for its operators.

It only speaks with the network. What it tells is made by attest-evidence, and a workload that comes is taken
by attest-workload; both are asked over a socket, and this program has no other rights. It uses Python's
standard library alone. ``goldsmith attest --protocol`` is the whole of what it answers.

A connection is one request, and has a time by which it is over, whatever it is that takes long. Anybody may
connect, so what comes is read in a time that grows with its length and no faster (``exchange``), and who only
holds a connection gives way to others (``admission``). Python runs the folder as a program, and so finds
these.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from admission import REFILL, Clients, Place, group
from exchange import (
    DISCARD_TIME,
    HEAD_TIME,
    KIB,
    MIB,
    PIECE,
    Line,
    RefusedError,
    Request,
    document,
    drain,
    head,
    read_request,
    refusal_body,
)
from journal import log

# A firmware log of 1 MiB and one of user space make less than this in base64.
MAX_EVIDENCE = 4 * MIB
# Seconds for making evidence, and between two pieces of a workload.
EVIDENCE_TIME, PIECE_TIME = 90.0, 20.0
# For a workload: to arrive, and then to be checked, measured and started.
BODY_TIME, TAKE_TIME = 1800.0, 1800.0
# For an answer: 5 s, and one more for so many bytes (1 Mbit/s). Only evidence is long; at most it has 37 s.
ANSWER_TIME, ANSWER_RATE = 5.0, 128 * KIB
# Seconds until the next connection is looked for where one could not be taken.
PAUSE = 0.5

NONCE = re.compile(r"/v1/collateral\?nonce=((?:[0-9a-f]{2}){16,64})")
COLLATERAL, WORKLOAD = "/v1/collateral", "/v1/workload"


@dataclass(frozen=True)
class Settings:
    """Where the two other services listen, and how large a workload may be."""

    evidence: str
    workload: str
    limit: int


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
