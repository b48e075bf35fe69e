"""A libguestfs handle in a process of its own, told what to do by lines of JSON.

Started as a program by whatever Python has the binding, which need not be ours; so it stands alone and needs
the standard library only. A request is ``{"call": METHOD, "args": [...], "kwargs": {...}}`` for a method of
``guestfs.GuestFS``; the answer ``{"value": ...}``, or ``{"error": TEXT}``. ``{"bytes": BASE64}`` stands for
bytes in both. The first line that it writes is ``{"ready": VERSION}``, or ``{"missing": TEXT}``.

When its input ends without the request ``{"call": "end"}``, whoever asked has gone: it kills itself at once,
in the middle of a call too, and libguestfs' own watcher ends the appliance.

Spec: guestfs(3), guestfs-python(3) of libguestfs 1.48.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

# Where Debian puts the binding. Appended: what else is there must not come before what an environment has.
PACKAGES = "/usr/lib/python3/dist-packages"


def main() -> int:
    """The exit status; answers go to what standard output was at the start."""
    # Nothing else that writes to standard output may come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        handle = _handle()
    except (ImportError, OSError, RuntimeError) as error:
        _say(answers, {"missing": f"{type(error).__name__}: {error}"})
        return 1
    version = handle.version()
    _say(answers, {"ready": f"{version['major']}.{version['minor']}.{version['release']}"})
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        if request["call"] == "end":
            return 0
        _say(answers, _answer(handle, request))


def _handle() -> Any:  # noqa: ANN401 - a module that type checkers need not have
    try:
        import guestfs
    except ImportError:
        sys.path.append(PACKAGES)
        import guestfs
    return guestfs.GuestFS(python_return_dict=True)


def _read(requests: queue.SimpleQueue[str]) -> None:
    """Hands on what is asked for, and ends the process where nobody asks any more."""
    ended = False
    for line in sys.stdin:
        requests.put(line)
        ended = json.loads(line)["call"] == "end"
    if not ended:
        os.kill(os.getpid(), signal.SIGKILL)


def _answer(handle: Any, request: dict[str, Any]) -> dict[str, object]:  # noqa: ANN401 - as above
    method = getattr(handle, request["call"])
    try:
        value = method(*map(_decoded, request["args"]), **request["kwargs"])
    except RuntimeError as error:
        return {"error": str(error)}
    return {"value": {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value}


def _decoded(value: object) -> object:
    return base64.b64decode(value["bytes"]) if isinstance(value, dict) else value


def _say(answers: TextIO, value: dict[str, object]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    raise SystemExit(main())
