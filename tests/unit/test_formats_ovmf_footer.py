"""Tables at the end of firmware: what they say, and what is refused."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.ovmf_footer import Area, SectionType, SevSection, parse_footer
from tests.unit import sev_firmware as fw

SPEC = "[edk2-stable202508 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm]"
METADATA_SPEC = "[edk2-stable202508 OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm]"
SIZE = 0x8000
AT = SIZE - 0x600


def test_what_a_table_says() -> None:
    entries = [
        (fw.TDX, struct.pack("<I", 0x700)),
        (fw.SECRETS, struct.pack("<II", 0x81_0000, 0xC00)),
        (fw.SVSM, struct.pack("<I", 0x1234)),
        ("784fa70e-3176-4677-8a20-04b68699e374", b"unknown"),
    ]
    footer = parse_footer(fw.firmware(entries=entries), "F")
    assert footer.size == SIZE
    assert footer.reset_eip == fw.AP_EIP
    assert footer.secrets == Area(0x81_0000, 0xC00)
    assert footer.hashes == Area(*fw.HASHES_AREA)
    assert footer.tdx_metadata == SIZE - 0x700
    assert footer.svsm_entry == 0x1234
    assert footer.sections == tuple(SevSection(a, s, SectionType(t)) for a, s, t in fw.SECTIONS)


def test_the_end_of_a_file_is_enough() -> None:
    data = fw.firmware(entries=[(fw.TDX, struct.pack("<I", 0x700))])
    assert parse_footer(data[-0x1000:], "F", size=SIZE) == parse_footer(data, "F")


def test_what_is_not_there() -> None:
    footer = parse_footer(fw.firmware(sections=None, reset=None, hashes=None), "F")
    assert (footer.sections, footer.reset_eip, footer.hashes, footer.svsm_entry) == (None, None, None, None)
    assert footer.tdx_metadata is None
    assert parse_footer(fw.firmware(hashes=(0, 0)), "F").hashes is None
    assert parse_footer(fw.firmware(sections=()), "F").sections == ()


def changed(data: bytes, at: int, patch: bytes) -> bytes:
    return data[:at] + patch + data[at + len(patch) :]


GOOD = fw.firmware()
FOOTER_AT = SIZE - 32 - 18
BROKEN = {
    "empty": (b"", "F: 0 bytes are too few for a firmware table; give an OVMF, stage0 or SVSM build " + SPEC),
    "footer": (
        changed(GOOD, FOOTER_AT + 2, bytes(16)),
        (
            f"F: offset {FOOTER_AT + 2:#x}: no table of OVMF's ends here (GUID "
            f"00000000-0000-0000-0000-000000000000, expected {fw.FOOTER}); give an x86 OVMF build {SPEC}"
        ),
    ),
    "table too short": (
        changed(GOOD, FOOTER_AT, struct.pack("<H", 17)),
        f"F: offset {FOOTER_AT:#x}: a table of 17 bytes, from 18 to {FOOTER_AT + 18} are possible {SPEC}",
    ),
    "table too long": (
        changed(GOOD, FOOTER_AT, struct.pack("<H", 0xFFFF)),
        f"F: offset {FOOTER_AT:#x}: a table of 65535 bytes, from 18 to {FOOTER_AT + 18} are possible {SPEC}",
    ),
    "entry too long": (
        changed(GOOD, FOOTER_AT - 18, struct.pack("<H", 999)),
        f"F: offset {FOOTER_AT - 18:#x}: an entry of 999 bytes, 18 to 70 are possible {SPEC}",
    ),
    "entry too short": (
        changed(GOOD, FOOTER_AT - 18, struct.pack("<H", 1)),
        f"F: offset {FOOTER_AT - 18:#x}: an entry of 1 bytes, 18 to 70 are possible {SPEC}",
    ),
    "rest": (
        changed(GOOD, FOOTER_AT, struct.pack("<H", 18 + 30)),
        f"F: offset {FOOTER_AT - 30:#x}: 8 bytes are left of the table, an entry has at least 18 {SPEC}",
    ),
    "twice": (
        fw.firmware(entries=[(fw.RESET_BLOCK, bytes(4))]),
        f"F: offset {FOOTER_AT - 92:#x}: the table has {fw.RESET_BLOCK} twice {SPEC}",
    ),
    "no number": (
        fw.firmware(reset=None, entries=[(fw.RESET_BLOCK, b"ab")]),
        f"F: table entry {fw.RESET_BLOCK} has 2 bytes of data, 4 are needed {SPEC}",
    ),
    "no area": (
        fw.firmware(hashes=None, entries=[(fw.HASHES, bytes(7))]),
        f"F: table entry {fw.HASHES} has 7 bytes of data, 8 are needed {SPEC}",
    ),
    "outside": (
        fw.firmware(sections=None, entries=[(fw.METADATA, struct.pack("<I", SIZE + 1))]),
        f"F: table entry {fw.METADATA} points {SIZE + 1} bytes before the end of {SIZE} bytes {SPEC}",
    ),
    "nowhere": (
        fw.firmware(entries=[(fw.TDX, bytes(4))]),
        f"F: table entry {fw.TDX} points 0 bytes before the end of {SIZE} bytes {SPEC}",
    ),
    "truncated": (
        fw.firmware(sections=None, entries=[(fw.METADATA, struct.pack("<I", 15))]),
        (
            f"F: offset {SIZE - 15:#x}: SEV metadata: needs 16 bytes, 15 are left; the file is truncated "
            f"{METADATA_SPEC}"
        ),
    ),
    "signature": (
        changed(GOOD, AT, b"TDVF"),
        f"F: offset {AT:#x}: SEV metadata: signature b'TDVF', expected b'ASEV' {METADATA_SPEC}",
    ),
    "version": (
        fw.firmware(raw_metadata=fw.metadata(fw.SECTIONS, version=2)),
        f"F: offset {AT:#x}: SEV metadata: version 2, only 1 is known {METADATA_SPEC}",
    ),
    "count": (
        fw.firmware(raw_metadata=fw.metadata((), count=0x1000_0000)[:4] + struct.pack("<III", 88, 1, 5)),
        (
            f"F: offset {AT:#x}: SEV metadata: 88 bytes with 5 sections, which take 76; 1536 are left "
            f"{METADATA_SPEC}"
        ),
    ),
    "many": (
        fw.firmware(raw_metadata=struct.pack("<4sIII", b"ASEV", 16 + 12 * 200, 1, 200)),
        (
            f"F: offset {AT:#x}: SEV metadata: 2416 bytes with 200 sections, which take 2416; 1536 are left "
            f"{METADATA_SPEC}"
        ),
    ),
    "type": (
        fw.firmware(sections=((0x80_0000, 0x1000, 7),)),
        (
            f"F: offset {AT + 16:#x}: SEV metadata: section of unknown type 0x7; known: 0x1 SNP_SEC_MEM, "
            f"0x2 SNP_SECRETS, 0x3 CPUID, 0x4 SVSM_CAA, 0x10 SNP_KERNEL_HASHES {METADATA_SPEC}"
        ),
    ),
    "no page": (
        fw.firmware(sections=((0x80_0800, 0x1000, 1),)),
        (
            f"F: offset {AT + 16:#x}: SEV metadata: SNP_SEC_MEM at 0x800800 of 0x1000 bytes is "
            f"not made of whole pages {METADATA_SPEC}"
        ),
    ),
    "no size": (
        fw.firmware(sections=((0x80_0000, 0, 1),)),
        (
            f"F: offset {AT + 16:#x}: SEV metadata: SNP_SEC_MEM at 0x800000 of 0x0 bytes is "
            f"not made of whole pages {METADATA_SPEC}"
        ),
    ),
    "above": (
        fw.firmware(sections=((0xFFFF_F000, 0x2000, 1),)),
        (
            f"F: offset {AT + 16:#x}: SEV metadata: SNP_SEC_MEM at 0xfffff000 of 0x2000 bytes ends above "
            f"4 GiB {METADATA_SPEC}"
        ),
    ),
    "two pages": (
        fw.firmware(sections=((0x80_0000, 0x2000, 3),)),
        (
            f"F: offset {AT + 16:#x}: SEV metadata: CPUID at 0x800000 has 0x2000 bytes, the launch fills "
            f"one page {METADATA_SPEC}"
        ),
    ),
    "overlap": (
        fw.firmware(sections=((0x80_1000, 0x1000, 2), (0x80_0000, 0x2000, 1))),
        (
            f"F: offset {AT:#x}: SEV metadata: sections overlap: SNP_SEC_MEM 0x800000+0x2000 and SNP_SECRETS "
            f"0x801000+0x1000; the firmware is damaged {METADATA_SPEC}"
        ),
    ),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken(name: str) -> None:
    data, message = BROKEN[name]
    with pytest.raises(FormatError) as caught:
        parse_footer(data, "F")
    assert str(caught.value) == message


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_the_end_of_a_file_has_the_offsets_of_the_file(name: str) -> None:
    data, message = BROKEN[name]
    if len(data) < SIZE:
        return
    front = bytes(0x10_0000)
    with pytest.raises(FormatError) as end:
        parse_footer(data, "F", size=len(front) + len(data))
    found = re.match(r"F: offset 0x([0-9a-f]+): ", message)
    assert end.value.offset == (int(found[1], 16) + len(front) if found else None)


def test_metadata_that_is_not_read() -> None:
    far, beyond = (
        fw.firmware(entries=[(fw.METADATA, struct.pack("<I", distance))], sections=None)
        for distance in (0x9000, 0x9001_0000)
    )
    with pytest.raises(FormatError) as caught:
        parse_footer(far, "F", size=0x10_0000)
    assert str(caught.value) == (
        f"F: table entry {fw.METADATA} points 36864 bytes before the end, more than 32 KiB before the end is "
        f"not read; give a build that has its metadata nearer {SPEC}"
    )
    with pytest.raises(FormatError, match="points 2415984640 bytes before the end of 1048576 bytes"):
        parse_footer(beyond, "F", size=0x10_0000)
    tdx = fw.firmware(entries=[(fw.TDX, struct.pack("<I", 0x9000))])
    assert parse_footer(tdx, "F", size=0x10_0000).tdx_metadata == 0x10_0000 - 0x9000


@settings(max_examples=150)
@given(st.data())
def test_changed_bytes_are_read_or_refused(data: st.DataObject) -> None:
    image = bytearray(GOOD[-0x1000:])
    interesting = [*range(len(image) - 150, len(image) - 30), *range(len(image) - 0x600, len(image) - 0x5A0)]
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.sampled_from(interesting))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(image))) if data.draw(st.booleans()) else len(image)
    try:
        footer = parse_footer(bytes(image[:end]), "F")
    except FormatError:
        return
    assert footer.size == end


@settings(max_examples=100)
@given(st.binary(max_size=300), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes, table: bytes) -> None:
    tail = table + struct.pack("<H", len(table) + 18) + GOOD[FOOTER_AT + 2 : FOOTER_AT + 18] + bytes(32)
    for image in (body, body + tail):
        try:
            parse_footer(image, "F")
        except FormatError as error:
            assert str(error).startswith("F: ")
