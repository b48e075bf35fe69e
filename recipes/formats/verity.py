"""dm-verity hash trees, byte for byte as ``veritysetup format`` writes them, and their verification.

SHA-256 over 4096-byte blocks with the salt in front (hash type 1). The file is the superblock in a block of
its own, then the levels of the tree from the top down; a level's last block is filled with zeros. The root
hash is the digest of the top block, or of the data itself where there is only one block.

Spec: Linux Documentation/admin-guide/device-mapper/verity.rst ("Hash Tree"); cryptsetup 2.6.1
lib/verity/verity.c (superblock), lib/verity/verity_hash.c (levels).
"""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, NoReturn, Self
from uuid import UUID

from ..binary import Struct, raw, u16, u32, u64
from ..errors import FormatError, VerifyError

BLOCK_SIZE = 4096
DIGEST_SIZE = 32
FANOUT = BLOCK_SIZE // DIGEST_SIZE  # digests in a hash block
SALT_MAX = 256  # salt[256] of the superblock
MAGIC = b"verity\0\0"
_RANGE = 4 << 20  # bytes of data a worker hashes at a time
_ALONE = 16 << 20  # data that is hashed before worker processes have started
_ZERO_BLOCK = bytes(BLOCK_SIZE)


class VeritySuperblock(Struct):
    """``struct verity_sb``: 512 bytes at the start of the hash file.

    Spec: cryptsetup 2.6.1 lib/verity/verity.c.
    """

    signature: Annotated[bytes, raw(8)]
    version: u32
    hash_type: u32
    uuid: Annotated[bytes, raw(16)]
    algorithm: Annotated[bytes, raw(32)]
    data_block_size: u32
    hash_block_size: u32
    data_blocks: u64
    salt_size: u16
    reserved_0x52: Annotated[bytes, raw(6)]
    salt: Annotated[bytes, raw(256)]
    reserved_0x158: Annotated[bytes, raw(168)]

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, offset: int = 0, *, source: str = "bytes") -> Self:
        """The superblock at ``offset``, every field one that ``format`` writes.

        Raises:
            FormatError: truncated, another magic, version, algorithm or block size, or no data.
        """
        block = super().unpack(data, offset, source=source)
        expected: tuple[tuple[str, object, object], ...] = (
            ("signature", block.signature, MAGIC),
            ("version", block.version, 1),
            ("hash type", block.hash_type, 1),
            ("algorithm", block.algorithm.rstrip(b"\0"), b"sha256"),
            ("data block size", block.data_block_size, BLOCK_SIZE),
            ("hash block size", block.hash_block_size, BLOCK_SIZE),
            ("reserved bytes at 0x52", block.reserved_0x52, bytes(6)),
            ("reserved bytes at 0x158", block.reserved_0x158, bytes(168)),
        )
        for field, got, want in expected:
            if got != want:
                raise FormatError(source, f"verity {field} is {got!r}, expected {want!r}", offset=offset)
        if not 0 < block.data_blocks <= (1 << 63) // BLOCK_SIZE:
            raise FormatError(
                source, f"verity superblock counts {block.data_blocks} data blocks", offset=offset
            )
        if block.salt_size > SALT_MAX or any(block.salt[block.salt_size :]):
            what = f"verity salt of {block.salt_size} bytes is over {SALT_MAX} or followed by other bytes"
            raise FormatError(source, what, offset=offset)
        return block


@dataclass(frozen=True)
class VerityTree:
    """A written tree.

    Attributes:
        root_hash: 32 bytes that stand for all the data.
        data_blocks: how many 4096-byte blocks it covers.
        hash_size: bytes of superblock and tree.
    """

    root_hash: bytes
    data_blocks: int
    hash_size: int


def format(  # noqa: A001 - named after the command it replays, `veritysetup format`
    data: Path, hashes: Path | BinaryIO, *, salt: bytes, uuid: UUID, workers: int = 2
) -> VerityTree:
    """The tree over ``data``, written to ``hashes``: a new file, or from the position of a seekable one.

    Holes of a sparse file are not read. The result does not depend on ``workers``, nor on where holes are.

    Args:
        salt: 0 to 256 bytes.
        workers: processes that hash; 1 for none beside this one.

    Raises:
        FormatError: the data is empty, not whole blocks or changes while it is read, or the salt is too long.

    Spec: cryptsetup 2.6.1 lib/verity/verity_hash.c, ``VERITY_create``.
    """
    if len(salt) > SALT_MAX:
        raise FormatError("verity salt", f"{len(salt)} bytes, at most {SALT_MAX} fit")
    size = _size(data)
    if size == 0 or size % BLOCK_SIZE:
        what = f"{size} bytes are not one or more whole {BLOCK_SIZE}-byte blocks; pad the file"
        raise FormatError(str(data), what)
    blocks = size // BLOCK_SIZE
    with hashes.open("wb") if isinstance(hashes, Path) else nullcontext(hashes) as out:
        tree = _TreeWriter(out, salt, blocks)
        out.write(_superblock(salt, uuid, blocks).pack() + bytes(BLOCK_SIZE - VeritySuperblock.SIZE))
        for digests in _data_digests(data, blocks, salt, workers):
            tree.add(0, digests)
        root_hash = tree.finish()
    return VerityTree(root_hash, blocks, (1 + sum(_levels(blocks))) * BLOCK_SIZE)


