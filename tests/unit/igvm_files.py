"""IGVM files put together by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

PAGE = 4096
SNP = 1
VMSA_GPA = 0xFFFF_FFFF_F000
UNMEASURED, SHARED = 2, 4
NORMAL, SECRETS, CPUID, CPUID_XF = 0, 1, 2, 3


@dataclass(frozen=True)
class Header:
    """A header; ``fields`` are packed by ``code``, the place of ``data`` in the file as field ``slot``."""

    type: int
    code: str
    fields: tuple[int | bytes, ...]
    data: bytes | None = None
    slot: int = -1


def platform(kind: int = 2, mask: int = SNP) -> Header:
    return Header(0x1, "<IBBHQ", (mask, 0, kind, 1, 0))


def policy(value: int, mask: int = SNP) -> Header:
    return Header(0x101, "<QII", (value, mask, 0))


def page(
    gpa: int, data: bytes | None = None, *, kind: int = NORMAL, flags: int = 0, mask: int = SNP
) -> Header:
    return Header(0x302, "<QIIIHH", (gpa, mask, 0, flags, kind, 0), data, 2)


def pages(gpa: int, data: bytes, *, flags: int = 0, mask: int = SNP) -> list[Header]:
    """A page for each 4096 bytes of ``data``."""
    starts = range(0, len(data), PAGE)
    return [page(gpa + at, data[at : at + PAGE], flags=flags, mask=mask) for at in starts]


def blank(gpa: int, size: int, *, kind: int = NORMAL, flags: int = 0) -> list[Header]:
    """Pages without data."""
    return [page(at, kind=kind, flags=flags) for at in range(gpa, gpa + size, PAGE)]


def area(index: int = 0, size: int = PAGE) -> Header:
    return Header(0x301, "<QII", (size, index, 0))


def insert(gpa: int, index: int = 0, mask: int = SNP) -> Header:
    return Header(0x303, "<QII", (gpa, mask, index))


def context(vmsa: bytes, index: int = 0, *, gpa: int = VMSA_GPA, mask: int = SNP) -> Header:
    return Header(0x304, "<QIIHH", (gpa, mask, 0, index, 0), vmsa, 2)


def required(gpa: int, size: int) -> Header:
    return Header(0x305, "<QIIII", (gpa, SNP, size, 0, 0))


def parameter(kind: int, index: int = 0, offset: int = 0) -> Header:
    return Header(kind, "<II", (index, offset))


def id_block(ld: bytes, mask: int = SNP) -> Header:
    """An ID block without signatures."""
    return Header(0x30B, "<IB3s48s16s16sIIII592s", (mask, 0, b"", ld, b"", b"", 1, 0, 1, 0, b""))


def build(headers: Sequence[Header], *, version: int = 1, checksum: int | None = None) -> bytes:
    """The file: headers as they are given, each one's data behind them in the same order."""
    fixed = 24 if version == 1 else 32
    sizes = [8 + -(-struct.calcsize(header.code) // 8) * 8 for header in headers]
    place = -(-(fixed + sum(sizes)) // PAGE) * PAGE
    variable, tail = b"", b""
    for header in headers:
        if header.data is not None:
            fields = list(header.fields)
            fields[header.slot] = place + len(tail)
            tail += header.data
            header = replace(header, fields=tuple(fields))
        content = struct.pack(header.code, *header.fields)
        variable += struct.pack("<II", header.type, len(content)) + content + bytes(-len(content) % 8)
    gap = bytes(place - fixed - len(variable))
    size = place + len(tail)
    return seal(_fixed(version, fixed, len(variable), size) + variable + gap + tail, checksum)


def _fixed(version: int, start: int, length: int, size: int) -> bytes:
    head = struct.pack("<4sIIIII", b"IGVM", version, start, length, size, 0)
    return head if version == 1 else head + struct.pack("<II", 0, PAGE)


def seal(data: bytes, checksum: int | None = None) -> bytes:
    """The file with the right checksum, or with another."""
    start, length = struct.unpack_from("<II", data, 8)
    fixed = 24 if data[4] == 1 else 32
    covered = data[:20] + bytes(4) + data[24:fixed] + data[start : start + length]
    value = zlib.crc32(covered) if checksum is None else checksum
    return data[:20] + struct.pack("<I", value) + data[24:]
