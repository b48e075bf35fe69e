"""qcow2, plain or compressed: what QEMU, OpenStack and Oracle's cloud take.

From the start of the file: the header's cluster; the L1 table; data, with the L2 table of every 512 MiB of
the disk behind their data and the reference counts of every 2 GiB of the file behind that; what is left of
the reference counts; the table of where they are. So everything is written once and in order, but for L1
table and header, which come last.

Spec: QEMU docs/interop/qcow2.txt, as of QEMU 7.2.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from ..errors import FormatError
from ..formats.qcow2 import Qcow2Header
from ..record import dataclass
from ..units import MIB, SECTOR_SIZE, align_up
from .compressed import DEFLATE, ZSTD, Codec, compress_pieces
from .content import write_content
from .format import ANY_ARCHITECTURE, ANY_FIRMWARE, DiskFormat, aligned_size
from .source import Progress, RawDisk

SPEC = "QEMU docs/interop/qcow2.txt"
CLUSTER_BITS = 16  # as qemu-img creates: QEMU block/qcow2.h, DEFAULT_CLUSTER_SIZE
CLUSTER = 1 << CLUSTER_BITS
L2_ENTRIES = CLUSTER // 8
COUNTS = CLUSTER // 2  # reference counts of a block, 16 bits each
# "Qemu has an implementation limit of 32 MB as the maximum L1 table size", section Header.
MAX_SIZE = 32 * MIB // 8 * L2_ENTRIES * CLUSTER
_MAX_TABLE = 8 * MIB // CLUSTER  # of clusters: QEMU block/qcow2.h, QCOW_MAX_REFTABLE_SIZE

# Section L2 table entries.
COPIED = 1 << 63
COMPRESSED = 1 << 62
_SECTORS_SHIFT = 62 - (CLUSTER_BITS - 8)
_PACKED_MAX = CLUSTER - SECTOR_SIZE  # one that saves less than a sector is quicker to read as it is

# Sections Header and Feature name table.
COMPRESSION_TYPE = 1 << 3
ZLIB_TYPE, ZSTD_TYPE = 0, 1
_FEATURE_NAMES = 0x6803F857


@dataclass(frozen=True)
class Qcow2:
    """One variant of the format.

    Attributes:
        codec: what compresses clusters, to raw DEFLATE streams or Zstandard frames; None for none of them.
        compression_type: which of the two it is, ZLIB_TYPE or ZSTD_TYPE.
        workers: threads that compress, 0 for one on every processor; never changes the bytes.
    """

    name: str
    suffix: str
    summary: str
    codec: Codec | None = None
    compression_type: int = ZLIB_TYPE
    workers: int = 0
    architectures: frozenset[str] = ANY_ARCHITECTURE
    firmware: frozenset[str] = ANY_FIRMWARE
    max_size: int = MAX_SIZE
    alignment: int = SECTOR_SIZE

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        """Writes the disk to the empty seekable file ``out``; nothing of it depends on ``seed``.

        Clusters of zeros are absent. A compressed cluster starts where the one before it ends.

        Raises:
            FormatError: too large, or the raw image was changed while it was read.
        """
        disk = disk.grown(aligned_size(self, disk.size))
        image = _Image(out, disk.name, disk.size)
        if self.codec is None:
            write_content(disk, out, CLUSTER, image.place, progress)
        else:
            pieces = _whole(disk.pieces(CLUSTER, progress))
            for offset, data, packed in compress_pieces(pieces, CLUSTER, self.codec, workers=self.workers):
                image.add_packed(offset // CLUSTER, data, packed)
        image.finish(self.compression_type)


class _Image:
    """A file that grows cluster by cluster, and the tables that say what is where."""

    def __init__(self, out: BinaryIO, name: str, size: int) -> None:
        self._out, self._name, self._size = out, name, size
        self._l1 = array("Q", [0]) * -(-size // (CLUSTER * L2_ENTRIES))
        self._l2 = array("Q", bytes(CLUSTER))
        self._table = -1  # which L2 table that is
        first = 1 + -(-len(self._l1) // L2_ENTRIES)
        self._end = first * CLUSTER  # of what has its place, in bytes
        self._at = 0  # where the file stands
        self._counts = array("H", [1]) * first  # of the clusters for which no block is written
        self._blocks = array("Q")  # where the others are

    def place(self, offset: int, size: int) -> int:
        """Where in the file ``size`` bytes of the disk go as they are; all are in one L2 table."""
        first = self._enter(offset // CLUSTER)
        count = -(-size // CLUSTER)
        start = self._reserve(count)
        entries = range(start | COPIED, (start | COPIED) + count * CLUSTER, CLUSTER)
        self._l2[first : first + count] = array("Q", entries)
        return start

    def add_packed(self, cluster: int, data: bytes, packed: Iterable[bytes]) -> None:
        """Adds the clusters of ``data``, each compressed if that is smaller."""
        for number, stream in enumerate(packed):
            place = self._enter(cluster + number)
            if len(stream) <= _PACKED_MAX:
                self._l2[place] = self._pack(stream)
            else:
                self._l2[place] = self._append(data[number * CLUSTER : (number + 1) * CLUSTER]) | COPIED

    def finish(self, compression_type: int) -> None:
        """Writes all tables, and the header that makes it an image."""
        self._write_table()
        table_offset, table_clusters = self._finish_counts()
        self._out.seek(CLUSTER)
        for start in range(0, len(self._l1), L2_ENTRIES):  # not all at once: it may be 32 MiB
            self._out.write(_big_endian(self._l1[start : start + L2_ENTRIES]))
        self._out.seek(0)
        self._out.write(
            Qcow2Header(
                magic=0x514649FB,
                version=3,
                backing_file_offset=0,
                backing_file_size=0,
                cluster_bits=CLUSTER_BITS,
                size=self._size,
                crypt_method=0,
                l1_size=len(self._l1),
                l1_table_offset=CLUSTER,
                refcount_table_offset=table_offset,
                refcount_table_clusters=table_clusters,
                snapshots=0,
                snapshots_offset=0,
                incompatible_features=COMPRESSION_TYPE if compression_type else 0,
                compatible_features=0,
                autoclear_features=0,
                refcount_order=4,
                header_length=Qcow2Header.SIZE,
                compression_type=compression_type,
                reserved_0x69=0,
                reserved_0x6a=0,
                reserved_0x6b=0,
                reserved_0x6c=0,
            ).pack()
            + _extensions(compression_type)
        )

    def _enter(self, cluster: int) -> int:
        """Place of a cluster of the disk in its L2 table, which is made the current one."""
        table, place = divmod(cluster, L2_ENTRIES)
        if table != self._table:
            self._write_table()
            self._table = table
        return place

    def _append(self, data: bytes) -> int:
        """Writes whole clusters of the file; where they start."""
        start = self._reserve(len(data) // CLUSTER)
        self._put(start, data)
        return start

    def _reserve(self, count: int) -> int:
        """Where the next whole clusters of the file are, which are taken now; what is skipped is zero."""
        start = align_up(self._end, CLUSTER)
        self._end = start + count * CLUSTER
        self._counts.extend(array("H", [1]) * count)
        return start

    def _put(self, start: int, data: bytes) -> None:
        if start != self._at:
            self._out.seek(start)
        self._out.write(data)
        self._at = start + len(data)

    def _pack(self, stream: bytes) -> int:
        """Writes a compressed cluster; the L2 entry that says where it is.

        A cluster of the file is counted once for each stream of which it has a part.
        """
        start, self._end = self._end, self._end + len(stream)
        self._put(start, stream)
        last = self._end - 1
        known = (start + CLUSTER - 1) // CLUSTER  # clusters of the file begun so far
        if start % CLUSTER:
            self._counts[-1] += 1
        self._counts.extend(array("H", [1]) * (last // CLUSTER + 1 - known))
        sectors = last // SECTOR_SIZE - start // SECTOR_SIZE
        return COMPRESSED | sectors << _SECTORS_SHIFT | start

    def _write_table(self) -> None:
        """Writes the current L2 table, if any, and reference counts that will not change any more."""
        if self._table < 0:
            return
        self._l1[self._table] = self._append(_big_endian(self._l2)) | COPIED
        self._l2 = array("Q", bytes(CLUSTER))
        while len(self._counts) >= COUNTS:
            self._write_block()

    def _write_block(self) -> None:
        """Writes one block of reference counts, which has its own count in a later one."""
        block = self._counts[:COUNTS]
        del self._counts[:COUNTS]
        block.extend([0] * (COUNTS - len(block)))
        self._blocks.append(self._append(_big_endian(block)))

    def _finish_counts(self) -> tuple[int, int]:
        """Writes the remaining blocks and the table of them; its offset and its clusters."""
        blocks = table = 0
        # Both are clusters of the file themselves, so that more of them may need more of them.
        while True:
            need = -(-(len(self._counts) + blocks + table) // COUNTS)
            clusters = -(-(len(self._blocks) + need) // L2_ENTRIES)
            if (need, clusters) == (blocks, table):
                break
            blocks, table = need, clusters
        if table > _MAX_TABLE:
            what = f"a table of {table} clusters is needed for the reference counts, QEMU reads {_MAX_TABLE}"
            raise FormatError(self._name, f"{what}; make the disk smaller", spec=SPEC)
        counts = self._counts + array("H", [1]) * (blocks + table)
        start = self._end
        self._blocks.extend(range(start, start + blocks * CLUSTER, CLUSTER))
        counts.extend([0] * (blocks * COUNTS - len(counts)))
        self._put(start, _big_endian(counts))
        self._blocks.extend([0] * (table * L2_ENTRIES - len(self._blocks)))
        self._put(start + blocks * CLUSTER, _big_endian(self._blocks))
        return start + blocks * CLUSTER, table


def _whole(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The pieces, with zeros behind a last cluster that the end of the disk cuts short."""
    for offset, data in pieces:
        yield offset, data + bytes(-len(data) % CLUSTER)


def _extensions(compression_type: int) -> bytes:
    """Header extensions: a name for the one feature that an old reader may not know, and the end of them."""
    if not compression_type:
        return bytes(8)
    name = struct.pack(">BB46s", 0, 3, b"compression type")
    return struct.pack(">II", _FEATURE_NAMES, len(name)) + name + bytes(8)


def _big_endian(values: array[int]) -> bytes:
    stored = values[:]
    if sys.byteorder == "little":
        stored.byteswap()
    return stored.tobytes()


FORMATS: tuple[DiskFormat, ...] = (
    Qcow2("qcow2", ".qcow2", "qcow2 as it is: QEMU, OpenStack"),
    Qcow2(
        "qcow2-zstd",
        ".zstd.qcow2",
        "qcow2 compressed with zstd: QEMU 5.1 or newer",
        codec=ZSTD,
        compression_type=ZSTD_TYPE,
    ),
    Qcow2("qcow2-zlib", ".zlib.qcow2", "qcow2 compressed with deflate: any reader of qcow2", codec=DEFLATE),
)
