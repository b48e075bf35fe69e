"""Keys of volumes in a folder that nobody else can look into: a file for each volume, read when asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType

from ..errors import ImageError
from .messages import is_volume_name

# Raw bytes; dm-crypt and LUKS2 take what is between.
KEY_SIZES = range(32, 513)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class KeyFileError(ImageError):
    """A key, or the folder of keys, that is not as it must be; it never says what is in it."""


class VolumeKey:
    """A volume's key for as long as it is needed; its text says nothing, and it is zero afterwards."""

    __slots__ = ("_volume", "data")

    def __init__(self, volume: str, data: bytearray) -> None:
        self._volume, self.data = volume, data

    def __repr__(self) -> str:
        return f"<key of {self._volume}>"

    def __enter__(self) -> VolumeKey:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.data[:] = bytes(len(self.data))


class KeyStore:
    """The keys below one folder.

    Every look at them begins with the folder's and the file's owner and mode, so that a change for the worse
    stops the broker and not only its start.

    Args:
        folder: of this user alone, mode 0700 or less; its files 0600 or less.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def volumes(self) -> tuple[str, ...]:
        """Names of all volumes, sorted; every key has been looked at.

        Raises:
            KeyFileError: a file is not a volume's key, or others can read it.
        """
        folder = self._open_folder()
        try:
            with os.scandir(folder) as found:
                names = sorted(entry.name for entry in found)
        finally:
            os.close(folder)
        for name in names:
            with self.key(name):
                pass
        return tuple(names)

    def key(self, volume: str) -> VolumeKey:
        """The key of a volume; leaving its context zeroes it.

        Raises:
            KeyFileError: there is none, others can read it, or it has not 32 to 512 bytes.
        """
        if not is_volume_name(volume):
            raise KeyFileError(
                f"{self._folder}: {volume!r} is no volume's name; keep keys alone in this folder"
            )
        folder = self._open_folder()
        try:
            # O_NOFOLLOW: what a link leads to has another folder's mode. O_NONBLOCK: a pipe must not hold us.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(volume, flags, dir_fd=folder)
        except OSError as error:
            raise self._unreadable(self._folder / volume, error) from None
        finally:
            os.close(folder)
        try:
            return VolumeKey(volume, self._read(file, volume))
        finally:
            os.close(file)

    def _read(self, file: int, volume: str) -> bytearray:
        path = self._folder / volume
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError(f"{path}: not a regular file; keep keys alone in this folder")
        check_private(path, found, "600")
        if found.st_size not in KEY_SIZES:
            what = f"key of {found.st_size} bytes, expected {KEY_SIZES[0]} to {KEY_SIZES[-1]} raw ones"
            raise KeyFileError(f"{path}: {what}; make one with `head -c 64 /dev/urandom`")
        data = bytearray(found.st_size)
        count = os.readv(file, [data])
        if count != found.st_size:
            data[:] = bytes(len(data))
            raise KeyFileError(
                f"{path}: {count} of {found.st_size} bytes could be read; it changed meanwhile"
            )
        return data

    def _open_folder(self) -> int:
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unreadable(self._folder, error) from None
        try:
            check_private(self._folder, os.fstat(folder), "700")
        except KeyFileError:
            os.close(folder)
            raise
        return folder

    @staticmethod
    def _unreadable(path: Path, error: OSError) -> KeyFileError:
        return KeyFileError(f"{path}: {error.strerror}; put the volume's key there")


def check_private(path: Path, found: os.stat_result, mode: str) -> None:
    """Returns if only the broker's own user can look into a file or folder.

    Args:
        mode: that would do, for the message.

    Raises:
        KeyFileError: others can.
    """
    if found.st_uid != os.geteuid():
        what = f"belongs to user {found.st_uid}, this is user {os.geteuid()}"
        raise KeyFileError(f"{path}: {what}; keys must belong to the broker's own user")
    if found.st_mode & _OTHERS:
        what = f"mode {stat.S_IMODE(found.st_mode):04o} lets others in"
        raise KeyFileError(f"{path}: {what}; `chmod {mode} {path}`, and replace keys that may have been read")
