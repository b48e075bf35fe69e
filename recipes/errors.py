"""The errors a user can meet: one base to catch and five children, each with a message that says what to do.

Every message has the shape ``where: what; how to fix``, in lower case and with the values shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from .record import dataclass


class ImageError(Exception):
    """Anything wrong that is not a bug of ours; ``str()`` is the whole message for the user."""


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a recipe; line and column count from 1."""

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


class SpecError(ImageError):
    """A recipe, lock or overlay that cannot be built; holds every problem found, in file order."""

    def __init__(self, problems: list[Problem] | tuple[Problem, ...] | str) -> None:
        self.problems = () if isinstance(problems, str) else tuple(sorted(problems))
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, self.problems)))


class FormatError(ImageError):
    """Bytes that do not parse, or values a format cannot hold.

    Args:
        source: what was read, a file name or a description of the bytes.
        what: the complaint; ``how to fix`` goes behind a semicolon where there is one.
        offset: where in the source, in bytes.
        spec: the document the rule stands in.
    """

    def __init__(self, source: str, what: str, *, offset: int | None = None, spec: str | None = None) -> None:
        self.source, self.what, self.offset, self.spec = source, what, offset, spec
        place = source if offset is None else f"{source}: offset {offset:#x}"
        super().__init__(f"{place}: {what}" + (f" [{spec}]" if spec else ""))


class MeasureError(ImageError):
    """A replay that is not possible: a parameter is unknown or a feature is not modelled. Never a guess."""


class VerifyError(ImageError):
    """A computed value differs from an observed one; names the register and the first differing step."""


class ToolError(ImageError):
    """An external program failed, is missing or timed out."""

    def __init__(self, argv: list[str], status: int | str, output: str = "", advice: str = "") -> None:
        self.argv, self.status = argv, status
        tail = "\n".join("    " + line for line in output.strip().splitlines()[-12:])
        message = f"{argv[0]}: {'exit status ' if isinstance(status, int) else ''}{status}"
        message += f"; {advice}" if advice else ""
        super().__init__(f"{message}\n    $ {' '.join(argv)}" + (f"\n{tail}" if tail else ""))


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or the known words, to put behind a complaint about an unknown word."""
    import difflib

    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 24 else ""
