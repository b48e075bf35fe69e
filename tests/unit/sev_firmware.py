"""Small firmware files with the table and the SEV metadata that real ones have, put together by hand."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from uuid import UUID

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
SECRETS = "4c2eb361-7d9b-4cc3-8081-127c90d3d294"
HASHES = "7255371f-3a3b-4b04-927b-1da6efa8d454"
METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
TDX = "e47a6535-984a-4798-865e-4685a7bf8ec2"
SVSM = "a789a612-0597-4c4b-a49f-cbb1fe9d1ddd"

SEC_MEM, SECRETS_PAGE, CPUID, CAA, KERNEL_HASHES = 1, 2, 3, 4, 0x10
AP_EIP = 0x0080_B004
SECTIONS = (
    (0x80_0000, 0x3000, SEC_MEM),
    (0x80_D000, 0x1000, SECRETS_PAGE),
    (0x80_E000, 0x1000, CPUID),
    (0x80_F000, 0x1000, CAA),
    (0x81_1000, 0x2000, SEC_MEM),
    (0x81_0000, 0x1000, KERNEL_HASHES),
)
HASHES_AREA = (0x81_0C00, 0x400)

Section = tuple[int, int, int]
Entry = tuple[str, bytes]


def stream(label: str, size: int) -> bytes:
    """Bytes that look random and are the same everywhere, as the vectors make them."""
    blocks = range(-(-size // 32))
    return b"".join(hashlib.sha256(f"{label}:{number}".encode()).digest() for number in blocks)[:size]


def entry(guid: str, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + UUID(guid).bytes_le


def metadata(sections: Sequence[Section], *, count: int | None = None, version: int = 1) -> bytes:
    number = len(sections) if count is None else count
    head = struct.pack("<4sIII", b"ASEV", 16 + 12 * number, version, number)
    return head + b"".join(struct.pack("<III", *section) for section in sections)


def firmware(
    *,
    size: int = 0x8000,
    label: str = "firmware",
    sections: Sequence[Section] | None = SECTIONS,
    reset: int | None = AP_EIP,
    hashes: tuple[int, int] | None = HASHES_AREA,
    entries: Sequence[Entry] = (),
    raw_metadata: bytes | None = None,
) -> bytes:
    """A file of ``size`` bytes; ``entries`` come in front of the usual ones."""
    found: list[Entry] = list(entries)
    blob = raw_metadata if raw_metadata is not None else metadata(sections) if sections is not None else b""
    place = 0x600
    if blob:
        found.append((METADATA, struct.pack("<I", place)))
    if hashes is not None:
        found.append((HASHES, struct.pack("<II", *hashes)))
    if reset is not None:
        found.append((RESET_BLOCK, struct.pack("<I", reset)))
    table = b"".join(entry(guid, data) for guid, data in found)
    table += struct.pack("<H", len(table) + 18) + UUID(FOOTER).bytes_le
    image = bytearray(stream(label, size))
    image[-32 - len(table) : -32] = table
    if blob:
        image[size - place : size - place + len(blob)] = blob
    return bytes(image)


def svsm(*, size: int = 0x6000, entry_point: int = 0x1000) -> bytes:
    """What stands for an SVSM: sections of its own, no reset block, and an entry point."""
    sections = ((0x80_1000, 0x2000, SEC_MEM), (0x80_4000, 0x1000, SECRETS_PAGE), (0x80_5000, 0x1000, CPUID))
    point = (SVSM, struct.pack("<I", entry_point))
    return firmware(size=size, label="svsm", sections=sections, reset=None, hashes=None, entries=[point])
