"""Archives in cpio's newc format, which the kernel unpacks as its initial root file system.

Spec: Linux Documentation/driver-api/early-userspace/buffer-format.rst; init/initramfs.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import FormatError
from ..units import pad
from .inodes import Inode, Name, inode_table, where
from .tree import FileTree, NodeType

MAGIC = b"070701"
HEADER_SIZE = 110  # 6 bytes of magic and 13 fields of 8 hexadecimal digits: buffer-format.rst
FIELD_MAX = 0xFFFFFFFF
PATH_MAX = 4096  # with the closing NUL; init/initramfs.c, do_header skips longer names
TRAILER_NAME = "TRAILER!!!"
# GNU cpio 2.13 and systemd-stub (src/boot/cpio.c, pack_cpio_trailer) write the very same trailer, with the
# name's length in an upper-case digit although the stub's other headers are lower-case.
TRAILER = MAGIC + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0\0\0\0"


@dataclass(frozen=True, kw_only=True)
class CpioEntry:
    """One member, with every field of its header; the two sizes follow from name and data.

    Attributes:
        mode: type and permission bits as in ``st_mode``.
        major: of the device the file was on; with ``minor`` and ``ino`` it identifies hard links.
        rmajor: of the device a node stands for.
        check: 0 in this format.
    """

    name: str
    data: bytes = b""
    ino: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    mtime: int = 0
    major: int = 0
    minor: int = 0
    rmajor: int = 0
    rminor: int = 0
    check: int = 0


def pack_entries(entries: Sequence[CpioEntry]) -> bytes:
    """An archive of exactly these members in this order, with its trailer; a multiple of 4 bytes.

    Digits are lower-case in the members and as they are in ``TRAILER``, as systemd-stub writes its archives.

    Raises:
        FormatError: a field over 32 bits or a name that cannot be stored.

    Spec: systemd v257 src/boot/cpio.c (``write_cpio_word``, ``pack_cpio_one``, ``pack_cpio_trailer``).
    """
    parts = []
    for entry in entries:
        parts += [_header(entry, len(entry.data)), pad(entry.data, 4)]
    return b"".join([*parts, TRAILER])


def write_newc(tree: FileTree, out: BinaryIO, *, epoch: int, alignment: int = 4) -> int:
    """Number of bytes written: all of ``tree``, the root as ``.``, in tree order.

    Inodes are numbered from 1. The content of a file with several names stands with the last of them, where
    GNU cpio has it; the kernel takes it from any. A directory has 2 links and one for each directory in it.
    Times later than ``epoch`` become ``epoch``.

    Args:
        alignment: of the archive's end; 512 for a tape-like archive, a multiple of 4.

    Raises:
        FormatError: the tree does not hold together (``inodes.inode_table``), or has what newc cannot hold:
            extended attributes, a file of 4 GiB, a path over 4095 bytes, a time outside 32 bits.

    Spec: buffer-format.rst, "Handling of hard links"; GNU cpio 2.13 src/copyout.c.
    """
    if alignment < 4 or alignment % 4:
        raise FormatError("cpio", f"alignment {alignment} is not a multiple of 4")
    table = inode_table(tree)
    last = {name.inode: name.path for name in table.names}
    written = 0
    for name in table.names:
        inode = table.inodes[name.inode]
        _check(inode)
        carries = last[name.inode] == name.path
        size = inode.size if carries else 0
        written += out.write(_header(_entry(name, inode, epoch), size))
        for chunk in _content(inode) if carries else ():
            written += out.write(chunk)
        written += out.write(bytes(-size % 4))
    written += out.write(TRAILER)
    return written + out.write(bytes(-written % alignment))


def read_newc(data: bytes, source: str) -> list[CpioEntry]:
    """The members of one archive, without its trailer; only zero bytes may follow that.

    Raises:
        FormatError: anything but a whole, well-formed newc archive.

    Spec: buffer-format.rst.
    """
    entries: list[CpioEntry] = []
    offset = 0
    while True:
        entry, end = _read_entry(data, offset, source)
        if entry.name == TRAILER_NAME:
            if entry.data:
                raise FormatError(source, f"the trailer has {len(entry.data)} bytes of data", offset=offset)
            if data[end:].strip(b"\0"):
                what = "data follows the trailer; split concatenated archives before reading them"
                raise FormatError(source, what, offset=end)
            return entries
        entries.append(entry)
        offset = end


def _header(entry: CpioEntry, size: int) -> bytes:
    """Header and name, padded to 4 bytes."""
    shown = f"cpio member {entry.name!a}"
    try:
        name = entry.name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise FormatError(shown, "the name is neither text nor escaped bytes") from None
    if not 0 < len(name) < PATH_MAX or b"\0" in name or entry.name == TRAILER_NAME:
        limits = f"1 to {PATH_MAX - 1} bytes, no NUL, not {TRAILER_NAME}"
        what = f"a name of {len(name)} bytes cannot be stored; give it {limits}"
        raise FormatError(shown, what)
    fields = (
        ("ino", entry.ino),
        ("mode", entry.mode),
        ("uid", entry.uid),
        ("gid", entry.gid),
        ("nlink", entry.nlink),
        ("mtime", entry.mtime),
        ("filesize", size),
        ("major", entry.major),
        ("minor", entry.minor),
        ("rmajor", entry.rmajor),
        ("rminor", entry.rminor),
        ("namesize", len(name) + 1),
        ("check", entry.check),
    )
    for field, value in fields:
        if not 0 <= value <= FIELD_MAX:
            raise FormatError(shown, f"{field} {value} is not in 0..{FIELD_MAX}")
    digits = "".join(f"{value:08x}" for _, value in fields)
    return pad(MAGIC + digits.encode() + name + b"\0", 4)


def _entry(name: Name, inode: Inode, epoch: int) -> CpioEntry:
    node = inode.node
    device = node.device if node.type in (NodeType.CHARACTER, NodeType.BLOCK) else (0, 0)
    return CpioEntry(
        name=name.path or ".",
        ino=name.inode + 1,
        mode=inode.mode,
        uid=node.uid,
        gid=node.gid,
        nlink=inode.links,
        mtime=min(node.mtime, epoch),
        rmajor=device[0],
        rminor=device[1],
    )


def _check(inode: Inode) -> None:
    if inode.node.xattrs:
        names = ", ".join(ascii(name) for name, _ in inode.node.xattrs)
        what = f"newc holds no extended attributes ({names}); remove them from this tree"
        raise FormatError(where(inode.path, inode.node), what)


def _content(inode: Inode) -> Iterator[bytes]:
    if inode.node.type is NodeType.SYMLINK:
        yield inode.target
    elif inode.node.type is NodeType.FILE:
        yield from inode.content()


def _read_entry(data: bytes, offset: int, source: str) -> tuple[CpioEntry, int]:
    """The member at ``offset`` and where the next one begins."""
    if len(data) - offset < HEADER_SIZE:
        what = f"a header needs {HEADER_SIZE} bytes, {len(data) - offset} are left; the archive is truncated"
        raise FormatError(source, what, offset=offset)
    if data[offset : offset + 6] != MAGIC:
        got = data[offset : offset + 6]
        raise FormatError(
            source, f"magic is {got!r}, expected {MAGIC!r}; make it with -H newc", offset=offset
        )
    words = [data[start : start + 8] for start in range(offset + 6, offset + HEADER_SIZE, 8)]
    for index, word in enumerate(words):
        if word.strip(b"0123456789abcdefABCDEF"):
            place = offset + 6 + 8 * index
            raise FormatError(source, f"{word!r} is not 8 hexadecimal digits", offset=place)
    values = [int(word, 16) for word in words]
    ino, mode, uid, gid, nlink, mtime, size, major, minor, rmajor, rminor, namesize, check = values
    name, start = _read_name(data, offset, namesize, source)
    end = start + size
    if end > len(data):
        left = max(len(data) - start, 0)
        what = f"{name!a} has {size} bytes of data, {left} are left; the archive is truncated"
        raise FormatError(source, what, offset=offset)
    _check_padding(data, end, source)
    entry = CpioEntry(
        name=name,
        data=data[start:end],
        ino=ino,
        mode=mode,
        uid=uid,
        gid=gid,
        nlink=nlink,
        mtime=mtime,
        major=major,
        minor=minor,
        rmajor=rmajor,
        rminor=rminor,
        check=check,
    )
    return entry, end + -end % 4


def _read_name(data: bytes, offset: int, namesize: int, source: str) -> tuple[str, int]:
    """The name and where its padding ends."""
    start = offset + HEADER_SIZE
    end = start + namesize
    if not 2 <= namesize <= PATH_MAX:
        raise FormatError(source, f"a name of {namesize} bytes is not in 2..{PATH_MAX}", offset=offset)
    if end > len(data):
        raise FormatError(source, f"a name of {namesize} bytes is truncated", offset=offset)
    raw = data[start:end]
    if raw.find(b"\0") != namesize - 1:
        raise FormatError(source, f"the name {raw!r} does not end with its only NUL", offset=start)
    _check_padding(data, end, source)
    return raw[:-1].decode("utf-8", "surrogateescape"), end + -end % 4


def _check_padding(data: bytes, end: int, source: str) -> None:
    padding = data[end : end + -end % 4]
    if len(padding) < -end % 4 or padding.strip(b"\0"):
        raise FormatError(source, f"padding to 4 bytes is {padding!r}, expected zeros", offset=end)
