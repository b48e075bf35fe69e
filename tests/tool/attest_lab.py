"""The attestation service on this host, before a software TPM: its own programs, started as in a guest.

What a guest's firmware and systemd measure is extended here by tpm2-tools, and the files that a kernel shows
are written from what the TPM says then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.serialization import Encoding

from recipes.formats import tls_certificates as tls
from recipes.golden.manifest import GoldenManifest, dump
from recipes.golden.workload import with_workload
from recipes.measure.userspace import PHASES, workload_step
from tests.support import ROOT, require_tool
from tests.tool.tpm2_machine import TpmMachine
from tests.unit.test_broker_guest import firmware_log
from tests.unit.unlock_samples import COVERED, events, machine

OVERLAY = ROOT / "rootfs/attest/usr/lib/goldsmith"
SERVICE = OVERLAY / "attest"
FIRST, SECOND = b'{\n "name": "site"\n}\n', b'{\n "name": "site", "second": true\n}\n'
GOLDEN = with_workload(machine("m"), workload_step(14, "site", FIRST))
# What stands for `workload` in the guest, which needs one: takes what says so, and is not quick about it.
TAKES = """\
#!/bin/sh
cp "$2" "{folder}/taken"
grep -q 'not whole' "$2" && echo 'a file is not what its manifest says' && exit 1
grep -q 'no start' "$2" && echo "workload:site:sha256:$(sha256sum <"$2" | cut -c 1-64)" && exit 3
grep -q 'no end' "$2" && echo 'the containers that run do not end' && exit 4
grep -q 'killed' "$2" && kill -9 $$
while [ -e "{folder}/busy" ]; do sleep 0.05; done
echo "workload:site:sha256:$(sha256sum <"$2" | cut -c 1-64)"
"""


def make_operator(folder: Path, name: str = "somebody") -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    folder.mkdir(exist_ok=True)
    certificate, key = folder / "certificate.pem", folder / "private.pem"
    pem = tls.make_key()
    key.write_bytes(pem)
    made = tls.make_client(tls.load_key(pem, name), name)
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    return certificate, key


def word(manifest: bytes) -> str:
    """What is measured of a workload."""
    return f"workload:site:sha256:{hashlib.sha256(manifest).hexdigest()}"


class Started:
    """A program for each connection to a socket, on its standard input and output, as with Accept=yes."""

    def __init__(self, path: Path, argv: Sequence[str | Path], environment: dict[str, str]) -> None:
        self.argv, self.environment = argv, environment
        self.log = path.with_suffix(".log")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(4)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, self.log.open("ab") as log:
                subprocess.run(
                    [*map(str, self.argv)],
                    stdin=connection.fileno(),
                    stdout=connection.fileno(),
                    stderr=log,
                    env=self.environment,
                    check=False,
                )

    def close(self) -> None:
        """Starts no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(30)


