"""Images for Google Compute Engine: ``disk.raw`` in a gzipped tar archive of the old GNU format.

Spec: Google Cloud, Compute Engine, "Manually import boot disks": name, archive format, whole GiB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import BinaryIO

from ..formats.gzip import gzip_pieces
from ..record import dataclass
from ..units import GIB, KIB
from . import oldgnu
from .format import ANY_ARCHITECTURE, ANY_FIRMWARE, DiskFormat, aligned_size
from .source import CHUNK, Progress, RawDisk

MEMBER = b"disk.raw"
# Of a disk that is dealt with, the part for looking where content is: by far the shorter of the two readings.
_LOOKING = 16
_GRANULE = 64 * KIB  # zeros in between compress to nothing, and each run takes up space in the header


@dataclass(frozen=True)
class Gce:
    """The archive."""

    name: str = "gce"
    suffix: str = ".tar.gz"
    summary: str = "disk.raw in a sparse tar.gz; Google Cloud"
    architectures: frozenset[str] = ANY_ARCHITECTURE
    firmware: frozenset[str] = ANY_FIRMWARE
    max_size: int = 64 * 1024 * GIB  # Google Cloud, Compute Engine, "Persistent Disk": the largest disk
    alignment: int = GIB

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        """Writes the archive; ``seed`` is for nothing here, there are no identifiers.

        The raw image is read twice, because the places of all content come first.

        Raises:
            FormatError: too large, or the raw image was changed while it was read.
        """
        disk = disk.grown(aligned_size(self, disk.size))
        gzip_pieces(tar_pieces(disk, progress), out)


def tar_pieces(disk: RawDisk, progress: Progress | None = None) -> Iterator[bytes]:
    """The tar archive of the disk in pieces of at most 256 KiB.

    Raises:
        FormatError: the raw image was changed while it was read.
    """
    looked = disk.size // _LOOKING
    edges = array("Q")
    look = None if progress is None else lambda done, total: progress(done // _LOOKING, total)
    for offset, length in disk.extents(_GRANULE, look):
        edges.extend((offset, offset + length))
    sparse = oldgnu.SparseMap(disk.size, edges)
    written = 0
    for block in oldgnu.headers(MEMBER, sparse):
        yield block
        written += len(block)
    for index in range(0, len(edges), 2):
        start, end = edges[index : index + 2]
        for position in range(start, end, CHUNK):
            piece = disk.read(position, min(CHUNK, end - position))
            yield piece
            written += len(piece)
            if progress is not None:
                done = min(position + CHUNK, end)
                progress(looked + done - done // _LOOKING, disk.size)
    disk.check_unchanged()
    if progress is not None:
        progress(disk.size, disk.size)
    yield oldgnu.trailer(written)


FORMATS: tuple[DiskFormat, ...] = (Gce(),)
