"""The content of a disk written as it is, each run to where its format wants it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock
from typing import BinaryIO

from .source import Progress, RawDisk

# One reads while the other writes. A third would wait: file systems let one thread at a time write to a file.
_THREADS = 2


def write_content(
    disk: RawDisk,
    out: BinaryIO,
    granule: int,
    place: Callable[[int, int], int],
    progress: Progress | None = None,
) -> None:
    """Writes each run of granules with content to the offset in ``out`` that ``place`` gives it.

    Args:
        out: a file that the operating system knows; where it stands is neither used nor changed.
        granule: in bytes; runs are those of ``RawDisk.pieces``.
        place: called with offset and length of every run, in the order of the disk and never twice at a time.

    Raises:
        FormatError: the raw image was changed while it was read.
    """
    lock = Lock()
    chunks = disk.chunks(granule, progress)
    number = out.fileno()

    def work() -> None:
        try:
            while (chunk := take()) is not None:
                data, runs, places = chunk
                # By who has read it: another processor would have to fetch it from this one's cache first.
                for (start, end), where in zip(runs, places, strict=True):
                    write_at(number, data[start:end], where)
        finally:
            stop()

    def take() -> tuple[memoryview, list[tuple[int, int]], list[int]] | None:
        with lock:
            chunk = next(chunks, None)
            if chunk is None:
                return None
            offset, data, runs = chunk
            return memoryview(data), runs, [place(offset + start, end - start) for start, end in runs]

    def stop() -> None:
        """Where all is well nothing is left to stop."""
        with lock:
            chunks.close()

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for job in as_completed([pool.submit(work) for _ in range(_THREADS)]):
                job.result()
        finally:
            stop()


def write_at(number: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of ``data`` to an open file at ``offset``."""
    while data:
        written = os.pwrite(number, data, offset)
        data, offset = data[written:], offset + written
