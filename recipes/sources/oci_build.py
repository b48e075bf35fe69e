"""An application image made from a tree: one layer, a configuration, a manifest and an index with a tag.

Nothing but the tree and the settings has an influence: no time, no host, no user, no host's tool.

Spec: OCI image-spec 1.1.0; islet-project/image-registry 92e5635, ir-server/src/oci/application.rs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import FormatError
from ..formats.inodes import where
from ..formats.oci import (
    BLOBS,
    INDEX_FILE,
    LAYOUT_FILE,
    REF_NAME,
    TAG,
    Descriptor,
    Digest,
    DigestAlgorithm,
    ImageConfig,
    MediaType,
    Platform,
)
from ..formats.oci_tar import write_tar
from ..formats.oci_write import layout_marker, write_config, write_index, write_manifest
from ..formats.tree import FileTree, NodeType
from ..units import format_size
from .oci import DEFAULT_TAG, PLATFORM, ImageLayout
from .oci_layer import WHITEOUT
from .oci_layout import BLOB_LIMIT, make_folders, write_blob, write_file

_DEVICES = (NodeType.CHARACTER, NodeType.BLOCK)
_ENV = re.compile(r"[^=\0]+=[^\0]*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How the application is started, and what the image is called.

    Attributes:
        entrypoint: the command's first words; ``cmd`` follows them.
        env: ``NAME=value`` each.
        user: ``user`` or ``user:group``; empty is root.
        working_dir: an absolute path; empty is the root.
        platform: what it runs on.
    """

    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    tag: str = DEFAULT_TAG
    platform: Platform = PLATFORM


def build_image(tree: FileTree, folder: Path, settings: ImageSettings, *, epoch: int = 0) -> ImageLayout:
    """A layout in an empty folder, with the tree as its only layer, uncompressed.

    Files are 0644 and folders 0755, whatever the umask. Times of the tree's entries later than ``epoch``
    (seconds since 1970) become ``epoch``.

    Raises:
        FormatError: settings or a tree that no image can have, or a layer of 2 GiB or more.
    """
    _check_settings(settings)
    _check_tree(tree)
    make_folders(folder, [DigestAlgorithm.SHA256])
    layer = _write_layer(tree, folder, epoch)
    config_data = write_config(
        ImageConfig(
            platform=settings.platform,
            diff_ids=(layer.digest,),
            entrypoint=settings.entrypoint,
            cmd=settings.cmd,
            env=settings.env,
            user=settings.user,
            working_dir=settings.working_dir,
        )
    )
    config = _blob(folder, MediaType.CONFIG, config_data)
    manifest = _blob(folder, MediaType.MANIFEST, write_manifest(config, [layer]))
    tagged = Descriptor(
        media_type=manifest.media_type,
        digest=manifest.digest,
        size=manifest.size,
        annotations=((REF_NAME, settings.tag),),
        platform=settings.platform,
    )
    write_file(folder / LAYOUT_FILE, [layout_marker()])
    write_file(folder / INDEX_FILE, [write_index([tagged])])
    return ImageLayout(
        manifest=manifest.digest, config=config.digest, layers=(layer.digest,), tag=settings.tag
    )


def _check_settings(settings: ImageSettings) -> None:
    texts = (*settings.entrypoint, *settings.cmd, settings.user, settings.working_dir)
    if not settings.entrypoint:
        raise FormatError("image settings", "there is no entrypoint; say which program the image runs")
    if any("\0" in text for text in texts):
        raise FormatError("image settings", "a NUL character in a text; remove it")
    for item in settings.env:
        if _ENV.fullmatch(item) is None:
            raise FormatError("image settings", f"environment {item!r} is not NAME=value")
    if settings.working_dir and not settings.working_dir.startswith("/"):
        what = f"working directory {settings.working_dir!r} is not an absolute path"
        raise FormatError("image settings", what)
    if TAG.fullmatch(settings.tag) is None:
        what = f"tag {settings.tag!r} is not 1 to 128 letters, digits, '.', '_' and '-'"
        raise FormatError("image settings", what)


def _check_tree(tree: FileTree) -> None:
    """Stops at what an import of the same image would refuse."""
    for path, node in tree.nodes.items():
        name = path.rpartition("/")[2]
        if node.type in _DEVICES:
            what = f"a {node.type.value}; an application image must have none, leave it out"
            raise FormatError(where(path, node), what)
        if name.startswith(WHITEOUT):
            raise FormatError(where(path, node), f"names that begin with {WHITEOUT} remove files; rename it")
        if any("\udc80" <= letter <= "\udcff" for letter in name):
            raise FormatError(
                where(path, node), "the name is not UTF-8, which Islet's client needs; rename it"
            )


def _blob(folder: Path, kind: MediaType, data: bytes) -> Descriptor:
    digest = Digest.of(data)
    write_blob(folder, digest, data)
    return Descriptor(media_type=kind, digest=digest, size=len(data))


def _write_layer(tree: FileTree, folder: Path, epoch: int) -> Descriptor:
    """The layer's archive, written once under a passing name, since its own is its digest."""
    passing = folder / BLOBS / "layer.tmp"
    descriptor = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)
        out = _Hashing(file)
        size = write_tar(tree, out, epoch=epoch)
    digest = Digest(DigestAlgorithm.SHA256, out.digest.digest())
    passing.rename(folder / digest.path)
    return Descriptor(media_type=MediaType.LAYER, digest=digest, size=size)


class _Hashing:
    """A file to write to that keeps the digest of what went in, and its size below the limit for blobs."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = DigestAlgorithm.SHA256.new()
        self._file = file
        self._size = 0

    def write(self, data: bytes, /) -> int:
        """Number of bytes written, all of them."""
        self._size += len(data)
        if self._size >= BLOB_LIMIT:
            what = f"more than {format_size(BLOB_LIMIT - 1)}; blobs of 2 GiB and more are refused"
            raise FormatError("image layer", f"{what}, leave files out")
        self.digest.update(data)
        return self._file.write(data)
