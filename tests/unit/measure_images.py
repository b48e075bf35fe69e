"""Small PE images for the tests of the replay, written field by field from the format's tables."""

from __future__ import annotations

import struct
from collections.abc import Sequence

SDMAGIC = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0"
_HEADERS = 0x1000
_ALIGNMENT = 0x200


def pe_image(sections: Sequence[tuple[str, bytes]]) -> bytes:
    """A PE32+ image for x86-64 with these sections; VirtualSize is the exact length of each."""
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 112 + 16 * 8, 0x222)
    top = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0" + coff
    table, body = b"", b""
    address = _HEADERS
    for name, data in sections:
        stored = -(-len(data) // _ALIGNMENT) * _ALIGNMENT
        place = _HEADERS + len(body) if stored else 0
        table += struct.pack(
            "<8sIIIIIIHHI", name.encode(), len(data), address, stored, place, 0, 0, 0, 0, 0x40000040
        )
        body += data.ljust(stored, b"\0")
        address += -(-max(len(data), 1) // 0x1000) * 0x1000
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        *(0x20B, 0, 0, 0, len(body), 0, 0x1000, 0x1000, 0, 0x1000, _ALIGNMENT, 0, 0, 0, 0, 0, 0, 0),
        *(address, _HEADERS, 0, 10, 0, 0, 0, 0, 0, 0, 16),
    )
    head = top + optional + bytes(16 * 8) + table
    return head.ljust(_HEADERS, b"\0") + body


def kernel() -> bytes:
    """Something that passes for a kernel."""
    return pe_image([(".text", b"kernel code")])


def uki(**sections: bytes) -> bytes:
    """A UKI: keyword ``cmdline`` is section ``.cmdline``; a kernel and the stub's own section are added."""
    named = [(f".{name}", data) for name, data in sections.items()]
    if "linux" not in sections:
        named.append((".linux", kernel()))
    return pe_image([(".sdmagic", SDMAGIC), *named])
