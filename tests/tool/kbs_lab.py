"""What the tests of the helper ``kbs`` are made of: the program, certificates, bad servers and TPMs."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import ipaddress
import json
import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from recipes.broker.release import read_point, wrap
from tests.tool.built_helpers import SANITIZER_STATUS
from tests.unit.test_broker_guest import KEY, b64, firmware_log, new_key

Body = dict[str, Any]

SANITIZED = {
    "ASAN_OPTIONS": f"exitcode={SANITIZER_STATUS}",
    "UBSAN_OPTIONS": f"exitcode={SANITIZER_STATUS}",
}

# The helper tpm2, beside a file with all that it is started with.
LOGGED = """\
#!/bin/sh
printf '%s\\n' "$*" >>"${{0%/*}}/calls"
env >>"${{0%/*}}/calls"
exec {program} "$@"
"""
# A TPM that has been asked already: for servers that do not look at quotes.
CANNED = """\
#!/bin/sh
printf '%s\\n' "$*" >>"${0%/*}/calls"
for folder; do :; done
for name in quote signature ak_public activation; do printf '%s of a machine' "$name" >"$folder/$name"; done
printf '\\060\\202\\001\\000' >"$folder/ek_certificate"
head -c 300 /dev/zero >>"$folder/ek_certificate"
"""


@dataclass
class Authority:
    """A CA, and where its files go."""

    folder: Path
    name: str = "ca"
    parent: Authority | None = None
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        issuer = self.parent or self
        self.certificate = issuer.sign(self.name, self.key, constraints)
        self.file = self.folder / f"{self.name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        *extensions: x509.ExtensionType,
        days: tuple[float, float] = (-1, 1),
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
        )
        for each in extensions:
            builder = builder.add_extension(each, critical=isinstance(each, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())

    def server(
        self, *names: str, days: tuple[float, float] = (-1, 1), file: str = "server"
    ) -> tuple[Path, Path]:
        """Files with a server's certificate, those of CAs between it and the first, and its key."""
        key = new_key()
        found = [_alternative(name) for name in names or ("127.0.0.1",)]
        chain = [self.sign("server", key, x509.SubjectAlternativeName(found), days=days)]
        authority = self
        while authority.parent is not None:
            chain.append(authority.certificate)
            authority = authority.parent
        paths = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        paths[0].write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
        paths[1].touch(mode=0o600)
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return paths


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Ended:
    """How a run ended: its code, what came out of descriptor 3, and its words."""

    code: int
    key: bytes
    words: str


@dataclass
class Helper:
    """The program and what it is run with.

    Attributes:
        library: folder of the helper tpm2.
        authority: the pinned CA's file.
    """

    program: Path
    folder: Path
    library: Path
    authority: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = self.folder / "event-log"
        self.log.write_bytes(firmware_log())

    def run(
        self,
        url: str,
        *more: str,
        volume: str = "data",
        machine: str = "",
        timeout: float = 20,
        **changed: str,
    ) -> Ended:
        """Runs it to its end, which it finds in time by itself; the key is nowhere but in ``key``."""
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        argv = [str(self.program), url, str(self.authority), volume, machine, str(work), *more]
        environment = {
            "GOLDSMITH_LIB": str(self.library),
            "GOLDSMITH_EVENT_LOG": str(self.log),
            "GOLDSMITH_MEASURE_LOG": str(self.folder / "measure-log"),
            "GOLDSMITH_TIMEOUT": f"{timeout:g}",
            **changed,
        }
        return self.execute(argv, environment, timeout + 10)

    def execute(self, argv: list[str], environment: dict[str, str], limit: float) -> Ended:
        """Runs a program that writes a key to descriptor 3."""
        out = self.folder / "key"
        everything = {"PATH": os.environ["PATH"], **SANITIZED, **self.environment, **environment}
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" 3>"$0"', str(out), *argv],
            env=everything,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=limit,
        )
        assert done.stdout == ""
        assert done.returncode != SANITIZER_STATUS, done.stderr
        ended = Ended(done.returncode, out.read_bytes(), done.stderr)
        out.unlink()
        self.check_secrecy(ended)
        return ended

    def check_secrecy(self, ended: Ended) -> None:
        """The key is nowhere else, and every line is one that the driver logs as it is."""
        lines = ended.words.splitlines()
        assert all(line.isprintable() and line.isascii() and len(line) <= 200 for line in lines)
        assert (ended.code == 0) == (ended.key != b"")
        secret = ended.key or KEY
        forms = (secret, secret.hex().encode(), base64.b64encode(secret))
        written = [path for top in (self.folder, self.library) for path in top.rglob("*") if path.is_file()]
        # The broker's own folder is the one place that has it.
        data = [path.read_bytes() for path in written if path.parent.name != "keys"]
        assert not any(form in each for each in (ended.words.encode(), *data) for form in forms)


