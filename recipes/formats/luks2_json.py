"""The JSON area of a LUKS2 header as a pattern: one description that is written, cut into holes and compared.

A pattern is the whole document. Its leaves are literal values, holes (text of a fixed size over a fixed
alphabet) or numbers within bounds. :func:`pieces` gives its canonical bytes, those between the holes as they
are: members in the order in which cryptsetup 2.x writes them, no white space, nothing escaped.
:func:`capture` compares a parsed document with it, in whatever order a tool wrote its members, and knows no
member that the pattern does not have.

Spec: LUKS2 On-Disk Format Specification 1.1.x, "JSON Metadata Format".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from ..errors import FormatError

# Our headers have four levels; with two more a stray member is named before its depth is.
MAX_DEPTH = 6
_ADVICE = "do not open this volume"
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_WHOLE = re.compile(r"0|[1-9][0-9]{0,18}")  # what fits 63 bits, as json-c keeps it
# Nothing that JSON or a terminal reads as more than itself.
_PLAIN = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*")


class Charset(Enum):
    """What the bytes of a hole may be; the value is the word in a shell table."""

    BINARY = "binary"
    BASE64 = "base64"  # RFC 4648 section 4, without padding: that is a literal behind the hole
    HEX = "hex"  # lower case
    UUID = "uuid"  # 8-4-4-4-12 lower-case hexadecimal digits
    SHA256 = "sha256"  # checksum of the header copy it is in, with the 32 bytes of the hole zeroed

    def accepts(self, data: bytes) -> bool:
        """Whether ``data`` is of this alphabet; a checksum is not worked out here."""
        return _ALPHABETS[self].fullmatch(data) is not None


_ANY = re.compile(rb".*", re.DOTALL)
_ALPHABETS = {
    Charset.BINARY: _ANY,
    Charset.BASE64: re.compile(rb"[A-Za-z0-9+/]*"),
    Charset.HEX: re.compile(rb"[0-9a-f]*"),
    Charset.UUID: re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    Charset.SHA256: _ANY,
}


@dataclass(frozen=True)
class TextHole:
    """A string of which only the size and alphabet are known.

    Attributes:
        size: characters in the hole.
        tail: what follows it in the same string, such as the padding of base64.
    """

    name: str
    size: int
    charset: Charset
    tail: str = ""


@dataclass(frozen=True)
class NumberHole:
    """A whole number of which only the bounds are known, both included."""

    name: str
    low: int
    high: int


@dataclass(frozen=True)
class Object:
    """Members in the order in which they are written."""

    members: tuple[tuple[str, Pattern], ...]


@dataclass(frozen=True)
class Array:
    """Items in order."""

    items: tuple[Pattern, ...]


Pattern = str | int | bool | TextHole | NumberHole | Object | Array


@dataclass(frozen=True)
class Piece:
    """A stretch of canonical bytes: literal, or the hole that takes its place."""

    data: bytes
    hole: TextHole | NumberHole | None = None


def pieces(pattern: Pattern) -> Iterator[Piece]:
    """The canonical bytes of a pattern, in order.

    Raises:
        FormatError: a literal string holds a character that would have to be escaped.
    """
    if isinstance(pattern, TextHole):
        yield Piece(b'"')
        yield Piece(b"", pattern)
        yield Piece(_plain(pattern.tail).encode() + b'"')
    elif isinstance(pattern, NumberHole):
        yield Piece(b"", pattern)
    elif isinstance(pattern, Object):
        yield Piece(b"{")
        for index, (name, member) in enumerate(pattern.members):
            yield Piece(("," if index else "").encode() + f'"{_plain(name)}":'.encode())
            yield from pieces(member)
        yield Piece(b"}")
    elif isinstance(pattern, Array):
        yield Piece(b"[")
        for index, item in enumerate(pattern.items):
            yield Piece(b"," if index else b"")
            yield from pieces(item)
        yield Piece(b"]")
    elif isinstance(pattern, str):
        yield Piece(f'"{_plain(pattern)}"'.encode())
    else:
        yield Piece(json.dumps(pattern).encode())


def parse(area: bytes, source: str) -> object:
    """The document in a JSON area: text, then NUL bytes to the end.

    Raises:
        FormatError: it is no such area, not ASCII, nested too deeply, has a member twice, or a number that is
            not whole.
    """
    text, _, rest = area.partition(b"\0")
    if any(rest):
        raise FormatError(source, f"the JSON area holds more bytes behind its text; {_ADVICE}")
    if not text.startswith(b"{") or not text.endswith(b"}"):
        raise FormatError(source, "the JSON area is empty or cut short: its text is not one object")
    try:
        decoded = text.decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError(source, f"byte {error.start} of the JSON area is not ASCII; {_ADVICE}") from None
    _check_depth(decoded, source)
    try:
        value: object = json.loads(
            decoded,
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise FormatError(source, f"the JSON area does not parse: {_lower(reason)}; {_ADVICE}") from None
    return value


def capture(pattern: Pattern, value: object, source: str) -> Mapping[str, str]:
    """What stands in the holes, by their names, of a document that fits the pattern.

    Raises:
        FormatError: it does not; names the first member that differs.
    """
    found: dict[str, str] = {}
    _compare(pattern, value, "", _Comparison(source, found))
    return found


@dataclass(frozen=True)
class _Comparison:
    source: str
    found: dict[str, str]

    def differs(self, where: str, value: object, expected: str) -> FormatError:
        return FormatError(self.source, f"{where} is {_show(value)}, expected {expected}; {_ADVICE}")


def _compare(pattern: Pattern, value: object, where: str, to: _Comparison) -> None:
    if isinstance(pattern, Object):
        _compare_object(pattern, value, where, to)
    elif isinstance(pattern, Array):
        if not isinstance(value, list) or len(value) != len(pattern.items):
            raise to.differs(where, value, f"a list of {len(pattern.items)}")
        for index, item in enumerate(pattern.items):
            _compare(item, value[index], f"{where}[{index}]", to)
    elif isinstance(pattern, TextHole):
        # A salt or digest is not shown: it says nothing to people.
        size = pattern.size + len(pattern.tail)
        text = value if isinstance(value, str) else ""
        body = text[: pattern.size]
        if text != body + pattern.tail or len(body) != pattern.size or not _fits(body, pattern.charset):
            what = f"{where} is not {size} characters of {pattern.charset.value}; {_ADVICE}"
            raise FormatError(to.source, what)
        to.found[pattern.name] = body
    elif isinstance(pattern, NumberHole):
        if type(value) is not int or not pattern.low <= value <= pattern.high:
            raise to.differs(where, value, f"a whole number from {pattern.low} to {pattern.high}")
        to.found[pattern.name] = str(value)
    elif type(value) is not type(pattern) or value != pattern:
        raise to.differs(where, value, _show(pattern))


def _compare_object(pattern: Object, value: object, where: str, to: _Comparison) -> None:
    prefix = f"{where}." if where else ""
    if not isinstance(value, dict):
        raise to.differs(where, value, "an object")
    known = dict(pattern.members)
    for name in value:
        if name not in known:
            raise FormatError(to.source, f"{prefix}{_show(name).strip(chr(39))} is not expected; {_ADVICE}")
    for name, member in pattern.members:
        if name not in value:
            raise FormatError(to.source, f"{prefix}{name} is missing; {_ADVICE}")
        _compare(member, value[name], f"{prefix}{name}", to)


def _fits(text: str, charset: Charset) -> bool:
    return text.isascii() and charset.accepts(text.encode())


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else value[:37] + "...")
    return json.dumps(value)


def _plain(text: str) -> str:
    if not _PLAIN.fullmatch(text):
        raise FormatError("luks2 header", f"{text!a} cannot be written without escapes; use plain ASCII")
    return text


def _check_depth(text: str, source: str) -> None:
    """Counts brackets before the parser recurses over them."""
    depth = 0
    for character in _STRING.sub("", text):
        if character in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise FormatError(source, f"the JSON area nests deeper than {MAX_DEPTH} levels; {_ADVICE}")
        elif character in "}]":
            depth -= 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_show(twice)} is written twice in one object")
    return values


def _whole(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        _refuse_number(text)
    return int(text)


def _refuse_number(text: str) -> int:
    raise ValueError(f"{_show(text)} is not a whole number from 0 up")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
