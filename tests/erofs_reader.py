"""A strict reader of uncompressed EROFS images, for tests only.

It shares nothing with the writer: offsets and numbers are written out again from Linux fs/erofs/erofs_fs.h,
so that a mistake in one of the two shows. Whatever the kernel would trip over, and whatever the writer
promises beyond that (unused fields are zero), is a FormatError; nothing else may come out of it.
"""

from __future__ import annotations

import stat
import struct
import uuid
from dataclasses import dataclass
from itertools import pairwise

from recipes.errors import FormatError

BLOCK = 4096
PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
}
FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}


@dataclass(frozen=True)
class ReadInode:
    """One inode as it stands in the image; ``layout`` is the number of i_format."""

    nid: int
    mode: int
    uid: int
    gid: int
    mtime: int
    links: int
    size: int
    rdev: int
    layout: int
    extended: bool
    ino: int
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class ReadImage:
    """A whole image: every path with its inode."""

    uuid: uuid.UUID
    label: bytes
    build_time: int
    inos: int
    blocks: int
    root_nid: int
    files: dict[str, ReadInode]


def read_erofs(image: bytes, *, foreign: bool = False) -> ReadImage:
    """The content of ``image``; ``foreign`` allows what mkfs.erofs does and we do not."""
    return _Reader(image, foreign).read()


def _bad(what: str, offset: int | None = None) -> FormatError:
    return FormatError("image", what, offset=offset)


def _crc_step(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 * (value & 1))
    return value


_CRC_STEPS = [_crc_step(value) for value in range(256)]


