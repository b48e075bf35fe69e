"""Layers of an image checked as a stream: the digest of the archive inside, and that no entry leads outside.

The checks are those a careful unpacker makes, made before anything is unpacked, and over all layers together:
what a lower layer links is what an upper layer could write through.

Spec: OCI image-spec 1.1.0 layer.md, "Whiteouts"; config.md, "Layer DiffID";
islet-project/image-registry 92e5635, ir-client/src/layer.rs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..errors import FormatError
from ..formats.decompress import decompress
from ..formats.oci import LAYERS, Descriptor, Digest, Hash, MediaType
from ..formats.tarstream import entries
from ..formats.tree import BytesPayload, Node, NodeType
from ..units import GIB, MIB

# Bounds of ours against layers made to fill a disk or the memory. Deflate shrinks zeros to a thousandth at
# best (RFC 1951: 258 bytes in two bits); zstd can do more, which is taken up to the first bound.
FREE_SIZE, MAX_RATIO, MAX_SIZE = 256 * MIB, 1000, 16 * GIB
MAX_ENTRIES = 1_000_000
MAX_LINK_BYTES = 32 * MIB
PATH_MAX = 4095  # bytes without the closing NUL: Linux include/uapi/linux/limits.h
MAX_LINKS = 40  # followed on one path: Linux include/linux/namei.h, MAXSYMLINKS
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"  # Spec: layer.md, "Whiteouts" and "Opaque Whiteout"
_FAR = 1 << 62


@dataclass
class Links:
    """The symbolic links of the layers so far, by the path where each really lies."""

    targets: dict[str, str] = field(default_factory=dict)
    size: int = 0

    def add(self, path: str, node: Node, source: str) -> None:
        """Takes in the next entry.

        Raises:
            FormatError: it is a device, or is written or linked outside the image's own tree.
        """
        if not path:
            return
        above, _, last = path.rpartition("/")
        _check_name(path, last, node, source)
        place = self._follow(above, path, source)
        here = _join(place, last)
        if node.type is NodeType.HARDLINK:
            folder, _, name = node.target.rpartition("/")
            other = _join(self._follow(folder, path, source), name)
            # A second name of a symbolic link is one too.
            self._set(here, self.targets.get(other), source)
        elif node.type is NodeType.SYMLINK:
            self._set(here, node.target, source)
        elif node.type is NodeType.FILE and last.startswith(WHITEOUT) and last != OPAQUE:
            hidden = last.removeprefix(WHITEOUT)
            self._set(_join(place, hidden), None, source)
        else:
            self._set(here, None, source)

    def _set(self, place: str, target: str | None, source: str) -> None:
        """Notes where the link at ``place`` leads; None says that there is none any more."""
        old = self.targets.pop(place, None)
        if old is not None:
            self.size -= len(place) + len(old)
        if target is None:
            return
        self.targets[place] = target
        self.size += len(place) + len(target)
        if self.size > MAX_LINK_BYTES:
            raise FormatError(source, f"the names of symbolic links take more than {MAX_LINK_BYTES} bytes")

    def _follow(self, folder: str, path: str, source: str) -> str:
        """Where a folder really lies, its links followed within the tree."""
        waiting = [part for part in reversed(folder.split("/")) if part]
        reached = [""]
        hops = 0
        while waiting:
            part = waiting.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(reached) == 1:
                    raise FormatError(source, f"{path!r} leads through a link out of the image")
                reached.pop()
                continue
            here = _join(reached[-1], part)
            target = self.targets.get(here)
            if target is None:
                reached.append(here)
                continue
            hops += 1
            if target.startswith("/") or hops > MAX_LINKS:
                what = "out of the image" if target.startswith("/") else "in a circle"
                raise FormatError(source, f"{path!r} leads through the link {here!r} -> {target!r} {what}")
            waiting += reversed(target.split("/"))
        return reached[-1]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _check_name(path: str, last: str, node: Node, source: str) -> None:
    if node.type in (NodeType.CHARACTER, NodeType.BLOCK):
        raise FormatError(source, f"{path!r} is a {node.type.value}; an application image must have none")
    for text in (path, node.target):
        if len(text.encode("utf-8", "surrogateescape")) > PATH_MAX:
            raise FormatError(source, f"{text[:80]!r}... is longer than {PATH_MAX} bytes")
    if node.type is not NodeType.FILE:
        return
    if last.startswith(WHITEOUT) and last.removeprefix(WHITEOUT) in ("", ".", ".."):
        raise FormatError(source, f"{path!r} would remove a directory above it, not a file")
    if any("\udc80" <= letter <= "\udcff" for letter in last):
        raise FormatError(source, f"{path!r} is not UTF-8, which Islet's client needs; rename it")


def check_layer(
    pieces: Iterable[bytes], layer: Descriptor, diff_id: Digest, links: Links, source: str
) -> None:
    """Checks one layer in one pass, and adds its links to ``links``.

    Args:
        pieces: the blob's bytes, their digest known to be right.

    Raises:
        FormatError: it does not unpack, unpacks to far more than it should or to something else than
            ``diff_id``, is no tar archive, or has an entry that is refused.
    """
    limit = layer.size if layer.media_type is MediaType.LAYER else _unpacked_limit(layer.size)
    unpacked = decompress(pieces, LAYERS[layer.media_type], source=source, limit=limit)
    digest = diff_id.algorithm.new()
    archive = _Stream(_hashed(unpacked, digest), source)
    for number, (path, node) in enumerate(entries(archive)):
        if number >= MAX_ENTRIES:
            raise FormatError(source, f"more than {MAX_ENTRIES} entries")
        links.add(path, node, source)
    found = Digest(diff_id.algorithm, digest.digest())
    if found != diff_id:
        what = f"unpacks to {found}, the image's configuration says {diff_id}; build the image again"
        raise FormatError(source, what)


def _unpacked_limit(size: int) -> int:
    """The most bytes that a compressed layer of ``size`` bytes may unpack to."""
    return min(max(FREE_SIZE, MAX_RATIO * size), MAX_SIZE)


def _hashed(pieces: Iterable[bytes], digest: Hash) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


class _Stream:
    """A tar archive that comes in pieces and is read once from front to back."""

    def __init__(self, pieces: Iterator[bytes], source: str) -> None:
        self.source = source
        self._pieces = pieces
        self._data = b""
        self._start = 0  # where ``_data`` begins in the archive
        # One piece ahead, so that the end is known as soon as the last byte is.
        self._next = next(pieces, None)

    @property
    def size(self) -> int:
        """Length in bytes; until the end is in sight, more than any archive has."""
        return _FAR if self._next is not None else self._start + len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end; never from before an offset that was read."""
        while self._next is not None and self._start + len(self._data) < offset + size:
            self._more(offset)
        begin = offset - self._start
        return self._data[begin : begin + size]

    def payload(self, offset: int, size: int) -> BytesPayload:
        """Nothing: content is hashed as it passes, and nobody asks for it again."""
        return BytesPayload(b"")

    def _more(self, keep: int) -> None:
        """Appends the next piece; what lies before ``keep`` is let go."""
        drop = min(max(keep - self._start, 0), len(self._data))
        self._data = self._data[drop:] + (self._next or b"")
        self._start += drop
        self._next = next(self._pieces, None)
