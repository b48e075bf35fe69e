"""QEMU and swtpm as processes that are started, asked and ended.

Every process is ended by the handle it was started with, and every wait has a time limit.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ..errors import ToolError
from .qemu import PROGRAM

PACKAGES = {PROGRAM: "qemu-system-x86", "swtpm": "swtpm"}
"""Debian packages that ship the programs."""

DEFAULT_TIMEOUT = 20.0
PATIENCE = 5.0
"""Seconds a program is given to end when asked; then it is killed."""

_LAST_WORDS = 1.0
"""Seconds between a program's closing its connections and its end."""

_MAX_SOCKET_PATH = 107
_MAX_LINE = 1 << 20


def find_program(name: str) -> str:
    """The path of a program.

    Raises:
        ToolError: it is not installed; the message names the Debian package.
    """
    path = shutil.which(name)
    if path is None:
        package = PACKAGES.get(Path(name).name)
        raise ToolError(
            [name], "not found", advice=f"install the Debian package {package}" if package else ""
        )
    return path


def qemu_version(binary: str = PROGRAM) -> str:
    """The version of a QEMU program, such as ``7.2.22``.

    Raises:
        ToolError: it is not installed, fails, or says no version.
    """
    argv = [find_program(binary), "--version"]
    try:
        result = subprocess.run(argv, capture_output=True, text=True, timeout=DEFAULT_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(argv, str(error)) from None
    match = re.match(r"QEMU emulator version ([0-9]+(?:\.[0-9]+)+)", result.stdout)
    if result.returncode or match is None:
        raise ToolError(argv, result.returncode or "no version in its output", result.stdout + result.stderr)
    return match[1]


class Program:
    """A program in the background with a private folder; its output is kept for messages.

    The folder, and what is in it, is gone when the context ends.
    """

    def __init__(self, argv: Sequence[str], *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.argv = list(argv)
        self.timeout = timeout
        self._folder = tempfile.TemporaryDirectory(prefix="goldsmith-")
        self.folder = Path(self._folder.name)
        self._log: IO[bytes] = (self.folder / "log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return self._process is not None and self._process.poll() is None

    def output(self) -> str:
        """The last 16 KiB the program wrote."""
        path = self.folder / "log"
        data = path.read_bytes() if path.exists() else b""
        return data[-16384:].decode("utf-8", "replace")

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once the program has ended by itself.

        Raises:
            ToolError: it runs longer than ``timeout`` seconds.
        """
        if self._process is None:
            raise self.error("not started")
        limit = self.timeout if timeout is None else timeout
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise self.error(f"still running after {limit:g} s") from None

    def end(self) -> None:
        """Ends the program if it runs, and removes its folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def error(self, status: str) -> ToolError:
        """What to raise when the program fails: its command line and its last lines."""
        return ToolError(self.argv, status, self.output())

    def lost(self, what: str) -> ToolError:
        """What to raise when the program's connection ends: with its exit status, where it has ended too."""
        try:
            status = self._process.wait(_LAST_WORDS) if self._process is not None else None
        except subprocess.TimeoutExpired:
            status = None
        return self.error(what if status is None else f"{what}, exit status {status}")

    def check_running(self) -> None:
        """Stops if the program has ended.

        Raises:
            ToolError: with its status and its last lines.
        """
        if self._process is not None and (status := self._process.poll()) is not None:
            raise ToolError(self.argv, status, self.output())

    def socket_path(self, name: str) -> str:
        """The path of a socket in the private folder.

        Raises:
            ToolError: the folder's path is too long for a socket.
        """
        path = str(self.folder / name)
        if len(path.encode()) > _MAX_SOCKET_PATH:
            self.end()
            raise ToolError(
                self.argv, f"{path} is too long for a socket", advice="set TMPDIR to a shorter path"
            )
        return path

    def _start(self) -> None:
        self.argv[0] = find_program(self.argv[0])
        self._process = subprocess.Popen(
            self.argv, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )


class Swtpm(Program):
    """A software TPM for one QEMU; ``socket`` is the control socket to give it.

    Args:
        state: folder that keeps the TPM's state; without one the TPM is new and is forgotten.
    """

    def __init__(self, state: Path | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(["swtpm"], timeout=timeout)
        self.socket = self.socket_path("tpm")
        # Relative paths put the TPM into failure mode as soon as swtpm changes its folder.
        folder = self.folder if state is None else state.absolute()
        self.argv += [
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={folder}",
            "--ctrl",
            f"type=unixio,path={self.socket}",
        ]

    def _start(self) -> None:
        super()._start()
        limit = time.monotonic() + self.timeout
        while not Path(self.socket).exists():
            self.check_running()
            if time.monotonic() > limit:
                raise self.error(f"no socket after {self.timeout:g} s")
            time.sleep(0.01)


class Qemu(Program):
    """A QEMU with its monitor (QMP), which it reaches over a socket we listen on."""

    def __init__(self, argv: Sequence[str], *, timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(argv, timeout=timeout)
        self._listeners: dict[str, socket.socket] = {}
        self._monitor: Lines | None = None
        self._listeners["qmp"] = self._listen("qmp")
        self.argv += ["-qmp", f"unix:{self.socket_path('qmp')}"]

    def add_channel(self, name: str, option: str) -> None:
        """Adds ``option`` with a socket as its value, such as ``-qtest``; before the start."""
        self._listeners[name] = self._listen(name)
        self.argv += [option, f"unix:{self.socket_path(name)}"]

    def channel(self, name: str) -> Lines:
        """The connection QEMU made to a socket.

        Raises:
            ToolError: QEMU ended or did not connect in time.
        """
        limit = time.monotonic() + self.timeout
        listener = self._listeners[name]
        listener.settimeout(0.1)
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                self.check_running()
                if time.monotonic() > limit:
                    raise self.error(f"no connection to {name} after {self.timeout:g} s") from None
                continue
            return Lines(self, connection)

    def execute(self, command: str, **arguments: object) -> object:
        """What QEMU returns for a monitor command.

        Raises:
            ToolError: QEMU refuses the command, ended, or does not answer in time.
        """
        if self._monitor is None:
            raise self.error("not started")
        self._monitor.send(json.dumps({"execute": command, "arguments": arguments}))
        while True:
            answer = self._answer(self._monitor.receive())
            if "return" in answer:
                result: object = answer["return"]
                return result
            if "error" in answer:
                raise self.error(f"{command}: {json.dumps(answer['error'])}")

    def property(self, path: str, name: str) -> object:
        """A property of an object of the machine, by ``qom-get``.

        Raises:
            ToolError: there is none.
        """
        return self.execute("qom-get", path=path, property=name)

    def save_memory(self, address: int, size: int) -> bytes:
        """``size`` bytes of guest memory; the machine should be stopped.

        Raises:
            ToolError: QEMU refuses.
        """
        path = self.folder / "memory"
        self.execute("pmemsave", val=address, size=size, filename=str(path))
        data = path.read_bytes()
        path.unlink()
        return data

    def end(self) -> None:
        """Ends QEMU if it runs, and removes its folder."""
        for listener in self._listeners.values():
            listener.close()
        if self._monitor is not None:
            self._monitor.close()
        super().end()

    def _listen(self, name: str) -> socket.socket:
        path = self.socket_path(name)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        return listener

    def _start(self) -> None:
        super()._start()
        self._monitor = self.channel("qmp")
        self._monitor.receive()
        self.execute("qmp_capabilities")

    def _answer(self, line: str) -> dict[str, object]:
        try:
            answer: object = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self.error(f"the monitor said {line[:100]!r}, which is no JSON object")
        return answer


class Lines:
    """A connection on which lines are exchanged."""

    def __init__(self, owner: Program, connection: socket.socket) -> None:
        self._owner = owner
        self._connection = connection
        self._connection.settimeout(owner.timeout)
        self._file = connection.makefile("rb")

    def send(self, line: str) -> None:
        """Sends a line.

        Raises:
            ToolError: the connection is gone.
        """
        try:
            self._connection.sendall(line.encode() + b"\n")
        except OSError as error:
            raise self._owner.lost(f"lost its connection ({error})") from None

    def receive(self, limit: int = _MAX_LINE) -> str:
        """The next line, without its end.

        Raises:
            ToolError: the connection is gone, silent for too long, or the line is over ``limit`` bytes.
        """
        try:
            line = self._file.readline(limit)
        except TimeoutError as error:
            raise self._owner.error(f"no answer ({error})") from None
        except OSError as error:
            raise self._owner.lost(f"no answer ({error})") from None
        if not line.endswith(b"\n"):
            if len(line) < limit:
                raise self._owner.lost("closed its connection")
            raise self._owner.error("sent an endless line")
        return line[:-1].decode("utf-8", "replace")

    def close(self) -> None:
        """Closes the connection."""
        self._file.close()
        self._connection.close()
