"""A raw disk as the writers of disk formats see it: sectors read by offset, and where there is content.

Content is decided by the bytes. How the file happens to be allocated only saves reading: two copies of the
same bytes, one sparse and one not, look alike from here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO, Self

from ..errors import FormatError
from ..record import dataclass, replace
from ..units import KIB, SECTOR_SIZE, align_up

# What is read at a time, in whole granules, so more where a granule is larger. It fits into the processor's
# cache: with 1 MiB, reading and writing it took more than twice as long.
CHUNK = 256 * KIB

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RawDisk:
    """A raw image in a file that the caller opened for reading; its position is moved about.

    Attributes:
        name: for messages.
        file: anything that ``os.pread`` takes.
        size: bytes of the disk, whole sectors of 512 bytes; what is beyond the end of the file is zero.
        patches: pieces that replace what the file has, (offset, bytes), in order and apart.
        stamp: length and time of the last change of the file, as it was when this was made.

    Raises:
        FormatError: no sectors at all, not whole sectors, or fewer than the file has.
    """

    name: str
    file: BinaryIO
    size: int
    patches: tuple[tuple[int, bytes], ...] = ()
    stamp: tuple[int, int] = (-1, -1)

    def __post_init__(self) -> None:
        if self.stamp == (-1, -1):
            object.__setattr__(self, "stamp", _stamp(self.file))
        if self.size <= 0:
            raise FormatError(self.name, "is empty; a disk has at least one sector of 512 bytes")
        if self.size % SECTOR_SIZE:
            what = f"{self.size} bytes are not whole sectors of {SECTOR_SIZE}; was the image cut short?"
            raise FormatError(self.name, what)
        if self.size < self.stamp[0]:
            what = f"a disk of {self.size} bytes has no room for a file of {self.stamp[0]}; a disk only grows"
            raise FormatError(self.name, what)

    @classmethod
    def of(cls, name: str, file: BinaryIO) -> Self:
        """The disk that is all of ``file``.

        Raises:
            FormatError: empty, or not whole sectors.
        """
        return cls(name, file, _stamp(file)[0])

    def grown(self, size: int) -> Self:
        """The same disk with zeros behind it, ``size`` bytes in all.

        Raises:
            FormatError: smaller than it is, or not whole sectors.
        """
        if size < self.size:
            what = f"{size} bytes are fewer than the {self.size} it has; a disk only grows"
            raise FormatError(self.name, what)
        return replace(self, size=size)

    def patched(self, offset: int, data: bytes) -> Self:
        """The same disk with ``data`` at ``offset``; the file stays as it is.

        Raises:
            FormatError: beyond the end of the disk, or across another patch.
        """
        end = offset + len(data)
        if offset < 0 or end > self.size:
            what = f"{len(data)} bytes do not fit there, the disk ends at {self.size}; grow it first"
            raise FormatError(self.name, what, offset=offset)
        for other, piece in self.patches:
            if other < end and offset < other + len(piece):
                raise FormatError(self.name, "two patches overlap; join them", offset=max(other, offset))
        return replace(self, patches=tuple(sorted((*self.patches, (offset, data)))))

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``; zeros beyond the end of the file.

        Raises:
            FormatError: the file is shorter than it was.
        """
        stop = min(offset + length, self.stamp[0])
        data = self._pread(offset, stop - offset) if stop > offset else b""
        if len(data) < length:
            data += bytes(length - len(data))
        for start, piece in self.patches:
            if start < offset + length and offset < start + len(piece):
                data = _overlay(data, start - offset, piece)
        return data

    def pieces(self, granule: int, progress: Progress | None = None) -> Iterator[tuple[int, bytes]]:
        """Runs of granules that each hold a byte other than zero: (offset, content), in order.

        A run is cut in two wherever it meets a multiple of 256 KiB, or of the granule where that does not
        divide 256 KiB. The last granule ends with the disk.

        Args:
            granule: in bytes.
            progress: called with bytes of the disk dealt with and its size, now and then and at the end.

        Raises:
            FormatError: the file was changed since this was made.
        """
        for position, data, runs in self.chunks(granule, progress):
            for start, end in runs:
                yield position + start, data[start:end] if end - start < len(data) else data

    def chunks(
        self, granule: int, progress: Progress | None = None
    ) -> Generator[tuple[int, bytes, list[tuple[int, int]]]]:
        """The same without cutting: offset and bytes of what was read, and (start, end) of the runs in it.

        Raises:
            FormatError: the file was changed since this was made.
        """
        chunk = align_up(CHUNK, granule)
        zero = bytes(granule)
        position = 0
        while (found := self._next_data(position)) < self.size:
            position = max(position, found // chunk * chunk)
            data = self.read(position, min(chunk, self.size - position))
            if runs := list(_runs(data, zero)):
                yield position, data, runs
            position += chunk
            if progress is not None and position < self.size:
                progress(position, self.size)
        self.check_unchanged()
        if progress is not None:
            progress(self.size, self.size)

    def extents(self, granule: int, progress: Progress | None = None) -> Iterator[tuple[int, int]]:
        """(offset, length) of the longest runs of granules that each hold a byte other than zero, in order.

        Offsets are multiples of ``granule``, and so are lengths, but for the one that ends with the disk.

        Args:
            granule: in bytes.
            progress: called with bytes of the disk dealt with and its size, now and then and at the end.

        Raises:
            FormatError: the file was changed since this was made.
        """
        start = end = 0
        for offset, data in self.pieces(granule, progress):
            if offset != end:
                if end > start:
                    yield start, end - start
                start = offset
            end = offset + len(data)
        if end > start:
            yield start, end - start

    def check_unchanged(self) -> None:
        """Returns if the file is as it was when this was made.

        Raises:
            FormatError: its length or the time of its last change is another.
        """
        now = _stamp(self.file)
        if now[0] != self.stamp[0]:
            self._changed(f"it had {self.stamp[0]} bytes and now has {now[0]}")
        if now[1] != self.stamp[1]:
            self._changed("it has been written to since it was opened")

    def _changed(self, how: str) -> None:
        raise FormatError(self.name, f"changed while it was read: {how}; stop what writes to it, then retry")

    def _pread(self, offset: int, length: int) -> bytes:
        data = os.pread(self.file.fileno(), length, offset)
        while len(data) < length:
            more = os.pread(self.file.fileno(), length - len(data), offset + len(data))
            if not more:
                self._changed(f"it had {self.stamp[0]} bytes and now ends at {offset + len(data)}")
            data += more
        return data

    def _next_data(self, position: int) -> int:
        """The first byte from ``position`` that need not be zero, or the size of the disk."""
        found = self.size
        if position < self.stamp[0]:
            found = min(_seek_data(self.file.fileno(), position, self.size), found)
        for start, piece in self.patches:
            if start + len(piece) > position:
                return min(found, max(start, position))
        return found


def _stamp(file: BinaryIO) -> tuple[int, int]:
    """Length, of a block device too, and time of the last change."""
    number = file.fileno()
    return os.lseek(number, 0, os.SEEK_END), os.fstat(number).st_mtime_ns


def _seek_data(number: int, position: int, end: int) -> int:
    try:
        return os.lseek(number, position, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: a hole up to the end. Anything else: no holes on this file system.
        return end if error.errno == errno.ENXIO else position


def _runs(data: bytes, zero: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of the runs of pieces of ``len(zero)`` bytes in ``data`` that are not zero."""
    step, size = len(zero), len(data)
    is_zero = data.startswith  # compares in place and stops at the first difference
    start = -1
    for here in range(0, size, step):
        if is_zero(zero, here) or (size - here < step and not any(data[here:])):
            if start >= 0:
                yield start, here
            start = -1
        elif start < 0:
            start = here
    if start >= 0:
        yield start, size


def _overlay(data: bytes, start: int, piece: bytes) -> bytes:
    """``data`` with the part of ``piece`` that meets it; ``start`` may be negative."""
    if start < 0:
        start, piece = 0, piece[-start:]
    piece = piece[: len(data) - start]
    return data[:start] + piece + data[start + len(piece) :]
