"""The inodes of a tree: its names checked, hard links resolved, links counted.

Every writer of a Unix file system needs the same facts: which names share a file, how many names a file
has, and that no name is one that no kernel could look up. They are settled here once.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import FormatError
from .tree import FileTree, Node, NodeType, sort_key

NAME_MAX = 255  # bytes; Linux include/uapi/linux/limits.h
SYMLINK_MAX = 4095  # bytes; PATH_MAX of the same file less the closing NUL
ID_MAX = 0xFFFFFFFE  # 0xFFFFFFFF is "no id" to the kernel: Linux include/linux/uidgid.h, uid_valid
MAJOR_MAX, MINOR_MAX = 0xFFF, 0xFFFFF  # 12 and 20 bits: Linux include/linux/kdev_t.h, MINORBITS
TIME_MAX = (1 << 63) - 1  # time64_t

TYPE_BITS = {
    NodeType.FILE: stat.S_IFREG,
    NodeType.DIRECTORY: stat.S_IFDIR,
    NodeType.SYMLINK: stat.S_IFLNK,
    NodeType.CHARACTER: stat.S_IFCHR,
    NodeType.BLOCK: stat.S_IFBLK,
    NodeType.FIFO: stat.S_IFIFO,
}


@dataclass(frozen=True)
class Inode:
    """One file, directory, link or device, whatever the number of its names.

    Attributes:
        path: its first name in tree order.
        links: names it has; for a directory 2 and one for each directory in it.
    """

    path: str
    node: Node
    links: int

    @property
    def mode(self) -> int:
        """Type and permission bits as in ``st_mode``."""
        return TYPE_BITS[self.node.type] | self.node.mode

    @property
    def target(self) -> bytes:
        """What a symbolic link holds."""
        return _encode(self.node.target)

    @property
    def size(self) -> int:
        """Bytes of content: of a regular file, or of a symbolic link's target; 0 for the rest."""
        if self.node.type is NodeType.SYMLINK:
            return len(self.target)
        if self.node.type is NodeType.FILE and self.node.payload is not None:
            return self.node.payload.size
        return 0

    def content(self) -> Iterator[bytes]:
        """The pieces of a regular file's content, their total length checked.

        Raises:
            FormatError: the content is longer or shorter than its size says.
        """
        if self.node.payload is None:
            return
        left = self.size
        try:
            for chunk in self.node.payload.chunks():
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
        except EOFError as error:
            raise FormatError(where(self.path, self.node), f"{error}; build again") from None
        if left:
            what = f"content is {'longer' if left < 0 else 'shorter'} than its {self.size} bytes"
            raise FormatError(where(self.path, self.node), f"{what}; it changed while it was read")


@dataclass(frozen=True)
class Name:
    """One entry of a directory.

    Attributes:
        path: of the entry in the tree.
        name: its last component; empty for the root.
        parent: index of the directory's inode; the root is its own.
        inode: index of the inode it leads to.
    """

    path: str
    name: bytes
    parent: int
    inode: int


@dataclass(frozen=True)
class InodeTable:
    """Names and inodes of a tree in tree order, so the root is first in both."""

    names: tuple[Name, ...]
    inodes: tuple[Inode, ...]


def where(path: str, node: Node) -> str:
    """How messages name an entry: its absolute path and its source."""
    shown = "/" + path.encode("utf-8", "backslashreplace").decode()
    return f"{shown} (from {node.source})" if node.source else shown


