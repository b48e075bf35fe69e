"""libguestfs under a watchdog: one appliance, in a process that is killed when it does not answer.

The binding is Debian's and fits one version of Python, and it can hang without end, so it is never imported
here: ``guestfs_worker.py`` runs under the first Python that has it, ours or the system's.

The appliance is emulated (TCG). libguestfs takes KVM where ``/dev/kvm`` can be opened, which proves nothing:
where no guest really runs it waits for ever. Who knows better sets GOLDSMITH_GUESTFS_KVM=1.

Spec: guestfs(3) of libguestfs 1.48, "BACKEND", "FORCE_TCG", "ENVIRONMENT VARIABLES".
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from ..errors import ToolError

WORKER = Path(__file__).with_name("guestfs_worker.py")
PYTHONS = (sys.executable, "/usr/bin/python3")
MEMORY = 1024  # MiB; file system checks and package scripts need more than the default
KVM = "GOLDSMITH_GUESTFS_KVM"
# On one quiet core a launch takes 12 s, and 20 s with the appliance to build first.
LAUNCH_TIMEOUT = 400.0
CALL_TIMEOUT = 1200.0
_START_TIMEOUT = 60.0
_END_TIMEOUT = 60.0

ADVICE = (
    "install the binding, its library and a kernel for its appliance, "
    "`apt-get install python3-guestfs libguestfs0 linux-image-cloud-amd64`, "
    "and let this user read the kernel in /boot"
)

Value = str | bytes | int | bool | Sequence[str]


class Guest(Protocol):
    """What can be asked of an appliance; tests have one of their own."""

    def call(self, method: str, *arguments: Value, **options: Value) -> object:
        """What ``guestfs.GuestFS.METHOD`` returns.

        Raises:
            ToolError: it failed.
        """


@dataclass(frozen=True)
class Drive:
    """A disk of the appliance; the first one is ``/dev/sda``.

    Attributes:
        format: ``raw`` or ``qcow2``; never guessed, a guest could make a raw disk look like another.
    """

    path: Path
    format: str
    read_only: bool = True


class Appliance:
    """A running appliance; every call has a time limit.

    Args:
        limit: seconds that a call may take.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], log: IO[bytes], limit: float
    ) -> None:
        self._argv, self._log, self._limit = list(argv), log, limit
        # A session of its own: QEMU and libguestfs' watcher are in its process group and end with it.
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=dict(environment),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        self._rest = b""
        self._calls: list[str] = []

    def start(self) -> str | None:
        """None once the binding is loaded, or why it is not.

        Raises:
            ToolError: it does not answer, or with something else.
        """
        answer = self._receive(_START_TIMEOUT)
        missing = answer.get("missing")
        return None if missing is None else str(missing)

    def call(self, method: str, *arguments: Value, **options: Value) -> object:
        """What ``guestfs.GuestFS.METHOD`` returns.

        Raises:
            ToolError: it failed, or did not end in time; then the appliance is killed.
        """
        return self._call(self._limit, method, *arguments, **options)

    def launch(self, limit: float) -> None:
        """Starts QEMU and waits for it.

        Raises:
            ToolError: it did not start in time.
        """
        self._call(limit, "launch")

    def _call(self, limit: float, method: str, *arguments: Value, **options: Value) -> object:
        self._calls.append(_shown(method, arguments))
        request = {"call": method, "args": [_encoded(item) for item in arguments], "kwargs": options}
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            raise self._failure("ended by itself") from None
        answer = self._receive(limit)
        if "error" in answer:
            raise self._failure("failed", str(answer["error"]))
        return _decoded(answer.get("value"))

    def end(self) -> None:
        """Writes back what is cached, stops QEMU and waits until all of it has gone.

        Raises:
            ToolError: writing back failed: what is on the disks cannot be relied on.
        """
        self._call(_END_TIMEOUT, "shutdown")
        self._requests.write(b'{"call": "end"}\n')
        self._requests.close()
        try:
            status = self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not end within {_END_TIMEOUT:.0f} s") from None
        if status:
            raise self._failure(f"ended with status {status}")

    def kill(self) -> None:
        """Ends everything at once; nothing happens where it has ended."""
        sockets = _sockets(self._process.pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        # The library has a folder for its socket, which it would have removed with itself.
        for path in sockets:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                path.parent.rmdir()
        with suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()

    def _receive(self, limit: float) -> dict[str, object]:
        """The next line of the worker's.

        Raises:
            ToolError: there is none within ``limit`` seconds.
        """
        deadline = time.monotonic() + limit
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = deadline - time.monotonic()
                if left <= 0 or not waiting.select(left):
                    self.kill()
                    raise self._failure(f"no answer within {limit:.0f} s, killed")
                piece = self._answers.read(1 << 20)
                if piece == b"":
                    raise self._failure("ended by itself")
                self._rest += piece or b""
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._failure(f"answered {line[:80]!r}")
        return answer

    def _failure(self, status: str, text: str = "") -> ToolError:
        self._log.seek(0)
        tail = self._log.read().decode("utf-8", "replace").rstrip()
        last = self._calls[-1] if self._calls else shlex.join(self._argv)
        return ToolError(["guestfs", last], status, f"{tail}\n{text}", _advice(self._calls))


@contextmanager
def running(
    drives: Sequence[Drive],
    cache: Path,
    *,
    pythons: Sequence[str] = PYTHONS,
    launch_timeout: float = LAUNCH_TIMEOUT,
    call_timeout: float = CALL_TIMEOUT,
) -> Iterator[Appliance]:
    """A running appliance with these disks, which have all that was written when the context ends well.

    Args:
        cache: folder for the appliance itself, some 400 MB.
        pythons: interpreters to try, in order.

    Raises:
        ToolError: libguestfs is not there, does not start, or did not end well.
    """
    # libguestfs clears up behind itself only where it ends by itself.
    with (
        tempfile.TemporaryFile() as log,
        tempfile.TemporaryDirectory(prefix="goldsmith-guestfs-", ignore_cleanup_errors=True) as scratch,
    ):
        appliance = _start(pythons, cache, log, call_timeout, scratch)
        try:
            _configure(appliance, drives, cache)
            appliance.launch(launch_timeout)
            yield appliance
            appliance.end()
        finally:
            appliance.kill()


def _start(pythons: Sequence[str], cache: Path, log: IO[bytes], limit: float, scratch: str) -> Appliance:
    """The worker under the first Python that has the binding.

    Args:
        scratch: a folder for the library's temporary files.
    """
    environment = {
        **os.environ,
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_TMPDIR": scratch,
        "LC_ALL": "C.UTF-8",
    }
    cache.mkdir(parents=True, exist_ok=True)
    reasons = []
    for python in dict.fromkeys(pythons):
        # Isolated (-I): the folder of the worker has modules that are named like those of the library.
        argv = [python, "-I", "-B", str(WORKER)]
        try:
            appliance = Appliance(argv, environment, log, limit)
        except OSError as error:
            reasons.append(f"{python}: {str(error.strerror).lower()}")
            continue
        try:
            missing = appliance.start()
        except BaseException:
            appliance.kill()
            raise
        if missing is None:
            return appliance
        appliance.kill()
        reasons.append(f"{python}: {missing}")
    raise ToolError(["guestfs"], "not available", "\n".join(reasons), ADVICE)


def _configure(appliance: Appliance, drives: Sequence[Drive], cache: Path) -> None:
    appliance.call("set_backend", "direct")
    if os.environ.get(KVM, "") in ("", "0"):
        appliance.call("set_backend_setting", "force_tcg", "1")
    appliance.call("set_memsize", MEMORY)
    appliance.call("set_cachedir", str(cache.resolve()))
    appliance.call("set_autosync", True)
    for drive in drives:
        path = str(drive.path.resolve())
        appliance.call("add_drive_opts", path, readonly=drive.read_only, format=drive.format)


def _sockets(process: int) -> tuple[Path, ...]:
    """The sockets of libguestfs that a process has: root's are in ``/tmp``, whatever the environment says.

    Spec: proc(5) ``/proc/PID/fd``, ``/proc/net/unix``; libguestfs 1.48 lib/tmpdirs.c names their folders.
    """
    own: set[str] = set()
    with suppress(OSError):
        for link in Path(f"/proc/{process}/fd").iterdir():
            own.add(str(link.readlink()))
    lines = Path("/proc/net/unix").read_text(errors="surrogateescape").splitlines() if own else []
    fields = (line.split(maxsplit=7) for line in lines)
    named = (Path(each[7]) for each in fields if len(each) == 8 and f"socket:[{each[6]}]" in own)
    return tuple(sorted({path for path in named if path.parent.name.startswith("libguestfs")}))


def _advice(calls: Sequence[str]) -> str:
    """What helps where the appliance did not come up."""
    if calls and calls[-1].startswith("launch"):
        more = "`libguestfs-test-tool` says more, and `qemu-img check` whether the disk image is damaged"
        return f"{ADVICE}; {more}"
    return ""


def _shown(method: str, arguments: Sequence[Value]) -> str:
    """A call for messages; contents of files are left out."""
    words = (item for item in arguments if not isinstance(item, bytes))
    return " ".join([method, *(str(item)[:200] for item in words)])


def _encoded(value: Value) -> object:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return list(value) if isinstance(value, tuple) else value


def _decoded(value: object) -> object:
    if isinstance(value, dict) and set(value) == {"bytes"}:
        return base64.b64decode(value["bytes"])
    return value
