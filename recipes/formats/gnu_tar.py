"""A tar archive as GNU tar writes one of a folder, sorted by name, every time 0 and every owner root.

The command is ``tar --sort=name --mtime=@0 --owner=root:0 --group=root:0 -C FOLDER -cf OUT .``, the format
GNU tar's own (``--format=gnu``, its default): members start with ``./`` and the folder itself
comes first, names that do not fit have a member of their own before, and the end is filled up to a record.

Spec: GNU tar 1.34 manual, "Basic Tar Format" and "GNU Extensions to the Archive Format"; src/create.c
``start_header``, ``write_gnu_long_link``.
"""

from __future__ import annotations

from ..errors import FormatError
from ..units import align_up
from .inodes import Inode, inode_table, where
from .oci_tar import NUMBER_MAX, Output
from .tarstream import BLOCK, GNU_MAGIC, Header
from .tree import FileTree, NodeType

# What archives are a multiple of. Spec: manual, "The Blocking Factor of an Archive".
RECORD = 20 * BLOCK
_NAME_SIZE = 100
_LONG_NAME, _LONG_LINK, _LONG_MEMBER = b"L", b"K", b"././@LongLink"
_HARDLINK = b"1"
_TYPES = {NodeType.FILE: b"0", NodeType.SYMLINK: b"2", NodeType.DIRECTORY: b"5"}


def write_gnu_tar(tree: FileTree, out: Output, *, plain_modes: bool = False) -> int:
    """Number of bytes written, whole records of 10240; every time is 0 and every owner ``root``.

    Args:
        plain_modes: folders are 0755 and all else 0644, as ``--mode a=r,u+w,a+X`` makes them.

    Raises:
        FormatError: the tree does not hold together (``inodes.inode_table``), a device or a FIFO, or a file
            of 8 GiB or more.
    """
    table = inode_table(tree)
    written: dict[int, bytes] = {}
    total = 0
    for name in table.names:
        inode = table.inodes[name.inode]
        path = b"./" + name.path.encode("utf-8", "surrogateescape")
        if name.inode in written:
            total += _write(out, _member(path, inode, plain_modes, written[name.inode]))
        else:
            written[name.inode] = path
            total += _write(out, _member(path, inode, plain_modes)) + _content(out, inode)
    return total + _write(out, bytes(align_up(total + 2 * BLOCK, RECORD) - total))


def _write(out: Output, data: bytes) -> int:
    out.write(data)
    return len(data)


def _content(out: Output, inode: Inode) -> int:
    if inode.node.type is not NodeType.FILE:
        return 0
    for chunk in inode.content():
        _write(out, chunk)
    end = align_up(inode.size, BLOCK)
    _write(out, bytes(end - inode.size))
    return end


def _member(path: bytes, inode: Inode, plain_modes: bool, link: bytes | None = None) -> bytes:
    """The header of a member, after those that hold what does not fit in it.

    Args:
        link: the path of the same file that was written before; the member is a hard link to it then.
    """
    node = inode.node
    if node.type not in _TYPES:
        raise FormatError(where(inode.path, node), f"a {node.type.value} has no place in a bundle; remove it")
    size = inode.size if node.type is NodeType.FILE and link is None else 0
    if size > NUMBER_MAX:
        raise FormatError(where(inode.path, node), f"{size} bytes; a member has less than 8 GiB")
    folder = node.type is NodeType.DIRECTORY
    # The folder that the archive is of is `./`, and so it ends in a slash already.
    name = path if not folder or path.endswith(b"/") else path + b"/"
    target = link if link is not None else inode.target if node.type is NodeType.SYMLINK else b""
    mode = node.mode
    if plain_modes:
        mode = 0o755 if folder else 0o644
    header = _header(
        name=name[:_NAME_SIZE],
        mode=mode,
        size=size,
        kind=_HARDLINK if link is not None else _TYPES[node.type],
        link=target[:_NAME_SIZE],
    )
    return _long(_LONG_LINK, target) + _long(_LONG_NAME, name) + header


def _long(kind: bytes, text: bytes) -> bytes:
    """The member that holds a name or a link's target of more than 100 bytes; nothing for a shorter one."""
    if len(text) <= _NAME_SIZE:
        return b""
    size = len(text) + 1
    header = _header(name=_LONG_MEMBER, mode=0o644, size=size, kind=kind)
    return header + text + bytes(align_up(size, BLOCK) - len(text))


def _header(*, name: bytes, mode: int, size: int, kind: bytes, link: bytes = b"") -> bytes:
    def block(checksum: bytes) -> bytes:
        return Header(
            name=name,
            mode=b"%07o\0" % mode,
            uid=b"%07o\0" % 0,
            gid=b"%07o\0" % 0,
            size=b"%011o\0" % size,
            mtime=b"%011o\0" % 0,
            checksum=checksum,
            typeflag=kind,
            linkname=link,
            magic=GNU_MAGIC,
            uname=b"root",
            gname=b"root",
            devmajor=b"",
            devminor=b"",
            prefix=b"",
            reserved_0x1f4=b"",
        ).pack()

    # The sum is over the block with its own field as spaces.
    return block(b"%06o\0 " % sum(block(b" " * 8)))
