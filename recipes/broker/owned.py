"""Files that decide whom the broker believes, and so may be written by its operator alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import ImageError

# Whoever may write such a file is trusted by the broker. Root may write them all the same.
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ROOT = 0


def read_owned(path: Path, limit: int) -> bytes:
    """The content of a file, at most ``limit`` bytes of it.

    Raises:
        ImageError: others may write it.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        check_owned(path, os.fstat(file.fileno()))
        return file.read(limit)


def check_owned(path: Path, found: os.stat_result) -> None:
    """Returns if only the broker's own user, or root, may write a file or folder.

    Raises:
        ImageError: others may.
    """
    if found.st_uid not in (os.geteuid(), _ROOT):
        what = f"belongs to user {found.st_uid}, this is user {os.geteuid()}"
        raise ImageError(f"{path}: {what}; whom to believe is its own user's to say, or root's")
    if found.st_mode & _OTHERS_WRITE:
        what = f"mode {stat.S_IMODE(found.st_mode):04o} lets others write"
        raise ImageError(f"{path}: {what}; `chmod go-w` it, and look whom it makes the broker believe")
