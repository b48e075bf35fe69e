"""GUIDs as they are stored, for what knows a few of them and has no use for :mod:`uuid`."""

from __future__ import annotations


def guid_bytes(text: str) -> bytes:
    """The 16 bytes of a GUID: its first three numbers little endian, the others as they are written.

    Spec: UEFI 2.10, appendix A.
    """
    first, second, third, *rest = map(bytes.fromhex, text.split("-"))
    return b"".join([first[::-1], second[::-1], third[::-1], *rest])


def guid_text(data: bytes) -> str:
    """A GUID of 16 bytes as people write it."""
    parts = (data[3::-1], data[5:3:-1], data[7:5:-1], data[8:10], data[10:])
    return "-".join(part.hex() for part in parts)
