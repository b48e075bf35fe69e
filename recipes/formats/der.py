"""Distinguished Encoding Rules: the few types that Authenticode needs, written and read strictly.

Spec: ITU-T X.690 (02/2021), sections 8 and 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import FormatError

# Universal tags, identifier octet with the constructed bit where the type has it. Spec: X.680 section 8.6.
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OID = 0x06
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31

# Identifier bits of a context-specific tag. Spec: X.690 section 8.1.2.
_CONTEXT = 0x80
_CONSTRUCTED = 0x20
_LONG_TAG = 0x1F

# Lengths above four octets would be more than 4 GiB; nothing here is that long.
_LENGTH_OCTETS = 4


def context(number: int, *, constructed: bool = True) -> int:
    """Identifier octet of context-specific tag ``number`` (0 to 30)."""
    return _CONTEXT | (_CONSTRUCTED if constructed else 0) | number


def encode(tag: int, *parts: bytes) -> bytes:
    """One element: identifier octet, shortest length, and the parts one after the other."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        length = bytes((size,))
    else:
        octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
        length = bytes((0x80 | len(octets),)) + octets
    return bytes((tag,)) + length + content


def encode_sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of encoded elements, in the order given."""
    return encode(SEQUENCE, *parts)


def encode_set_of(parts: Iterable[bytes], tag: int = SET) -> bytes:
    """A SET OF encoded elements, in ascending order of their encodings. Spec: X.690 section 11.6."""
    return encode(tag, *sorted(parts))


def encode_integer(value: int) -> bytes:
    """An INTEGER in the fewest two's complement octets."""
    bits = value.bit_length() if value >= 0 else (value + 1).bit_length()
    return encode(INTEGER, value.to_bytes(bits // 8 + 1, "big", signed=True))


def encode_oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER such as ``1.2.840.113549.1.7.2``."""
    arcs = [int(arc) for arc in dotted.split(".")]
    content = bytearray()
    for arc in (arcs[0] * 40 + arcs[1], *arcs[2:]):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        content += bytes(reversed(septets))
    return encode(OID, bytes(content))


@dataclass(frozen=True)
class Element:
    """One element that was read.

    Attributes:
        tag: identifier octet.
        content: the contents octets.
        encoded: the whole element, with identifier and length.
        offset: where the element starts, counted in the outermost bytes.
        source: what was read, for messages.
    """

    tag: int
    content: bytes
    encoded: bytes
    offset: int
    source: str

    def children(self) -> list[Element]:
        """The elements that the contents consist of.

        Raises:
            FormatError: the contents are not a run of DER elements.
        """
        base = self.offset + len(self.encoded) - len(self.content)
        found: list[Element] = []
        position = 0
        while position < len(self.content):
            element = _read(self.content, position, base, self.source)
            found.append(element)
            position += len(element.encoded)
        return found

    def expect(self, tag: int, what: str) -> Element:
        """This element.

        Raises:
            FormatError: it has another tag; the message names ``what`` was expected.
        """
        if self.tag != tag:
            raise self.error(f"{what} has tag {self.tag:#04x}, expected {tag:#04x}")
        return self

    def integer(self, what: str) -> int:
        """The value of an INTEGER.

        Raises:
            FormatError: not an INTEGER, or not in its shortest form.
        """
        content = self.expect(INTEGER, what).content
        if not content or (len(content) > 1 and (content[0] * 2 | content[1] >> 7) in {0, 0x1FF}):
            raise self.error(f"{what} is an integer of {len(content)} octets, not its shortest form")
        return int.from_bytes(content, "big", signed=True)

    def error(self, what: str) -> FormatError:
        """A complaint that names the place of this element."""
        return FormatError(self.source, what, offset=self.offset, spec="X.690")


def read(data: bytes, source: str, *, trailing: bool = False) -> Element:
    """The element at the start of ``data``.

    Args:
        trailing: accept bytes behind the element.

    Raises:
        FormatError: not definite-length DER, cut short, or followed by other bytes.
    """
    element = _read(data, 0, 0, source)
    if not trailing and len(element.encoded) != len(data):
        left = len(data) - len(element.encoded)
        raise FormatError(source, f"{left} bytes follow the outermost element", offset=len(element.encoded))
    return element


def _read(data: bytes, position: int, base: int, source: str) -> Element:
    offset = base + position
    tag, start, size = _header(data, position, offset, source)
    end = start + size
    if end > len(data):
        what = f"an element of {size} bytes has {len(data) - start} left; the data is truncated"
        raise FormatError(source, what, offset=offset, spec="X.690")
    return Element(tag, bytes(data[start:end]), bytes(data[position:end]), offset, source)


def _header(data: bytes, position: int, offset: int, source: str) -> tuple[int, int, int]:
    """Identifier octet, where the contents start, and their length."""

    def fail(what: str) -> FormatError:
        return FormatError(source, what, offset=offset, spec="X.690")

    if len(data) - position < 2:
        raise fail("an element needs an identifier and a length; the data is truncated")
    tag, first = data[position], data[position + 1]
    if tag & _LONG_TAG == _LONG_TAG:
        raise fail(f"identifier {tag:#04x} starts a tag above 30, which nothing here uses")
    if first < 0x80:
        return tag, position + 2, first
    count = first & 0x7F
    if not 1 <= count <= _LENGTH_OCTETS:
        raise fail(f"length octet {first:#04x} is not a definite length of at most {_LENGTH_OCTETS} octets")
    octets = data[position + 2 : position + 2 + count]
    size = int.from_bytes(octets, "big")
    if len(octets) < count:
        raise fail("the length is cut short; the data is truncated")
    if octets[0] == 0 or size < 0x80:
        raise fail(f"length {size} takes {count + 1} octets, not the fewest")
    return tag, position + 2 + count, size
