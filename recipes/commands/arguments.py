"""What all commands share: options are written out and given once, and one that does not fit is refused."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from ..errors import ImageError
from ..record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Self

Commands = argparse._SubParsersAction
_COLUMNS = 80


class Formatter(argparse.HelpFormatter):
    """Help as wide as the terminal.

    The standard library asks for that width at every argument, whether help is printed or not, and reads
    modules about archives to do so.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """Columns of the terminal; 80 where there is none."""
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _COLUMNS
    except (AttributeError, OSError, ValueError):
        # Standard output is no terminal, is closed, or there is none.
        return _COLUMNS


class _Once(argparse.Action):
    """Stores an option's value; the option given again is wrong use, not a second thought."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given = namespace.__dict__.setdefault("options_given", set())
        if option_string is not None and self.dest in given:
            parser.error(f"argument {option_string}: given twice; write it once")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class LateHelp(str):
    """Help text that is put together when it is printed: a command that runs need not know what it names."""

    __slots__ = ("_text",)
    _text: Callable[[], str]

    def __new__(cls, text: Callable[[], str]) -> Self:
        """What ``text`` gives, not called yet."""
        late = super().__new__(cls, "...")
        late._text = text
        return late

    def __mod__(self, values: object) -> str:
        return self._text() % values


def add_command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    *,
    summary: str,
    usage: str | None = None,
    description: str | None = None,
) -> argparse.ArgumentParser:
    """The parser of a command: options are written out, and those with one value are given once.

    Args:
        summary: for the list of commands.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        usage=usage,
        description=description,
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    # Arguments that name no action store their value.
    for action in (None, "store"):
        parser.register("action", action, _Once)
    return parser


def refuse(command: str, misfits: Sequence[tuple[object, str]], why: str) -> None:
    """Ends a command on the first option that was given, and that has no part in what was asked.

    Args:
        misfits: value and name of each option that does not fit.

    Raises:
        ImageError: one was given.
    """
    for given, name in misfits:
        if given:
            raise ImageError(f"{command}: {name} {why}; leave it out")


def refuse_launch(command: str, launch: Sequence[str] | None) -> None:
    """Ends a command that takes no command line, where one was given behind ``--``.

    Raises:
        ImageError: one was given.
    """
    if launch:
        raise ImageError(f"{command}: -- {launch[0]}: takes no command line; leave out what is behind --")
