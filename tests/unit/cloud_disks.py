"""Finished disks for the tests of what clouds read of them, and a file that notes how much of it is read."""

from __future__ import annotations

import io
from pathlib import Path

from recipes.disks.format import DiskFormat
from recipes.disks.source import RawDisk


def shipped(disk_format: DiskFormat, size: int, folder: Path, *places: int) -> bytes:
    """A disk of ``size`` bytes, zero but for a few bytes at each of the places, in that format."""
    raw, made = folder / "raw", folder / "made"
    with raw.open("wb") as file:
        file.truncate(size)
        for place in places:
            file.seek(place)
            file.write(b"content")
    with raw.open("rb") as file, made.open("wb") as out:
        disk_format.write(RawDisk.of("raw", file), out, seed=bytes(32))
    return made.read_bytes()


class Counted(io.BytesIO):
    """A file that counts the bytes read from it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """The data with ``new`` at ``at``, which counts from the end if it is negative."""
    at %= len(data)
    return data[:at] + new + data[at + len(new) :]
