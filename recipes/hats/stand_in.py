"""What takes the place of Oak's files where they are not there, so that everything else can be tried.

None of it runs. Each says so in its first bytes, and its name says so wherever it is shown.
"""

from __future__ import annotations

import struct

from ..formats.ovmf_footer import FOOTER, RESET_VECTOR_SIZE, SEV_ES_RESET_BLOCK, SEV_METADATA, SectionType
from ..units import KIB, PAGE_SIZE

MARK = "stand-in"
# Half a page below 4 GiB is where code would start, and pages low in memory are where it would keep data.
_SIZE = 64 * KIB
_RESET_ADDRESS = 0xFFFFF000
_SECTIONS = (
    (0x1000, PAGE_SIZE, SectionType.SNP_SEC_MEM),
    (0x2000, PAGE_SIZE, SectionType.SNP_SECRETS),
    (0x3000, PAGE_SIZE, SectionType.CPUID),
)
_METADATA_OFFSET = 0x800  # from the end of the file


def text(role: str) -> bytes:
    """What stands at the start of every stand-in."""
    line = (
        f"Goldsmith {MARK} for {role}: this is not {role} and does not run. Put the real file in its place.\n"
    )
    return line.encode()


def firmware(role: str) -> bytes:
    """64 KiB that launch as firmware does, as far as they are measured: a table at the end, SEV metadata.

    Spec: edk2-stable202508 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm and X64/OvmfSevMetadata.asm.
    """
    image = bytearray(text(role).ljust(_SIZE, b"\0"))
    sections = b"".join(struct.pack("<III", *section) for section in _SECTIONS)
    metadata = struct.pack("<4sIII", b"ASEV", 16 + len(sections), 1, len(_SECTIONS)) + sections
    start = _SIZE - _METADATA_OFFSET
    image[start : start + len(metadata)] = metadata
    table = _entry(SEV_METADATA, struct.pack("<I", _METADATA_OFFSET))
    table += _entry(SEV_ES_RESET_BLOCK, struct.pack("<I", _RESET_ADDRESS))
    table += struct.pack("<H", len(table) + 18) + FOOTER
    end = _SIZE - RESET_VECTOR_SIZE
    image[end - len(table) : end] = table
    return bytes(image)


def _entry(guid: bytes, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + guid
