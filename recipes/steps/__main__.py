"""``python -m recipes.steps ARGS`` is ``doit ARGS`` that ends with one line when it is told to stop."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from doit.doit_cmd import DoitMain


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop; everything on the way out is cleaned up."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.strsignal(number))


class Main(DoitMain):  # type: ignore[misc]
    """doit's command line under its own name, whatever file started it."""

    BIN_NAME = "doit"


def main(arguments: list[str]) -> int:
    """The exit status: doit's own, or 128 and the number of the signal that stopped it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        return int(Main().run(arguments) or 0)
    except Stopped as stopped:
        what = f"{str(stopped).lower()}; what was finished is kept, the same command goes on from there"
        sys.stderr.write(f"\ndodo.py: {what}\n")
        return 128 + stopped.number


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
