"""Debian binary packages: their control information, and their files as nodes of a tree."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import FormatError
from ..units import GIB, MIB
from . import ar, control
from .control import Paragraph
from .decompress import PIECE, Compression, decompress
from .tarstream import BytesArchive, FileArchive, entries
from .tree import Node, NodeType

# The largest control archives in Debian are symbol files of a few MiB; data archives end below 2 GiB.
CONTROL_LIMIT = 32 * MIB
DATA_LIMIT = 8 * GIB

_MEMBERS = ["debian-binary", "control.tar", "data.tar"]


@dataclass(frozen=True)
class Control:
    """What a package says about itself.

    Attributes:
        paragraph: the fields of its control file.
        conffiles: absolute paths of configuration files, in file order.
        md5sums: the file of that name as it is, empty where there is none.
    """

    paragraph: Paragraph
    conffiles: tuple[str, ...]
    md5sums: bytes


@dataclass(frozen=True)
class Deb:
    """A package file whose outer layout has been checked.

    Attributes:
        source: what to call it in messages.
    """

    path: Path
    source: str
    control_member: ar.Member
    data_member: ar.Member

    def control(self, *, limit: int = CONTROL_LIMIT) -> Control:
        """The control information.

        Raises:
            FormatError: damaged, larger than ``limit`` bytes unpacked, or without a control file.

        Spec: deb-control(5), deb-conffiles(5), deb-md5sums(5).
        """
        with self.path.open("rb") as file:
            data = b"".join(self._unpacked(file, self.control_member, limit))
        source = f"{self.source}: {self.control_member.name}"
        files: dict[str, bytes] = {}
        for path, node in entries(BytesArchive(data, source)):
            if node.type is NodeType.FILE:
                if path in files:
                    raise FormatError(source, f"{path} is there twice")
                files[path] = node.read()
        if "control" not in files:
            raise FormatError(source, "no control file")
        paragraph = control.parse(files["control"], f"{source}: control")
        for name in ("Package", "Version", "Architecture"):
            if not paragraph.get(name):
                raise FormatError(f"{source}: control", f"no field {name}")
        conffiles = _conffiles(files.get("conffiles", b""), f"{source}: conffiles")
        return Control(paragraph, conffiles, files.get("md5sums", b""))

    def unpack(
        self, spool: BinaryIO, spool_path: Path, *, owner: str = "", limit: int = DATA_LIMIT
    ) -> list[tuple[str, Node]]:
        """Path and node of everything the package ships, in archive order.

        The unpacked archive is appended to ``spool``, and the payload of a file is its range there. A hard
        link comes after the file that it names, and no entry lies below anything but a directory.

        Args:
            spool: open for writing at its end.
            spool_path: path of ``spool``.
            owner: becomes ``Node.source``.
            limit: the most bytes that may be appended.

        Raises:
            FormatError: damaged, truncated, too large, a path outside the tree or twice, or a link to
                nothing.

        Spec: deb(5).
        """
        start = spool.tell()
        with self.path.open("rb") as file:
            spool.writelines(self._unpacked(file, self.data_member, limit))
        spool.flush()
        source = f"{self.source}: {self.data_member.name}"
        descriptor = os.open(spool_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            archive = FileArchive(spool_path, descriptor, start, spool.tell() - start, source)
            found = list(entries(archive, owner=owner))
        finally:
            os.close(descriptor)
        _check_tree(found, source)
        return found

    def _unpacked(self, file: BinaryIO, member: ar.Member, limit: int) -> Iterator[bytes]:
        """The unpacked content of a member."""
        compression = Compression(member.name[member.name.index(".tar") + len(".tar") :])
        source = f"{self.source}: {member.name}"
        return decompress(_pieces(file, member), compression, source=source, limit=limit)


def open_deb(path: Path, *, source: str = "") -> Deb:
    """The package at ``path``, its outer layout checked.

    Args:
        source: what to call it in messages; its file name unless given.

    Raises:
        FormatError: not a package of format 2.x, or members that are missing, unknown, twice or in another
            order.

    Spec: deb(5) "FORMAT".
    """
    source = source or path.name
    with path.open("rb") as file:
        members = ar.members(file, source)
        # Members whose name begins with an underscore may stand between the others and are to be ignored.
        known = [member for member in members if not member.name.startswith("_")]
        names = [member.name for member in known]
        if [name.removesuffix(_ending(name)) for name in names] != _MEMBERS:
            what = (
                f"members are {', '.join(names) or 'none'}; expected debian-binary, control.tar and data.tar"
            )
            raise FormatError(source, what)
        file.seek(known[0].offset)
        version = file.read(min(known[0].size, 64))
    if members[0] is not known[0] or re.match(rb"2\.[0-9]+\n", version) is None:
        what = f"debian-binary is {version!r}, expected `2.0`, in the first member; another package format"
        raise FormatError(source, what, offset=known[0].offset)
    for member in known[1:]:
        if _ending(member.name) not in {compression.value for compression in Compression}:
            raise FormatError(
                source, f"{member.name} has a compression that is not known", offset=member.offset
            )
    return Deb(path, source, known[1], known[2])


def read_control(path: Path) -> Paragraph:
    """The control paragraph of the package at ``path``.

    Raises:
        FormatError: not a package, or damaged.
    """
    return open_deb(path).control().paragraph


def _ending(name: str) -> str:
    """What follows ``.tar`` in a member name."""
    return name.partition(".tar")[2]


def _pieces(file: BinaryIO, member: ar.Member) -> Iterator[bytes]:
    """The content of a member as it is stored."""
    file.seek(member.offset)
    left = member.size
    while left:
        data = file.read(min(left, PIECE))
        if not data:
            raise FormatError(member.name, f"{left} bytes are missing; it changed while it was read")
        left -= len(data)
        yield data


def _conffiles(data: bytes, source: str) -> tuple[str, ...]:
    """Paths of the configuration files that are shipped.

    Spec: deb-conffiles(5): one absolute path a line; a line with the flag ``remove-on-upgrade`` names a file
    that is no longer shipped.
    """
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(source, "not UTF-8", offset=error.start) from None
    paths = [line.rstrip() for line in lines if line.strip() and not line.startswith("remove-on-upgrade ")]
    for path in paths:
        if not path.startswith("/"):
            raise FormatError(source, f"{path[:64]!r} is not an absolute path")
    return tuple(paths)


def _check_tree(found: list[tuple[str, Node]], source: str) -> None:
    """Checks that paths are unique, links have an earlier target, and only directories hold paths."""
    types: dict[str, NodeType] = {}
    for path, node in found:
        if path in types:
            raise FormatError(source, f"path {path!r} is there twice")
        if node.type is NodeType.HARDLINK and types.get(node.target) not in (
            NodeType.FILE,
            NodeType.HARDLINK,
        ):
            what = f"hard link {path!r} to {node.target!r}, which is no file that comes before it"
            raise FormatError(source, what)
        types[path] = node.type
    for path in types:
        parent = path.rpartition("/")[0]
        if types.get(parent, NodeType.DIRECTORY) is not NodeType.DIRECTORY:
            raise FormatError(source, f"path {path!r} lies below the {types[parent].value} {parent!r}")
