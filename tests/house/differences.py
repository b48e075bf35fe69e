"""Where two builds differ, in words that lead to the cause."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import zstandard

from recipes.errors import FormatError
from recipes.formats.cpio import CpioEntry, read_newc
from recipes.formats.gpt import read as read_gpt
from tests.erofs_reader import read_erofs

PIECE = 1 << 20


def first_difference(left: Path, right: Path) -> int | None:
    """Offset of the first byte that differs; None for equal files."""
    offset = 0
    with left.open("rb") as one, right.open("rb") as other:
        while True:
            ours, theirs = one.read(PIECE), other.read(PIECE)
            if ours != theirs:
                shared = min(len(ours), len(theirs))
                return offset + next((at for at in range(shared) if ours[at] != theirs[at]), shared)
            if not ours:
                return None
            offset += len(ours)


def describe(left: Path, right: Path) -> str:
    """One line about two files that differ: name, offset, and what lies there where the format says it."""
    offset = first_difference(left, right)
    assert offset is not None
    sizes = f"{left.stat().st_size} and {right.stat().st_size} bytes"
    return f"{left.name}: differs from offset {offset:#x} ({sizes}){_inside(left, right, offset)}"


def _inside(left: Path, right: Path, offset: int) -> str:
    try:
        if left.suffix == ".erofs":
            one, other = (read_erofs(path.read_bytes()).files for path in (left, right))
            return _first_member(one, other)
        if left.suffix == ".zst":
            return _first_member(_archive(left), _archive(right))
        if left.name == "disk.raw":
            with left.open("rb") as file:
                partitions = read_gpt(file, left.name).partitions
            found = [item for item in partitions if item.offset <= offset < item.offset + item.size]
            return f", offset {offset - found[0].offset:#x} of partition {found[0].name}" if found else ""
    except (FormatError, zstandard.ZstdError) as error:
        return f", and cannot be read: {error}"
    return ""


def _archive(path: Path) -> dict[str, CpioEntry]:
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        return {entry.name: entry for entry in read_newc(reader.read(), path.name)}


def _first_member(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    for path in sorted({*one, *other}):
        if path not in one or path not in other:
            return f", {path} is in one of them only"
        if one[path] != other[path]:
            names = [name for name, value in vars(one[path]).items() if vars(other[path])[name] != value]
            return f", first in {path}: {', '.join(names)}"
    return ", in no file: only in how it is laid out"
