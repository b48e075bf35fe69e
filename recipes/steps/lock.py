"""One build folder, one lock: a second build waits and says who it waits for."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import IO

from ..errors import ImageError

READ_ONLY_COMMANDS = frozenset({"list", "info", "help", "tabcompletion", "dumpdb", "--version", "--help"})
_held: list[IO[str]] = []


def hold_build_lock(out: Path, arguments: list[str]) -> None:
    """Takes the lock of ``out`` for as long as this process lives, waiting for another build if there is one.

    Commands that only read the task graph take none. A killed build leaves no lock: the kernel drops it.

    Raises:
        ImageError: ``out`` cannot be made or written to.
    """
    if READ_ONLY_COMMANDS & set(arguments[:1]) or _held:
        return
    path = out / ".lock"
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise ImageError(f"{out}: {error.strerror}; the build writes there, make it writable") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for {_holder(path)}, which is building here", file=sys.stderr, flush=True)  # noqa: T201
        fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"pid": os.getpid(), "command": " ".join(["doit", *arguments])}))
    file.flush()
    _held.append(file)


def _holder(path: Path) -> str:
    try:
        value = json.loads(path.read_text())
        return f"process {value['pid']} ({value['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
