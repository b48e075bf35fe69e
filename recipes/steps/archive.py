"""An initramfs from its tree to the compressed archive."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .private_keys import own_keys

if TYPE_CHECKING:
    from ..formats.tree import FileTree


def write_archive(
    tree: FileTree,
    target: Path,
    *,
    epoch: int,
    compress: Callable[[BinaryIO, BinaryIO], object],
    secret: Collection[str] = (),
) -> None:
    """Writes a cpio archive, compressed.

    Args:
        secret: tree paths that are secret on purpose, in a development image.

    Raises:
        SpecError: a file in it is a secret.
    """
    from ..formats import cpio
    from ..formats.tree import FileTree
    from ..sources.secrets import refuse_secrets

    public = FileTree()
    public.nodes.update({path: node for path, node in tree.nodes.items() if path not in secret})
    refuse_secrets(public, "initramfs", own_keys())
    with tempfile.TemporaryFile(dir=target.parent) as plain, target.open("wb") as out:
        cpio.write_newc(tree, plain, epoch=epoch)
        plain.seek(0)
        compress(plain, out)
