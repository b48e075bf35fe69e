"""Gzip files whose bytes depend on nothing but the data.

Spec: RFC 1952.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from . import deflate

# Magic, method 8 (DEFLATE), no flags and so no name, no time, no claim about how it was compressed, no
# operating system: RFC 1952 section 2.3.1.
HEADER = struct.pack("<2sBBIBB", b"\x1f\x8b", 8, 0, 0, 0, 255)


def compress_gzip(source: BinaryIO, out: BinaryIO, *, workers: int = 2) -> None:
    """Writes one gzip member with all of ``source`` from its position on; memory stays flat.

    Args:
        workers: processes that compress; 1 means this one. Never changes the result.

    Spec: RFC 1952 section 2.3; RFC 1951.
    """
    data = _Summed(deflate.read_chunks(source))
    out.write(HEADER)
    out.writelines(deflate.compress(data, workers=workers))
    out.write(struct.pack("<II", data.crc32, data.size & 0xFFFFFFFF))


class _Summed:
    """Pieces on their way through, and what the trailer says of them."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.crc32 = self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.crc32 = zlib.crc32(piece, self.crc32)
            self.size += len(piece)
            yield piece
