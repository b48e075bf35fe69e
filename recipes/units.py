"""Sizes and alignment."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
PAGE_SIZE = 4096
SECTOR_SIZE = 512

_UNITS = {"KiB": KIB, "MiB": MIB, "GiB": GIB}


def parse_size(text: str) -> int:
    """Bytes of a size such as ``512MiB``.

    Raises:
        ValueError: not a whole number followed by KiB, MiB or GiB; the text says what to write.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,6})(KiB|MiB|GiB)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write for example 512MiB or 2GiB")
    return int(match[1]) * _UNITS[match[2]]


def format_size(size: int) -> str:
    """A size for people, binary units, such as ``17.8 MiB``."""
    for name, unit in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= unit:
            whole = size % unit == 0
            return f"{size // unit} {name}" if whole else f"{size / unit:.1f} {name}"
    return f"{size} B"


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of ``alignment`` that is not below ``value``."""
    return -(-value // alignment) * alignment


def pad(data: bytes, alignment: int) -> bytes:
    """``data`` followed by zero bytes up to a multiple of ``alignment``."""
    return data + bytes(align_up(len(data), alignment) - len(data))
