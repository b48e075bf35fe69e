"""Strict reading of JSON documents: every value typed, nothing left over."""

from __future__ import annotations

import json
import math

from .errors import FormatError
from .record import dataclass

MAX_DOCUMENT = 32 << 20
# Far more than any field takes, and far fewer than what Python refuses in words of its own.
_MAX_DIGITS = 100


def read_document(text: str, source: str, schema: int) -> Fields:
    """The document's top object, of the given schema number.

    Raises:
        FormatError: it is no JSON object, is too large, or has another schema.
    """
    if len(text) > MAX_DOCUMENT:
        raise FormatError(source, f"{len(text)} characters; at most {MAX_DOCUMENT} are read")
    fields = Fields.of(parse_json(text, source), source)
    found = fields.number("schema")
    if found != schema:
        raise FormatError(source, f"schema {found}; this version reads schema {schema}")
    return fields


def parse_json(text: str, source: str) -> object:
    """The value of a JSON text that every reader takes for the same value.

    Raises:
        FormatError: no JSON, nested beyond Python's limit, or something that readers disagree about: a key
            twice in one object, NaN and the infinities, a number beyond every float, a whole number of more
            than 100 digits.

    Spec: RFC 8259, sections 4 and 6, which leave these open.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_whole_number,
            parse_float=_fraction,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(source, f"no JSON: {error}") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is written twice in one object")
    return values


def _whole_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits, at most {_MAX_DIGITS} are read")
    return int(digits)


def _fraction(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is beyond every float")
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


@dataclass
class Fields:
    """One JSON object; each field is taken once, and :meth:`finish` says what nobody asked for."""

    values: dict[str, object]
    source: str

    @classmethod
    def of(cls, value: object, source: str) -> Fields:
        """``value`` as an object.

        Raises:
            FormatError: it is none.
        """
        if not isinstance(value, dict):
            raise FormatError(source, "not a JSON object")
        return cls(dict(value), source)

    def take(self, key: str) -> object:
        """Any value.

        Raises:
            FormatError: it is missing.
        """
        if key not in self.values:
            raise FormatError(self.source, f"{key!r} is missing")
        return self.values.pop(key)

    def text(self, key: str) -> str:
        """A string of printable characters, so that showing it cannot steer a terminal.

        Raises:
            FormatError: it is none.
        """
        value = self.take(key)
        if not isinstance(value, str):
            raise FormatError(self.source, f"{key!r} is not a string")
        if not value.isprintable():
            raise FormatError(self.source, f"{key!r} holds a character that is not printable")
        return value

    def number(self, key: str) -> int:
        """A whole number from 0 to 2**64-1.

        Raises:
            FormatError: it is none.
        """
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
            raise FormatError(self.source, f"{key!r} is not a whole number from 0 to 2**64-1")
        return value

    def flag(self, key: str) -> bool:
        """``true`` or ``false``.

        Raises:
            FormatError: it is neither.
        """
        value = self.take(key)
        if not isinstance(value, bool):
            raise FormatError(self.source, f"{key!r} is neither true nor false")
        return value

    def hexadecimal(self, key: str, size: int) -> bytes:
        """``size`` bytes written as lower-case hexadecimal digits.

        Raises:
            FormatError: another length, or other characters.
        """
        value = self.text(key)
        if len(value) != 2 * size or not set(value) <= set("0123456789abcdef"):
            raise FormatError(self.source, f"{key!r} is not {2 * size} lower-case hexadecimal digits")
        return bytes.fromhex(value)

    def octets(self, key: str, limit: int) -> bytes:
        """At most ``limit`` bytes written as lower-case hexadecimal digits.

        Raises:
            FormatError: more, or other characters.
        """
        value = self.text(key)
        if len(value) % 2 or len(value) > 2 * limit or not set(value) <= set("0123456789abcdef"):
            what = f"{key!r} is not an even number of lower-case hexadecimal digits, at most {2 * limit}"
            raise FormatError(self.source, what)
        return bytes.fromhex(value)

    def items(self, key: str) -> list[object]:
        """A list.

        Raises:
            FormatError: it is none.
        """
        value = self.take(key)
        if not isinstance(value, list):
            raise FormatError(self.source, f"{key!r} is not a list")
        return value

    def fields(self, key: str) -> Fields:
        """An object.

        Raises:
            FormatError: it is none.
        """
        return Fields.of(self.take(key), f"{self.source}: {key}")

    def objects(self, key: str) -> list[Fields]:
        """A list of objects; messages count them from 1.

        Raises:
            FormatError: it is none.
        """
        items = enumerate(self.items(key), 1)
        return [Fields.of(item, f"{self.source}: {key} {number}") for number, item in items]

    def is_null(self, key: str) -> bool:
        """Whether the field is there and is ``null``; it is taken then."""
        if self.values.get(key, 0) is not None:
            return False
        del self.values[key]
        return True

    def finish(self) -> None:
        """Stops at a field that was not taken.

        Raises:
            FormatError: naming it.
        """
        for key in self.values:
            raise FormatError(self.source, f"{key!r} is unknown; remove it or use a newer version")
