"""The client's side of the network: one TLS connection for each request, and the key that it came over.

Certificates are not judged here, for none says anything; see ``protocol`` for what does.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from ..document import read_document
from ..errors import FormatError, ImageError, SpecError, VerifyError
from ..formats.tls_certificates import public_key_info
from ..units import KIB
from .protocol import COLLATERAL, MAX_ANSWER, MAX_HEAD, SCHEMA, WORKLOAD

# Seconds: to connect and to get collateral, the machine's service starting meanwhile; for a workload to be
# taken, which the machine checks, measures and starts.
PATIENCE = 120.0
WORKLOAD_PATIENCE = 3600.0
_PIECE = 64 * KIB
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2})( [ -~]*)?")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n|\Z)", re.IGNORECASE)


@dataclass(frozen=True)
class Credentials:
    """An operator's certificate and its key, PEM files."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True)
class Answer:
    """What came back, and the SHA-256 of the public key that the server has proved to have."""

    status: int
    body: bytes
    tls_key: bytes


@dataclass(frozen=True)
class Address:
    """Where a service listens."""

    host: str
    port: int


def read_address(url: str) -> Address:
    """The address in a URL.

    Raises:
        SpecError: it is no ``https://HOST:PORT``.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    odd = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme != "https" or not host or not port or odd:
        raise SpecError(f"attest: {url!r} is no address of a service; write https://HOST:PORT")
    return Address(host, port)


def collateral(address: Address, nonce: bytes) -> Answer:
    """The answer to a nonce.

    Raises:
        ImageError: there is none, or the machine refused.
    """
    with _connected(address, None, PATIENCE) as (line, key):
        line.sendall(_head("GET", f"{COLLATERAL}?nonce={nonce.hex()}", address))
        return _good(_receive(line, key))


def hand_in(address: Address, credentials: Credentials, image: Path, tls_key: bytes) -> str:
    """The word that the machine says it has measured of the workload in an EROFS image.

    Args:
        tls_key: what the machine has proved to have; nothing is sent to anybody else.

    Raises:
        VerifyError: somebody else answers.
        ImageError: the machine is not there, or refused.
    """
    with image.open("rb") as file, _connected(address, credentials, WORKLOAD_PATIENCE) as (line, key):
        if key != tls_key:
            what = f"the TLS key is {key.hex()}, the machine's is {tls_key.hex()}"
            raise VerifyError(f"attest: {what}; nothing was sent to whoever has it")
        size = file.seek(0, 2)
        file.seek(0)
        line.sendall(_head("POST", WORKLOAD, address, size))
        # Whoever refuses may do so before all of it is there; the answer says why.
        with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            _send(line, file)
        answer = _good(_receive(line, key))
    fields = read_document(_text(answer.body), "answer", SCHEMA)
    word = fields.text("measured")
    fields.finish()
    return word


def _send(line: ssl.SSLSocket, file: BinaryIO) -> None:
    while piece := file.read(_PIECE):
        line.sendall(piece)


@contextmanager
def _connected(
    address: Address, credentials: Credentials | None, patience: float
) -> Iterator[tuple[ssl.SSLSocket, bytes]]:
    """A TLS connection, and the SHA-256 of the other side's public key.

    Raises:
        ImageError: there is none to be had, or it broke.
    """
    where = f"attest: {address.host} port {address.port}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    # Whose key it is, the quote says; see `protocol`.
    context.verify_mode = ssl.CERT_NONE
    if credentials is not None:
        _load(context, credentials)
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=PATIENCE) as plain,
            context.wrap_socket(plain) as line,
        ):
            line.settimeout(patience)
            certificate = line.getpeercert(binary_form=True) or b""
            yield line, hashlib.sha256(public_key_info(certificate, "server")).digest()
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise ImageError(
            f"{where}: TLS failed: {reason}; is this the service, and yours the certificate?"
        ) from None
    except OSError as error:
        said = str(error.strerror or error).lower()
        raise ImageError(f"{where}: {said}; is the machine up, and its port open?") from None


def _load(context: ssl.SSLContext, credentials: Credentials) -> None:
    def no_password() -> str:
        raise SpecError(f"{credentials.private_key}: the key is encrypted; give one that is not")

    try:
        context.load_cert_chain(credentials.certificate, credentials.private_key, password=no_password)
    except OSError as error:
        what = str(error.strerror or error).lower()
        where = f"{credentials.certificate}, {credentials.private_key}"
        raise SpecError(f"{where}: {what}; give PEM files that belong together") from None


def _head(method: str, target: str, address: Address, length: int | None = None) -> bytes:
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}:{address.port}", "Connection: close"]
    if length is not None:
        lines += ["Content-Type: application/octet-stream", f"Content-Length: {length}"]
    return "\r\n".join((*lines, "", "")).encode("ascii")


def _receive(line: ssl.SSLSocket, key: bytes) -> Answer:
    """The answer; as much as it says is read, and never more than an answer may have.

    Raises:
        FormatError: it is no answer, or not all of one.
    """
    end = time.monotonic() + (line.gettimeout() or PATIENCE)
    data = bytearray()
    while len(data) <= MAX_HEAD + MAX_ANSWER:
        if time.monotonic() > end:
            raise FormatError("answer", f"only {len(data)} bytes of it came in time")
        piece = line.recv(_PIECE)
        if not piece:
            break
        data += piece
    head, found, body = bytes(data).partition(b"\r\n\r\n")
    status, length = _STATUS.fullmatch(head.partition(b"\r\n")[0]), _LENGTH.search(head)
    if not found or status is None or length is None:
        raise FormatError("answer", f"{len(data)} bytes that are no answer of HTTP/1.1 with a length")
    if len(body) != int(length[1]):
        raise FormatError("answer", f"{len(body)} bytes of {int(length[1])} came")
    return Answer(int(status[1]), body, key)


def _good(answer: Answer) -> Answer:
    """The answer, if it is no refusal.

    Raises:
        ImageError: with the machine's reason.
    """
    if answer.status == 200:
        return answer
    fields = read_document(_text(answer.body), "answer", SCHEMA)
    if "measured" in fields.values:
        # The machine is another one from now on, as far as its registers tell.
        what = f"the machine measured {fields.text('measured')!r} and failed ({answer.status})"
        raise ImageError(f"attest: {what}: {fields.text('error')}; say --after for it from now on")
    raise ImageError(
        f"attest: the machine refuses ({answer.status}): {fields.text('field')}: {fields.text('error')}"
    )


def _text(body: bytes) -> str:
    return body.decode("ascii", "replace")
