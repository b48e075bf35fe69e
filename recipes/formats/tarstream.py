"""Tar archives read into nodes whose content stays where it is.

Formats: POSIX ustar, GNU (long names, base-256 numbers) and PAX (paths, link targets, times, extended
attributes). The reader is for archives that came from outside: a path that leaves the tree, an entry type
without a meaning in an image or a size that does not fit is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

from ..binary import Struct, raw
from ..errors import FormatError
from ..units import MIB, align_up, format_size
from .tree import CHUNK, BytesPayload, FilePayload, Node, NodeType, Payload

BLOCK = 512
ZEROS = bytes(BLOCK)
# Spec: POSIX.1-2017 pax, "ustar Interchange Format" (magic and version); GNU tar 1.35 tar.h (OLDGNU_MAGIC).
POSIX_MAGIC = b"ustar\x0000"
GNU_MAGIC = b"ustar  \x00"
# Names, link targets and PAX headers are held in memory; Linux's PATH_MAX is 4096 and XATTR_SIZE_MAX 64 KiB.
MAX_EXTENSION = MIB
_XATTR = "SCHILY.xattr."  # Spec: star(4), "SCHILY.xattr"
_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ")
# PAX keys that say something an image would lose without a word.
_REFUSED = ("GNU.sparse.", "SCHILY.acl.")

_TYPES = {
    b"0": NodeType.FILE,
    b"\0": NodeType.FILE,
    b"1": NodeType.HARDLINK,
    b"2": NodeType.SYMLINK,
    b"3": NodeType.CHARACTER,
    b"4": NodeType.BLOCK,
    b"5": NodeType.DIRECTORY,
    b"6": NodeType.FIFO,
}
_LINKS = (NodeType.HARDLINK, NodeType.SYMLINK)
_DEVICES = (NodeType.CHARACTER, NodeType.BLOCK)


class Header(Struct):
    """One header block.

    Spec: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar 1.35 tar.h.
    """

    name: Annotated[bytes, raw(100)]
    mode: Annotated[bytes, raw(8)]
    uid: Annotated[bytes, raw(8)]
    gid: Annotated[bytes, raw(8)]
    size: Annotated[bytes, raw(12)]
    mtime: Annotated[bytes, raw(12)]
    checksum: Annotated[bytes, raw(8)]
    typeflag: Annotated[bytes, raw(1)]
    linkname: Annotated[bytes, raw(100)]
    magic: Annotated[bytes, raw(8)]
    uname: Annotated[bytes, raw(32)]
    gname: Annotated[bytes, raw(32)]
    devmajor: Annotated[bytes, raw(8)]
    devminor: Annotated[bytes, raw(8)]
    prefix: Annotated[bytes, raw(155)]
    reserved_0x1f4: Annotated[bytes, raw(12)]


class Archive(Protocol):
    """An uncompressed tar archive that can be read at any place."""

    @property
    def source(self) -> str:
        """What to call it in messages."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end."""

    def payload(self, offset: int, size: int) -> Payload:
        """The content of a file that lies at ``offset``."""


@dataclass(frozen=True)
class BytesArchive:
    """An archive held in memory; for small ones."""

    data: bytes
    source: str

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end."""
        return self.data[offset : offset + size]

    def payload(self, offset: int, size: int) -> BytesPayload:
        """The content of a file that lies at ``offset``."""
        return BytesPayload(self.data[offset : offset + size])


@dataclass(frozen=True)
class FileArchive:
    """An archive that is a range of the file ``path``, on which ``descriptor`` is open for reading."""

    path: Path
    descriptor: int
    start: int
    size: int
    source: str

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end."""
        return os.pread(self.descriptor, min(size, max(self.size - offset, 0)), self.start + offset)

    def payload(self, offset: int, size: int) -> FilePayload:
        """The content of a file that lies at ``offset``."""
        return FilePayload(self.path, self.start + offset, size)


