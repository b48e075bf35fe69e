"""Granules of a disk, compressed one by one: what the formats that do so have in common.

Bytes never depend on how many threads there are: each granule is a stream of its own, and they come back in
the order of the disk. Nor do they depend on the host: both libraries are pinned with their hashes, and
neither's output changes with the processor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from zlib_ng import zlib_ng

from ..formats.gzip import LEVEL, worker_count
from ..record import dataclass

_ZSTD_LEVEL = 3  # the library's own default, and QEMU's: zstd 1.5.7 lib/zstd.h, ZSTD_CLEVEL_DEFAULT
# QEMU writes and reads clusters with a window of 4 KiB: QEMU block/qcow2-threads.c, qcow2_zlib_compress.
_QCOW2_WINDOW_BITS = 12
_AHEAD = 2  # pieces that wait for each thread


@dataclass(frozen=True)
class Codec:
    """One way to compress.

    Attributes:
        name: for messages.
        compressor: gives the function that one thread compresses one granule after another with.
    """

    name: str
    compressor: Callable[[], Callable[[bytes], bytes]]


def _deflate() -> Callable[[bytes], bytes]:
    return partial(_zlib_ng, wbits=-_QCOW2_WINDOW_BITS)


def _zlib() -> Callable[[bytes], bytes]:
    return partial(_zlib_ng, wbits=zlib_ng.MAX_WBITS)


def _zlib_ng(data: bytes, wbits: int) -> bytes:
    return zlib_ng.compress(data, LEVEL, wbits)


def _zstd() -> Callable[[bytes], bytes]:
    """One frame a granule, with its length and without a checksum.

    QEMU takes the frame for damaged if anything of it is left when the cluster is full.
    Spec: QEMU block/qcow2-threads.c, qcow2_zstd_decompress.
    """
    import zstandard  # here, because making the task graph loads this module

    return zstandard.ZstdCompressor(_ZSTD_LEVEL, write_checksum=False, write_dict_id=False).compress


# A DEFLATE stream and nothing else, a zlib stream, and a Zstandard frame: RFC 1951, RFC 1950, RFC 8878.
DEFLATE = Codec("deflate", _deflate)
ZLIB = Codec("zlib", _zlib)
ZSTD = Codec("zstd", _zstd)


def compress_pieces(
    pieces: Iterable[tuple[int, bytes]], granule: int, codec: Codec, *, workers: int
) -> Iterator[tuple[int, bytes, list[bytes]]]:
    """Each piece as it came, and its granules compressed; a few pieces are in memory at a time.

    Args:
        pieces: (offset, content), whole granules.
        workers: threads; 0 means one for every processor. Never changes the result.
    """
    workers = worker_count(workers)
    job = partial(_compress, granule, codec)
    waiting: deque[tuple[int, bytes, Future[list[bytes]]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for offset, data in pieces:
            waiting.append((offset, data, pool.submit(job, data)))
            if len(waiting) > _AHEAD * workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        # If reading, writing or a thread failed, nobody wants what is still to do.
        pool.shutdown(cancel_futures=True)


def _compress(granule: int, codec: Codec, data: bytes) -> list[bytes]:
    compress = codec.compressor()
    return [compress(data[start : start + granule]) for start in range(0, len(data), granule)]


def _result(offset: int, data: bytes, future: Future[list[bytes]]) -> tuple[int, bytes, list[bytes]]:
    return offset, data, future.result()
