"""Values of options as a user lists them for a stability report, and as the report writes them."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import MeasureError, suggestion
from ..units import GIB, KIB, MIB

# Ours: more values of one option are a mistake.
MAX_VALUES = 1000
# Spec: kvmtool builtin-run.c, parse_mem_unit: MiB unless a letter says otherwise.
_UNITS = {"P": 1 << 50, "T": 1 << 40, "G": GIB, "M": MIB, "K": KIB, "B": 1, "": MIB}


def _split(where: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise MeasureError(f"{where} {text!r}: a value is missing; write values with commas between")
    return words


def numbers(where: str, text: str) -> tuple[str, ...]:
    """Decimal numbers, and ranges of them: ``1,2,4`` or ``0-4``.

    Args:
        where: what complaints begin with, here and in the other functions.

    Raises:
        MeasureError: something else, or too many.
    """
    found: list[str] = []
    for word in _split(where, text):
        match = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", word, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise MeasureError(
                f"{where} {word!r}: neither a number nor a range; write for example 1,2,4 or 0-4"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= MAX_VALUES - len(found):
            raise MeasureError(f"{where} {text!r}: more than {MAX_VALUES} values; give fewer")
        found += map(str, range(first, last + 1))
    return tuple(found)


def sizes(where: str, text: str) -> tuple[str, ...]:
    """Sizes as kvmtool reads them, each written in its greatest unit.

    Raises:
        MeasureError: something else.
    """
    found = []
    for word in _split(where, text):
        if re.fullmatch(r"[0-9]{1,18}[bkmgtpBKMGTP]?", word, re.ASCII) is None:
            what = "not a size; write for example 256M or 1G (units B K M G T P, by default M)"
            raise MeasureError(f"{where} {word!r}: {what}")
        found.append(size_word(bytes_of(word)))
    return tuple(found)


def bytes_of(word: str) -> int:
    """Bytes of a size."""
    digits = word.rstrip("bkmgtpBKMGTP")
    return int(digits) * _UNITS[word[len(digits) :].upper()]


def size_word(value: int) -> str:
    """A size in the greatest unit that it is a whole number of."""
    if value == 0:
        return "0"
    unit = next(name for name in ("G", "M", "K", "B") if value % _UNITS[name] == 0)
    return f"{value // _UNITS[unit]}{unit}"


def one_of(*known: str) -> Callable[[str, str], tuple[str, ...]]:
    """A reader of words that are among the known ones."""

    def words(where: str, text: str) -> tuple[str, ...]:
        found = _split(where, text)
        for word in found:
            if word not in known:
                raise MeasureError(f"{where} {word!r}: not known{suggestion(word, known)}")
        return tuple(found)

    return words


def rank(value: str) -> int:
    """What numbers and sizes are sorted by."""
    return bytes_of(value) if value[-1:].isalpha() else int(value)