@dataclass
class _Extensions:
    """What the entries before a header say about it; PAX values by keyword."""

    name: bytes | None = None
    linkname: bytes | None = None
    pax: dict[str, bytes] = field(default_factory=dict)

    @property
    def pending(self) -> bool:
        return self.name is not None or self.linkname is not None or bool(self.pax)


def entries(archive: Archive, *, owner: str = "") -> Iterator[tuple[str, Node]]:
    """Every entry in archive order: its tree path and its node; a hard link's target is a tree path too.

    A path may come more than once, and a link may point anywhere within the tree: what that means is the
    caller's to say.

    Args:
        owner: becomes ``Node.source``.

    Raises:
        FormatError: damaged, truncated, followed by something else, a path outside the tree, or a kind of
            entry or of extension that an image cannot hold.

    Spec: POSIX.1-2017 pax; GNU tar 1.35 manual, "Basic Tar Format".
    """
    offset = 0
    shared: dict[str, bytes] = {}
    extensions = _Extensions()
    while True:
        block = archive.read(offset, BLOCK)
        if block == ZEROS:
            if extensions.pending:
                raise FormatError(
                    archive.source, "ends behind an extension header without its entry", offset=offset
                )
            _check_end(archive, offset + BLOCK)
            return
        header = _header(archive, block, offset)
        pax = shared | extensions.pax
        size = _size(archive, header, pax, offset)
        content = offset + BLOCK
        if header.typeflag in (b"L", b"K", b"x", b"g"):
            _extend(archive, header.typeflag, content, size, extensions, shared)
        else:
            extensions.pax = pax
            yield _entry(archive, header, extensions, offset, size, owner)
            extensions = _Extensions()
        offset = content + align_up(size, BLOCK)


def tree_path(name: bytes, source: str, offset: int) -> str:
    """A member name as a tree path: ``./usr/bin/`` gives ``usr/bin``, ``./`` the root.

    Raises:
        FormatError: the name is empty, absolute, or has ``..`` in it.
    """
    text = name.decode("utf-8", "surrogateescape")
    parts = text.split("/")
    if not text or not parts[0] or ".." in parts or "\0" in text:
        raise FormatError(source, f"path {text!r} is empty or leaves the archive's own tree", offset=offset)
    return "/".join(part for part in parts if part not in ("", "."))


def _header(archive: Archive, block: bytes, offset: int) -> Header:
    """The header block at ``offset``, its checksum and magic checked."""
    if len(block) < BLOCK:
        what = f"ends without an end-of-archive block ({len(block)} bytes are left); truncated"
        raise FormatError(archive.source, what, offset=offset)
    header = Header.unpack(block, source=archive.source)
    # The checksum is over the block with its own field as spaces.
    total = sum(block) - sum(header.checksum) + 8 * 0x20
    stored = _number(archive, header.checksum, "checksum", offset)
    if stored != total:
        what = f"header checksum is {stored}, computed {total}; damaged, or trailing bytes"
        raise FormatError(archive.source, what, offset=offset)
    if header.magic not in (POSIX_MAGIC, GNU_MAGIC):
        what = f"header magic is {header.magic!r}, expected {POSIX_MAGIC!r} (POSIX) or {GNU_MAGIC!r} (GNU)"
        raise FormatError(archive.source, what, offset=offset)
    return header


def _size(archive: Archive, header: Header, pax: dict[str, bytes], offset: int) -> int:
    """Content length of the entry at ``offset``; only files and extensions have content."""
    extension = header.typeflag in (b"L", b"K", b"x", b"g")
    if "size" in pax and not extension:
        size = _decimal(archive, pax["size"], "size", offset)
    else:
        size = _number(archive, header.size, "size", offset)
    left = archive.size - offset - BLOCK
    if align_up(size, BLOCK) > left:
        raise FormatError(
            archive.source, f"entry has {size} bytes, {left} are left; truncated", offset=offset
        )
    if extension and size > MAX_EXTENSION:
        what = f"extension header of {format_size(size)}, at most {format_size(MAX_EXTENSION)} are sensible"
        raise FormatError(archive.source, what, offset=offset)
    if size and not extension and _TYPES.get(header.typeflag) is not NodeType.FILE:
        what = f"entry of type {header.typeflag!r} has {size} bytes of content, expected none"
        raise FormatError(archive.source, what, offset=offset)
    return size


