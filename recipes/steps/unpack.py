"""Package files for a step: unpacked into a spool that lives as long as the step."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .packages import package_files

if TYPE_CHECKING:
    from ..formats.tree import FileTree
    from ..sources.debs import InstalledPackage


def workers() -> int:
    """How many processes a step may use; the products never depend on it."""
    return min(len(os.sched_getaffinity(0)), 8)


@contextmanager
def unpacked(
    lock_path: Path, group: str, beside: Path, exclude: Sequence[str] = ()
) -> Iterator[tuple[FileTree, tuple[InstalledPackage, ...]]]:
    """The files and the packages of one group of a lock.

    File content stays in a spool folder beside ``beside`` until the context ends.
    """
    from ..sources import debs
    from ..sources import lock as locks

    lock = locks.load(lock_path)
    with tempfile.TemporaryDirectory(prefix=".spool.", dir=beside.parent) as spool:
        yield debs.unpack(package_files(lock, group), Path(spool), workers=workers(), exclude=exclude)
