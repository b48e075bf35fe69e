"""``goldsmith``: measure, explain, compare and verify from the command line.

Data goes to standard output, words to standard error. Exit status 0: it matches or was computed; 1: it does
not match; 2: wrong use, or input that cannot be read.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from .commands.arguments import Formatter
from .errors import ImageError, VerifyError

# Modules of ``commands``, in the order of the help text.
COMMANDS = ("measure", "explain", "diff", "verify", "capture", "stability", "metadata", "broker", "attest")
USAGE = 2
MISMATCH = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    launch: list[str] | None = None
    if "--" in words:
        at = words.index("--")
        words, launch = words[:at], words[at + 1 :]
    options = _parser(words[:1]).parse_args(words)
    options.launch = launch
    try:
        return int(options.command(options))
    except VerifyError as error:
        print(f"goldsmith: {error}", file=sys.stderr)
        return MISMATCH
    except ImageError as error:
        print(f"goldsmith: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        # Whoever reads us has seen enough; nothing may be written to them while Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # Reading an open file fails without naming it.
        where = "reading or writing a file" if error.filename is None else error.filename
        print(f"goldsmith: {where}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return USAGE


def _parser(first: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="goldsmith",
        description="Computes what the hardware will measure when an image is launched, before the launch.",
        epilog="Exit status: 0 computed or equal, 1 different, 2 wrong use or unreadable input.",
        formatter_class=Formatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    # A command that is named is the only one that has to be there.
    for name in first if first and first[0] in COMMANDS else COMMANDS:
        importlib.import_module(f".commands.{name}", __package__).add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
