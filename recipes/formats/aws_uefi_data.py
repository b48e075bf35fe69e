"""The variables that an AMI starts with: the text behind ``--uefi-data``.

Base64 of the following, numbers little endian:

    "AMZNUEFI" | u32 CRC-32C of all that follows | u32 version, 0 | zlib stream of the store

    store      u64 count | variables
    variable   name | data | vendor GUID | u32 attributes | time and digest where writes are authenticated
    name, data, digest: u64 length | bytes; a name is UTF-8; no time is 16, no digest 32 zero bytes

The reference compresses its streams with a preset dictionary and reads those without one as well. Ours is
stored as it is: a few certificates take a tenth of the room there is, and the bytes depend on no library.
That reader and the one of virt-firmware take it; that EC2 itself does has not been tried.

Spec: awslabs/python-uefivars, commit 47291b3fb6, pyuefivars/aws.py, aws_file.py and varstore.py; RFC 1950.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from ..binary import Struct, raw, u32
from ..errors import FormatError
from .crc32c import crc32c
from .efi import Variable, VariableAttributes

MAGIC = b"AMZNUEFI"
VERSION = 0
_NO_TIME, _NO_DIGEST = bytes(16), bytes(32)
# RFC 1950 section 2.2: method 8, a window of 32 KiB, not compressed; FDICT, a preset dictionary.
_ZLIB_HEADER = b"\x78\x01"
_FDICT = 0x20
_MAX_BLOCK = 0xFFFF  # RFC 1951 section 3.2.4
# Far more than what fits compressed into the 64,000 characters that AWS takes, unless it is made to burst.
_MAX_STORE = 1 << 20
_SPEC = "python-uefivars 47291b3fb6"


class Header(Struct):
    """What stands in front of the zlib stream; the checksum covers the version too."""

    magic: Annotated[bytes, raw(8)]
    checksum: u32
    version: u32


def write(variables: Sequence[Variable]) -> bytes:
    """The text for these variables, in their order, without a line end; the same bytes everywhere.

    Times and digests are left empty, so any authenticated update is newer.

    Raises:
        FormatError: a name is not text.
    """
    store = struct.pack("<Q", len(variables)) + b"".join(_pack(variable) for variable in variables)
    packed = _ZLIB_HEADER + _stored(store) + struct.pack(">I", zlib.adler32(store))
    covered = struct.pack("<I", VERSION) + packed
    return base64.b64encode(MAGIC + struct.pack("<I", crc32c(covered)) + covered)


def read(text: bytes, source: str, dictionary: bytes = b"") -> tuple[Variable, ...]:
    """The variables of such a text; their times and digests are dropped.

    Args:
        text: line ends and spaces are passed over.
        dictionary: what the stream refers to where AWS or the reference wrote it (its ``aws_v0.py``).

    Raises:
        FormatError: damaged, of another version, made with a dictionary that is not given, or too large.
    """
    try:
        data = base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise FormatError(source, f"not base64 ({error})") from None
    header = Header.unpack(data, source=source)
    if header.magic != MAGIC:
        raise FormatError(source, f"it starts with {header.magic!r}, expected {MAGIC!r}", spec=_SPEC)
    summed = crc32c(data[12:])
    if summed != header.checksum:
        what = f"the checksum is {header.checksum:#010x} and should be {summed:#010x}; was all of it copied?"
        raise FormatError(source, what, spec=_SPEC)
    if header.version != VERSION:
        raise FormatError(source, f"version {header.version}, expected {VERSION}", spec=_SPEC)
    return _Reader(_inflate(data[Header.SIZE :], dictionary, source), source).variables()


def _stored(data: bytes) -> bytes:
    """A DEFLATE stream of blocks that are not compressed. Spec: RFC 1951 sections 3.2.3 and 3.2.4."""
    blocks = []
    for start in range(0, len(data), _MAX_BLOCK):
        block = data[start : start + _MAX_BLOCK]
        last = start + len(block) == len(data)
        blocks.append(struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block)
    return b"".join(blocks)


def _pack(variable: Variable) -> bytes:
    try:
        name = variable.name.encode()
    except UnicodeEncodeError:
        raise FormatError("uefi data", f"the variable name {variable.name!r} is not text") from None
    parts = [
        _counted(name),
        _counted(variable.data),
        variable.vendor.bytes_le,
        struct.pack("<I", variable.attributes),
    ]
    if _is_authenticated(variable.attributes):
        parts += [_NO_TIME, _counted(_NO_DIGEST)]
    return b"".join(parts)


def _counted(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _is_authenticated(attributes: int) -> bool:
    return bool(attributes & VariableAttributes.TIME_BASED_AUTHENTICATED_WRITE_ACCESS)


def _inflate(data: bytes, dictionary: bytes, source: str) -> bytes:
    flags = int.from_bytes(data[:2], "big")
    if flags % 31 == 0 and flags & _FDICT and not dictionary:
        what = "the zlib stream needs the preset dictionary of python-uefivars, which is not given"
        raise FormatError(source, what, offset=Header.SIZE, spec="RFC 1950 section 2.2")
    stream = zlib.decompressobj(zdict=dictionary) if dictionary else zlib.decompressobj()
    try:
        store = stream.decompress(data, _MAX_STORE)
    except zlib.error as error:
        raise FormatError(source, f"the zlib stream is damaged ({error})", offset=Header.SIZE) from None
    if not stream.eof or stream.unused_data:
        what = f"the zlib stream is cut short, followed by something, or holds more than {_MAX_STORE} bytes"
        raise FormatError(source, what, offset=Header.SIZE)
    return store


class _Reader:
    """The store, taken from its start; offsets in messages count in it, not in the text."""

    def __init__(self, store: bytes, source: str) -> None:
        self._store, self._source, self._at = store, f"{source}, unpacked", 0

    def variables(self) -> tuple[Variable, ...]:
        """All of them.

        Raises:
            FormatError: a length does not fit, a name is not UTF-8, or something follows the last one.
        """
        count = self._number(8)
        # The smallest variable has no name, no data and no time.
        if count > len(self._store) // 36:
            what = f"{count} variables cannot be in {len(self._store)} bytes"
            raise FormatError(self._source, what, offset=0, spec=_SPEC)
        found = tuple(self._variable() for _ in range(count))
        if self._at != len(self._store):
            what = f"{len(self._store) - self._at} bytes follow the last variable"
            raise FormatError(self._source, what, offset=self._at, spec=_SPEC)
        return found

    def _variable(self) -> Variable:
        start = self._at
        try:
            name = self._counted().decode()
        except UnicodeDecodeError:
            raise FormatError(self._source, "a variable name is not UTF-8", offset=start) from None
        data = self._counted()
        vendor = UUID(bytes_le=self._take(16))
        attributes = self._number(4)
        if _is_authenticated(attributes):
            self._take(len(_NO_TIME))
            self._counted()
        return Variable(name, vendor, attributes, data)

    def _counted(self) -> bytes:
        return self._take(self._number(8))

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _take(self, size: int) -> bytes:
        left = len(self._store) - self._at
        if size > left:
            what = f"{size} bytes are to follow, {left} are left; the store is truncated"
            raise FormatError(self._source, what, offset=self._at, spec=_SPEC)
        self._at += size
        return self._store[self._at - size : self._at]
