"""Granules of a disk, compressed one by one: what the formats that do so have in common.

Bytes never depend on how many workers there are: each granule is a stream of its own, and they come back in
the order of the disk.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import zstandard

from ..formats import deflate

_ZSTD_LEVEL = 3  # the library's own default, and QEMU's: zstd 1.5.7 lib/zstd.h, ZSTD_CLEVEL_DEFAULT
_AHEAD = 2  # pieces that wait for each worker
_WORKERS_MAX = 8  # more would want more memory, and the disk is hardly quicker


@dataclass(frozen=True)
class Codec:
    """One way to compress.

    Attributes:
        name: for messages.
        compressor: gives the function that one worker compresses one granule after another with.
        in_processes: it is Python throughout, so that threads would wait for one another.
    """

    name: str
    compressor: Callable[[], Callable[[bytes], bytes]]
    in_processes: bool


def _deflate() -> Callable[[bytes], bytes]:
    return deflate.deflate


def _zstd() -> Callable[[bytes], bytes]:
    """One frame a granule, with its length and without a checksum.

    QEMU takes the frame for damaged if anything of it is left when the cluster is full.
    Spec: QEMU block/qcow2-threads.c, qcow2_zstd_decompress.
    """
    return zstandard.ZstdCompressor(_ZSTD_LEVEL, write_checksum=False, write_dict_id=False).compress


# By the writer of this package: zlib's bytes are another processor's or another version's to change.
DEFLATE = Codec("deflate", _deflate, in_processes=True)
# By the library that is pinned with its hash.
ZSTD = Codec("zstd", _zstd, in_processes=False)


def compress_pieces(
    pieces: Iterable[tuple[int, bytes]], granule: int, codec: Codec, *, workers: int
) -> Iterator[tuple[int, bytes, list[bytes]]]:
    """Each piece as it came, and its granules compressed; a few pieces are in memory at a time.

    Args:
        pieces: (offset, content), whole granules.
        workers: processes or threads; 1 means none beside this one, and 0 one for every processor. Never
            changes the result.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), _WORKERS_MAX)
    job = partial(_compress, granule, codec)
    rest = iter(pieces)
    first = list(islice(rest, 2))
    if workers <= 1 or len(first) < 2:
        for offset, data in chain(first, rest):
            yield offset, data, job(data)
        return
    pool = _pool(codec, workers)
    waiting: deque[tuple[int, bytes, Future[list[bytes]]]] = deque()
    try:
        for offset, data in chain(first, rest):
            waiting.append((offset, data, pool.submit(job, data)))
            if len(waiting) > _AHEAD * workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        # If reading, writing or a worker failed, nobody wants what is still to do.
        pool.shutdown(cancel_futures=True)


def _pool(codec: Codec, workers: int) -> Executor:
    if codec.in_processes:
        # Fork, because a fresh interpreter takes longer than several granules.
        return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))
    return ThreadPoolExecutor(workers)


def _compress(granule: int, codec: Codec, data: bytes) -> list[bytes]:
    compress = codec.compressor()
    return [compress(data[start : start + granule]) for start in range(0, len(data), granule)]


def _result(offset: int, data: bytes, future: Future[list[bytes]]) -> tuple[int, bytes, list[bytes]]:
    return offset, data, future.result()
