"""Compressed streams of packages and archives: gzip, xz, bzip2, zstd or none, in bounded pieces.

A decompressor never hands out much more than a piece at a time, and never more in all than its caller allows,
so a small file cannot fill the disk.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Protocol

import zstandard

from ..errors import FormatError
from ..units import MIB, format_size

PIECE = MIB
# What `xz -9` needs to unpack is 65 MiB, what `zstd --long` needs is 128 MiB (xz(1), zstd(1)); more is
# refused.
XZ_MEMORY = 128 * MIB
ZSTD_WINDOW = 128 * MIB
# The zstd decoder has no output limit. A compressed block is at least 4 bytes and unpacks to at most 128 KiB
# (RFC 8878, sections 3.1.1.2.2 and 3.1.1.2.4), so this many bytes give at most 16 MiB.
ZSTD_FEED = 512


class Compression(Enum):
    """How a stream is compressed; the value is the ending that file names have."""

    NONE = ""
    GZIP = ".gz"
    XZ = ".xz"
    BZIP2 = ".bz2"
    ZSTD = ".zst"


class _Decoder(Protocol):
    """What ``lzma`` and ``bz2`` offer, and what the others are dressed up as."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """``zlib`` with the interface of ``lzma``."""

    def __init__(self) -> None:
        # 16 more than the window size asks for a gzip header and checksum (zlib.h, inflateInit2).
        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        output = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        # A full answer may mean that more is waiting inside, with no input left over to show it.
        self.needs_input = not self._inner.unconsumed_tail and len(output) < max_length
        return output


class _Zstd:
    """``zstandard`` with the interface of ``lzma``; what comes out is limited by what goes in."""

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
        self._data = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._data

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data + bytes(self._data)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if data:
            self._data = memoryview(data)
        output = b""
        while self._data and not output and not self.eof:
            feed, self._data = self._data[:ZSTD_FEED], self._data[ZSTD_FEED:]
            output = self._inner.decompress(feed)
        return output


def _decoder(compression: Compression) -> _Decoder:
    if compression is Compression.GZIP:
        return _Gzip()
    if compression is Compression.XZ:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    if compression is Compression.BZIP2:
        return bz2.BZ2Decompressor()
    return _Zstd()


def decompress(
    pieces: Iterable[bytes], compression: Compression, *, source: str, limit: int
) -> Iterator[bytes]:
    """The unpacked bytes in order, in pieces of at most about 1 MiB (zstd: 16 MiB).

    Several compressed streams one behind the other count as one, as every decompressor does.

    Args:
        pieces: the compressed bytes, in pieces of any size.
        source: what to call the stream in messages.
        limit: the most bytes that may come out.

    Raises:
        FormatError: damaged, truncated, followed by something else, or larger than ``limit``.

    Spec: RFC 1952 (gzip), RFC 8878 (zstd), the .xz file format 1.2.1.
    """
    total = 0
    for output in pieces if compression is Compression.NONE else _streams(pieces, compression, source):
        total += len(output)
        if total > limit:
            what = f"unpacks to more than {format_size(limit)}; damaged, or made to fill the disk"
            raise FormatError(source, what)
        if output:
            yield output


def _streams(pieces: Iterable[bytes], compression: Compression, source: str) -> Iterator[bytes]:
    """The output of one stream after another until the input ends."""
    decoder: _Decoder | None = None
    started = False
    try:
        for piece in pieces:
            data = piece
            while data or not (decoder is None or decoder.needs_input):
                if decoder is None:
                    decoder = _decoder(compression)
                yield decoder.decompress(data, PIECE)
                data, started = b"", True
                if decoder.eof:
                    data, decoder = decoder.unused_data, None
    except (zlib.error, lzma.LZMAError, OSError, zstandard.ZstdError) as error:
        # OSError is how bz2 says that data is bad.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        what = (
            f"bad {compression.value[1:]} data ({str(error).lower()}); damaged, or followed by something else"
        )
        raise FormatError(source, what) from None
    if decoder is not None or not started:
        raise FormatError(source, f"the {compression.value[1:]} stream is truncated; fetch the file again")
