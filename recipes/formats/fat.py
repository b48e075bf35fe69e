"""FAT32 file systems, written in one pass; ``fat_reader`` reads them.

Everything is laid out without fragments: the root directory, the other directories, then the files, parents
before children and in name order. The same content always gives the same bytes.

Spec: Microsoft FAT32 File System Specification 1.03 (fatgen103); UEFI 2.10 section 13.3.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from ..errors import FormatError
from ..units import SECTOR_SIZE
from .fat_layout import (
    ATTRIBUTE_ARCHIVE,
    ATTRIBUTE_DIRECTORY,
    ATTRIBUTE_VOLUME_ID,
    BACKUP_BOOT_SECTOR,
    BOOT_SIGNATURE,
    DIRECTORY_LIMIT,
    END_OF_CHAIN,
    EXTENDED_BOOT_SIGNATURE,
    FILE_LIMIT,
    FIRST_CLUSTER,
    FSINFO_SECTOR,
    MEDIA_FIXED,
    ROOT_CLUSTER,
    SPEC,
    BootSector,
    DirectoryEntry,
    FsInfo,
    Geometry,
    choose_geometry,
)
from .fat_names import StoredName, Timestamp, check_name, store_names, timestamp
from .tree import Payload

NO_LABEL = "NO NAME"
_LABEL = re.compile(r"[A-Z0-9$%'\-_@~`!(){}^#& ]{1,11}")

# How many FAT entries are made at a time: 1 MiB.
_FAT_BATCH = 1 << 18


@dataclass
class _Node:
    """A directory or file that gets its place while the file system is planned."""

    path: str
    name: str
    payload: Payload | None = None
    children: dict[str, _Node] = field(default_factory=dict)
    parent: int = 0
    size: int = 0
    first_cluster: int = 0
    clusters: int = 0
    names: list[StoredName] = field(default_factory=list)

    def sorted(self) -> list[_Node]:
        """The children by the bytes of their names."""
        return sorted(self.children.values(), key=lambda node: node.name.encode())


def write(
    out: BinaryIO, *, size: int, volume_id: int, label: str, epoch: int, files: Mapping[str, Payload]
) -> None:
    """Writes a FAT32 file system of ``size`` bytes from the current position of ``out`` on.

    Free space is skipped, not written: the bytes there must be zero or beyond the end of the file.

    Args:
        volume_id: serial number, 32 bits.
        label: at most 11 characters that FAT allows, or empty.
        epoch: time of every entry in seconds since 1970; before 1980 means 1980.
        files: content by path, ``EFI/BOOT/BOOTX64.EFI``; directories are made as needed.

    Raises:
        FormatError: the size does not suit FAT32, the files do not fit, or a path, the label, the volume id
            or the time cannot be stored.
    """
    geometry = choose_geometry(size)
    if not 0 <= volume_id < 1 << 32:
        raise FormatError("fat", f"volume id {volume_id:#x} does not fit 32 bits")
    if label and not _LABEL.fullmatch(label):
        what = f"label {label!r}, expected 1 to 11 of A-Z, 0-9, space and $%'-_@~`!(){{}}^#&"
        raise FormatError("fat", what, spec=SPEC)
    when = timestamp(epoch)
    root = _tree(files)
    directories, contents = _collect(root)
    used = _place(geometry, directories, contents, with_label=bool(label))
    start = out.tell()
    boot = _boot_sector(geometry, volume_id, label).pack()
    info = _fs_info(geometry, used).pack()
    for sector in (0, BACKUP_BOOT_SECTOR):
        out.seek(start + sector * SECTOR_SIZE)
        out.write(boot)
        out.write(info)
    placed = [*directories, *(node for node in contents if node.clusters)]
    for copy in range(geometry.fat_copies):
        out.seek(start + geometry.fat_offset + copy * geometry.fat_sectors * SECTOR_SIZE)
        _write_fat(out, placed)
    for node in directories:
        out.seek(start + geometry.cluster_offset(node.first_cluster))
        out.write(_directory(node, when, label if node is root else ""))
    for node in contents:
        if node.clusters:
            out.seek(start + geometry.cluster_offset(node.first_cluster))
        _write_content(out, node)
    if out.seek(0, 2) < start + size:
        out.seek(start + size - 1)
        out.write(b"\0")


def _tree(files: Mapping[str, Payload]) -> _Node:
    """The root directory with everything in it."""
    root = _Node("", "")
    for path in sorted(files):
        node = root
        parts = path.split("/")
        for depth, name in enumerate(parts, 1):
            where = f"fat: {path}"
            check_name(name, where)
            # FAT compares names without regard to case, so spellings must agree.
            key = name.upper()
            known = node.children.get(key)
            here = "/".join(parts[:depth])
            if known is None:
                known = node.children[key] = _Node(here, name)
            elif known.name != name:
                raise FormatError(where, f"{here} and {known.path} are the same name on FAT; rename one")
            elif known.payload is not None or depth == len(parts):
                raise FormatError(where, f"{here} is both a file and a directory")
            node = known
        node.payload = files[path]
        node.size = files[path].size
    return root


def _collect(root: _Node) -> tuple[list[_Node], list[_Node]]:
    """Directories with the root first, and files, both with parents before children and in name order."""
    directories, contents = [root], []
    pending = [root]
    while pending:
        node = pending.pop()
        below = [child for child in node.sorted() if child.payload is None]
        contents += [child for child in node.sorted() if child.payload is not None]
        directories += below
        pending += reversed(below)
    return directories, contents


def _place(geometry: Geometry, directories: list[_Node], contents: list[_Node], *, with_label: bool) -> int:
    """Gives every directory and file its clusters; the number of clusters used."""
    for node in directories:
        node.names = store_names([child.name for child in node.sorted()])
        # The root has no dot entries, and the label where there is one.
        extra = int(with_label) if node is directories[0] else 2
        node.size = DirectoryEntry.SIZE * (extra + sum(1 + len(name.long_entries()) for name in node.names))
        if node.size > DIRECTORY_LIMIT:
            what = f"directory of {node.size} bytes, at most {DIRECTORY_LIMIT} fit; spread its files"
            raise FormatError(f"fat: {node.path or '/'}", what, spec=SPEC)
    next_cluster = FIRST_CLUSTER
    for node in (*directories, *contents):
        if node.size > FILE_LIMIT:
            raise FormatError(
                f"fat: {node.path}", f"{node.size} bytes, a file holds at most {FILE_LIMIT}", spec=SPEC
            )
        node.clusters = geometry.clusters_for(node.size)
        if node.payload is None:
            node.clusters = max(node.clusters, 1)
        node.first_cluster = next_cluster if node.clusters else 0
        next_cluster += node.clusters
        for child in node.children.values():
            child.parent = 0 if node is directories[0] else node.first_cluster
    used = next_cluster - FIRST_CLUSTER
    if used > geometry.clusters:
        what = f"the files need {used} clusters of {geometry.cluster_size} bytes"
        raise FormatError("fat", f"{what}, there are {geometry.clusters}; make the file system larger")
    return used


def _boot_sector(geometry: Geometry, volume_id: int, label: str) -> BootSector:
    return BootSector(
        # A short jump over the parameters to code that halts: this is not how the disk is booted.
        jump=b"\xeb\x58\x90",
        # The name that fatgen103 recommends because some readers look for it.
        oem_name=b"MSWIN4.1",
        bytes_per_sector=geometry.bytes_per_sector,
        sectors_per_cluster=geometry.sectors_per_cluster,
        reserved_sectors=geometry.reserved_sectors,
        fat_copies=geometry.fat_copies,
        root_entries=0,
        total_sectors_16=0,
        media=MEDIA_FIXED,
        fat_sectors_16=0,
        sectors_per_track=63,
        heads=255,
        hidden_sectors=0,
        total_sectors=geometry.total_sectors,
        fat_sectors=geometry.fat_sectors,
        extended_flags=0,
        version=0,
        root_cluster=ROOT_CLUSTER,
        fsinfo_sector=FSINFO_SECTOR,
        backup_boot_sector=BACKUP_BOOT_SECTOR,
        reserved_0x34=bytes(12),
        drive_number=0x80,
        reserved_0x41=0,
        extended_signature=EXTENDED_BOOT_SIGNATURE,
        volume_id=volume_id,
        label=(label or NO_LABEL).encode("ascii").ljust(11),
        file_system_type=b"FAT32   ",
        boot_code=b"\xf4\xeb\xfd".ljust(420, b"\0"),
        signature=BOOT_SIGNATURE,
    )


def _fs_info(geometry: Geometry, used: int) -> FsInfo:
    free = geometry.clusters - used
    return FsInfo(
        lead_signature=0x41615252,
        reserved_0x4=bytes(480),
        structure_signature=0x61417272,
        free_clusters=free,
        # All ones: no hint.
        next_free_cluster=FIRST_CLUSTER + used if free else 0xFFFFFFFF,
        reserved_0x1f0=bytes(12),
        trail_signature=BOOT_SIGNATURE << 16,
    )


def _write_fat(out: BinaryIO, nodes: list[_Node]) -> None:
    """The used start of one FAT: every chain is a run of ascending numbers with an end mark."""
    out.write(struct.pack("<2I", 0x0FFFFF00 | MEDIA_FIXED, END_OF_CHAIN))
    for node in nodes:
        last = node.first_cluster + node.clusters - 1
        for start in range(node.first_cluster, last, _FAT_BATCH):
            run = range(start + 1, min(start + _FAT_BATCH, last) + 1)
            out.write(struct.pack(f"<{len(run)}I", *run))
        out.write(struct.pack("<I", END_OF_CHAIN))


def _directory(node: _Node, when: Timestamp, label: str) -> bytes:
    return b"".join(_entries(node, when, label))


def _entries(node: _Node, when: Timestamp, label: str) -> Iterator[bytes]:
    if label:
        yield _entry(label.encode("ascii").ljust(11), when, ATTRIBUTE_VOLUME_ID)
    if node.path:
        yield _entry(b".".ljust(11), when, ATTRIBUTE_DIRECTORY, cluster=node.first_cluster)
        yield _entry(b"..".ljust(11), when, ATTRIBUTE_DIRECTORY, cluster=node.parent)
    for name, child in zip(node.names, node.sorted(), strict=True):
        yield from name.long_entries()
        if child.payload is None:
            yield _entry(name.short, when, ATTRIBUTE_DIRECTORY, case=name.case, cluster=child.first_cluster)
        else:
            yield _entry(
                name.short,
                when,
                ATTRIBUTE_ARCHIVE,
                case=name.case,
                cluster=child.first_cluster,
                size=child.size,
            )


def _entry(
    name: bytes, when: Timestamp, attributes: int, *, case: int = 0, cluster: int = 0, size: int = 0
) -> bytes:
    return DirectoryEntry(
        name=name,
        attributes=attributes,
        name_case=case,
        creation_time_tenth=when.tenth,
        creation_time=when.time,
        creation_date=when.date,
        access_date=when.date,
        first_cluster_high=cluster >> 16,
        write_time=when.time,
        write_date=when.date,
        first_cluster_low=cluster & 0xFFFF,
        size=size,
    ).pack()


def _write_content(out: BinaryIO, node: _Node) -> None:
    written = 0
    for chunk in node.payload.chunks() if node.payload else ():
        written += len(chunk)
        if written > node.size:
            break
        out.write(chunk)
    if written != node.size:
        what = f"gave {'more' if written > node.size else written} bytes, {node.size} were announced"
        raise FormatError(f"fat: {node.path}", f"{what}; it changed while it was read")
