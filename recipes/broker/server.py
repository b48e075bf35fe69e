"""The broker on the network: HTTPS, and nothing that a slow or a talkative client could hold up.

The library is uvicorn with its pure-Python parser h11, weighed against cheroot and aiohttp. A client that
nobody trusts yet must not cost a thread, and TLS must not be spoken where connections are accepted: cheroot
(11.1) does the handshake in its accepting thread, so that one silent client stops all the others, and its
time limits are for each read, so that one byte every few seconds holds a worker for ever. aiohttp would do,
with seven more packages, most of them compiled; uvicorn brings two (h11, click), and on an event loop one
timer for each connection bounds all of it. What it lacks is added here: that timer, bounds on connections,
and JSON for what is no HTTP. Its trust in X-Forwarded-For is turned off: clients are counted by the address
they come from.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import ImageError, SpecError
from ..units import KIB
from .audit import AuditLog
from .clock import Clock
from .config import BrokerConfig
from .core import FAILED, Broker, Reply
from .keystore import check_private
from .limits import client_group
from .messages import refusal_answer
from .protocol import MAX_BODY
from .refusal import RefusedError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Ours: request line and headers; a guest sends some hundred bytes.
_MAX_HEAD = 8 * KIB
# What is read and thrown away of a body that is too large, so that the answer is not lost with it.
_MAX_DISCARDED = 4 * MAX_BODY
_GRACE = 2


def serve(config: BrokerConfig, *, ready: Callable[[str], object] = lambda url: None) -> None:
    """Answers until a signal ends it.

    Args:
        ready: called with the broker's URL once it listens.

    Raises:
        ImageError: the configuration, a key, the certificate or the address does not do.
    """
    audit = _audit_log(config)
    try:
        server = _Running(config, audit, None)
        ready(server.url)
        server.run()
    finally:
        audit.close()


@contextmanager
def running(
    config: BrokerConfig, *, audit: AuditLog | None = None, clock: Clock | None = None
) -> Iterator[str]:
    """The URL of a broker in a thread of its own, which ends with the context.

    Raises:
        ImageError: as ``serve``.
    """
    own = audit or _audit_log(config)
    try:
        server = _Running(config, own, clock)
        thread = threading.Thread(target=server.run, name="broker")
        thread.start()
        try:
            yield server.url
        finally:
            server.stop()
            thread.join()
    finally:
        own.close()


class _Running:
    """A broker that listens from the start and answers in ``run``."""

    def __init__(self, config: BrokerConfig, audit: AuditLog, clock: Clock | None) -> None:
        self._broker = Broker(config, audit, clock=clock)
        context = _tls(config.certificate, config.private_key)
        self._timeout = config.timeout
        self._socket = _listen(config)
        address, port = self._socket.getsockname()[:2]
        host = f"[{address}]" if ":" in address else address
        self.url = f"{'http' if context is None else 'https'}://{host}:{port}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                _Application(self._broker),
                http=_connection_class(config),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                # Below that is a line for whatever is no HTTP, as often as anybody likes to send it.
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=config.connections,
                timeout_keep_alive=max(1, int(config.timeout)),
                timeout_graceful_shutdown=_GRACE,
                h11_max_incomplete_event_size=_MAX_HEAD,
                ssl_context_factory=None if context is None else lambda *_: context,
            )
        )

    def run(self) -> None:
        """Answers until ``stop``, or a signal in the main thread."""
        with asyncio.Runner(loop_factory=lambda: _Loop(self._timeout)) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))

    def stop(self) -> None:
        """Ends ``run``."""
        self._server.should_exit = True


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers give up on a TLS handshake in time; uvicorn leaves it at a minute."""

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:  # noqa: ANN401 - passed on
        """As asyncio's own."""
        if options.get("ssl") is not None:
            options |= {"ssl_handshake_timeout": self._timeout, "ssl_shutdown_timeout": self._timeout}
        return await super().create_server(*arguments, **options)


@dataclass(frozen=True)
class _Limits:
    """What all connections of one broker share: seconds, numbers, and how many each client has open."""

    timeout: float
    total: int
    per_client: int
    open: Counter[str] = field(default_factory=Counter)