def library(folder: Path, script: str) -> Path:
    """A folder with a script as the helper tpm2."""
    folder.mkdir(exist_ok=True)
    path = folder / "tpm2"
    path.write_text(script)
    path.chmod(0o755)
    return folder


def http(status: int, body: object, *, length: int | None = None) -> bytes:
    """An answer as the broker's library writes it."""
    data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode() + b"\n"
    size = len(data) if length is None else length
    return (
        f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n".encode()
        + data
    )


@dataclass
class Conversation:
    """A server that answers as the protocol has it, whoever asks; it looks at no quote."""

    key: bytes = KEY
    session: str = "5e" * 16
    nonce: bytes = bytes(range(32))
    volume: str = ""
    asked: list[tuple[str, Body]] = field(default_factory=list)

    def reply(self, path: str, body: Body) -> bytes:
        self.asked.append((path, body))
        return http(200, getattr(self, path.rpartition("/")[2])(body))

    def challenge(self, body: Body) -> Body:
        self.volume = body["volume"]
        answer = {"schema": 1, "session": self.session, "nonce": b64(self.nonce), "expires": 60}
        return answer | {"selection": "sha256:4,7,11"}

    def activate(self, body: Body) -> Body:
        return {"schema": 1, "credential": b64(bytes(100))}

    def attest(self, body: Body) -> Body:
        guest = read_point(base64.b64decode(body["ephemeral"]))
        wrapped = wrap(self.key, guest=guest, session=self.session, volume=self.volume, nonce=self.nonce)
        return {"schema": 1, "ephemeral": b64(wrapped.ephemeral), "key": b64(wrapped.data)}


class Talk:
    """One connection to a server, until its script returns."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext | None, ending: threading.Event) -> None:
        self.plain, self._context, self._ending = plain, context, ending
        self.file: socket.socket = plain

    def shake_hands(self) -> None:
        if self._context is not None:
            self.file = self._context.wrap_socket(self.plain, server_side=True)

    def read(self) -> tuple[str, Body]:
        """A request, all of it."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
        while len(body) < size:
            body += self._more()
        return head.split(b" ")[1].decode(), json.loads(body)

    def _more(self) -> bytes:
        piece = self.file.recv(65536)
        if not piece:
            raise ConnectionResetError
        return piece

    def send(self, data: bytes) -> None:
        self.file.sendall(data)

    def wait(self, seconds: float = 60) -> bool:
        """Says nothing; true when the server is to end."""
        return self._ending.wait(seconds)


Script = Callable[[Talk], None]


class Server:
    """A server in a thread; every connection is given to a script."""

    def __init__(self, script: Script, certificate: tuple[Path, Path] | None, **options: Any) -> None:
        self.script, self.count = script, 0
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
            for name, value in options.items():
                setattr(self._context, name, value)
        self._ending = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve, name="server")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        # What wakes the thread up that accepts.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        self._thread.join()
        self._listening.close()

    def shrink(self) -> None:
        """Makes connections from here on hold few bytes that were not read yet."""
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def _serve(self) -> None:
        while True:
            plain, _ = self._listening.accept()
            with plain:
                if self._ending.is_set():
                    return
                plain.settimeout(20)
                self.count += 1
                talk = Talk(plain, self._context, self._ending)
                # The other side goes away when it has seen enough, at any point.
                with contextlib.suppress(OSError):
                    self.script(talk)
                talk.file.close()


def answering(reply: Callable[[str, Body], bytes]) -> Script:
    """The script of a server that has an answer to every request."""

    def script(talk: Talk) -> None:
        talk.shake_hands()
        talk.send(reply(*talk.read()))

    return script
