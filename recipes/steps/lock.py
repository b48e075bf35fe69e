"""One build folder, one lock: a second build waits and says who it waits for."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from pathlib import Path
from typing import IO

from ..errors import ImageError
from .signals import bind_workers

READ_ONLY_COMMANDS = frozenset({"list", "info", "help", "tabcompletion", "dumpdb", "--version", "--help"})
# What a killed build leaves in a folder of out/: unfinished products, unpacked packages, downloads.
LEFTOVERS = ("*/.*.tmp", "*/*/.*.tmp", "*/.spool.*", "*/*/.spool.*", "cache/apt/download-*")
_held: list[IO[str]] = []


def hold_build_lock(out: Path, arguments: list[str]) -> None:
    """Takes the lock of ``out`` for as long as this process lives, waiting for another build if there is one.

    Commands that only read the task graph take none. A killed build leaves no lock: the kernel drops it. What
    such a build did not finish is removed.

    Raises:
        ImageError: ``out`` cannot be made or written to.
    """
    if READ_ONLY_COMMANDS & set(arguments[:1]) or _held:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("a+")
        _wait(file, out / ".lock")
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"pid": os.getpid(), "command": " ".join(["doit", *arguments])}))
        file.flush()
        _sweep(out)
    except OSError as error:
        what = str(error.strerror).lower()
        raise ImageError(f"{out}: {what}; the build writes there, make that possible") from None
    _held.append(file)
    bind_workers()


def _wait(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for {_holder(path)}, which is building here", file=sys.stderr, flush=True)  # noqa: T201
        fcntl.flock(file, fcntl.LOCK_EX)


def _holder(path: Path) -> str:
    try:
        value = json.loads(path.read_text())
        return f"process {value['pid']} ({value['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _sweep(out: Path) -> None:
    for pattern in LEFTOVERS:
        for path in out.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
