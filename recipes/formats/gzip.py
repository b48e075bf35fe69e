"""Gzip files whose bytes depend on nothing but the data.

What zlib promises is that its output unpacks, not which bytes it is: they change with the zlib of the host.
So another one does it, zlib-ng, of which a requirement pins version and hash. It has several versions of some
of its functions and takes those that suit the processor, but all of them compute the same: where two strings
begin to differ, a checksum, a table with smaller numbers. How it looks for matches is the same everywhere.

The data is cut at fixed places and each piece is compressed with the window before it at hand, so the number
of threads never changes a byte either.

Spec: RFC 1951, RFC 1952; zlib-ng 2.3.3 functable.c, match_tpl.h, insert_string_tpl.h.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import BinaryIO

from zlib_ng import zlib_ng

from ..units import KIB

LEVEL = 6  # what gzip and QEMU do unless told otherwise
WORKERS_MAX = 8  # more would want more memory, and hardly anything is quicker
# Magic, method 8 (DEFLATE), no flags and so no name, no time, no claim about how it was compressed, no
# operating system: RFC 1952 section 2.3.1.
_HEADER = struct.pack("<2sBBIBB", b"\x1f\x8b", 8, 0, 0, 0, 255)
_CHUNK = 512 * KIB  # of one thread
_WINDOW = 32 * KIB  # the largest distance: RFC 1951 section 2
_END = b"\x03\x00"  # a last block with fixed codes and nothing in it: RFC 1951 sections 3.2.3 and 3.2.6


def compress_gzip(source: BinaryIO, out: BinaryIO, *, workers: int = 0) -> None:
    """Writes one gzip member with all of ``source`` from its position on; memory stays flat.

    Args:
        workers: as for ``gzip_pieces``.

    Spec: RFC 1952 section 2.3.
    """
    gzip_pieces(iter(partial(source.read, _CHUNK), b""), out, workers=workers)


def gzip_pieces(pieces: Iterable[bytes], out: BinaryIO, *, workers: int = 0) -> None:
    """Writes one gzip member with ``pieces``, which are of any length; memory stays flat.

    Args:
        workers: threads; 0 means one for every processor. Never changes the result.

    Spec: RFC 1952 section 2.3.
    """
    crc = size = 0

    def summed() -> Iterator[bytes]:
        nonlocal crc, size
        for chunk in rechunked(pieces, _CHUNK):
            crc, size = zlib_ng.crc32(chunk, crc), size + len(chunk)
            yield chunk

    out.write(_HEADER)
    out.writelines(_deflated(summed(), worker_count(workers)))
    out.write(struct.pack("<II", crc, size & 0xFFFFFFFF))


def worker_count(asked: int) -> int:
    """How many threads compress where ``asked`` are wanted; 0 asks for one on every processor."""
    return min(asked or len(os.sched_getaffinity(0)), WORKERS_MAX)


def rechunked(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of ``size``, of which only the last may be smaller."""
    parts: list[bytes | memoryview] = []
    have = 0
    for piece in pieces:
        start = 0
        while have + len(piece) - start >= size:
            end = start + size - have
            yield b"".join((*parts, memoryview(piece)[start:end]))
            parts, have, start = [], 0, end
        if start < len(piece):
            parts.append(memoryview(piece)[start:])
            have += len(piece) - start
    if have:
        yield b"".join(parts)


def _deflated(chunks: Iterable[bytes], workers: int) -> Iterator[bytes]:
    """A whole DEFLATE stream; threads pay, since zlib-ng lets go of the interpreter lock."""
    waiting: deque[Future[bytes]] = deque()
    window = b""
    pool = ThreadPoolExecutor(workers)
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_blocks, window, chunk))
            window = chunk[-_WINDOW:]
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # If reading, writing or a thread failed, nobody wants what is still to do.
        pool.shutdown(cancel_futures=True)
    yield _END


def _blocks(window: bytes, chunk: bytes) -> bytes:
    """Blocks that end on a byte, none of them the last of the stream."""
    # There is no "no dictionary" for this argument but leaving it out.
    known = (window,) if window else ()
    method, memory, strategy = zlib_ng.DEFLATED, zlib_ng.DEF_MEM_LEVEL, zlib_ng.Z_DEFAULT_STRATEGY
    compressor = zlib_ng.compressobj(LEVEL, method, -zlib_ng.MAX_WBITS, memory, strategy, *known)
    return compressor.compress(chunk) + compressor.flush(zlib_ng.Z_SYNC_FLUSH)
