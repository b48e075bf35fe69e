"""The canonical LUKS2 header as bytes with holes, for a guest that has no JSON parser.

Every byte of the metadata is literal, in a hole at a fixed offset, or the same as one further in front. The
formatter fills this very template, and the strict reader accepts whatever matches it. cryptsetup writes the
same bytes for the same costs: a volume that it formats, and a token that it imports, match too.

The table for a shell, one line for each part, in order of offsets and without gaps:

    literal OFFSET SIZE SHA256        the SHA-256 of the bytes is this
    hole NAME OFFSET SIZE CHARSET     the bytes are of this alphabet (`luks2_json.Charset`)
    same OFFSET SIZE EARLIER          the bytes are those at EARLIER

A hole of charset ``sha256`` holds the SHA-256 of the 16384-byte header copy that it lies in (the copy starts
at OFFSET rounded down to a multiple of 16384), taken with these 32 bytes zeroed.

Spec: LUKS2 On-Disk Format Specification 1.1.x, "Binary Header", "JSON Area", "Keyslots Area".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from ..binary import Struct, raw, u16, u64
from ..errors import FormatError
from .luks2_json import Charset, NumberHole, Piece, TextHole, pieces
from .luks2_model import (
    BINARY_SIZE,
    HEADER_SALT_SIZE,
    HEADER_SIZE,
    JSON_SIZE,
    Expected,
    pattern,
)

MAGICS = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")  # of the primary and the secondary copy
VERSION = 2
CHECKSUM = b"sha256"
CHECKSUM_SIZE = 32  # of csum[64] with SHA-256
COPIES = ("primary", "secondary")
_SEQUENCE_SIZE = 2  # the low bytes of the sequence number; the others are zero, see MAX_SEQUENCE
_UUID_SIZE = 36


class Luks2BinaryHeader(Struct, endian=">"):
    """The first 4096 bytes of a header copy. Spec: LUKS2 On-Disk Format 1.1.x, "Binary Header"."""

    magic: Annotated[bytes, raw(6)]
    version: u16
    header_size: u64
    sequence: u64
    label: Annotated[bytes, raw(48)]
    checksum_algorithm: Annotated[bytes, raw(32)]
    salt: Annotated[bytes, raw(64)]
    uuid: Annotated[bytes, raw(40)]
    subsystem: Annotated[bytes, raw(48)]
    header_offset: u64
    reserved_0x108: Annotated[bytes, raw(184)]
    checksum: Annotated[bytes, raw(64)]
    reserved_0x200: Annotated[bytes, raw(7 * 512)]


# Offsets in the structure above of what differs between headers.
SEQUENCE_AT = 0x10 + 8 - _SEQUENCE_SIZE
SALT_AT = 0x68
UUID_AT = 0xA8
CHECKSUM_AT = 0x1C0


@dataclass(frozen=True)
class Literal:
    """Bytes that every header has."""

    offset: int
    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)


@dataclass(frozen=True)
class Hole:
    """Bytes of which only the alphabet is known."""

    name: str
    offset: int
    size: int
    charset: Charset


@dataclass(frozen=True)
class Same:
    """Bytes that repeat those at ``earlier``."""

    offset: int
    size: int
    earlier: int


Part = Literal | Hole | Same


@dataclass(frozen=True)
class Template:
    """Parts without gaps from offset 0 to ``size``, the end of the last key slot's area."""

    size: int
    parts: tuple[Part, ...]

    @property
    def holes(self) -> tuple[Hole, ...]:
        """The holes in order."""
        return tuple(part for part in self.parts if isinstance(part, Hole))


def template(expected: Expected) -> Template:
    """What every header looks like that meets ``expected``.

    Raises:
        FormatError: a cost is a range and so has no fixed size, or the JSON area is too small.
    """
    parts = [*_binary(expected, 0), *_json(expected), *_binary(expected, 1)]
    parts.append(Same(HEADER_SIZE + BINARY_SIZE, JSON_SIZE, BINARY_SIZE))
    parts += [
        Hole(f"keyslot.{slot}", expected.area(slot), expected.area_size, Charset.BINARY)
        for slot in range(len(expected.keyslots))
    ]
    return Template(expected.metadata_size, tuple(part for part in parts if part.size))


