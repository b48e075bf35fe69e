"""The archive that Google Cloud makes an image of: gzip, and in it one sparse ``disk.raw``.

Of the archive only what stands in front of the disk's content is unpacked. What comes behind it is judged by
its length, which gzip notes at the end.

Spec: Google Cloud, Compute Engine, "Manually import boot disks"; GNU tar 1.34 manual, "Basic Tar Format" and
"Old GNU Format"; RFC 1952 section 2.3.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ..disks import oldgnu
from ..disks.gce import MEMBER
from ..disks.oldgnu import BLOCK, OldGnuHeader
from ..errors import FormatError
from ..record import dataclass, replace
from ..units import GIB, KIB, MIB, align_up
from .cloud import Finding, shown, size_text

_SPEC = "Google Cloud, Compute Engine, Manually import boot disks"
_GZIP = b"\x1f\x8b\x08"  # RFC 1952 section 2.3.1: ID1, ID2, deflate
_PIECE = 64 * KIB
# Of the map of a disk with more pieces than that only the start is looked at.
_MAX_MAP = 2 * MIB
_ENTRY = 24
_REMAKE = "make the disk again in format gce"
_ANSWER = "gcp answers that the tar archive is not a valid image"


@dataclass(frozen=True)
class _Map:
    """Where content is, and how many bytes of headers say so; ``whole`` if all of it was read."""

    entries: tuple[tuple[int, int], ...]
    headers: int
    whole: bool


class _Unpacked:
    """The start of a gzip file, unpacked as far as it is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._data, self._at = b"", 0

    def block(self) -> bytes:
        """The next 512 bytes.

        Raises:
            FormatError: the stream is damaged, or ends before.
        """
        while len(self._data) - self._at < BLOCK and self._more():
            pass
        block = self._data[self._at : self._at + BLOCK]
        if len(block) < BLOCK:
            raise FormatError("archive", f"it ends {len(block)} bytes into a block of {BLOCK}")
        self._at += BLOCK
        return block

    def _more(self) -> bool:
        """Whether there was anything left to read; it is behind what was unpacked before."""
        packed = self._stream.unconsumed_tail or self._file.read(_PIECE)
        if self._stream.eof or not packed:
            return False
        try:
            self._data = self._data[self._at :] + self._stream.decompress(packed, _PIECE)
        except zlib.error as error:
            raise FormatError("archive", f"the gzip stream is damaged ({error})") from None
        self._at = 0
        return True


def findings(file: BinaryIO, disk_size: int) -> tuple[Finding, ...]:
    """What is wrong with an archive that should hold a disk of ``disk_size`` bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(len(_GZIP))
    if magic != _GZIP:
        what = f"it starts with {magic!r}, which is not gzip; {_ANSWER}; {_REMAKE}"
        return (Finding("archive", what, _SPEC),)
    file.seek(0)
    unpacked = _Unpacked(file)
    try:
        header = OldGnuHeader.unpack(unpacked.block(), source="archive")
        wrong = tuple(_header_findings(header))
        if wrong:
            return wrong
        stored, real = _sizes(header)
        sparse = _read_map(header, unpacked)
    except FormatError as error:
        return (Finding(error.source, f"{error.what}; {_ANSWER}; {_REMAKE}", _SPEC),)
    return (
        *_disk_findings(real, disk_size),
        *_map_findings(sparse, stored, real),
        *_end_findings(file, size, sparse, stored),
    )


def _header_findings(header: OldGnuHeader) -> Iterator[Finding]:
    plain = replace(header, checksum=b" " * 8).pack()
    try:
        noted = int(header.checksum.strip(b" \0") or b"0", 8)
    except ValueError:
        noted = -1
    if noted != sum(plain):
        what = f"the first header's checksum is {header.checksum!r} and should be {sum(plain):o}, in octal"
        yield Finding("archive", f"{what}; {_ANSWER}; {_REMAKE}", _SPEC)
        return
    if header.magic != b"ustar  \0":
        what = f"the format is {header.magic!r}, not oldgnu; {_ANSWER}; use tar --format=oldgnu -S"
        yield Finding("archive", what, _SPEC)
    name = header.name.rstrip(b"\0")
    if name != MEMBER:
        what = f"the file in it is called {shown(name.decode('latin-1'))}, and it has to be disk.raw"
        yield Finding("archive", f"{what}; {_ANSWER}; {_REMAKE}", _SPEC)
    if header.typeflag not in (b"S", b"0", b"\0"):
        what = f"disk.raw is of type {header.typeflag!r}, neither a sparse nor a plain file"
        yield Finding("archive", f"{what}; {_ANSWER}; {_REMAKE}", _SPEC)


def _sizes(header: OldGnuHeader) -> tuple[int, int]:
    """Bytes of content in the archive, and of the file they belong to."""
    stored = _number(header.size)
    return stored, _number(header.real_size) if header.typeflag == b"S" else stored


def _number(field: bytes) -> int:
    """A number of a header: octal, or base 256 behind a marked byte. Spec: "Extensions to the Format"."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise FormatError("archive", f"{field!r} is not a number of a tar header")
    return int(digits, 8)


