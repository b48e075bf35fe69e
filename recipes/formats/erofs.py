"""Writes an uncompressed EROFS image of a file tree.

The bytes depend on the tree's content, the epoch, the UUID and the label, and on nothing else: not on the
order in which the tree was filled, nor on where the content of its files lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

from ..errors import FormatError
from ..units import pad
from .erofs_layout import OPEN_BLOCKS, Layout, Link, Placed, lay_out
from .erofs_ondisk import (
    BLOCK_SIZE,
    COMPAT_MTIME,
    COMPAT_SB_CHKSUM,
    DATALAYOUT_SHIFT,
    LABEL_MAX,
    SUPER_MAGIC,
    SUPER_OFFSET,
    VERSION_EXTENDED,
    CompactInode,
    DataLayout,
    DirEntry,
    ExtendedInode,
    FileType,
    SuperBlock,
    encode_device,
    superblock_checksum,
    xattr_icount,
)
from .inodes import TIME_MAX
from .tree import FileTree, NodeType

_KEEP = OPEN_BLOCKS * BLOCK_SIZE  # metadata that later inodes may still fill up
_FLUSH = 1 << 20
_FILE_TYPES = {
    NodeType.FILE: FileType.REGULAR,
    NodeType.DIRECTORY: FileType.DIRECTORY,
    NodeType.SYMLINK: FileType.SYMLINK,
    NodeType.CHARACTER: FileType.CHARACTER,
    NodeType.BLOCK: FileType.BLOCK,
    NodeType.FIFO: FileType.FIFO,
}


@dataclass(frozen=True)
class ErofsStats:
    """What was written.

    Attributes:
        size: bytes of the image, whole 4096-byte blocks.
        meta_blocks: blocks with the superblock, inodes and inline content.
        compact: how many inodes took the short form.
        inline: how many inodes have content behind them.
    """

    size: int
    meta_blocks: int
    inodes: int
    compact: int
    inline: int


def write(tree: FileTree, out: BinaryIO, *, epoch: int, uuid: UUID, label: str = "") -> ErofsStats:
    """What was written: ``tree`` as an EROFS image at the position of ``out``.

    ``out`` must be seekable and empty from there.

    File content is copied in pieces; what is held in memory grows with the number of files, not with their
    sizes. Modification times are kept as the nodes have them.

    Args:
        epoch: the image's build time, and the time of inodes in the short form; seconds since 1970.
        label: volume name, at most 15 bytes of UTF-8.

    Raises:
        FormatError: the tree does not hold together or holds what EROFS cannot, content has another length
            than its size, or the epoch or label does not fit.

    Spec: Linux fs/erofs/erofs_fs.h (commit 0410c6121529), Documentation/filesystems/erofs.rst.
    """
    layout = lay_out(tree, epoch)
    image = _Image(out, layout, _superblock(layout, epoch, uuid, label))
    for index, placed in enumerate(layout.inodes):
        tail = image.content(_pieces(placed, layout), placed)
        inode = _inode(placed, index + 1, layout.meta_blocks)
        image.metadata(placed.offset, inode + placed.xattrs + tail)
    image.finish()
    return ErofsStats(
        size=layout.blocks * BLOCK_SIZE,
        meta_blocks=layout.meta_blocks,
        inodes=len(layout.inodes),
        compact=sum(not placed.extended for placed in layout.inodes),
        inline=sum(placed.layout is DataLayout.FLAT_INLINE for placed in layout.inodes),
    )


def _superblock(layout: Layout, epoch: int, uuid: UUID, label: str) -> SuperBlock:
    name = label.encode("utf-8", "backslashreplace")
    if len(name) > LABEL_MAX or b"\0" in name:
        raise FormatError(
            "EROFS label", f"{label!r} has {len(name)} bytes; use at most {LABEL_MAX} and no NUL"
        )
    if not 0 <= epoch <= TIME_MAX:
        raise FormatError("EROFS epoch", f"{epoch} is not in 0..{TIME_MAX}")
    return SuperBlock(
        magic=SUPER_MAGIC,
        checksum=0,
        feature_compat=COMPAT_SB_CHKSUM | COMPAT_MTIME,
        blkszbits=BLOCK_SIZE.bit_length() - 1,
        sb_extslots=0,
        root_nid=layout.inodes[0].nid,
        inos=len(layout.inodes),
        build_time=epoch,
        build_time_nsec=0,
        blocks=layout.blocks,
        meta_blkaddr=0,
        xattr_blkaddr=0,
        uuid=uuid.bytes,
        volume_name=pad(name, 16) if name else bytes(16),
        feature_incompat=0,
        available_compr_algs=0,
        extra_devices=0,
        devt_slotoff=0,
        dirblkbits=0,
        xattr_prefix_count=0,
        xattr_prefix_start=0,
        packed_nid=0,
        reserved_0x68=bytes(24),
    )


def _inode(placed: Placed, number: int, content_block: int) -> bytes:
    """The packed inode; ``content_block`` is the first block behind the metadata."""
    inode, node = placed.inode, placed.inode.node
    address = content_block + placed.data_block if placed.data_blocks else 0
    if node.type in (NodeType.CHARACTER, NodeType.BLOCK):
        address = encode_device(*node.device)
    if not placed.extended:
        return CompactInode(
            i_format=placed.layout.value << DATALAYOUT_SHIFT,
            i_xattr_icount=xattr_icount(len(placed.xattrs)),
            i_mode=inode.mode,
            i_nlink=inode.links,
            i_size=placed.size,
            reserved_0x0c=0,
            i_u=address,
            i_ino=number,
            i_uid=node.uid,
            i_gid=node.gid,
            reserved_0x1c=0,
        ).pack()
    return ExtendedInode(
        i_format=placed.layout.value << DATALAYOUT_SHIFT | VERSION_EXTENDED,
        i_xattr_icount=xattr_icount(len(placed.xattrs)),
        i_mode=inode.mode,
        reserved_0x06=0,
        i_size=placed.size,
        i_u=address,
        i_ino=number,
        i_uid=node.uid,
        i_gid=node.gid,
        i_mtime=node.mtime,
        i_mtime_nsec=0,
        i_nlink=inode.links,
        reserved_0x30=bytes(16),
    ).pack()


def _pieces(placed: Placed, layout: Layout) -> Iterator[bytes]:
    """An inode's content in order; exactly ``placed.size`` bytes."""
    match placed.inode.node.type:
        case NodeType.FILE:
            yield from placed.inode.content()
        case NodeType.SYMLINK:
            yield placed.inode.target
        case NodeType.DIRECTORY:
            for links in placed.blocks[:-1]:
                yield pad(_entries(links, layout), BLOCK_SIZE)
            yield _entries(placed.blocks[-1], layout)
        case _:
            return


