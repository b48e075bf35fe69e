"""Zstandard compression whose bytes depend on the data, the level and the library's version alone."""

from __future__ import annotations

import io
from typing import BinaryIO

import zstandard

from ..errors import FormatError

LEVEL_MIN, LEVEL_MAX = 1, 19
# Every level up to 19 keeps its window at or below 2^23 (level 3: 2^21): zstd 1.5.7 lib/compress/clevels.h.
# Levels 20 to 22 take 2^25 to 2^27, which the kernel would still read but must allocate at boot.
KERNEL_WINDOW_LOG_MAX = 27  # Linux lib/decompress_unzstd.c, ZSTD_WINDOWSIZE_MAX: "128MB is the maximum"


def compress_zstd(source: BinaryIO, out: BinaryIO, level: int = 3, *, threads: int = 2) -> int:
    """Number of bytes written: one frame with all of ``source`` from its position on.

    The frame states its content size and ends with a checksum (both read and checked by the kernel's
    unzstd). It is made by the library's multi-threaded coder, which cuts jobs by size and so gives the same
    bytes for any ``threads`` from 1 up; the single-threaded coder would give others. Another version of the
    library may give other bytes: record ``library_version``.

    Args:
        source: seekable, because the frame's header holds its length.
        threads: how many jobs run at once; never changes the result.

    Raises:
        FormatError: a level outside 1 to 19, or no thread.

    Spec: RFC 8878 section 3.1.1.1; Linux lib/decompress_unzstd.c.
    """
    if not LEVEL_MIN <= level <= LEVEL_MAX:
        raise FormatError(
            "zstd", f"level {level} is not in {LEVEL_MIN}..{LEVEL_MAX}; 3 builds fast, 19 is small"
        )
    if threads < 1:
        raise FormatError(
            "zstd", f"{threads} threads; give at least 1, the result is the same for any number"
        )
    start = source.tell()
    size = source.seek(0, io.SEEK_END) - start
    source.seek(start)
    compressor = zstandard.ZstdCompressor(
        level=level, threads=threads, write_checksum=True, write_content_size=True, write_dict_id=False
    )
    _, written = compressor.copy_stream(source, out, size=size)
    return written


def library_version() -> str:
    """Version of the zstd library, such as ``1.5.7``: another one may compress to other bytes."""
    return ".".join(str(part) for part in zstandard.ZSTD_VERSION)
