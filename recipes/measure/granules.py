"""Content of guest memory in granules, each hashed once however many launches it is part of.

Hashing the granules of a kernel and an initrd is nearly all the work of a realm's measurement. The bytes come
in windows of a few MiB and go again, so that memory stays flat; what stays are the digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

from ..errors import MeasureError
from .rmm_params import GRANULE_SIZE, hash_function
from .trace import HashAlgorithm


class Blob(Protocol):
    """Bytes that are put into guest memory. Hashable, and equal only to blobs of the same content."""

    @property
    def name(self) -> str:
        """What people call it: ``Image``, ``initramfs.cpio.gz``."""
        ...

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    def windows(self) -> Iterator[bytes | memoryview]:
        """All the bytes in order, in pieces of any length, best 1 or 2 MiB.

        A piece is done with when the next is asked for, so all may be one buffer that is filled again.
        """
        ...


@dataclass(frozen=True)
class BytesBlob:
    """Bytes in memory.

    Attributes:
        name: what people call it.
    """

    name: str
    data: bytes

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.data)

    def windows(self) -> Iterator[bytes | memoryview]:
        """All the bytes in order."""
        yield self.data


@dataclass(frozen=True)
class Granules:
    """A run of granules, as the RMM hashes them.

    Attributes:
        digests: of the granules' contents in order, one behind the other.
        content: hash of ``digests``: says whether two runs have the same content.
    """

    digests: bytes
    content: bytes


class GranuleHasher:
    """Digests of blobs' granules, kept for as long as the blob is."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Blob, dict[tuple[int, HashAlgorithm], Granules]] = WeakKeyDictionary()

    def granules(self, blob: Blob, lead: int, algorithm: HashAlgorithm) -> Granules:
        """Digests of the granules that a blob touches.

        Args:
            blob: the content.
            lead: offset of its first byte in its first granule; before it, and behind the last byte up to the
                end of the last granule, guest memory is zero.

        Raises:
            MeasureError: the blob is empty or not as long as it said, ``lead`` is not inside a granule, or no
                RMM measures with the algorithm.
        """
        known = self._known.setdefault(blob, {})
        key = (lead, algorithm)
        if key not in known:
            digests = _hash_granules(blob, lead, algorithm)
            known[key] = Granules(digests, algorithm.digest(digests))
        return known[key]


def _hash_granules(blob: Blob, lead: int, algorithm: HashAlgorithm) -> bytes:
    """Digests of the blob's granules, one behind the other.

    One thread, on purpose: two save wall time only where a processor is idle, and always cost more of it.
    """
    new, size = hash_function(algorithm), GRANULE_SIZE
    digests: list[bytes] = []
    for piece in _pieces(blob, lead):
        starts = range(0, len(piece), size)
        digests.append(b"".join([new(piece[start : start + size]).digest() for start in starts]))
    return b"".join(digests)


def _pieces(blob: Blob, lead: int) -> Iterator[bytes | memoryview]:
    """The blob in guest memory, in pieces of whole granules."""
    if not 0 <= lead < GRANULE_SIZE:
        raise MeasureError(f"{blob.name}: starts {lead} bytes into a granule of {GRANULE_SIZE} bytes")
    if not blob.size:
        raise MeasureError(f"{blob.name}: is empty; there is nothing to populate")
    rest = bytearray(lead)
    seen = 0
    for window in blob.windows():
        view = memoryview(window)
        seen += len(view)
        if seen > blob.size:
            break
        if rest:
            missing = GRANULE_SIZE - len(rest)
            rest += view[:missing]
            view = view[missing:]
            if len(rest) < GRANULE_SIZE:
                continue
            yield bytes(rest)
        whole = len(view) - len(view) % GRANULE_SIZE
        yield view[:whole]
        rest = bytearray(view[whole:])
    if seen != blob.size:
        found = "more" if seen > blob.size else f"{seen}"
        raise MeasureError(
            f"{blob.name}: had {blob.size} bytes and now has {found}; leave it alone while it is measured"
        )
    if rest:
        yield bytes(rest.ljust(GRANULE_SIZE, b"\0"))
