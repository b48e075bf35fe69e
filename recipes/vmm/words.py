"""Words of memory in the JSON documents of this package."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..document import Fields
from ..errors import FormatError


def dump_words(words: Iterable[tuple[int, bytes]]) -> list[list[str]]:
    """32-bit words of memory for JSON: offset and bytes, both hexadecimal."""
    return [[f"{offset:#x}", data.hex()] for offset, data in words]


def read_words(fields: Fields, key: str) -> tuple[tuple[int, bytes], ...]:
    """Offsets, ascending and multiples of 4, with the four bytes that stand there.

    Raises:
        FormatError: anything else.
    """
    words: list[tuple[int, bytes]] = []
    for item in fields.items(key):
        pair = item if isinstance(item, list) and all(isinstance(part, str) for part in item) else []
        match = re.fullmatch(r"0x([0-9a-f]{1,8}) ([0-9a-f]{8})", " ".join(pair))
        if match is None or int(match[1], 16) % 4:
            what = f"{key!r} holds {item!r}, not an offset such as 0x6e50 and eight hexadecimal digits"
            raise FormatError(fields.source, what)
        words.append((int(match[1], 16), bytes.fromhex(match[2])))
    offsets = [offset for offset, _ in words]
    if offsets != sorted(set(offsets)):
        raise FormatError(fields.source, f"{key!r}: the offsets do not ascend")
    return tuple(words)
