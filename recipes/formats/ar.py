"""The ``ar`` archive that a Debian package is: which members, and where each one's bytes are."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Annotated, BinaryIO

from ..binary import Struct, raw
from ..errors import FormatError

# Spec: ar(5), 4.4BSD and System V variants; deb(5) "FORMAT" allows one trailing slash in a name.
MAGIC = b"!<arch>\n"
HEADER_END = b"`\n"
# A package has three members; a file with more than this is no package and would only cost memory.
MAX_MEMBERS = 64


class Header(Struct):
    """Header of one member: text fields, filled up with spaces.

    Spec: ar(5), ``struct ar_hdr``.
    """

    name: Annotated[bytes, raw(16)]
    mtime: Annotated[bytes, raw(12)]
    uid: Annotated[bytes, raw(6)]
    gid: Annotated[bytes, raw(6)]
    mode: Annotated[bytes, raw(8)]
    size: Annotated[bytes, raw(10)]
    end: Annotated[bytes, raw(2)]


@dataclass(frozen=True)
class Member:
    """One member: ``size`` bytes that begin at ``offset`` of the file."""

    name: str
    offset: int
    size: int


def members(file: BinaryIO, source: str) -> tuple[Member, ...]:
    """The members in file order; their content is not read.

    Args:
        file: seekable; its position afterwards is unspecified.
        source: what to call the file in messages.

    Raises:
        FormatError: not an archive, a bad header, a name twice, a member that is cut off, or bytes behind the
            last.

    Spec: ar(5); deb(5) "FORMAT" (names without spaces, content padded to even offsets).
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise FormatError(source, f"not an ar archive: begins with {magic!r}, expected {MAGIC!r}", offset=0)
    found: dict[str, Member] = {}
    offset = len(MAGIC)
    while offset < length:
        member = _member(file, offset, length, source)
        if member.name in found:
            raise FormatError(source, f"member {member.name!r} is there twice", offset=offset)
        if len(found) == MAX_MEMBERS:
            raise FormatError(source, f"more than {MAX_MEMBERS} members; not a package", offset=offset)
        found[member.name] = member
        offset = _padded_end(file, member, source)
    return tuple(found.values())


def _member(file: BinaryIO, offset: int, length: int, source: str) -> Member:
    """The member whose header is at ``offset``."""
    file.seek(offset)
    header = Header.unpack(file.read(Header.SIZE), source=f"{source}: member header at offset {offset:#x}")
    if header.end != HEADER_END:
        what = f"member header ends with {header.end!r}, expected {HEADER_END!r}; damaged or trailing bytes"
        raise FormatError(source, what, offset=offset)
    name = header.name.rstrip(b" ").removesuffix(b"/")
    if re.fullmatch(rb"[A-Za-z0-9._+-]+", name) is None:
        raise FormatError(
            source, f"member name {header.name!r} is not one that a package may have", offset=offset
        )
    size = re.fullmatch(rb"([0-9]+) *", header.size)
    if size is None:
        raise FormatError(source, f"member size {header.size!r} is not a decimal number", offset=offset)
    start, count = offset + Header.SIZE, int(size[1])
    if count > length - start:
        what = f"member {name.decode()} should have {count} bytes, {length - start} are left; truncated"
        raise FormatError(source, what, offset=offset)
    return Member(name.decode(), start, count)


def _padded_end(file: BinaryIO, member: Member, source: str) -> int:
    """Where the next header is; members begin at even offsets."""
    end = member.offset + member.size
    if end % 2 == 0:
        return end
    file.seek(end)
    padding = file.read(1)
    if padding != b"\n":
        what = f"member {member.name} is followed by {padding!r}, expected a newline; truncated or damaged"
        raise FormatError(source, what, offset=end)
    return end + 1