def inode_table(tree: FileTree) -> InodeTable:
    """The checked inodes of ``tree``; equal for equal content, however the tree was filled.

    Which of the names of a shared file is the file and which are the hard links makes no difference.

    Raises:
        FormatError: a name, target, owner, mode, time or device number that Linux cannot hold, a missing or
            wrong parent, or a hard link to something that is not a regular file of the tree.

    Spec: Linux include/uapi/linux/limits.h, include/linux/kdev_t.h, include/linux/uidgid.h.
    """
    paths = _sorted_paths(tree)
    names: list[Name] = []
    first: list[tuple[str, Node]] = []  # of each inode: its first name and its own node
    links: list[int] = []
    index: dict[str, int] = {}  # by the path of the name that holds the node
    for path in paths:
        node = tree[path]
        name, parent = _place(path, node, tree, index)
        holder = _holder(path, node, tree)
        if holder not in index:
            _check_node(holder, tree[holder])
            index[holder] = len(first)
            first.append((path, tree[holder]))
            links.append(2 if node.type is NodeType.DIRECTORY else 0)
        inode = index[holder]
        if node.type is not NodeType.DIRECTORY:
            links[inode] += 1
        elif path:
            links[parent] += 1
        names.append(Name(path, name, parent, inode))
    inodes = tuple(Inode(path, node, count) for (path, node), count in zip(first, links, strict=True))
    return InodeTable(tuple(names), inodes)


def _sorted_paths(tree: FileTree) -> list[str]:
    if "" not in tree or tree[""].type is not NodeType.DIRECTORY:
        raise FormatError("/", "the root is not a directory; give the tree a root")
    try:
        return sorted(tree.nodes, key=sort_key)
    except UnicodeEncodeError as error:
        what = "the name is neither text nor escaped bytes; decode it with surrogateescape"
        raise FormatError(ascii(error.object), what) from None


def _place(path: str, node: Node, tree: FileTree, index: dict[str, int]) -> tuple[bytes, int]:
    """Last component and the inode of the directory above."""
    if path == "":
        return b"", 0
    above, _, last = path.rpartition("/")
    name = _encode(last)
    if path.startswith("/") or last in ("", ".", "..") or b"\0" in name:
        what = f"{path!r} is not a path of a tree; write it relative and without empty, . and .. parts"
        raise FormatError(where(path, node), what)
    if len(name) > NAME_MAX:
        what = f"a name of {len(name)} bytes, at most {NAME_MAX} are possible; rename it"
        raise FormatError(where(path, node), what)
    if above not in tree:
        raise FormatError(where(path, node), f"its directory /{above} is missing; add it before")
    if tree[above].type is not NodeType.DIRECTORY:
        kind = tree[above].type.value
        raise FormatError(where(path, node), f"/{above} is a {kind}, not a directory; remove one of the two")
    return name, index[above]


def _holder(path: str, node: Node, tree: FileTree) -> str:
    """The path whose node describes the inode: itself, or what a hard link names."""
    if node.type is not NodeType.HARDLINK:
        return path
    if node.target not in tree:
        raise FormatError(
            where(path, node), f"hard link to {node.target!r}, which is not in the tree; add it"
        )
    if tree[node.target].type is not NodeType.FILE:
        kind = tree[node.target].type.value
        what = f"hard link to {node.target!r}, a {kind}; only a regular file can have one"
        raise FormatError(where(path, node), what)
    return node.target


def _check_node(path: str, node: Node) -> None:
    def check(field: str, value: int, most: int) -> None:
        if not 0 <= value <= most:
            raise FormatError(where(path, node), f"{field} {value} is not in 0..{most}")

    if not 0 <= node.mode <= 0o7777:
        raise FormatError(where(path, node), f"mode {node.mode:#o} is not in 0..0o7777; give no type bits")
    check("uid", node.uid, ID_MAX)
    check("gid", node.gid, ID_MAX)
    check("mtime", node.mtime, TIME_MAX)
    if node.type in (NodeType.CHARACTER, NodeType.BLOCK):
        check("device major", node.device[0], MAJOR_MAX)
        check("device minor", node.device[1], MINOR_MAX)
    if node.type is NodeType.SYMLINK:
        _check_target(path, node)


def _check_target(path: str, node: Node) -> None:
    try:
        target = _encode(node.target)
    except UnicodeEncodeError:
        what = "the target is neither text nor escaped bytes; decode it with surrogateescape"
        raise FormatError(where(path, node), what) from None
    if not 0 < len(target) <= SYMLINK_MAX or b"\0" in target:
        what = f"a target of {len(target)} bytes; it must have 1 to {SYMLINK_MAX} and no NUL"
        raise FormatError(where(path, node), what)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
