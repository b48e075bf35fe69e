"""An initramfs from its tree to the compressed archive."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .private_keys import own_keys

if TYPE_CHECKING:
    from ..formats.tree import FileTree


def write_archive(
    tree: FileTree, target: Path, *, epoch: int, compress: Callable[[BinaryIO, BinaryIO], object]
) -> None:
    """Writes a cpio archive, compressed.

    Raises:
        SpecError: a file in it is a secret.
    """
    from ..formats import cpio
    from ..sources.secrets import refuse_secrets

    refuse_secrets(tree, "initramfs", own_keys())
    with tempfile.TemporaryFile(dir=target.parent) as plain, target.open("wb") as out:
        cpio.write_newc(tree, plain, epoch=epoch)
        plain.seek(0)
        compress(plain, out)