def _extend(
    archive: Archive,
    kind: bytes,
    offset: int,
    size: int,
    extensions: _Extensions,
    shared: dict[str, bytes],
) -> None:
    """Takes in what the extension entry of type ``kind`` says of later entries."""
    data = archive.read(offset, size)
    if kind == b"g":
        shared.update(_pax_records(archive, data, offset))
    elif kind == b"x":
        extensions.pax.update(_pax_records(archive, data, offset))
    elif kind == b"L":
        extensions.name = data.rstrip(b"\0")
    else:
        extensions.linkname = data.rstrip(b"\0")
    kept = sum(len(key) + len(value) for key, value in (*shared.items(), *extensions.pax.items()))
    if kept > MAX_EXTENSION:
        # Each is small, but they add up, and a compressed layer can hold very many.
        limit = format_size(MAX_EXTENSION)
        what = f"extended headers of {format_size(kept)} in all, at most {limit} are sensible"
        raise FormatError(archive.source, what, offset=offset)


def _pax_records(archive: Archive, data: bytes, offset: int) -> dict[str, bytes]:
    """Keyword and value of each record ``LENGTH KEYWORD=VALUE``; the length counts the whole record.

    Spec: POSIX.1-2017 pax, "pax Extended Header".
    """
    records: dict[str, bytes] = {}
    start = 0
    while start < len(data):
        match = _RECORD.match(data, start)
        end = start + int(match[1]) if match else 0
        record = data[match.end() : end] if match else b""
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or not record.endswith(b"\n") or not equals or not key:
            what = f"bad PAX record {data[start : start + 32]!r}, expected `LENGTH KEYWORD=VALUE`"
            raise FormatError(archive.source, what, offset=offset + start)
        name = key.decode("utf-8", "surrogateescape")
        if name.startswith(_REFUSED):
            raise FormatError(archive.source, f"PAX keyword {name} is not supported", offset=offset + start)
        records[name] = value
        start = end
    return records


def _entry(
    archive: Archive, header: Header, extensions: _Extensions, offset: int, size: int, owner: str
) -> tuple[str, Node]:
    """Path and node of the entry whose header is at ``offset``."""
    kind = _TYPES.get(header.typeflag)
    if kind is None:
        what = f"entry type {header.typeflag!r} is not supported; an image has no such files"
        raise FormatError(archive.source, what, offset=offset)
    pax = extensions.pax
    path = tree_path(_name(header, extensions), archive.source, offset)
    linkname = pax.get("linkpath", extensions.linkname)
    target = (_text(header.linkname) if linkname is None else linkname) if kind in _LINKS else b""
    if kind in _LINKS and (not target or b"\0" in target):
        raise FormatError(archive.source, f"{kind.value} {path!r} has the target {target!r}", offset=offset)
    if kind is NodeType.HARDLINK:
        link = tree_path(target, archive.source, offset)
    else:
        link = target.decode("utf-8", "surrogateescape")
    node = Node(
        type=kind,
        mode=_number(archive, header.mode, "mode", offset) & 0o7777,
        uid=_id(archive, header.uid, pax, "uid", offset),
        gid=_id(archive, header.gid, pax, "gid", offset),
        mtime=_mtime(archive, header, pax, offset),
        payload=archive.payload(offset + BLOCK, size) if kind is NodeType.FILE else None,
        target=link,
        device=_device(archive, header, offset) if kind in _DEVICES else (0, 0),
        xattrs=tuple(sorted((key[len(_XATTR) :], pax[key]) for key in pax if key.startswith(_XATTR))),
        source=owner,
    )
    if not path and kind is not NodeType.DIRECTORY:
        raise FormatError(archive.source, f"the root is a {kind.value}, expected a directory", offset=offset)
    return path, node


