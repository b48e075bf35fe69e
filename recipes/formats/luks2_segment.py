"""AES-256-XTS over sectors, as dm-crypt's ``aes-xts-plain64``, and a whole data segment written with it.

The tweak of a sector is its number in units of 512 bytes from the start of the segment, 64 bits little
endian, also where sectors are 4096 bytes long: LUKS2 never asks for ``iv_large_sectors``.

Every byte is encrypted, holes of a sparse image too: what is free in the file system inside says as much
about it as what is not. Each sector is a context of the library, which has no call for a new tweak under the
same key. Whitening around one bulk AES-ECB call, in Python's integers, took four times as long for sectors of
4096 bytes and two thirds of the time for sectors of 512, which nobody should choose.

Spec: Linux Documentation/admin-guide/device-mapper/dm-crypt.rst ("iv_large_sectors"), drivers/md/dm-crypt.c
(``crypt_iv_plain64_gen``); IEEE 1619-2018 section 5.3; LUKS2 On-Disk Format Specification 1.1.x, "Segments
Object" (``iv_tweak``, ``sector_size``).
"""

from __future__ import annotations

import io
import multiprocessing
import os
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ..errors import FormatError
from ..units import SECTOR_SIZE

KEY_SIZE = 64
_RANGE = 4 << 20  # bytes that a worker is asked for at a time
_PIECE = 256 << 10  # of them in memory, in buffers used again: they stay in the processor's cache
_ALONE = 16 << 20  # data that is encrypted before worker processes have started
SLACK = 16  # what `update_into` wants behind the data, at most a block


class SectorCipher:
    """AES-256-XTS under one 64-byte key, which no text form of this object shows.

    Raises:
        FormatError: the key has another size, or equal halves.
    """

    def __init__(self, key: bytes, sector_size: int) -> None:
        if len(key) != KEY_SIZE:
            raise FormatError("aes-xts key", f"{len(key)} bytes, expected {KEY_SIZE}")
        if key[: KEY_SIZE // 2] == key[KEY_SIZE // 2 :]:
            # With equal keys XTS is open to chosen ciphertext. Spec: FIPS 140-3 IG C.I.
            raise FormatError("aes-xts key", "its halves are equal; draw a new one")
        if sector_size not in (512, 4096):
            raise FormatError("sector size", f"{sector_size} bytes; use 512 or 4096")
        self._key = algorithms.AES(key)
        self._sector = sector_size

    def encrypt(self, data: bytes | bytearray | memoryview, first: int = 0) -> memoryview:
        """``data`` encrypted; ``first`` is the number of its first sector in units of 512 bytes.

        Raises:
            FormatError: the data is not whole sectors.
        """
        return self._new(data, first, encrypt=True)

    def decrypt(self, data: bytes | bytearray | memoryview, first: int = 0) -> memoryview:
        """What :meth:`encrypt` was given.

        Raises:
            FormatError: the data is not whole sectors.
        """
        return self._new(data, first, encrypt=False)

    def encrypt_into(self, data: memoryview, out: memoryview, first: int) -> None:
        """Writes what :meth:`encrypt` returns to ``out``, which is 16 bytes longer than ``data``.

        Raises:
            FormatError: the data is not whole sectors.
        """
        self._run(data, out, first, encrypt=True)

    def _new(self, data: bytes | bytearray | memoryview, first: int, *, encrypt: bool) -> memoryview:
        out = memoryview(bytearray(len(data) + SLACK))
        self._run(memoryview(data), out, first, encrypt=encrypt)
        return out[: len(data)]

    def _run(self, data: memoryview, out: memoryview, first: int, *, encrypt: bool) -> None:
        size, sector, key, xts = len(data), self._sector, self._key, modes.XTS
        if size % sector:
            raise FormatError("data to encrypt", f"{size} bytes are not whole sectors of {sector}; pad it")
        for start in range(0, size, sector):
            mode = xts((first + start // SECTOR_SIZE).to_bytes(16, "little"))
            cipher = Cipher(key, mode)
            context = cipher.encryptor() if encrypt else cipher.decryptor()
            context.update_into(data[start : start + sector], out[start:])


def encrypt_image(
    source: Path,
    target: Path,
    *,
    key: bytes,
    offset: int,
    sector_size: int = 4096,
    source_offset: int = 0,
    size: int | None = None,
    workers: int = 2,
) -> int:
    """Bytes written: ``source`` as the data segment that starts at ``offset`` of an existing ``target``.

    The result does not depend on ``workers``, nor on where the source has holes.

    Args:
        key: 64 bytes, the volume key.
        source_offset: where the plain image starts in its file.
        size: its length in bytes; without it, up to the end of the file.
        workers: processes that encrypt; 1 for none beside this one.

    Raises:
        FormatError: the image is not whole sectors or changes while it is read, or the key is none.
    """
    SectorCipher(key, sector_size)  # a bad key is refused here, not in a worker
    size = _size(source) - source_offset if size is None else size
    if size <= 0 or size % sector_size:
        what = f"{size} bytes are not one or more whole {sector_size}-byte sectors; pad the image"
        raise FormatError(str(source), what)
    job = _Job(source, target, key, offset, sector_size, source_offset)
    ranges = [(start, min(_RANGE, size - start)) for start in range(0, size, _RANGE)]
    try:
        if workers <= 1 or size <= _ALONE:
            for start, length in ranges:
                job(start, length)
            return size
        # Each worker reads, encrypts and writes ranges of its own, so that only numbers travel. Fork, because
        # a fresh interpreter would have to be sent the key.
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, context, _adopt, (job,)) as pool:
            waiting: deque[Future[None]] = deque()
            for start, length in ranges:
                waiting.append(pool.submit(_work, start, length))
                if len(waiting) > 4 * workers:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
    except EOFError as error:
        raise FormatError(str(source), str(error)) from None
    return size


class _Job:
    """One image, of which any process can encrypt any range."""

    def __init__(
        self, source: Path, target: Path, key: bytes, offset: int, sector_size: int, source_offset: int
    ) -> None:
        self._source, self._target = source, target
        self._cipher = SectorCipher(key, sector_size)
        self._offset, self._source_offset = offset, source_offset

    def __call__(self, start: int, length: int) -> None:
        """Encrypts ``length`` bytes from ``start`` of the image on."""
        plain, made = memoryview(bytearray(_PIECE)), memoryview(bytearray(_PIECE + SLACK))
        with self._source.open("rb", buffering=0) as file, self._target.open("r+b", buffering=0) as out:
            for at in range(start, start + length, _PIECE):
                size = min(_PIECE, start + length - at)
                _read(file, self._source_offset + at, plain[:size])
                self._cipher.encrypt_into(plain[:size], made, at // SECTOR_SIZE)
                _write(out, self._offset + at, made[:size])


_adopted: list[_Job] = []  # in a worker process, its job: what is submitted would be pickled into a pipe


def _adopt(job: _Job) -> None:
    _adopted[:] = [job]


def _work(start: int, length: int) -> None:
    _adopted[0](start, length)


def _size(path: Path) -> int:
    """Bytes of a file or block device."""
    with path.open("rb") as file:
        return file.seek(0, io.SEEK_END)


def _read(file: io.FileIO, position: int, into: memoryview) -> None:
    done, end = 0, position + len(into)
    while done < len(into):
        got = os.preadv(file.fileno(), [into[done:]], position + done)
        if got == 0:
            raise EOFError(f"ends at byte {position + done}, expected {end}; it changed while read")
        done += got


def _write(file: io.FileIO, position: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file.fileno(), data[done:], position + done)
