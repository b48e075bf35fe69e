"""Where everything in an EROFS image stands, settled from sizes alone before a byte of content is read.

The image is the superblock, the metadata (inodes, each with its extended attributes and, where it fits, the
last part of its content), then whole blocks of content in the same order. Metadata starts in the
superblock's own block, as ``meta_blkaddr`` 0 allows; the root's inode comes first because the superblock
has 16 bits for its number.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FormatError
from ..units import align_up
from .erofs_ondisk import (
    BLOCK_SIZE,
    SLOT_SIZE,
    SUPER_OFFSET,
    CompactInode,
    DataLayout,
    DirEntry,
    ExtendedInode,
    SuperBlock,
    pack_xattrs,
)
from .inodes import Inode, InodeTable, inode_table, where
from .tree import FileTree, NodeType

OPEN_BLOCKS = 64  # metadata blocks that may still be filled up; bounds what the writer must hold
BLOCKS_MAX = 0xFFFFFFFF  # the superblock's blocks and an inode's raw_blkaddr are u32: fs/erofs/erofs_fs.h


@dataclass(frozen=True)
class Link:
    """One entry of a directory: a name and the index of the inode it leads to."""

    name: bytes
    inode: int


@dataclass(frozen=True)
class Placed:
    """An inode with its place.

    Attributes:
        size: bytes of content; for a directory of its entry blocks, the last one counted as far as it is
            used.
        xattrs: packed, as they follow the inode.
        offset: of the inode in the image, a multiple of 32.
        data_block: of its whole blocks, counted from the first content block; 0 where there are none.
        data_blocks: how many there are.
        blocks: for a directory its entries by block, in byte order of their names.
    """

    inode: Inode
    size: int
    extended: bool
    xattrs: bytes
    layout: DataLayout
    offset: int
    data_block: int
    data_blocks: int
    blocks: tuple[tuple[Link, ...], ...] = ()

    @property
    def nid(self) -> int:
        """The inode's number: its offset in 32-byte slots."""
        return self.offset // SLOT_SIZE


@dataclass(frozen=True)
class Layout:
    """A placed tree; the root is the first inode."""

    inodes: tuple[Placed, ...]
    meta_blocks: int
    data_blocks: int

    @property
    def blocks(self) -> int:
        """Size of the image in blocks."""
        return self.meta_blocks + self.data_blocks


class _Metadata:
    """Hands out places for inodes: the tightest open block that takes one whole, else the next block."""

    def __init__(self) -> None:
        self.end = 1  # blocks handed out; block 0 begins with the superblock
        self.open = {0: SUPER_OFFSET + SuperBlock.SIZE}  # first free byte by block

    def place(self, size: int) -> int:
        """Offset of ``size`` bytes that cross no block boundary unless they are longer than a block."""
        best = min(
            (block for block, used in self.open.items() if used + size <= BLOCK_SIZE),
            key=lambda block: (BLOCK_SIZE - self.open[block], block),
            default=None,
        )
        if best is None:
            first = self.end
            self.end += align_up(size, BLOCK_SIZE) // BLOCK_SIZE
            self._use(self.end - 1, (size - 1) % BLOCK_SIZE + 1)
            for block in [block for block in self.open if block <= self.end - OPEN_BLOCKS]:
                del self.open[block]
            return first * BLOCK_SIZE
        start = self.open[best]
        self._use(best, start + size)
        return best * BLOCK_SIZE + start

    def _use(self, block: int, used: int) -> None:
        used = align_up(used, SLOT_SIZE)
        if used < BLOCK_SIZE:
            self.open[block] = used
        else:
            self.open.pop(block, None)


def lay_out(tree: FileTree, epoch: int) -> Layout:
    """The places of everything in ``tree``.

    An inode takes the compact form where all its values fit and its time is ``epoch``. Its last partial
    block of content stands behind it where the two fit in one block.

    Raises:
        FormatError: the tree does not hold together (``inodes.inode_table``), attributes EROFS cannot
            store, or an image of 2^32 blocks or more.

    Spec: Linux Documentation/filesystems/erofs.rst; fs/erofs/data.c, erofs_map_blocks (the inline part must
    not cross a block).
    """
    table = inode_table(tree)
    entries = _directory_blocks(table)
    metadata = _Metadata()
    placed: list[Placed] = []
    next_block = 0
    for index, inode in enumerate(table.inodes):
        item = _place(inode, entries.get(index, ()), epoch, metadata, next_block)
        next_block += item.data_blocks
        placed.append(item)
    layout = Layout(tuple(placed), metadata.end, next_block)
    if layout.blocks > BLOCKS_MAX:
        raise FormatError(
            "/", f"{layout.blocks} blocks of 4096 bytes, at most {BLOCKS_MAX} fit in an EROFS image"
        )
    return layout


def _place(
    inode: Inode, blocks: tuple[tuple[Link, ...], ...], epoch: int, metadata: _Metadata, next_block: int
) -> Placed:
    size = _directory_size(blocks) if blocks else inode.size
    extended = _needs_extended(inode, size, epoch)
    xattrs = pack_xattrs(inode.node.xattrs, where(inode.path, inode.node))
    head = (ExtendedInode.SIZE if extended else CompactInode.SIZE) + len(xattrs)
    tail = size % BLOCK_SIZE
    inline = tail > 0 and head + tail <= BLOCK_SIZE
    count = size // BLOCK_SIZE if inline else align_up(size, BLOCK_SIZE) // BLOCK_SIZE
    return Placed(
        inode=inode,
        size=size,
        extended=extended,
        xattrs=xattrs,
        layout=DataLayout.FLAT_INLINE if inline else DataLayout.FLAT_PLAIN,
        offset=metadata.place(head + (tail if inline else 0)),
        data_block=next_block if count else 0,
        data_blocks=count,
        blocks=blocks,
    )


def _needs_extended(inode: Inode, size: int, epoch: int) -> bool:
    node = inode.node
    return node.mtime != epoch or max(node.uid, node.gid, inode.links) > 0xFFFF or size > 0xFFFFFFFF


def _directory_blocks(table: InodeTable) -> dict[int, tuple[tuple[Link, ...], ...]]:
    """Entry blocks of every directory by inode index; ``.`` and ``..`` are sorted among the others."""
    links = {
        index: [Link(b".", index)]
        for index, inode in enumerate(table.inodes)
        if inode.node.type is NodeType.DIRECTORY
    }
    for name in table.names:
        if not name.path:
            links[0].append(Link(b"..", 0))
            continue
        links[name.parent].append(Link(name.name, name.inode))
        if name.inode in links:
            links[name.inode].append(Link(b"..", name.parent))
    return {index: _split(sorted(found, key=lambda link: link.name)) for index, found in links.items()}


def _split(links: list[Link]) -> tuple[tuple[Link, ...], ...]:
    """Entries by block: each block takes entries, then their names, until the next one does not fit."""
    blocks: list[tuple[Link, ...]] = []
    start = used = 0
    for index, link in enumerate(links):
        need = DirEntry.SIZE + len(link.name)
        if used + need > BLOCK_SIZE:
            blocks.append(tuple(links[start:index]))
            start, used = index, 0
        used += need
    blocks.append(tuple(links[start:]))
    return tuple(blocks)


def _directory_size(blocks: tuple[tuple[Link, ...], ...]) -> int:
    last = sum(DirEntry.SIZE + len(link.name) for link in blocks[-1])
    return (len(blocks) - 1) * BLOCK_SIZE + last