def _read_map(header: OldGnuHeader, unpacked: _Unpacked) -> _Map:
    """The places of content, from the header and as many blocks behind it as are looked at.

    Raises:
        FormatError: the archive ends in it, or holds something that is no number.
    """
    if header.typeflag != b"S":
        return _Map((), BLOCK, whole=True)
    entries = _entries(header.sparse)
    more, length = header.is_extended != b"\0", BLOCK
    while more and length < _MAX_MAP:
        block = unpacked.block()
        length += BLOCK
        entries += _entries(block[: 21 * _ENTRY])
        more = block[21 * _ENTRY] != 0
    return _Map(tuple(entries), length, whole=not more)


def _entries(data: bytes) -> list[tuple[int, int]]:
    return [
        (_number(data[at : at + 12]), _number(data[at + 12 : at + _ENTRY]))
        for at in range(0, len(data), _ENTRY)
        if any(data[at : at + _ENTRY])
    ]


def _disk_findings(real: int, disk_size: int) -> Iterator[Finding]:
    if not real or real % GIB:
        what = f"disk.raw has {size_text(real)}, not a multiple of 1 GiB"
        yield Finding("disk", f"{what}; {_ANSWER}; {_REMAKE}", _SPEC)
    if real != disk_size:
        what = f"disk.raw has {size_text(real)}, and {size_text(disk_size)} were to be shipped"
        yield Finding("disk", f"{what}; {_REMAKE}")


def _map_findings(sparse: _Map, stored: int, real: int) -> Iterator[Finding]:
    end = 0
    for offset, length in sparse.entries:
        if offset < end or offset + length > real:
            what = f"{length} bytes at {offset} overlap what comes before or lie behind the end of disk.raw"
            yield Finding("archive", f"{what}; {_ANSWER}; {_REMAKE}", _SPEC)
            return
        end = offset + length
    content = sum(length for _, length in sparse.entries)
    if sparse.whole and sparse.entries and content != stored:
        what = f"the map of disk.raw names {size_text(content)} of content, the header {size_text(stored)}"
        yield Finding("archive", f"{what}; {_ANSWER}; {_REMAKE}", _SPEC)


def _end_findings(file: BinaryIO, size: int, sparse: _Map, stored: int) -> Iterator[Finding]:
    """By its length: nothing but disk.raw is in the archive, and nothing was cut off."""
    if not sparse.whole:
        return
    file.seek(max(size - 4, 0))
    noted = int.from_bytes(file.read(4), "little")  # RFC 1952: ISIZE, modulo 2**32
    written = sparse.headers + stored
    expected = align_up(align_up(written, BLOCK) + 2 * BLOCK, oldgnu.RECORD)
    if noted != expected & 0xFFFFFFFF:
        what = f"unpacked it has {noted} bytes modulo 4 GiB, {expected & 0xFFFFFFFF} with disk.raw alone"
        yield Finding("archive", f"{what}; it is cut short, or something else is in it; {_REMAKE}", _SPEC)
