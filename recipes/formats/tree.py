"""A file tree in memory: what every source yields and every file-system writer takes.

Paths are relative, ``usr/bin/sh``, with the root as the empty string; names are UTF-8 with surrogate escapes
for other bytes. Content stays where it is (a range of a file, or bytes) until a writer copies it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

CHUNK = 1 << 20


class Payload(Protocol):
    """Content of a regular file."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def chunks(self) -> Iterator[bytes]:
        """The content in order, in pieces of at most 1 MiB."""


@dataclass(frozen=True)
class BytesPayload:
    """Content held in memory; for what is generated."""

    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        """The content in order, in pieces of at most 1 MiB."""
        for start in range(0, len(self.data), CHUNK):
            yield self.data[start : start + CHUNK]


@dataclass(frozen=True)
class FilePayload:
    """Content that stays in a file until it is copied: ``size`` bytes at ``offset``."""

    path: Path
    offset: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """The content in order, in pieces of at most 1 MiB."""
        left = self.size
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while left:
                data = file.read(min(left, CHUNK))
                if not data:
                    raise EOFError(f"{self.path}: {left} bytes are missing; it changed while it was read")
                left -= len(data)
                yield data


class NodeType(Enum):
    """What a path is; HARDLINK is a second name of the regular file that ``target`` names."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHARACTER = "character device"
    BLOCK = "block device"
    FIFO = "fifo"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One entry of a tree.

    Attributes:
        mode: permission bits with set-id and sticky bits, no type bits (0o0000 to 0o7777).
        target: where a symbolic link points, verbatim; for a hard link the tree path of the file.
        device: major and minor number.
        xattrs: full name (``security.capability``) and value, sorted by name.
        source: where it came from, for messages: a package name or a path.
    """

    type: NodeType
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    payload: Payload | None = None
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    source: str = ""

    def read(self) -> bytes:
        """The whole content of a regular file; for small ones."""
        return b"".join(self.payload.chunks()) if self.payload else b""


@dataclass
class FileTree:
    """Paths and their nodes. The root directory is always there."""

    nodes: dict[str, Node] = field(default_factory=lambda: {"": Node(type=NodeType.DIRECTORY, mode=0o755)})

    def __getitem__(self, path: str) -> Node:
        return self.nodes[path]

    def __setitem__(self, path: str, node: Node) -> None:
        self.nodes[path] = node

    def __contains__(self, path: str) -> bool:
        return path in self.nodes

    def sorted(self) -> Iterator[tuple[str, Node]]:
        """Every path with its node, parents before children, in the byte order of the path's components."""
        for path in sorted(self.nodes, key=sort_key):
            yield path, self.nodes[path]

    def add_file(self, path: str, data: bytes, mode: int = 0o644, *, source: str = "generated") -> None:
        """A root-owned regular file, with the directories above it."""
        self.add_parents(path)
        self.nodes[path] = Node(type=NodeType.FILE, mode=mode, payload=BytesPayload(data), source=source)

    def add_symlink(self, path: str, target: str, *, source: str = "generated") -> None:
        """A symbolic link, with the directories above it."""
        self.add_parents(path)
        self.nodes[path] = Node(type=NodeType.SYMLINK, mode=0o777, target=target, source=source)

    def add_directory(self, path: str, mode: int = 0o755, *, source: str = "generated") -> None:
        """A root-owned directory, with those above it."""
        self.add_parents(path)
        self.nodes[path] = Node(type=NodeType.DIRECTORY, mode=mode, source=source)

    def add_parents(self, path: str) -> None:
        """The missing directories above ``path``, root-owned, 0755."""
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            self.nodes.setdefault("/".join(parts[:depth]), Node(type=NodeType.DIRECTORY, mode=0o755))


def sort_key(path: str) -> list[bytes]:
    """Orders paths so that a directory comes just before what is in it."""
    return [part.encode("utf-8", "surrogateescape") for part in path.split("/")] if path else []