def fill(shape: Template, values: Mapping[str, bytes]) -> bytes:
    """The metadata with ``values`` in the holes; both checksums are worked out.

    Raises:
        FormatError: a hole has no value, or one of another size or alphabet.
    """
    out = bytearray(shape.size)
    for part in shape.parts:
        data = _content(part, values, out)
        out[part.offset : part.offset + part.size] = data
    for copy in range(len(COPIES)):
        start = copy * HEADER_SIZE
        digest = checksum(out[start : start + HEADER_SIZE])
        out[start + CHECKSUM_AT : start + CHECKSUM_AT + CHECKSUM_SIZE] = digest
    return bytes(out)


def pin(shape: Template, values: Mapping[str, bytes]) -> Template:
    """The template with ``values`` as literals in place of the holes of these names.

    Only headers that have these very bytes there match it. They are one with the literals beside them.

    Raises:
        FormatError: there is no such hole, or a value is of another size or alphabet, or is a checksum.
    """
    names = {hole.name for hole in shape.holes if hole.charset is not Charset.SHA256}
    for name in sorted(values):
        if name not in names:
            raise FormatError("luks2 template", f"{name} is no hole that can be pinned")
    parts: list[Part] = []
    after_pinned = False
    for part in shape.parts:
        pinned = isinstance(part, Hole) and part.name in values
        fixed = Literal(part.offset, _content(part, values, bytearray())) if pinned else part
        last = parts[-1] if parts else None
        if (pinned or after_pinned) and isinstance(fixed, Literal) and isinstance(last, Literal):
            parts[-1] = Literal(last.offset, last.data + fixed.data)
        else:
            parts.append(fixed)
        after_pinned = pinned
    return Template(shape.size, tuple(parts))


def checksum(copy: bytes | bytearray) -> bytes:
    """SHA-256 of a 16384-byte header copy whose checksum field counts as zero."""
    end = CHECKSUM_AT + CHECKSUM_SIZE
    return hashlib.sha256(copy[:CHECKSUM_AT] + bytes(CHECKSUM_SIZE) + copy[end:]).digest()


def matches(data: bytes, shape: Template) -> bool:
    """Whether the metadata at the start of ``data`` matches; the reference for the shell in the guest."""
    return _mismatch(data, shape) is None


def check(data: bytes, shape: Template, source: str) -> None:
    """Stops at the first part of ``data`` that does not match.

    Raises:
        FormatError: naming the part.
    """
    found = _mismatch(data, shape)
    if found is not None:
        offset, what = found
        raise FormatError(source, f"{what}; do not open this volume", offset=offset)


def shell_table(shape: Template) -> str:
    """The template as the lines that this module's description explains."""
    return "".join(f"{_row(part)}\n" for part in shape.parts)


def _binary(expected: Expected, copy: int) -> Iterator[Part]:
    """The binary header of a copy; the second one repeats what both share."""
    start = copy * HEADER_SIZE
    header = Luks2BinaryHeader(
        magic=MAGICS[copy],
        version=VERSION,
        header_size=HEADER_SIZE,
        sequence=0,
        label=bytes(48),
        checksum_algorithm=CHECKSUM.ljust(32, b"\0"),
        salt=bytes(HEADER_SALT_SIZE),
        uuid=(str(expected.uuid) if expected.uuid else "").encode().ljust(40, b"\0"),
        subsystem=bytes(48),
        header_offset=start,
        reserved_0x108=bytes(184),
        checksum=bytes(64),
        reserved_0x200=bytes(7 * 512),
    ).pack()
    name = COPIES[copy]
    cuts: list[Hole | Same] = [
        Hole("sequence", SEQUENCE_AT, _SEQUENCE_SIZE, Charset.BINARY),
        Hole(f"{name}.salt", start + SALT_AT, HEADER_SALT_SIZE, Charset.BINARY),
        Hole("uuid", UUID_AT, _UUID_SIZE, Charset.UUID),
        Hole(f"{name}.checksum", start + CHECKSUM_AT, CHECKSUM_SIZE, Charset.SHA256),
    ]
    if expected.uuid is not None:
        del cuts[2]
    position = 0
    for cut in cuts:
        offset = cut.offset % HEADER_SIZE
        yield Literal(start + position, header[position:offset])
        yield Same(start + offset, cut.size, offset) if cut.offset < start else cut
        position = offset + cut.size
    yield Literal(start + position, header[position:])