def partition_uuids(root_hash: bytes) -> tuple[UUID, UUID]:
    """Partition UUIDs of data and hash partition: the first and last 128 bits, as they are printed.

    Raises:
        FormatError: not 32 bytes.

    Spec: UAPI Group, Discoverable Partitions Specification, "Root Verity Partition".
    """
    _check_root(root_hash)
    return UUID(bytes=root_hash[:16]), UUID(bytes=root_hash[-16:])


def verify(data: Path, hashes: Path, root_hash: bytes, *, workers: int = 2) -> VeritySuperblock:
    """The superblock of ``hashes``, once every hash block and every data block has led up to ``root_hash``.

    Raises:
        FormatError: the superblock is not one of ours, a file is too short for it, or the root hash not 32
            bytes.
        VerifyError: a block has another digest; names the first, from the root down and then in data order.
    """
    _check_root(root_hash)
    with hashes.open("rb") as file:
        superblock = VeritySuperblock.unpack(file.read(VeritySuperblock.SIZE), source=str(hashes))
        salt, blocks = superblock.salt[: superblock.salt_size], superblock.data_blocks
        levels = _levels(blocks)
        for path, need in ((data, blocks * BLOCK_SIZE), (hashes, (1 + sum(levels)) * BLOCK_SIZE)):
            if _size(path) < need:
                raise FormatError(str(path), f"{_size(path)} bytes, the verity superblock needs {need}")
        offsets = _offsets(levels)
        _verify_tree(file, levels, offsets, salt, root_hash)
        done = 0
        if levels:
            file.seek(offsets[0])
        for digests in _data_digests(data, blocks, salt, workers):
            want = file.read(len(digests)) if levels else root_hash
            if digests != want:
                _fail(str(data), "data block", done, digests, want)
            done += len(digests) // DIGEST_SIZE
    return superblock


def _superblock(salt: bytes, uuid: UUID, blocks: int) -> VeritySuperblock:
    return VeritySuperblock(
        signature=MAGIC,
        version=1,
        hash_type=1,
        uuid=uuid.bytes,
        algorithm=b"sha256".ljust(32, b"\0"),
        data_block_size=BLOCK_SIZE,
        hash_block_size=BLOCK_SIZE,
        data_blocks=blocks,
        salt_size=len(salt),
        reserved_0x52=bytes(6),
        salt=salt.ljust(256, b"\0"),
        reserved_0x158=bytes(168),
    )