def _name(header: Header, extensions: _Extensions) -> bytes:
    """The member name as stored: from PAX, from a GNU long name, or from the header."""
    if "path" in extensions.pax:
        return extensions.pax["path"]
    if extensions.name is not None:
        return extensions.name
    # GNU archives keep access times where POSIX has the prefix.
    prefix = _text(header.prefix) if header.magic == POSIX_MAGIC else b""
    return (prefix + b"/" if prefix else b"") + _text(header.name)


def _text(value: bytes) -> bytes:
    """A text field up to its first NUL."""
    return value.partition(b"\0")[0]


def _number(archive: Archive, value: bytes, name: str, offset: int) -> int:
    """A number field: octal digits, or GNU's base-256 with the top bit set."""
    if value[0] == 0x80:
        return int.from_bytes(value[1:], "big")
    digits = value.strip(b" \0")
    if re.fullmatch(rb"[0-7]+", digits) is None:
        what = f"{name} field is {value!r}, expected octal digits or a base-256 number that is not negative"
        raise FormatError(archive.source, what, offset=offset)
    return int(digits, 8)


def _decimal(archive: Archive, value: bytes, name: str, offset: int) -> int:
    """A PAX number in decimal; a fraction, which times have, is dropped."""
    match = re.fullmatch(rb"([0-9]{1,20})(\.[0-9]*)?", value)
    if match is None:
        raise FormatError(
            archive.source, f"PAX {name} is {value[:32]!r}, expected a decimal number", offset=offset
        )
    return int(match[1])


def _id(archive: Archive, stored: bytes, pax: dict[str, bytes], name: str, offset: int) -> int:
    """User or group number, which file systems keep in 32 bits."""
    in_pax = name in pax
    value = _decimal(archive, pax[name], name, offset) if in_pax else _number(archive, stored, name, offset)
    if value >= 1 << 32:
        raise FormatError(
            archive.source, f"{name} is {value}, at most {(1 << 32) - 1} is possible", offset=offset
        )
    return value


def _mtime(archive: Archive, header: Header, pax: dict[str, bytes], offset: int) -> int:
    """Modification time in whole seconds since 1970."""
    if "mtime" in pax:
        value = _decimal(archive, pax["mtime"], "mtime", offset)
    else:
        value = _number(archive, header.mtime, "mtime", offset)
    if value >= 1 << 63:
        raise FormatError(
            archive.source, f"mtime is {value}, at most {(1 << 63) - 1} is possible", offset=offset
        )
    return value


def _device(archive: Archive, header: Header, offset: int) -> tuple[int, int]:
    """Major and minor number, which Linux keeps in 12 and 20 bits."""
    major = _number(archive, header.devmajor, "devmajor", offset)
    minor = _number(archive, header.devminor, "devminor", offset)
    if major >= 1 << 12 or minor >= 1 << 20:
        raise FormatError(archive.source, f"device {major}:{minor} is beyond 4095:1048575", offset=offset)
    return major, minor


def _check_end(archive: Archive, offset: int) -> None:
    """Checks that a second zero block and then only zeros follow the first zero block."""
    if archive.read(offset, BLOCK) != ZEROS:
        raise FormatError(archive.source, "a lone zero block; truncated or damaged", offset=offset - BLOCK)
    zeros = bytes(CHUNK)
    while offset < archive.size:
        data = archive.read(offset, CHUNK)
        if not data or data != zeros[: len(data)]:
            where = offset + len(data) - len(data.lstrip(b"\0"))
            raise FormatError(archive.source, "bytes follow the end of the archive", offset=where)
        offset += len(data)
