"""Files that decide whom the broker believes, and so may be written by its operator alone.

Owner and mode are looked at on the descriptor that is then read: a name may lead elsewhere a moment later.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError

# Whoever may write such a file is trusted by the broker. Root may write them all the same.
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ROOT = 0
# O_NONBLOCK: a pipe must not hold us.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class OwnedFolder:
    """A folder that is held open, so that all that is read of it is of the one that was looked at.

    Attributes:
        path: for messages.
        descriptor: of the open folder.
    """

    path: Path
    descriptor: int

    def names(self, suffix: str) -> list[str]:
        """The names in it that end with ``suffix``, sorted.

        Raises:
            OSError: it cannot be read.
        """
        try:
            with os.scandir(self.descriptor) as found:
                return sorted(entry.name for entry in found if entry.name.endswith(suffix))
        except OSError as error:
            error.filename = str(self.path)
            raise

    def read(self, name: str, limit: int) -> bytes:
        """As ``read_owned`` of a file in it."""
        path = self.path / name
        try:
            file = os.open(name, _FLAGS, dir_fd=self.descriptor)
        except OSError as error:
            error.filename = str(path)
            raise
        return _read(file, path, limit)


@contextmanager
def open_owned(folder: Path, advice: str) -> Iterator[OwnedFolder]:
    """A folder, for as long as it is needed.

    Args:
        advice: what to put into a folder that is not there.

    Raises:
        ImageError: there is no such folder, or others may write it.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(folder, _FLAGS | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{folder}: no folder; make it, {advice}") from None
    try:
        check_owned(folder, os.fstat(descriptor))
        yield OwnedFolder(folder, descriptor)
    finally:
        os.close(descriptor)


def read_owned(path: Path, limit: int, *, own_group: bool = False) -> bytes:
    """The content of a file, at most ``limit`` bytes of it.

    Args:
        own_group: as of ``check_owned``.

    Raises:
        ImageError: others may write it, or it is no file.
        OSError: it cannot be read.
    """
    return _read(os.open(path, _FLAGS), path, limit, own_group=own_group)


def check_owned(path: Path, found: os.stat_result, *, own_group: bool = False) -> None:
    """Returns if only the broker's own user, or root, may write a file or folder.

    Args:
        own_group: whether the group may write where it is its owner's and nobody else is in it. Then a umask
            of 002 is usual, and so is that mode for what a build has written.

    Raises:
        ImageError: others may.
    """
    if found.st_uid not in (os.geteuid(), _ROOT):
        what = f"belongs to user {found.st_uid}, this is user {os.geteuid()}"
        raise ImageError(f"{path}: {what}; whom to believe is its own user's to say, or root's")
    others = stat.S_IWOTH if own_group and _is_own_group(found) else _OTHERS_WRITE
    if found.st_mode & others:
        what = f"mode {stat.S_IMODE(found.st_mode):04o} lets others write"
        raise ImageError(f"{path}: {what}; `chmod go-w` it, and look whom it makes the broker believe")


def _is_own_group(found: os.stat_result) -> bool:
    """Whether the group has its owner's name, as systems make one for each user, and no other member.

    Whose first group it is does not stand in the group's own list.
    """
    try:
        owner, group = pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    first = {user.pw_name for user in pwd.getpwall() if user.pw_gid == found.st_gid}
    return group.gr_name == owner and first | set(group.gr_mem) <= {owner}


def _read(descriptor: int, path: Path, limit: int, *, own_group: bool = False) -> bytes:
    try:
        found = os.fstat(descriptor)
        check_owned(path, found, own_group=own_group)
        if not stat.S_ISREG(found.st_mode):
            raise ImageError(f"{path}: not a regular file; name one that the broker's own user has written")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)
