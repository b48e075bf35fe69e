"""Gzip of what comes in pieces, by zlib in threads or, many times slower, by the package's own writer.

The data is cut at fixed places, so the number of workers never changes a byte. Which bytes zlib makes of it
is up to zlib: two hosts with different versions of it may disagree, and agree again on what they unpack to.

Spec: RFC 1951, RFC 1952.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from ..formats import deflate
from ..formats.gzip import HEADER
from ..units import KIB

LEVEL = 6  # what gzip does unless told otherwise
_CHUNK = 512 * KIB  # of one thread
_WINDOW = 32 * KIB  # the largest distance: RFC 1951 section 2


def gzip_pieces(data: Iterable[bytes], out: BinaryIO, *, exact: bool = False, workers: int = 0) -> None:
    """Writes one gzip member with ``data``, pieces of any length; memory stays flat.

    Args:
        exact: the bytes depend on the data alone, and not on zlib.
        workers: threads, or processes if exact; 0 means one for every processor. Never changes the result.

    Spec: RFC 1952 section 2.3.
    """
    workers = workers or len(os.sched_getaffinity(0))
    crc = size = 0

    def summed() -> Iterator[bytes]:
        nonlocal crc, size
        for chunk in rechunked(data, deflate.CHUNK if exact else _CHUNK):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
            yield chunk

    out.write(HEADER)
    out.writelines(deflate.compress(summed(), workers=workers) if exact else _by_zlib(summed(), workers))
    out.write(struct.pack("<II", crc, size & 0xFFFFFFFF))


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


def _by_zlib(chunks: Iterable[bytes], workers: int) -> Iterator[bytes]:
    """A whole DEFLATE stream; zlib lets go of the interpreter lock, so that threads pay."""
    waiting: deque[Future[bytes]] = deque()
    window = b""
    pool = ThreadPoolExecutor(workers)
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_compress, window, chunk))
            window = chunk[-_WINDOW:]
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # If reading, writing or a thread failed, nobody wants what is still to do.
        pool.shutdown(cancel_futures=True)
    yield deflate.END


def _compress(window: bytes, chunk: bytes) -> bytes:
    """Blocks that end on a byte, none of them the last of the stream."""
    # zlib has no "no dictionary" for this argument but leaving it out.
    known = (window,) if window else ()
    method, memory, strategy = zlib.DEFLATED, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY
    compressor = zlib.compressobj(LEVEL, method, -zlib.MAX_WBITS, memory, strategy, *known)
    return compressor.compress(chunk) + compressor.flush(zlib.Z_SYNC_FLUSH)
