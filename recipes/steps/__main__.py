"""``python -m recipes.steps ARGS`` is ``doit ARGS`` that ends with one line when it is told to stop.

It ends without a word when nobody reads what it says any more, as behind ``| head``.
"""

from __future__ import annotations

import io
import os
import signal
import sys

from .signals import Stopped, raise_when_stopped


class Unread(KeyboardInterrupt):
    """Whoever read the output has gone. Like an interrupt it ends every task, and is no failure."""


class Output(io.TextIOWrapper):
    """Standard output that says by :class:`Unread` that it is not read any more.

    doit takes every other exception for a mistake of a task, and shows where it comes from.
    """

    def write(self, text: str, /) -> int:
        """Writes ``text``.

        Raises:
            Unread: nobody reads it.
        """
        try:
            return super().write(text)
        except BrokenPipeError:
            raise Unread from None

    def flush(self) -> None:
        """Writes what is held back.

        Raises:
            Unread: nobody reads it.
        """
        try:
            super().flush()
        except BrokenPipeError:
            raise Unread from None


def main(arguments: list[str]) -> int:
    """The exit status: doit's own, or 128 and the number of the signal that stopped it."""
    try:
        raise_when_stopped()
        return _run(arguments)
    except Stopped as stopped:
        return 128 + stopped.number
    except Unread:
        # What is still held back may not be written while Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(arguments: list[str]) -> int:
    """The exit status of doit."""
    output = sys.stdout
    if isinstance(output, io.TextIOWrapper):
        sys.stdout = Output(
            output.buffer, output.encoding, output.errors, line_buffering=output.line_buffering
        )
    # Not before: doit keeps the standard output that it finds when it is imported.
    from doit.doit_cmd import DoitMain

    program = DoitMain()
    program.BIN_NAME = "doit"  # whatever file started it
    status = int(program.run(arguments) or 0)
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
