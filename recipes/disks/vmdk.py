"""streamOptimized VMDK: what vSphere and AWS import, and the disk of an OVA.

From the start of the file: header; descriptor; the grains of 64 KiB that are not zero, each behind a marker
of its own, with a grain table behind the grains of every 32 MiB of the disk; the grain directory; a footer,
which is the header once more and says where the directory is; the end of the stream. Nothing points forward,
so the file is written from start to end.

Spec: VMware, Virtual Disk Format 5.0, sections Hosted Sparse Extent Metadata, Stream-Optimized Compressed
Sparse Extents; as QEMU 7.2 block/vmdk.c reads it.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Annotated, BinaryIO, Protocol

from ..binary import Struct, raw, u8, u16, u32, u64
from ..errors import FormatError
from ..record import dataclass, replace
from ..units import SECTOR_SIZE, pad
from .compressed import ZLIB, Codec, compress_pieces
from .format import ANY_ARCHITECTURE, ANY_FIRMWARE, DiskFormat, aligned_size, derived_bytes
from .source import Progress, RawDisk

SPEC = "VMware Virtual Disk Format 5.0"
# Section Hosted Sparse Extent Header: "the default is 128", 64 KiB; a stream-optimized one has no other.
GRAIN_SECTORS = 128
GRAIN = GRAIN_SECTORS * SECTOR_SIZE
TABLE_ENTRIES = 512  # same section, numGTEsPerGT
# Tables say in 32 bits at which sector of the file a grain starts: section Grain Table. A disk larger than
# all the places there are could not hold what it may be filled with.
MAX_SIZE = SECTOR_SIZE << 32
_SECTORS_MAX = 1 << 32  # of the file

# Section Hosted Sparse Extent Header: newline detection works, grains are compressed, there are markers.
_FLAGS = 1 << 0 | 1 << 16 | 1 << 17
_COMPRESS_DEFLATE = 1
_AT_END = 0xFFFFFFFFFFFFFFFF  # GD_AT_END: the footer says it
_DESCRIPTOR_SECTOR = 1
_DESCRIPTOR_SECTORS = 20
_OVERHEAD = 128  # sectors in front of the first grain: a whole grain, so that those of the file are aligned

# Section Stream-Optimized Compressed Sparse Extents, type of a marker.
END_OF_STREAM, GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER = range(4)

# What a SCSI disk of this adapter pretends: VMware, Virtual Disk Format 5.0, section The Disk Database.
_HEADS, _TRACK = 255, 63
_CYLINDERS_MAX = 65535
_CID_RESERVED = 0xFFFFFFFE  # from here on, CID_NOPARENT among them: QEMU block/vmdk.c, vmdk_create

_DESCRIPTOR = """\
# Disk DescriptorFile
version=1
CID={cid:08x}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "{heads}"
ddb.geometry.sectors = "{track}"
ddb.longContentID = "{content}"
"""


class Header(Struct):
    """First sector of the file, and once more in the footer.

    Spec: VMware Virtual Disk Format 5.0, section Hosted Sparse Extent Header, struct SparseExtentHeader.
    """

    magic: Annotated[bytes, raw(4)]
    version: u32
    flags: u32
    capacity: u64
    grain_size: u64
    descriptor_offset: u64
    descriptor_size: u64
    table_entries: u32
    redundant_directory_offset: u64
    directory_offset: u64
    overhead: u64
    unclean_shutdown: u8
    newlines: Annotated[bytes, raw(4)]
    compress_algorithm: u16
    reserved_0x4f: Annotated[bytes, raw(433)]


class Sink(Protocol):
    """What a stream is written to."""

    def write(self, data: bytes, /) -> object:
        """Takes all of ``data``."""


@dataclass(frozen=True)
class StreamOptimizedVmdk:
    """The format.

    Attributes:
        codec: what compresses grains to zlib streams.
        workers: threads that compress, 0 for one on every processor; never changes the bytes.
    """

    name: str = "vmdk"
    suffix: str = ".vmdk"
    summary: str = "streamOptimized VMDK: AWS import-snapshot, vSphere"
    codec: Codec = ZLIB
    workers: int = 0
    architectures: frozenset[str] = ANY_ARCHITECTURE
    firmware: frozenset[str] = ANY_FIRMWARE
    max_size: int = MAX_SIZE
    alignment: int = GRAIN  # "capacity should be a multiple of the grain size": Hosted Sparse Extent Header

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        """Writes the disk, grown to whole grains.

        Raises:
            FormatError: too large, or the raw image was changed while it was read.
        """
        self.write_stream(disk, out, seed=seed, progress=progress)

    def write_stream(
        self, disk: RawDisk, out: Sink, *, seed: bytes, progress: Progress | None = None
    ) -> tuple[int, int]:
        """The same to anything that can be written to; bytes written, and bytes of grains that are not zero.

        Raises:
            FormatError: too large, or the raw image was changed while it was read.
        """
        size = aligned_size(self, disk.size)
        disk = disk.grown(size)
        stream = _Stream(out, disk.name, size, seed)
        pieces = disk.pieces(GRAIN, progress)
        for offset, _, packed in compress_pieces(pieces, GRAIN, self.codec, workers=self.workers):
            stream.add(offset // GRAIN, packed)
        return stream.finish()


class _Stream:
    """A file that grows from start to end."""

    def __init__(self, out: Sink, name: str, size: int, seed: bytes) -> None:
        self._out, self._name = out, name
        self._header = _header(size // SECTOR_SIZE)
        self._directory = array("I", [0]) * -(-size // (GRAIN * TABLE_ENTRIES))
        self._table = array("I", [0]) * TABLE_ENTRIES
        self._number = -1  # of that table
        self._grains = 0
        start = self._header.pack() + _descriptor(size // SECTOR_SIZE, seed)
        out.write(start.ljust(_OVERHEAD * SECTOR_SIZE, b"\0"))
        self._sector = _OVERHEAD  # where the next thing is written

    def add(self, first: int, packed: Iterable[bytes]) -> None:
        """Adds compressed grains, from grain ``first`` of the disk on, and grain tables between them."""
        for number, stream in enumerate(packed, first):
            table, entry = divmod(number, TABLE_ENTRIES)
            if table != self._number:
                self._write_table()
                self._number = table
            self._table[entry] = self._write(_grain(number, stream))
            self._grains += 1

    def finish(self) -> tuple[int, int]:
        """Writes what stands at the end; bytes of the file, and of the grains in it as they were."""
        self._write_table()
        directory = _little_endian(self._directory)
        sectors = -(-len(directory) // SECTOR_SIZE)
        offset = self._write(_marker(GRAIN_DIRECTORY, sectors) + pad(directory, SECTOR_SIZE)) + 1
        footer = replace(self._header, directory_offset=offset)
        self._write(_marker(FOOTER, 1) + footer.pack())
        self._write(_marker(END_OF_STREAM, 0))
        return self._sector * SECTOR_SIZE, self._grains * GRAIN

    def _write_table(self) -> None:
        """Writes the current grain table, if any."""
        if self._number < 0:
            return
        table = _little_endian(self._table)
        sector = self._write(_marker(GRAIN_TABLE, len(table) // SECTOR_SIZE) + table)
        self._directory[self._number] = sector + 1
        self._table = array("I", [0]) * TABLE_ENTRIES

    def _write(self, sectors: bytes) -> int:
        """The sector at which these, whole ones, are written."""
        start = self._sector
        self._sector += len(sectors) // SECTOR_SIZE
        if self._sector > _SECTORS_MAX:
            what = "compressed it takes more than 2 TiB, and places beyond that cannot be told"
            raise FormatError(self._name, f"{what}; make the disk smaller", spec=SPEC)
        self._out.write(sectors)
        return start


def _grain(number: int, stream: bytes) -> bytes:
    """A compressed grain behind its marker: struct Marker."""
    return pad(struct.pack("<QI", number * GRAIN_SECTORS, len(stream)) + stream, SECTOR_SIZE)


def _marker(kind: int, sectors: int) -> bytes:
    """The sector in front of ``sectors`` sectors of metadata: struct Marker, whose size is 0 here."""
    return struct.pack("<QII496x", sectors, 0, kind)


def _header(sectors: int) -> Header:
    return Header(
        magic=b"KDMV",
        version=3,
        flags=_FLAGS,
        capacity=sectors,
        grain_size=GRAIN_SECTORS,
        descriptor_offset=_DESCRIPTOR_SECTOR,
        descriptor_size=_DESCRIPTOR_SECTORS,
        table_entries=TABLE_ENTRIES,
        redundant_directory_offset=0,
        directory_offset=_AT_END,
        overhead=_OVERHEAD,
        unclean_shutdown=0,
        newlines=b"\n \r\n",
        compress_algorithm=_COMPRESS_DEFLATE,
        reserved_0x4f=bytes(433),
    )


def _descriptor(sectors: int, seed: bytes) -> bytes:
    """The embedded descriptor: section The Descriptor File. Its content identifiers come from ``seed``."""
    content = derived_bytes(seed, "vmdk content", 16)
    text = _DESCRIPTOR.format(
        cid=int.from_bytes(content[:4], "big") % _CID_RESERVED,
        sectors=sectors,
        cylinders=min(max(sectors // (_HEADS * _TRACK), 1), _CYLINDERS_MAX),
        heads=_HEADS,
        track=_TRACK,
        content=content.hex(),
    )
    return text.encode("ascii")


def _little_endian(values: array[int]) -> bytes:
    stored = values[:]
    if sys.byteorder == "big":
        stored.byteswap()
    return stored.tobytes()


FORMATS: tuple[DiskFormat, ...] = (StreamOptimizedVmdk(),)
