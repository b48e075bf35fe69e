"""The structures of an EROFS image, as they stand on disk.

Only what an uncompressed image on one device uses; every field name is the kernel's.

Spec: Linux fs/erofs/erofs_fs.h (commit 0410c6121529), Documentation/filesystems/erofs.rst ("On-disk
details").
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from ..binary import Struct, raw, u8, u16, u32, u64
from ..errors import FormatError
from ..units import pad
from .crc32c import crc32c

BLOCK_SIZE = 4096
SUPER_OFFSET = 1024  # EROFS_SUPER_OFFSET
SUPER_MAGIC = 0xE0F5E1E2  # EROFS_SUPER_MAGIC_V1, include/uapi/linux/magic.h
SLOT_SIZE = 32  # an inode's number (nid) counts slots of a compact inode: erofs.rst
COMPAT_SB_CHKSUM = 0x1  # EROFS_FEATURE_COMPAT_SB_CHKSUM
COMPAT_MTIME = 0x2  # EROFS_FEATURE_COMPAT_MTIME: inode times are modification times
VERSION_EXTENDED = 1  # EROFS_INODE_LAYOUT_EXTENDED, bit 0 of i_format
DATALAYOUT_SHIFT = 1  # EROFS_I_DATALAYOUT_BIT
LABEL_MAX = 15  # volume_name[16] with its NUL; fs/erofs/super.c of Linux 5.15 and 6.1 refuses one without
XATTR_ICOUNT_MAX = 0xFFFF  # i_xattr_icount is a u16


class DataLayout(Enum):
    """Where an inode's content is: in whole blocks, or with its last bytes behind the inode."""

    FLAT_PLAIN = 0
    FLAT_INLINE = 2


class FileType(Enum):
    """``file_type`` of a directory entry: the generic FT_* numbers, include/linux/fs_types.h."""

    REGULAR = 1
    DIRECTORY = 2
    CHARACTER = 3
    BLOCK = 4
    FIFO = 5
    SYMLINK = 7


class SuperBlock(Struct):
    """``struct erofs_super_block``, at byte 1024."""

    magic: u32
    checksum: u32
    feature_compat: u32
    blkszbits: u8
    sb_extslots: u8
    root_nid: u16
    inos: u64
    build_time: u64
    build_time_nsec: u32
    blocks: u32
    meta_blkaddr: u32
    xattr_blkaddr: u32
    uuid: Annotated[bytes, raw(16)]
    volume_name: Annotated[bytes, raw(16)]
    feature_incompat: u32
    available_compr_algs: u16
    extra_devices: u16
    devt_slotoff: u16
    dirblkbits: u8
    xattr_prefix_count: u8
    xattr_prefix_start: u32
    packed_nid: u64
    reserved_0x68: Annotated[bytes, raw(24)]


class CompactInode(Struct):
    """``struct erofs_inode_compact``: its time is the superblock's."""

    i_format: u16
    i_xattr_icount: u16
    i_mode: u16
    i_nlink: u16
    i_size: u32
    reserved_0x0c: u32
    i_u: u32
    i_ino: u32
    i_uid: u16
    i_gid: u16
    reserved_0x1c: u32


class ExtendedInode(Struct):
    """``struct erofs_inode_extended``."""

    i_format: u16
    i_xattr_icount: u16
    i_mode: u16
    reserved_0x06: u16
    i_size: u64
    i_u: u32
    i_ino: u32
    i_uid: u32
    i_gid: u32
    i_mtime: u64
    i_mtime_nsec: u32
    i_nlink: u32
    reserved_0x30: Annotated[bytes, raw(16)]


class XattrHeader(Struct):
    """``struct erofs_xattr_ibody_header``: stands once before the attributes of an inode."""

    h_name_filter: u32
    h_shared_count: u8
    reserved_0x05: Annotated[bytes, raw(7)]


class XattrEntry(Struct):
    """``struct erofs_xattr_entry``: name and value follow, padded to 4 bytes."""

    e_name_len: u8
    e_name_index: u8
    e_value_size: u16


class DirEntry(Struct):
    """``struct erofs_dirent``: the names follow the last entry of the block."""

    nid: u64
    nameoff: u16
    file_type: u8
    reserved_0x0b: u8


# EROFS_XATTR_INDEX_*: the two access control lists are whole names, the others prefixes.
XATTR_WHOLE = {"system.posix_acl_access": 2, "system.posix_acl_default": 3}
XATTR_PREFIXES = {"user.": 1, "trusted.": 4, "security.": 6}


def encode_device(major: int, minor: int) -> int:
    """The 32-bit device number of ``i_u``: 12 bits of major amid 20 of minor.

    Spec: Linux include/linux/kdev_t.h, new_encode_dev.
    """
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def pack_xattrs(xattrs: tuple[tuple[str, bytes], ...], source: str) -> bytes:
    """What stands between an inode and its inline content: nothing, or a header and the attributes by name.

    Raises:
        FormatError: a name that is repeated, too long or outside the namespaces EROFS knows, a value over
            65535 bytes, or more attributes than an inode can count.

    Spec: fs/erofs/erofs_fs.h, EROFS_XATTR_INDEX_*, erofs_xattr_ibody_size, erofs_xattr_entry_size.
    """
    if not xattrs:
        return b""
    packed = bytearray(XattrHeader(h_name_filter=0, h_shared_count=0, reserved_0x05=bytes(7)).pack())
    names = [name for name, _ in xattrs]
    if len(set(names)) != len(names):
        raise FormatError(source, f"an extended attribute is there twice: {', '.join(sorted(names))}")
    for name, value in sorted(xattrs):
        index, suffix = _xattr_name(name, source)
        if len(value) > 0xFFFF:
            what = f"extended attribute {name} has {len(value)} bytes, at most 65535 are possible"
            raise FormatError(source, what)
        entry = XattrEntry(e_name_len=len(suffix), e_name_index=index, e_value_size=len(value))
        packed += pad(entry.pack() + suffix + value, 4)
    if xattr_icount(len(packed)) > XATTR_ICOUNT_MAX:
        what = f"extended attributes of {len(packed)} bytes, at most {12 + 4 * (XATTR_ICOUNT_MAX - 1)} fit"
        raise FormatError(source, what)
    return bytes(packed)


def xattr_icount(size: int) -> int:
    """``i_xattr_icount`` for ``size`` packed bytes: 0 without attributes, else 1 and their 4-byte units."""
    return 1 + (size - XattrHeader.SIZE) // 4 if size else 0


def _xattr_name(name: str, source: str) -> tuple[int, bytes]:
    if name in XATTR_WHOLE:
        return XATTR_WHOLE[name], b""
    for prefix, index in XATTR_PREFIXES.items():
        if name.startswith(prefix):
            try:
                suffix = name[len(prefix) :].encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                break
            # XATTR_NAME_MAX of include/uapi/linux/limits.h counts the whole name.
            if not 0 < len(suffix) <= 255 - len(prefix) or b"\0" in suffix:
                break
            return index, suffix
    what = f"extended attribute {name!a} cannot be stored; use user., trusted., security. or an ACL name"
    raise FormatError(source, what)


def superblock_checksum(block: bytes | bytearray | memoryview) -> int:
    """``checksum`` for the first block, whose checksum field must be zero: from byte 1024 to its end.

    The kernel's CRC has no final inversion. Spec: Linux fs/erofs/super.c, erofs_superblock_csum_verify.
    """
    return crc32c(memoryview(block)[SUPER_OFFSET:BLOCK_SIZE]) ^ 0xFFFFFFFF