class AttestLab:
    """A guest with the service, as far as its programs can tell, and a client that knows what to expect."""

    def __init__(self, *, operators: bool = True) -> None:
        self._stack = contextlib.ExitStack()
        self._operators = operators

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="goldsmith-")))
        self.tpm = self._stack.enter_context(TpmMachine())
        self.operator = make_operator(self.folder / "operator", "operator")
        self.stranger = make_operator(self.folder / "stranger", "stranger")
        self.golden = self.folder / "golden.json"
        manifest = GoldenManifest(image="i", version="1", artefacts=(), machines=(GOLDEN,), unmeasured=())
        self.golden.write_text(dump(manifest))
        for name in ("registers", "work", "run", "state"):
            (self.folder / name).mkdir()
        self._boot()
        self._make_key()
        self._start_helpers()
        self._start_service()
        self.ak = self.folder / "ak.pub"
        self.tpm.run("quote", "sha256:0", "00" * 16, self.folder / "work").good()
        self.ak.write_bytes((self.folder / "work/ak_public").read_bytes())

    def _boot(self) -> None:
        """What firmware and then systemd measure."""
        self._words: list[tuple[int, str]] = []
        log = [(index, data) for index in COVERED for data in events(index, "m")]
        (self.folder / "events").write_bytes(firmware_log(log))
        self._extend(log)
        self.measure(*((11, phase) for phase in PHASES), (14, word(FIRST)))

    def measure(self, *words: tuple[int, str]) -> None:
        """Words that systemd extends, and its log of them."""
        self._extend([(index, text.encode()) for index, text in words])
        self._words += words
        records = (
            {
                "pcr": index,
                "digests": [{"hashAlg": "sha256", "digest": hashlib.sha256(text.encode()).hexdigest()}],
                "content_type": "systemd",
                "content": {"string": text},
            }
            for index, text in self._words
        )
        (self.folder / "words").write_text("".join(f"\x1e{json.dumps(record)}\n" for record in records))

    def _extend(self, words: Sequence[tuple[int, bytes]]) -> None:
        done = [f"{index}:sha256={hashlib.sha256(data).hexdigest()}" for index, data in words]
        # The tool takes eight registers at once.
        for start in range(0, len(done), 8):
            self.tpm.tools.run("tpm2_pcrextend", *done[start : start + 8])
        shown = self.tpm.tools.run("tpm2_pcrread", "sha256:all").decode()
        for index, value in re.findall(r"^ +([0-9]+) *: 0x([0-9A-F]{64})$", shown, re.MULTILINE):
            (self.folder / "registers" / index).write_text(f"{value}\n")

    def _script(self, name: str, **settings: object) -> Path:
        """A script of the overlay with other paths; all that it has are set at its beginning."""
        text = (OVERLAY / name).read_text()
        for key, value in settings.items():
            text, count = re.subn(rf"^{key}=.*$", f"{key}={value}", text, flags=re.MULTILINE)
            assert count == 1, key
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def _make_key(self) -> None:
        """The script itself, but for the group, which only a guest has."""
        script = self._script("attest-key", FOLDER=self.folder / "run")
        script.write_text(script.read_text().replace("chgrp attest", ": chgrp attest"))
        subprocess.run([require_tool("dash"), script], check=True, capture_output=True, umask=0o077)
        assert (self.folder / "run/tls.key").stat().st_mode & 0o777 == 0o640

    def _start_helpers(self) -> None:
        require_tool("openssl")
        takes = self.folder / "takes"
        takes.write_text(TAKES.format(folder=self.folder))
        takes.chmod(0o755)
        evidence = self._script(
            "attest-evidence",
            TPM2=self.tpm.program,
            REGISTERS=self.folder / "registers",
            EVENTS=self.folder / "events",
            WORDS=self.folder / "words",
            PUBLIC=self.folder / "run/tls.spki",
            WORK=self.folder / "work",
        )
        taking = self._script("attest-workload", WORKLOAD=takes, IMAGE=self.folder / "state/workload.erofs")
        environment = {"GOLDSMITH_TPM": self.tpm.bridge.path, "PATH": os.environ["PATH"]}
        for name, script in (("evidence", evidence), ("workload", taking)):
            started = Started(self.folder / "run" / name, [require_tool("dash"), script], environment)
            self._stack.callback(started.close)

    def _start_service(self) -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        self.port = listener.getsockname()[1]
        run = self.folder / "run"
        argv = [
            sys.executable,
            "-I",
            "-B",
            SERVICE,
            "--certificate",
            run / "tls.pem",
            "--private-key",
            run / "tls.key",
        ]
        operators = self.operator[0] if self._operators else self.folder / "none.pem"
        argv += ["--operators", operators, "--evidence", run / "evidence", "--workload", run / "workload"]
        argv += ["--limit", 1 << 20, "--socket", listener.fileno()]
        self._log = (self.folder / "service.log").open("wb")
        self._stack.callback(self._log.close)
        with listener:
            process = subprocess.Popen(
                [*map(str, argv)], pass_fds=[listener.fileno()], stderr=self._log, cwd="/", env={}
            )
        self.service = process.pid
        self._stack.callback(process.wait, 20)
        self._stack.callback(process.send_signal, signal.SIGTERM)

    @property
    def log(self) -> str:
        """What the service has written down."""
        return (self.folder / "service.log").read_text()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def goldsmith(self, *options: object, url: str | None = None) -> subprocess.CompletedProcess[str]:
        """The client: ``goldsmith attest``."""
        argv = [sys.executable, "-m", "recipes", "attest", url or self.url, "--golden", self.golden, *options]
        return subprocess.run([*map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=120)

    def curl(self, path: str, *options: object) -> tuple[int, dict[str, str]]:
        """Status and document as curl gets them, which believes any certificate here."""
        argv = [require_tool("curl"), "-sk", "-w", "\n%{http_code}", *options, f"{self.url}{path}"]
        done = subprocess.run([*map(str, argv)], capture_output=True, text=True, timeout=120)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body) if body else {"error": str(done.returncode)}

    def connect(self) -> ssl.SSLSocket:
        """A bare TLS connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return context.wrap_socket(plain)

    def say(self, data: bytes) -> bytes:
        """All that the service answers to these bytes."""
        with self.connect() as line:
            line.sendall(data)
            return b"".join(iter(lambda: line.recv(65536), b""))