def _entries(links: tuple[Link, ...], layout: Layout) -> bytes:
    """One directory block as far as it is used: the entries, then their names without separators."""
    entries, names = bytearray(), bytearray()
    base = len(links) * DirEntry.SIZE
    for link in links:
        placed = layout.inodes[link.inode]
        entries += DirEntry(
            nid=placed.nid,
            nameoff=base + len(names),
            file_type=_FILE_TYPES[placed.inode.node.type].value,
            reserved_0x0b=0,
        ).pack()
        names += link.name
    return bytes(entries + names)


class _Image:
    """Two cursors that move forward through one file: metadata, held back a little, and content blocks."""

    def __init__(self, out: BinaryIO, layout: Layout, superblock: SuperBlock) -> None:
        self._out = out
        self._origin = out.tell()
        self._size = layout.meta_blocks * BLOCK_SIZE
        self._base = 0  # bytes of metadata written so far; whole blocks
        self._held = bytearray(SUPER_OFFSET) + superblock.pack()
        out.seek(self._origin + self._size)

    def content(self, pieces: Iterator[bytes], placed: Placed) -> bytes:
        """Writes the whole blocks of an inode's content; the rest, which belongs behind the inode."""
        inline = placed.layout is DataLayout.FLAT_INLINE
        left = placed.data_blocks * BLOCK_SIZE if inline else placed.size
        tail = bytearray()
        for piece in pieces:
            if len(piece) <= left:
                self._out.write(piece)
                left -= len(piece)
            else:
                self._out.write(memoryview(piece)[:left])
                tail += memoryview(piece)[left:]
                left = 0
        if not inline:
            self._out.write(bytes(-placed.size % BLOCK_SIZE))
        return bytes(tail)

    def metadata(self, offset: int, data: bytes) -> None:
        """Puts an inode in its place, which is at most ``_KEEP`` bytes before the last one handed in."""
        start = offset - self._base
        end = start + len(data)
        if end > len(self._held):
            self._held += bytes(end - len(self._held))
        self._held[start:end] = data
        if len(self._held) >= _FLUSH + _KEEP + BLOCK_SIZE:
            self._flush((len(self._held) - _KEEP) // BLOCK_SIZE * BLOCK_SIZE)

    def finish(self) -> None:
        """Writes what is left of the metadata and leaves the file at the image's end."""
        self._held += bytes(self._size - self._base - len(self._held))
        self._flush(len(self._held))

    def _flush(self, size: int) -> None:
        if self._base == 0:
            checksum = superblock_checksum(self._held)
            field = SUPER_OFFSET + 4
            self._held[field : field + 4] = checksum.to_bytes(4, "little")
        back = self._out.tell()
        self._out.seek(self._origin + self._base)
        self._out.write(memoryview(self._held)[:size])
        self._out.seek(back)
        del self._held[:size]
        self._base += size
