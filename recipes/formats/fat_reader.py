"""FAT32 file systems, read: the whole directory tree is checked when the file system is opened.

Disk images come from anywhere, so every cluster may belong to one chain only, chains are exactly as long as
their files, and what is kept in memory is bounded.

Spec: Microsoft FAT32 File System Specification 1.03 (fatgen103).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from ..errors import FormatError
from ..units import MIB
from .fat_layout import (
    ATTRIBUTE_DIRECTORY,
    ATTRIBUTE_LONG_NAME,
    ATTRIBUTE_MASK,
    ATTRIBUTE_VOLUME_ID,
    BOOT_SIGNATURE,
    DIRECTORY_LIMIT,
    END_OF_CHAIN_MIN,
    ENTRY_MASK,
    FIRST_CLUSTER,
    SPEC,
    BootSector,
    DirectoryEntry,
    Geometry,
    LongNameEntry,
)
from .fat_names import join_long, short_to_text
from .tree import CHUNK

# Ours: what a file system of boot files never comes near.
ENTRY_LIMIT = 65536
PATH_LIMIT = 1024
READ_LIMIT = 512 * MIB
# One byte of memory for each: 16 GiB of the smallest clusters, 128 GiB of 4 KiB ones.
CLUSTER_LIMIT = 1 << 25

_FREE = 0x00
_DELETED = 0xE5
_DOT_NAMES = (b".".ljust(11), b"..".ljust(11))
# FAT entries are read in pieces of this many bytes.
_FAT_WINDOW = 1 << 16
# How many of them are compared at a time.
_RUN = 1024
# A FAT16 volume has at least this many clusters. Spec: fatgen103, "FAT Type Determination".
_FAT16_MIN_CLUSTERS = 4085


@dataclass(frozen=True)
class FatFile:
    """A regular file of a file system; a ``Payload``."""

    filesystem: FatFilesystem
    path: str
    first_cluster: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """The content in order, in pieces of at most 1 MiB."""
        yield from self.filesystem.chunks(self)

    def read(self) -> bytes:
        """The whole content.

        Raises:
            FormatError: longer than ``READ_LIMIT``; use ``chunks``.
        """
        if self.size > READ_LIMIT:
            raise FormatError(
                self.path, f"{self.size} bytes are more than the {READ_LIMIT} that are read at once"
            )
        return b"".join(self.chunks())


class FatFilesystem:
    """A FAT32 file system inside a file that stays open; made by ``open``.

    Attributes:
        geometry: where its regions lie.
        files: every regular file by its path, in path order; paths keep the case that is stored.
        directories: every directory's path without the root, in path order.
    """

    def __init__(self, file: BinaryIO, offset: int, source: str, geometry: Geometry) -> None:
        self.geometry = geometry
        self.files: dict[str, FatFile] = {}
        self.directories: tuple[str, ...] = ()
        self._file = file
        self._offset = offset
        self._source = source
        self._window = b""
        self._window_start = -1
        self._claimed = bytearray(FIRST_CLUSTER + geometry.clusters)
        self._by_key: dict[str, FatFile] = {}

    @classmethod
    def open(cls, file: BinaryIO, offset: int, source: str) -> FatFilesystem:
        """The file system that starts ``offset`` bytes into ``file``, its tree read and checked.

        Raises:
            FormatError: not FAT32, truncated, or with a damaged tree: cluster chains that loop, cross or do
                not match their file's size, broken long names, names that are there twice.
        """
        length = file.seek(0, 2)
        boot = _read_boot_sector(file, offset, source)
        geometry = _geometry(boot, source)
        if geometry.total_sectors * geometry.bytes_per_sector > length - offset:
            what = f"{geometry.total_sectors} sectors of {geometry.bytes_per_sector} bytes do not fit"
            raise FormatError(
                source, f"{what} the {max(length - offset, 0)} bytes left; the image is truncated"
            )
        filesystem = cls(file, offset, source, geometry)
        filesystem._read_tree(boot.root_cluster)
        return filesystem

    def file(self, path: str) -> FatFile:
        """The file at a path; case does not matter.

        Raises:
            FormatError: there is no such file.
        """
        found = self._by_key.get(path.upper())
        if found is None:
            raise FormatError(self._source, f"there is no file {path}")
        return found

    def chunks(self, file: FatFile) -> Iterator[bytes]:
        """Content of a file in pieces of at most 1 MiB; clusters that lie together are read together."""
        size = self.geometry.cluster_size
        left, cluster = file.size, file.first_cluster
        while left:
            most = min(max(CHUNK // size, 1), self.geometry.clusters_for(left))
            count, following = self._run(cluster, most)
            wanted = min(left, count * size)
            yield self._read(self.geometry.cluster_offset(cluster), wanted)
            left -= wanted
            cluster = following

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(self._offset + offset)
        data = self._file.read(size)
        if len(data) != size:
            what = f"{size} bytes are needed, {len(data)} are left; the image is truncated"
            raise FormatError(self._source, what, offset=self._offset + offset)
        return data

    def _next(self, cluster: int) -> int:
        """What the FAT says about a cluster: the next one or an end mark."""
        start, place = divmod(cluster * 4, _FAT_WINDOW)
        if start != self._window_start:
            length = self.geometry.fat_sectors * self.geometry.bytes_per_sector
            where = start * _FAT_WINDOW
            self._window = self._read(self.geometry.fat_offset + where, min(_FAT_WINDOW, length - where))
            self._window_start = start
        return int.from_bytes(self._window[place : place + 4], "little") & ENTRY_MASK

    def _run(self, cluster: int, most: int) -> tuple[int, int]:
        """How many clusters, at most so many, follow each other from here on, and what the last leads to."""
        count = 1
        while True:
            following = self._next(cluster + count - 1)
            if following != cluster + count or count >= most:
                return count, following
            count += max(self._ascending(following, most - count), 1)

    def _ascending(self, cluster: int, most: int) -> int:
        """A number of FAT entries from here on that are known to lead to the next cluster each; may be 0."""
        start, place = divmod(cluster * 4, _FAT_WINDOW)
        if start != self._window_start:
            return 0
        count = min(most, _RUN, (len(self._window) - place) // 4)
        expected = struct.pack(f"<{count}I", *range(cluster + 1, cluster + 1 + count))
        return count if self._window[place : place + 4 * count] == expected else 0

    def _claim(self, first: int, path: str, limit: int) -> Iterator[range]:
        """The runs of clusters of a chain, each taken by this path alone; at most ``limit`` clusters."""
        cluster, total = first, 0
        end = FIRST_CLUSTER + self.geometry.clusters
        while cluster < END_OF_CHAIN_MIN:
            if not FIRST_CLUSTER <= cluster < end:
                raise self._error(
                    path, f"its chain leads to cluster {cluster:#x}; clusters are 2 to {end - 1}"
                )
            if total == limit:
                raise self._error(path, f"its chain is longer than {limit} clusters")
            count, following = self._run(cluster, min(limit - total, end - cluster))
            taken = self._claimed.find(1, cluster, cluster + count)
            if taken >= 0:
                raise self._error(path, f"cluster {taken} is used twice; chains loop or cross")
            self._claimed[cluster : cluster + count] = b"\1" * count
            yield range(cluster, cluster + count)
            total += count
            cluster = following

    def _read_tree(self, root_cluster: int) -> None:
        pending = [("", root_cluster)]
        found: dict[str, FatFile] = {}
        directories: list[str] = []
        count = 0
        while pending:
            path, cluster = pending.pop()
            names: set[str] = set()
            for name, entry in self._entries(path, cluster):
                child = f"{path}/{name}" if path else name
                count += 1
                if count > ENTRY_LIMIT or len(child) > PATH_LIMIT:
                    what = f"more than {ENTRY_LIMIT} entries or a path of over {PATH_LIMIT} characters"
                    raise self._error(child[:80], what)
                if name.upper() in names:
                    raise self._error(child, "its name is there twice")
                names.add(name.upper())
                first = entry.first_cluster_high << 16 | entry.first_cluster_low
                if entry.attributes & ATTRIBUTE_DIRECTORY:
                    directories.append(child)
                    pending.append((child, first))
                else:
                    self._check_file(child, first, entry.size)
                    found[child] = FatFile(self, child, first, entry.size)
        self.files = {path: found[path] for path in sorted(found)}
        self.directories = tuple(sorted(directories))
        self._by_key = {path.upper(): file for path, file in self.files.items()}

    def _check_file(self, path: str, first: int, size: int) -> None:
        needed = self.geometry.clusters_for(size)
        if not needed and first:
            raise self._error(path, f"it is empty but starts at cluster {first}")
        count = sum(map(len, self._claim(first, path, needed))) if needed else 0
        if count != needed:
            raise self._error(path, f"{size} bytes need {needed} clusters, its chain has {count}")

    def _entries(self, path: str, cluster: int) -> Iterator[tuple[str, DirectoryEntry]]:
        """Name and short entry of everything in a directory but its label and dot entries."""
        pending: list[LongNameEntry] = []
        for data in self._slots(path, cluster):
            attributes = data[11] & ATTRIBUTE_MASK
            if data[0] == _DELETED:
                pending.clear()
                continue
            if attributes == ATTRIBUTE_LONG_NAME:
                pending.append(LongNameEntry.unpack(data, source=self._source))
                if len(pending) > 20:
                    raise self._error(path, "a long name has more than 20 entries")
                continue
            entry = DirectoryEntry.unpack(data, source=self._source)
            dot = bool(path) and entry.name in _DOT_NAMES
            if attributes & ATTRIBUTE_VOLUME_ID or dot:
                if pending:
                    raise self._error(path, "a long name stands before a label or dot entry")
                continue
            yield self._name(path, entry, pending), entry
            pending.clear()
        if pending:
            raise self._error(path, "a long name has no short entry behind it")

    def _slots(self, path: str, first: int) -> Iterator[bytes]:
        """The 32-byte entries of a directory up to its end mark."""
        size = self.geometry.cluster_size
        ended = False
        runs = self._claim(first, path, max(DIRECTORY_LIMIT // size, 1))
        for cluster in chain.from_iterable(runs):
            # The rest of the chain is still claimed once the end mark was seen.
            if ended:
                continue
            data = self._read(self.geometry.cluster_offset(cluster), size)
            for start in range(0, size, DirectoryEntry.SIZE):
                if data[start] == _FREE:
                    ended = True
                    break
                yield data[start : start + DirectoryEntry.SIZE]

    def _name(self, path: str, entry: DirectoryEntry, pending: list[LongNameEntry]) -> str:
        def fail(what: str) -> FormatError:
            return self._error(path, what)

        name = join_long(pending, entry.name, fail) if pending else short_to_text(entry.name, entry.name_case)
        if not name or name in {".", ".."} or "/" in name or "\\" in name or min(name) < " ":
            raise fail(f"an entry is called {name!r}, which is not a file name")
        return name

    def _error(self, path: str, what: str) -> FormatError:
        return FormatError(f"{self._source}: {path or '/'}", what, spec=SPEC)


def _read_boot_sector(file: BinaryIO, offset: int, source: str) -> BootSector:
    file.seek(offset)
    boot = BootSector.unpack(file.read(BootSector.SIZE), source=source)
    if boot.signature != BOOT_SIGNATURE:
        what = f"boot sector signature is {boot.signature:#06x}, expected 0xaa55; this is not FAT"
        raise FormatError(source, what, offset=offset + 510, spec=SPEC)
    return boot


def _geometry(boot: BootSector, source: str) -> Geometry:
    """Where the regions lie, once the parameters make sense."""

    def fail(what: str) -> FormatError:
        return FormatError(source, what, spec="fatgen103, Boot Sector and BPB")

    if boot.bytes_per_sector not in {512, 1024, 2048, 4096}:
        raise fail(f"{boot.bytes_per_sector} bytes per sector, expected 512 to 4096; this is not FAT")
    if boot.sectors_per_cluster not in {1, 2, 4, 8, 16, 32, 64, 128}:
        raise fail(f"{boot.sectors_per_cluster} sectors per cluster, expected a power of two up to 128")
    if not boot.reserved_sectors or boot.fat_copies not in {1, 2}:
        what = f"{boot.reserved_sectors} reserved sectors and {boot.fat_copies} FATs"
        raise fail(f"{what}, expected at least 1 and 1 or 2")
    # Firmware and Linux tell FAT32 by the empty 16-bit fields, and so do we; the cluster count only tells
    # the two smaller kinds apart.
    if boot.fat_sectors_16 or boot.root_entries:
        raise fail(f"this is {_small_kind(boot)}; only FAT32 is supported, format with mkfs.fat -F 32")
    if boot.version:
        raise fail(f"FAT32 version {boot.version:#06x}, expected 0")
    if boot.extended_flags & 0x80:
        raise fail("FAT mirroring is switched off, which is not supported")
    total = boot.total_sectors or boot.total_sectors_16
    data = total - boot.reserved_sectors - boot.fat_copies * boot.fat_sectors
    clusters = max(data, 0) // boot.sectors_per_cluster
    if not boot.fat_sectors or not 0 < clusters <= CLUSTER_LIMIT:
        what = f"{total} sectors with {boot.fat_sectors} in each FAT leave {clusters} clusters"
        raise fail(f"{what}, expected 1 to {CLUSTER_LIMIT}")
    if boot.fat_sectors * boot.bytes_per_sector // 4 < clusters + FIRST_CLUSTER:
        raise fail(f"a FAT of {boot.fat_sectors} sectors does not describe {clusters} clusters")
    return Geometry(
        total_sectors=total,
        bytes_per_sector=boot.bytes_per_sector,
        sectors_per_cluster=boot.sectors_per_cluster,
        reserved_sectors=boot.reserved_sectors,
        fat_copies=boot.fat_copies,
        fat_sectors=boot.fat_sectors,
        clusters=clusters,
    )


def _small_kind(boot: BootSector) -> str:
    root = -(-boot.root_entries * DirectoryEntry.SIZE // boot.bytes_per_sector)
    total = boot.total_sectors_16 or boot.total_sectors
    data = total - boot.reserved_sectors - boot.fat_copies * boot.fat_sectors_16 - root
    return "FAT12" if data // boot.sectors_per_cluster < _FAT16_MIN_CLUSTERS else "FAT16"