def _crc(data: bytes) -> int:
    """CRC-32C without the final inversion, as the kernel's crc32c()."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _CRC_STEPS[(value & 0xFF) ^ byte]
    return value


class _Reader:
    def __init__(self, image: bytes, foreign: bool) -> None:
        self.image = image
        self.foreign = foreign
        self.inodes: dict[int, ReadInode] = {}
        self.files: dict[str, ReadInode] = {}

    def bytes_at(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0 or offset + size > len(self.image):
            raise _bad(f"{size} bytes are outside the image", offset)
        return self.image[offset : offset + size]

    def read(self) -> ReadImage:
        raw = self.bytes_at(1024, 128)
        magic, checksum, compat, bits, slots, root, inos, time, nsec, blocks = struct.unpack_from(
            "<IIIBBHQQII", raw
        )
        meta, _xattr = struct.unpack_from("<II", raw, 40)
        (incompat,) = struct.unpack_from("<I", raw, 80)
        if magic != 0xE0F5E1E2:
            raise _bad(f"magic {magic:#x}", 1024)
        if bits != 12 or slots or incompat or nsec or meta:
            raise _bad(f"superblock fields {bits} {slots} {incompat:#x} {nsec} {meta}", 1024)
        if not self.foreign and (compat != 3 or any(raw[84:128]) or _xattr):
            raise _bad("unused superblock fields are not zero", 1024)
        if blocks * BLOCK != len(self.image):
            raise _bad(f"{blocks} blocks but {len(self.image)} bytes", 1024)
        first = bytearray(self.bytes_at(0, BLOCK))
        first[1028:1032] = bytes(4)
        if compat & 1 and _crc(bytes(first[1024:])) != checksum:
            raise _bad(f"checksum {checksum:#x}", 1028)
        if any(first[:1024]):
            raise _bad("boot area is not empty", 0)
        self.walk(root)
        if len(self.inodes) != inos:
            raise _bad(f"superblock counts {inos} inodes, {len(self.inodes)} are reachable", 1024)
        self.check_links()
        return ReadImage(
            uuid=uuid.UUID(bytes=raw[48:64]),
            label=raw[64:80].rstrip(b"\0"),
            build_time=time,
            inos=inos,
            blocks=blocks,
            root_nid=root,
            files=self.files,
        )

    def walk(self, root: int) -> None:
        """Every directory from the root; a list, not recursion, so that depth costs nothing."""
        self.files[""] = self.inode(root)
        if not stat.S_ISDIR(self.files[""].mode):
            raise _bad("the root is not a directory")
        queue = [("", root, root)]
        seen = set()
        while queue:
            path, nid, parent = queue.pop()
            if nid in seen:
                raise _bad(f"directory {nid} is reached twice")
            seen.add(nid)
            for name, child, file_type in self.entries(self.inodes[nid]):
                if name in (b".", b".."):
                    if child != (nid if name == b"." else parent) or file_type != 2:
                        raise _bad(f"{path!r}: {name!r} leads to {child}")
                    continue
                below = (path + "/" if path else "") + name.decode("utf-8", "surrogateescape")
                inode = self.inode(child)
                if file_type != FILE_TYPES[stat.S_IFMT(inode.mode)]:
                    raise _bad(f"{below!r}: entry type {file_type}, mode {inode.mode:#o}")
                self.files[below] = inode
                if stat.S_ISDIR(inode.mode):
                    queue.append((below, child, nid))

    def check_links(self) -> None:
        links: dict[int, int] = {}
        for path, inode in self.files.items():
            if stat.S_ISDIR(inode.mode):
                links[inode.nid] = links.get(inode.nid, 0) + 2
                if path:
                    above = self.files[path.rpartition("/")[0]].nid
                    links[above] = links.get(above, 0) + 1
            else:
                links[inode.nid] = links.get(inode.nid, 0) + 1
        for nid, count in links.items():
            if self.inodes[nid].links != count:
                raise _bad(f"inode {nid} has {count} links and says {self.inodes[nid].links}")

    def inode(self, nid: int) -> ReadInode:
        if nid not in self.inodes:
            self.inodes[nid] = self.parse_inode(nid)
        return self.inodes[nid]

    def parse_inode(self, nid: int) -> ReadInode:
        offset = nid * 32
        (form,) = struct.unpack("<H", self.bytes_at(offset, 2))
        extended, layout = form & 1, form >> 1 & 7
        if form >> 4 or layout not in (0, 2):
            raise _bad(f"i_format {form:#x}", offset)
        if extended:
            raw = self.bytes_at(offset, 64)
            icount, mode, zero, size, union, ino, uid, gid, mtime, nsec, links = struct.unpack_from(
                "<HHHQIIIIQII", raw, 2
            )
            if zero or any(raw[48:]) or (nsec and not self.foreign):
                raise _bad("unused inode fields are not zero", offset)
        else:
            raw = self.bytes_at(offset, 32)
            icount, mode, links, size, zero, union, ino, uid, gid, zero2 = struct.unpack_from(
                "<HHHIIIIHHI", raw, 2
            )
            (mtime,) = struct.unpack("<Q", self.bytes_at(1024 + 24, 8))
            if zero or zero2:
                raise _bad("unused inode fields are not zero", offset)
        if stat.S_IFMT(mode) not in FILE_TYPES or not links:
            raise _bad(f"mode {mode:#o}, {links} links", offset)
        after = offset + len(raw)
        xattr_size = 12 + 4 * (icount - 1) if icount else 0
        xattrs = self.xattrs(after, xattr_size)
        content, rdev = b"", 0
        if stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            content = self.content(after + xattr_size, size, layout, union)
        else:
            rdev = union
            if size or layout:
                raise _bad("a device has content", offset)
        if stat.S_ISLNK(mode) and (not 0 < size < 4096 or b"\0" in content):
            raise _bad(f"symbolic link of {size} bytes", offset)
        return ReadInode(
            nid, mode, uid, gid, mtime, links, size, rdev, layout, bool(extended), ino, content, xattrs
        )

    def content(self, after: int, size: int, layout: int, block: int) -> bytes:
        whole, rest = divmod(size, BLOCK)
        if layout == 2:
            if not rest:
                raise _bad("an inline inode without a tail", after)
            if after % BLOCK + rest > BLOCK:
                raise _bad("inline content crosses a block", after)
            return (self.bytes_at(block * BLOCK, whole * BLOCK) if whole else b"") + self.bytes_at(
                after, rest
            )
        if not size:
            return b""
        padded = self.bytes_at(block * BLOCK, (whole + bool(rest)) * BLOCK)
        if any(padded[size:]):
            raise _bad("the last block is not filled up with zeros", block * BLOCK)
        return padded[:size]

    def xattrs(self, offset: int, size: int) -> tuple[tuple[str, bytes], ...]:
        if not size:
            return ()
        raw = self.bytes_at(offset, size)
        if size == 12 or any(raw[:12]):
            raise _bad("extended attribute header", offset)
        found: dict[str, bytes] = {}
        position = 12
        while position < size:
            length, index, value_size = struct.unpack_from("<BBH", raw, position)
            name = raw[position + 4 : position + 4 + length]
            end = position + 4 + length + value_size
            if index not in PREFIXES or end > size or (index in (2, 3)) != (not length) or b"\0" in name:
                raise _bad(f"extended attribute entry {length} {index} {value_size}", offset + position)
            full = PREFIXES[index] + name.decode("utf-8", "surrogateescape")
            if full in found or any(raw[end : end + -end % 4]):
                raise _bad(f"extended attribute {full!r}", offset + position)
            found[full] = raw[position + 4 + length : end]
            position = end + -end % 4
        return tuple(sorted(found.items()))

    def entries(self, inode: ReadInode) -> list[tuple[bytes, int, int]]:
        """Names, inode numbers and types, checked to be in byte order over all blocks."""
        found: list[tuple[bytes, int, int]] = []
        for start in range(0, inode.size, BLOCK):
            found += self.block_entries(inode.content[start : start + BLOCK])
        names = [name for name, _, _ in found]
        if any(one >= two for one, two in pairwise(names)):
            raise _bad(f"entries of directory {inode.nid} are not sorted")
        if b"." not in names or b".." not in names:
            raise _bad(f"directory {inode.nid} lacks . or ..")
        return found

    def block_entries(self, block: bytes) -> list[tuple[bytes, int, int]]:
        if len(block) < 12:
            raise _bad("a directory block of under 12 bytes")
        first = struct.unpack_from("<H", block, 8)[0]
        if first % 12 or not 12 <= first <= len(block):
            raise _bad(f"names begin at {first} of {len(block)} bytes")
        rows = [struct.unpack_from("<QHBB", block, start) for start in range(0, first, 12)]
        found = []
        for index, (nid, name_offset, file_type, reserved) in enumerate(rows):
            last = index + 1 == len(rows)
            end = len(block) if last else rows[index + 1][1]
            if not first <= name_offset <= end <= len(block) or reserved:
                raise _bad(f"entry {index} has its name at {name_offset}..{end}")
            name = block[name_offset:end]
            if last:
                name, _, rest = name.partition(b"\0")
                if any(rest):
                    raise _bad("bytes follow the last name of a directory block")
            if not 0 < len(name) <= 255 or b"\0" in name or b"/" in name:
                raise _bad(f"name {name!r}")
            found.append((name, nid, file_type))
        return found