def _levels(blocks: int) -> list[int]:
    """Hash blocks in each level, the one above the data first; none for a single data block."""
    levels = []
    while blocks > 1:
        blocks = -(-blocks // FANOUT)
        levels.append(blocks)
    return levels


def _offsets(levels: list[int]) -> list[int]:
    """Byte offset of each level in the hash file; the top one comes first, behind the superblock."""
    return [BLOCK_SIZE * (1 + sum(levels[index + 1 :])) for index in range(len(levels))]


class _TreeWriter:
    """Takes digests of data blocks in order and writes every level as its blocks fill up."""

    def __init__(self, out: BinaryIO, salt: bytes, blocks: int) -> None:
        self._out, self._salt = out, salt
        levels = _levels(blocks)
        origin = out.tell()
        self._next = [origin + offset for offset in _offsets(levels)]
        self._end = origin + (1 + sum(levels)) * BLOCK_SIZE
        self._pending = [bytearray() for _ in range(len(levels) + 1)]  # the last one ends up as the root

    def add(self, level: int, digests: bytes) -> None:
        """Appends to a level; level 0 has the digests of the data."""
        pending = self._pending[level]
        pending += digests
        if level == len(self._next):
            return
        whole = len(pending) // BLOCK_SIZE * BLOCK_SIZE
        if whole:
            self._write(level, bytes(pending[:whole]))
            del pending[:whole]

    def finish(self) -> bytes:
        """Fills up the last blocks; the root hash."""
        for level in range(len(self._next)):
            left = self._pending[level]
            if left:
                self._write(level, bytes(left.ljust(BLOCK_SIZE, b"\0")))
                left.clear()
        self._out.seek(self._end)
        return bytes(self._pending[-1])

    def _write(self, level: int, blocks: bytes) -> None:
        self._out.seek(self._next[level])
        self._out.write(blocks)
        self._next[level] += len(blocks)
        self.add(level + 1, _digest_blocks(blocks, self._salt))


def _digest_blocks(blocks: bytes, salt: bytes) -> bytes:
    """Digests of whole blocks, one after the other; the one of a zero block is worked out once."""
    salted = hashlib.sha256(salt)
    view = memoryview(blocks)
    zero = b""
    digests = []
    for start in range(0, len(blocks), BLOCK_SIZE):
        # The first byte rules out most blocks before a slice has to be copied for comparing.
        is_zero = not blocks[start] and blocks[start : start + BLOCK_SIZE] == _ZERO_BLOCK
        if is_zero and zero:
            digests.append(zero)
            continue
        state = salted.copy()
        state.update(view[start : start + BLOCK_SIZE])
        digests.append(state.digest())
        if is_zero:
            zero = digests[-1]
    return b"".join(digests)


def _data_digests(data: Path, blocks: int, salt: bytes, workers: int) -> Iterator[bytes]:
    """Digests of all data blocks in order, a range at a time."""
    step = _RANGE // BLOCK_SIZE
    ranges = [(first, min(step, blocks - first)) for first in range(0, blocks, step)]
    try:
        if workers <= 1 or blocks * BLOCK_SIZE <= _ALONE:
            for first, number in ranges:
                yield _digest_range(data, first, number, salt)
            return
        # Offsets go to the workers and digests come back: threads would pass the interpreter lock at every
        # block. Fork, because a fresh interpreter takes longer than hashing 100 MiB.
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            waiting: deque[Future[bytes]] = deque()
            for first, number in ranges:
                waiting.append(pool.submit(_digest_range, data, first, number, salt))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except EOFError as error:
        raise FormatError(str(data), str(error)) from None


def _digest_range(data: Path, first: int, number: int, salt: bytes) -> bytes:
    """Digests of ``number`` blocks from block ``first``; what lies in holes is not read."""
    position, end = first * BLOCK_SIZE, (first + number) * BLOCK_SIZE
    zero = hashlib.sha256(salt + _ZERO_BLOCK).digest()
    digests = []
    with data.open("rb", buffering=0) as file:
        while position < end:
            start = _seek_data(file, position, end)
            if start > position:
                digests.append(zero * ((start - position) // BLOCK_SIZE))
                position = start
                continue
            stop = _seek_hole(file, position, end)
            digests.append(_digest_blocks(_read(file, position, stop - position), salt))
            position = stop
    return b"".join(digests)


def _seek_data(file: io.FileIO, position: int, end: int) -> int:
    """Start of the first block from ``position`` that may hold data, at most ``end``."""
    try:
        found = os.lseek(file.fileno(), position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole up to the end of the file
            return end
        return position  # no holes on this file system
    return min(found // BLOCK_SIZE * BLOCK_SIZE, end)


def _seek_hole(file: io.FileIO, position: int, end: int) -> int:
    """End of the blocks that hold data from ``position`` on, at most ``end``."""
    try:
        found = os.lseek(file.fileno(), position, os.SEEK_HOLE)
    except OSError:
        return end
    return min(-(-found // BLOCK_SIZE) * BLOCK_SIZE, end)


def _read(file: io.FileIO, position: int, size: int) -> bytes:
    data = os.pread(file.fileno(), size, position)
    if len(data) == size:
        return data
    parts = [data]
    done = len(data)
    while done < size:
        data = os.pread(file.fileno(), size - done, position + done)
        if not data:
            raise EOFError(f"ends at {position + done}, before byte {position + size}; it changed while read")
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _size(path: Path) -> int:
    """Bytes of a file or block device."""
    with path.open("rb") as file:
        return file.seek(0, io.SEEK_END)


def _verify_tree(
    file: BinaryIO, levels: list[int], offsets: list[int], salt: bytes, root_hash: bytes
) -> None:
    """Checks every hash block against the level above it, from the top down."""
    for level in reversed(range(len(levels))):
        for block in range(levels[level]):
            want = root_hash
            if level + 1 < len(levels):
                file.seek(offsets[level + 1] + block * DIGEST_SIZE)
                want = file.read(DIGEST_SIZE)
            file.seek(offsets[level] + block * BLOCK_SIZE)
            got = _digest_blocks(file.read(BLOCK_SIZE), salt)
            if got != want:
                _fail(file.name, f"hash block of level {level}", block, got, want, base=offsets[level])


def _check_root(root_hash: bytes) -> None:
    if len(root_hash) != DIGEST_SIZE:
        raise FormatError("verity root hash", f"{len(root_hash)} bytes, expected {DIGEST_SIZE}")


def _fail(source: str, what: str, first: int, got: bytes, want: bytes, *, base: int = 0) -> NoReturn:
    """Raises for the first digest that differs; both sides hold one each from block ``first`` on."""
    start = 0
    while start + DIGEST_SIZE < len(got) and got[start:][:DIGEST_SIZE] == want[start:][:DIGEST_SIZE]:
        start += DIGEST_SIZE
    have, need = got[start:][:DIGEST_SIZE].hex(), want[start:][:DIGEST_SIZE].hex()
    block = first + start // DIGEST_SIZE
    place = f"{source}: offset {base + block * BLOCK_SIZE:#x}: {what} {block}"
    raise VerifyError(f"{place} has digest {have}, the tree says {need}; one was changed")
