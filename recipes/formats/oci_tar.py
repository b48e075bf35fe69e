"""A tar archive of a tree, for a layer of an image: POSIX ustar, with pax headers only where needed.

The same tree gives the same bytes: tree order, no user or group names, no time later than the epoch given.
The root has no entry, as in layers that others make; a hard link follows the file it names.

Spec: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; OCI image-spec 1.1.0 layer.md.
"""

from __future__ import annotations

from typing import Protocol

from ..errors import FormatError
from ..units import align_up
from .inodes import Inode, inode_table, where
from .tarstream import BLOCK, POSIX_MAGIC, Header
from .tree import FileTree, NodeType

# Spec: ustar Interchange Format, field lengths of name, prefix and linkname.
NAME_SIZE, PREFIX_SIZE, LINK_SIZE = 100, 155, 100
ID_MAX = 0o7777777  # seven octal digits and a NUL
NUMBER_MAX = 0o77777777777  # eleven octal digits and a NUL
_HARDLINK = b"1"
_PAX = b"x"
_TYPES = {
    NodeType.FILE: b"0",
    NodeType.SYMLINK: b"2",
    NodeType.CHARACTER: b"3",
    NodeType.BLOCK: b"4",
    NodeType.DIRECTORY: b"5",
    NodeType.FIFO: b"6",
}
_DEVICES = (NodeType.CHARACTER, NodeType.BLOCK)


class Output(Protocol):
    """Where bytes go, one after the other."""

    def write(self, data: bytes, /) -> int:
        """Takes all of ``data``."""


def write_tar(tree: FileTree, out: Output, *, epoch: int) -> int:
    """Number of bytes written, a multiple of 512: every entry of ``tree`` and the two zero blocks at the end.

    Times later than ``epoch`` (seconds since 1970) become ``epoch``.

    Raises:
        FormatError: the tree does not hold together (``inodes.inode_table``), a file of 8 GiB or more, or an
            extended attribute with ``=`` in its name.
    """
    table = inode_table(tree)
    written: dict[int, bytes] = {}
    total = 0
    for name in table.names:
        inode = table.inodes[name.inode]
        path = name.path.encode("utf-8", "surrogateescape")
        if not path:
            continue
        if name.inode in written:
            total += _write(out, _entry(path, inode, epoch, link=written[name.inode]))
        else:
            written[name.inode] = path
            total += _write(out, _entry(path, inode, epoch)) + _write_content(out, inode)
    return total + _write(out, bytes(2 * BLOCK))


def _write(out: Output, data: bytes) -> int:
    out.write(data)
    return len(data)


def _write_content(out: Output, inode: Inode) -> int:
    """Bytes written: the content of a regular file, up to a whole block."""
    if inode.node.type is not NodeType.FILE:
        return 0
    for chunk in inode.content():
        _write(out, chunk)
    end = align_up(inode.size, BLOCK)
    _write(out, bytes(end - inode.size))
    return end


def _entry(path: bytes, inode: Inode, epoch: int, *, link: bytes | None = None) -> bytes:
    """The header of one entry, with its pax header before it where it needs one.

    Args:
        link: the path of the same file that was written before; the entry is a hard link to it then.
    """
    node = inode.node
    name = path + b"/" if node.type is NodeType.DIRECTORY else path
    target = inode.target if node.type is NodeType.SYMLINK else link or b""
    size = inode.size if node.type is NodeType.FILE and link is None else 0
    if size > NUMBER_MAX:
        raise FormatError(where(inode.path, node), f"{size} bytes; a layer holds files below 8 GiB")
    mtime = min(node.mtime, epoch)
    records: list[tuple[bytes, bytes]] = []
    split = _split(name)
    if split is None:
        records.append((b"path", name))
    if len(target) > LINK_SIZE:
        records.append((b"linkpath", target))
    numbers = (("uid", node.uid, ID_MAX), ("gid", node.gid, ID_MAX), ("mtime", mtime, NUMBER_MAX))
    records += [(key.encode(), b"%d" % value) for key, value, most in numbers if value > most]
    if link is None:
        records += _attributes(inode)
    stored = {key: value if value <= most else 0 for key, value, most in numbers}
    header = _header(
        name=split or (b"", name[:NAME_SIZE]),
        mode=node.mode,
        ids=(stored["uid"], stored["gid"]),
        size=size,
        mtime=stored["mtime"],
        kind=_TYPES[node.type] if link is None else _HARDLINK,
        link=target[:LINK_SIZE],
        device=node.device if node.type in _DEVICES else (0, 0),
    )
    return _extension(path, records) + header


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name as the header holds them; None where they do not fit."""
    if len(name) <= NAME_SIZE:
        return b"", name
    start = len(name) - NAME_SIZE - 1
    place = name.find(b"/", max(start, 1), len(name) - 1)
    return None if not 0 < place <= PREFIX_SIZE else (name[:place], name[place + 1 :])


def _attributes(inode: Inode) -> list[tuple[bytes, bytes]]:
    """Extended attributes as pax records. Spec: star(4), "SCHILY.xattr"."""
    found = []
    for name, value in sorted(inode.node.xattrs):
        if "=" in name or not name:
            what = f"extended attribute {name!r} cannot be written to a tar archive; remove it"
            raise FormatError(where(inode.path, inode.node), what)
        found.append((b"SCHILY.xattr." + name.encode("utf-8", "surrogateescape"), value))
    return found


def _extension(path: bytes, records: list[tuple[bytes, bytes]]) -> bytes:
    """A pax header with its records, padded to a block; nothing without records."""
    if not records:
        return b""
    data = b"".join(_record(key, value) for key, value in records)
    name = b"PaxHeaders/" + path.rpartition(b"/")[2]
    header = _header(name=(b"", name[:NAME_SIZE]), mode=0o644, size=len(data), kind=_PAX)
    return header + data + bytes(align_up(len(data), BLOCK) - len(data))


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE`` and a newline; the length counts itself too."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _header(
    *,
    name: tuple[bytes, bytes],
    mode: int,
    size: int,
    kind: bytes,
    ids: tuple[int, int] = (0, 0),
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """One header block with its checksum; ``name`` is the prefix and what follows it."""

    def block(checksum: bytes) -> bytes:
        return Header(
            name=name[1],
            mode=b"%07o\0" % mode,
            uid=b"%07o\0" % ids[0],
            gid=b"%07o\0" % ids[1],
            size=b"%011o\0" % size,
            mtime=b"%011o\0" % mtime,
            checksum=checksum,
            typeflag=kind,
            linkname=link,
            magic=POSIX_MAGIC,
            uname=b"",
            gname=b"",
            devmajor=b"%07o\0" % device[0],
            devminor=b"%07o\0" % device[1],
            prefix=name[0],
            reserved_0x1f4=b"",
        ).pack()

    # The sum is over the block with its own field as spaces.
    return block(b"%06o\0 " % sum(block(b" " * 8)))
