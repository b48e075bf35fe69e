"""A tar archive of one sparse file in the old GNU format, as ``tar --format=oldgnu -S`` writes it.

Spec: GNU tar 1.34 manual, "Basic Tar Format" (struct oldgnu_header, struct sparse_header), "Old GNU Format".
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

from ..binary import Struct, raw
from ..record import dataclass, replace
from ..units import align_up

BLOCK = 512
RECORD = 20 * BLOCK  # archives are whole records: "The Blocking Factor of an Archive"
_IN_HEADER, _IN_EXTENSION = 4, 21  # SPARSES_IN_OLDGNU_HEADER, SPARSES_IN_SPARSE_HEADER
_OCTAL_MAX = 1 << 33  # eleven octal digits


class OldGnuHeader(Struct):
    """The first block: "Basic Tar Format", struct posix_header up to devminor, then struct oldgnu_header."""

    name: Annotated[bytes, raw(100)]
    mode: Annotated[bytes, raw(8)]
    uid: Annotated[bytes, raw(8)]
    gid: Annotated[bytes, raw(8)]
    size: Annotated[bytes, raw(12)]
    mtime: Annotated[bytes, raw(12)]
    checksum: Annotated[bytes, raw(8)]
    typeflag: Annotated[bytes, raw(1)]
    linkname: Annotated[bytes, raw(100)]
    magic: Annotated[bytes, raw(8)]
    uname: Annotated[bytes, raw(32)]
    gname: Annotated[bytes, raw(32)]
    devmajor: Annotated[bytes, raw(8)]
    devminor: Annotated[bytes, raw(8)]
    reserved_0x159: Annotated[bytes, raw(41)]
    sparse: Annotated[bytes, raw(96)]
    is_extended: Annotated[bytes, raw(1)]
    real_size: Annotated[bytes, raw(12)]
    reserved_0x1ef: Annotated[bytes, raw(17)]


@dataclass(frozen=True)
class SparseMap:
    """Where a file of ``size`` bytes has content.

    Attributes:
        edges: start and end of one run after the other; flat, because a disk may have millions.
    """

    size: int
    edges: array[int]

    @property
    def content(self) -> int:
        """Bytes of content."""
        return sum(self.edges[1::2]) - sum(self.edges[::2])

    def entries(self) -> Iterator[bytes]:
        """The stored runs: offset and length; behind them, as GNU tar has it, an empty one at the end."""
        for index in range(0, len(self.edges), 2):
            start, end = self.edges[index], self.edges[index + 1]
            yield number(start) + number(end - start)
        yield number(self.size) + number(0)


def headers(name: bytes, sparse: SparseMap) -> Iterator[bytes]:
    """All that stands in front of the content: the header and as many extensions as the map takes.

    Nobody owns the file, everybody may read it, and its time is the start of 1970.
    """
    entries = sparse.entries()
    first = _take(entries, _IN_HEADER)
    following = _take(entries, _IN_EXTENSION)
    plain = OldGnuHeader(
        name=name,
        mode=b"0000644\0",
        uid=b"0000000\0",
        gid=b"0000000\0",
        size=number(sparse.content),
        mtime=number(0),
        checksum=b" " * 8,
        typeflag=b"S",
        linkname=b"",
        magic=b"ustar  \0",
        uname=b"",
        gname=b"",
        devmajor=b"",
        devminor=b"",
        reserved_0x159=b"",
        sparse=first,
        is_extended=bytes((bool(following),)),
        real_size=number(sparse.size),
        reserved_0x1ef=b"",
    )
    yield replace(plain, checksum=b"%06o\0 " % sum(plain.pack())).pack()
    while following:
        block, following = following, _take(entries, _IN_EXTENSION)
        yield (block.ljust(_IN_EXTENSION * 24, b"\0") + bytes((bool(following),))).ljust(BLOCK, b"\0")


def trailer(written: int) -> bytes:
    """What follows ``written`` bytes of headers and content: two zero blocks, in whole blocks and records."""
    return bytes(align_up(align_up(written, BLOCK) + 2 * BLOCK, RECORD) - written)


def number(value: int) -> bytes:
    """A number in 12 bytes: octal, or base 256 behind a marked byte. Spec: "Extensions to the Format"."""
    return b"%011o\0" % value if value < _OCTAL_MAX else b"\x80" + value.to_bytes(11, "big")


def _take(entries: Iterator[bytes], count: int) -> bytes:
    return b"".join(islice(entries, count))
