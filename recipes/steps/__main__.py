"""``python -m recipes.steps ARGS`` is ``doit ARGS`` that ends with one line when it is told to stop."""

from __future__ import annotations

import sys

from doit.doit_cmd import DoitMain

from .signals import Stopped, raise_when_stopped


class Main(DoitMain):  # type: ignore[misc]
    """doit's command line under its own name, whatever file started it."""

    BIN_NAME = "doit"


def main(arguments: list[str]) -> int:
    """The exit status: doit's own, or 128 and the number of the signal that stopped it."""
    raise_when_stopped()
    try:
        return int(Main().run(arguments) or 0)
    except Stopped as stopped:
        return 128 + stopped.number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
