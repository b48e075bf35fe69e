"""An OCI layout as a folder or a tar archive: its files found, read with their digests checked, and written.

Nothing is followed that leads elsewhere: links, special files and paths out of the layout are refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError
from ..formats.oci import (
    BLOBS,
    INDEX_FILE,
    LAYOUT_FILE,
    MAX_DOCUMENT,
    Descriptor,
    Digest,
    DigestAlgorithm,
    read_layout_marker,
)
from ..formats.tarstream import FileArchive, entries
from ..formats.tree import FilePayload, NodeType, Payload
from ..units import GIB, format_size

MAX_FILES = 10_000  # a bound of ours: images have tens of blobs
BLOB_LIMIT = 2 * GIB  # a bound of ours: the first size that a signed 32-bit number does not hold
_COMPRESSED = {
    b"\x1f\x8b": "gzip",  # RFC 1952
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",  # RFC 8878
}


@dataclass(frozen=True)
class Layout:
    """The files of a layout, by their paths in it; content stays where it is."""

    name: str
    files: dict[str, Payload]

    def read(self, path: str) -> bytes:
        """A whole small file.

        Raises:
            FormatError: it is missing or larger than any document may be.
        """
        payload = self.files.get(path)
        if payload is None:
            raise FormatError(self.name, f"there is no {path}; give an OCI layout, a folder or a tar archive")
        if payload.size > MAX_DOCUMENT:
            what = f"{format_size(payload.size)}, at most {format_size(MAX_DOCUMENT)} are read"
            raise FormatError(f"{self.name}: {path}", what)
        return b"".join(_chunks(payload, f"{self.name}: {path}"))

    def where(self, what: str, digest: Digest) -> str:
        """How messages name a blob."""
        return f"{self.name}: {what} {digest}"

    def document(self, descriptor: Descriptor, what: str) -> bytes:
        """A whole blob that is a document, its size and digest checked.

        Raises:
            FormatError: as for ``pieces``, or larger than any document may be.
        """
        if descriptor.size > MAX_DOCUMENT:
            size = f"{format_size(descriptor.size)}, at most {format_size(MAX_DOCUMENT)} are read"
            raise FormatError(self.where(what, descriptor.digest), size)
        return b"".join(self.pieces(descriptor, what))

    def pieces(self, descriptor: Descriptor, what: str) -> Iterator[bytes]:
        """The bytes of a blob in pieces of at most 1 MiB; whoever takes the last one has them all checked.

        Raises:
            FormatError: the blob is missing, has another size or digest, or has 2 GiB or more.
        """
        digest = descriptor.digest.algorithm.new()
        for piece in self.unchecked(descriptor, what):
            digest.update(piece)
            yield piece
        found = Digest(descriptor.digest.algorithm, digest.digest())
        if found != descriptor.digest:
            wrong = f"the content has the digest {found}; the image is damaged, fetch it again"
            raise FormatError(self.where(what, descriptor.digest), wrong)

    def unchecked(self, descriptor: Descriptor, what: str) -> Iterator[bytes]:
        """As ``pieces`` for a blob whose digest was checked before."""
        place = self.where(what, descriptor.digest)
        payload = self.files.get(descriptor.digest.path)
        size = descriptor.size if payload is None else max(payload.size, descriptor.size)
        if size >= BLOB_LIMIT:
            large = f"{format_size(size)}; blobs of 2 GiB and more are refused, split it into several layers"
            raise FormatError(place, large)
        if payload is None:
            raise FormatError(place, "the layout does not have this blob; export the image again, whole")
        if payload.size != descriptor.size:
            raise FormatError(place, f"{payload.size} bytes, its reference says {descriptor.size}")
        yield from _chunks(payload, place)


def open_layout(path: Path) -> Layout:
    """The layout in a folder or in an uncompressed tar archive, its version checked; no blob is read yet.

    Raises:
        FormatError: it is neither, or holds something that is no file or leads outside.
    """
    name = str(path)
    try:
        if path.is_dir():
            files = _folder_files(path, name)
        elif path.is_file():
            files = _archive_files(path, name)
        else:
            what = "neither a file nor a folder" if path.exists() else "there is no such file or folder"
            raise FormatError(name, f"{what}; give an OCI layout or a tar archive")
    except OSError as error:
        raise FormatError(name, f"cannot be read: {error.strerror}") from None
    layout = Layout(name, files)
    read_layout_marker(layout.read(LAYOUT_FILE), f"{name}: {LAYOUT_FILE}")
    return layout


def _folder_files(folder: Path, name: str) -> dict[str, Payload]:
    if not (folder / LAYOUT_FILE).is_file():
        # Said before the walk: any folder could be given by mistake.
        raise FormatError(name, f"there is no {LAYOUT_FILE}; give an OCI layout, a folder or a tar archive")
    files: dict[str, Payload] = {}
    waiting = [(folder, "")]
    while waiting:
        place, prefix = waiting.pop()
        with os.scandir(place) as found:
            items = sorted(found, key=lambda item: os.fsencode(item.name))
        for item in items:
            path = f"{prefix}{item.name}"
            status = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                waiting.append((Path(item.path), f"{path}/"))
            elif stat.S_ISREG(status.st_mode):
                files[path] = FilePayload(Path(item.path), 0, status.st_size)
            else:
                kind = "symbolic link" if stat.S_ISLNK(status.st_mode) else "special file"
                raise FormatError(name, f"{path!r} is a {kind}; a layout has files and folders only")
            _check_count(len(files) + len(waiting), name)
    return files


def _archive_files(path: Path, name: str) -> dict[str, Payload]:
    files: dict[str, Payload] = {}
    folders: set[str] = set()
    with path.open("rb") as file:
        start = file.read(6)
        for magic, kind in _COMPRESSED.items():
            if start.startswith(magic):
                raise FormatError(name, f"compressed with {kind}; unpack it first, to a plain tar archive")
        archive = FileArchive(path, file.fileno(), 0, os.fstat(file.fileno()).st_size, name)
        for member, node in entries(archive):
            if node.type is NodeType.DIRECTORY:
                folders.add(member)
            elif node.type is not NodeType.FILE or node.payload is None:
                what = f"{member!r} is a {node.type.value}; a layout has files and folders only"
                raise FormatError(name, what)
            elif member in files:
                raise FormatError(name, f"{member!r} is in the archive twice")
            else:
                files[member] = node.payload
            _check_count(len(files) + len(folders), name)
    for member in sorted(folders & files.keys()):
        raise FormatError(name, f"{member!r} is a file and a folder")
    return files


def _check_count(count: int, name: str) -> None:
    if count > MAX_FILES:
        raise FormatError(name, f"more than {MAX_FILES} files and folders; this is no OCI layout")


def _chunks(payload: Payload, where: str) -> Iterator[bytes]:
    try:
        yield from payload.chunks()
    except EOFError as error:
        raise FormatError(where, f"{error}; build again") from None
    except OSError as error:
        raise FormatError(where, f"cannot be read: {error.strerror}") from None


def make_folders(folder: Path, algorithms: Iterable[DigestAlgorithm]) -> None:
    """The folders for blobs in an empty folder, 0755 whatever the umask."""
    names = sorted({algorithm.value for algorithm in algorithms})
    for path in (folder / BLOBS, *(folder / BLOBS / name for name in names)):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """A new file, 0644 whatever the umask; an existing one is not touched.

    Raises:
        FileExistsError: there is something at ``path``.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)
        for piece in pieces:
            file.write(piece)


def write_blob(folder: Path, digest: Digest, data: bytes) -> None:
    """A blob held in memory, in place of one of the same digest."""
    path = folder / digest.path
    path.unlink(missing_ok=True)
    write_file(path, [data])


def replace_index(folder: Path, data: bytes) -> None:
    """A new ``index.json`` in place of the old one, in one step."""
    fresh = folder / f"{INDEX_FILE}.tmp"
    write_file(fresh, [data])
    fresh.replace(folder / INDEX_FILE)