def _json(expected: Expected) -> list[Part]:
    """The JSON area of the primary copy; neighbouring literals are one."""
    parts: list[Part] = []
    position, literal = BINARY_SIZE, b""
    for piece in pieces(pattern(expected)):
        if piece.hole is None:
            literal += piece.data
            continue
        hole = _text_hole(piece)
        parts.append(Literal(position, literal))
        position, literal = position + len(literal), b""
        parts.append(Hole(hole.name, position, hole.size, hole.charset))
        position += hole.size
    end = BINARY_SIZE + JSON_SIZE
    # The text ends in at least one NUL. Spec: "JSON Area".
    if position + len(literal) >= end:
        what = (
            f"{position + len(literal) - BINARY_SIZE} bytes of JSON, {JSON_SIZE - 1} fit; shorten the tokens"
        )
        raise FormatError("luks2 header", what)
    return [*parts, Literal(position, literal.ljust(end - position, b"\0"))]


def _text_hole(piece: Piece) -> TextHole:
    if isinstance(piece.hole, NumberHole):
        what = f"{piece.hole.name} is a range, {piece.hole.low} to {piece.hole.high}; give one cost"
        raise FormatError("luks2 template", what)
    assert piece.hole is not None
    return piece.hole


def _content(part: Part, values: Mapping[str, bytes], out: bytearray) -> bytes:
    if isinstance(part, Literal):
        return part.data
    if isinstance(part, Same):
        return bytes(out[part.earlier : part.earlier + part.size])
    if part.charset is Charset.SHA256:
        return bytes(part.size)
    data = values.get(part.name)
    if data is None:
        raise FormatError("luks2 header", f"{part.name} has no value")
    if len(data) != part.size or not part.charset.accepts(data):
        what = f"{part.name} is not {part.size} characters of {part.charset.value}"
        raise FormatError("luks2 header", what)
    return data


def _mismatch(data: bytes, shape: Template) -> tuple[int, str] | None:
    if len(data) < shape.size:
        return len(data), f"the header ends after {len(data)} of {shape.size} bytes"
    for part in shape.parts:
        got = data[part.offset : part.offset + part.size]
        if isinstance(part, Literal):
            if got != part.data:
                at = next(index for index in range(part.size) if got[index] != part.data[index])
                return part.offset + at, _differs(got[at:], part.data[at:])
        elif isinstance(part, Same):
            if got != data[part.earlier : part.earlier + part.size]:
                return part.offset, f"{part.size} bytes differ from those at {part.earlier:#x}"
        elif part.charset is Charset.SHA256:
            start = part.offset - part.offset % HEADER_SIZE
            if got != checksum(data[start : start + HEADER_SIZE]):
                return part.offset, "the header checksum is wrong"
        elif not part.charset.accepts(got):
            return part.offset, f"{part.name} is not {part.size} characters of {part.charset.value}"
    return None


def _differs(got: bytes, want: bytes) -> str:
    """What is found and what is expected there, escaped: the host chose what is found."""
    return f"header has {got[:24]!r}, the template {want[:24]!r}"


def _row(part: Part) -> str:
    if isinstance(part, Literal):
        return f"literal {part.offset} {part.size} {hashlib.sha256(part.data).hexdigest()}"
    if isinstance(part, Same):
        return f"same {part.offset} {part.size} {part.earlier}"
    return f"hole {part.name} {part.offset} {part.size} {part.charset.value}"