class _Connection(H11Protocol):
    """A connection that is cut when a request takes too long, whatever it is that takes long."""

    limits: ClassVar[_Limits]
    _group = ""
    _deadline: asyncio.TimerHandle | None = None
    _is_cut = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Cuts a connection too many at once."""
        super().connection_made(transport)
        self._group = client_group(self.client[0]) if self.client else "unknown"
        limits = self.limits
        limits.open[self._group] += 1
        if limits.open.total() > limits.total or limits.open[self._group] > limits.per_client:
            self._is_cut = True
            self.loop.call_soon(transport.abort)
            return
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._clear_deadline()
        counts = self.limits.open
        counts[self._group] -= 1
        if not counts[self._group]:
            del counts[self._group]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Looks at nothing of a connection too many: a request may come with the end of the handshake."""
        if not self._is_cut:
            super().data_received(data)

    def on_response_complete(self) -> None:
        """Gives the next request as much time as this one had."""
        self._set_deadline()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """The protocol's own answer to what is no HTTP."""
        if self.cycle is None or not self.cycle.response_started:
            body = refusal_answer(RefusedError(400, "http", msg))
            head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode("ascii") + body)
        self.transport.close()

    def _set_deadline(self) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(self.limits.timeout, self.transport.abort)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()


def _connection_class(config: BrokerConfig) -> type[_Connection]:
    """The class that uvicorn makes connections from, with what they need in it."""

    class Connection(_Connection):
        limits = _Limits(config.timeout, config.connections, config.connections_per_client)

    return Connection


class _Application:
    """The broker as an ASGI application. Spec: ASGI HTTP & WebSocket specification 2.3, section "HTTP"."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        reply = FAILED
        try:
            reply = await self._reply(scope, receive)
        finally:
            # A bug is a 500 too, and then shows with its traceback in the log.
            await _send(reply, send)

    async def _reply(self, scope: Message, receive: Receive) -> Reply:
        client = scope["client"][0] if scope["client"] else "unknown"
        refused = self._broker.admit(client)
        if refused is not None:
            return refused
        body = await _read_body(receive)
        if body is None:
            return self._broker.refuse(client, RefusedError(413, "body", f"more than {MAX_BODY} bytes"))
        return self._broker.handle(scope["method"], scope["path"], body, client)


async def _read_body(receive: Receive) -> bytes | None:
    """The body, or None where it is too large."""
    body, size = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            # Nobody is there to take an answer, and what was sent is not all of it.
            return b""
        size += len(message["body"])
        if size <= MAX_BODY:
            body += message["body"]
        if not message["more_body"]:
            return bytes(body) if size <= MAX_BODY else None
        if size > _MAX_DISCARDED:
            return None


async def _send(reply: Reply, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(reply.body)).encode("ascii")),
        (b"cache-control", b"no-store"),
    ]
    if reply.status != 200:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _tls(certificate: Path | None, private_key: Path | None) -> ssl.SSLContext | None:
    if certificate is None or private_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        with private_key.open("rb") as file:
            check_private(private_key, os.fstat(file.fileno()), "600")
            # By its descriptor: the file that was looked at, whatever the name leads to by now.
            opened = f"/dev/fd/{file.fileno()}"
            # An encrypted key would be asked for on the terminal.
            context.load_cert_chain(certificate, opened, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        what = error.strerror or str(error)
        raise SpecError(
            f"{certificate}, {private_key}: {what}; give PEM files that belong together"
        ) from None
    return context


def _no_password() -> str:
    raise SpecError("the broker's private key is encrypted; give one that is not, with mode 0600")


def _listen(config: BrokerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # With the protocol named: asyncio turns Nagle's delay of 40 ms off only where it sees TCP.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((config.host, config.port))
        found.listen(config.connections)
    except OSError as error:
        found.close()
        what = f"cannot listen on {config.host} port {config.port}: {error.strerror}"
        raise ImageError(f"broker: {what}; choose another port") from None
    return found


def _audit_log(config: BrokerConfig) -> AuditLog:
    return AuditLog.append_to(config.audit) if config.audit else AuditLog(sys.stderr.write)
