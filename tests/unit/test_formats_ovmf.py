from __future__ import annotations

import lzma
import struct
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import firmware_volume as fv
from recipes.formats import ovmf

FUZZ = settings(max_examples=100)
NAME = UUID("00112233-4455-6677-8899-aabbccddeeff")
FFS2 = fv.EFI_FIRMWARE_FILE_SYSTEM2
LZMA = ovmf.LZMA_CUSTOM_DECOMPRESS


def volume(body: bytes, *, kind: UUID = FFS2, attributes: int = 0x4FEFF, ext: bytes = b"") -> bytes:
    """A volume as the PI specification lays it out; free space behind the files."""
    content = ext + body
    content += b"\xff" * (-len(content) % 8 + 64)
    length = 72 + len(content)
    head = struct.pack(
        "<16s16sQ4sIHHHBB", b"", kind.bytes_le, length, b"_FVH", attributes, 72, 0, 72 if ext else 0, 0, 2
    )
    head += struct.pack("<IIII", 1, length, 0, 0)
    total = sum(struct.unpack("<36H", head)) & 0xFFFF
    return head[:50] + struct.pack("<H", -total & 0xFFFF) + head[52:] + content


def file(
    body: bytes, *, kind: int = 0x0B, attributes: int = 0, name: UUID = NAME, state: int = 0xF8
) -> bytes:
    large = bool(attributes & 1)
    size = 24 + 8 * large + len(body)
    head = name.bytes_le + struct.pack("<BBBB", 0, 0, kind, attributes)
    head += (0 if large else size).to_bytes(3, "little") + b"\0" + (struct.pack("<Q", size) if large else b"")
    header_sum = -sum(head) & 0xFF
    body_sum = -sum(body) & 0xFF if attributes & 0x40 else 0xAA
    packed = head[:16] + bytes([header_sum, body_sum]) + head[18:23] + bytes([state]) + head[24:] + body
    return packed + b"\xff" * (-len(packed) % 8)


def section(kind: int, data: bytes, *, large: bool = False) -> bytes:
    size = len(data) + (8 if large else 4)
    head = b"\xff\xff\xff" + bytes([kind]) + struct.pack("<I", size) if large else b""
    packed = (head or size.to_bytes(3, "little") + bytes([kind])) + data
    return packed + bytes(-len(packed) % 4)


def guided(data: bytes, *, kind: UUID = LZMA, data_offset: int = 24) -> bytes:
    return section(2, kind.bytes_le + struct.pack("<HH", data_offset, 1) + data)


def compress(data: bytes) -> bytes:
    """An lzma-alone stream whose header gives the size, as edk2's tool writes it."""
    packed = lzma.compress(data, lzma.FORMAT_ALONE, preset=0)
    return packed[:5] + struct.pack("<Q", len(data)) + packed[13:]


PEI, DXE = volume(file(b"pei", kind=4)), volume(file(b"dxe driver", kind=7))
PAYLOAD = section(0x19, b"pad") + section(0x17, PEI) + section(0x17, DXE, large=True)
CODE = volume(file(b"", kind=0xF0) + file(b"other", kind=1) + file(guided(compress(PAYLOAD))))


def test_struct_sizes() -> None:
    assert fv.FirmwareVolumeHeader.SIZE == 56
    assert fv.FirmwareVolumeExtHeader.SIZE == 20
    assert fv.FfsFileHeader.SIZE == 24
    assert fv.GuidDefinedSection.SIZE == 20


def test_measured_volumes_are_the_inflated_ones() -> None:
    assert ovmf.measured_volumes(CODE, "code") == (PEI, DXE)
    assert ovmf.measured_volumes(CODE + b"second volume", "code") == (PEI, DXE)


def test_files_of_a_volume() -> None:
    ext = struct.pack("<16sI", NAME.bytes_le, 21) + b"x"
    body = file(b"one", kind=1) + file(b"", kind=0xF0) + file(b"two" * 9, kind=2, attributes=0x41)
    packed = volume(bytes(-len(ext) % 8) + body, ext=ext)
    found = [(item.name, item.type, bytes(item.data)) for item in fv.files(memoryview(packed), "v")]
    assert found == [(NAME, 1, b"one"), (NAME, 2, b"two" * 9)]


def test_aarch64_blob_is_the_volume_behind_the_first_page() -> None:
    assert ovmf.aarch64_blob(bytes(4096) + PEI + b"more", "code") == PEI


def test_contains_utf16() -> None:
    text = "2025.02-8".encode("utf-16-le") + b"\0\0"
    assert ovmf.contains_utf16(b"ab" + text, "2025.02-8")
    assert ovmf.contains_utf16(b"b" + text + b"c" + text, "2025.02-8")
    assert not ovmf.contains_utf16(b"b" + text, "2025.02-8")
    assert not ovmf.contains_utf16(b"ab" + text, "2025.02")
    assert not ovmf.contains_utf16(text[:-2], "2025.02-8")


def patch(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


VOLUME = " [UEFI PI 1.8 volume III section 3.2.1]"
FILE = " [UEFI PI 1.8 volume III section 3.2.3]"
SECTION = " [UEFI PI 1.8 volume III section 3.2.5]"
PEI_SUM = struct.unpack_from("<H", PEI, 50)[0]
FDF = " [edk2-stable202502 OvmfPkg/OvmfPkgX64.fdf FV.FVMAIN_COMPACT]"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"", "f: offset 0x0: FirmwareVolumeHeader needs 56 bytes, 0 are left; the data is truncated"),
        (
            bytes(200),
            r"f: offset 0x0: signature b'\x00\x00\x00\x00' revision 0, expected b'_FVH' and 2;"
            " this is not a firmware volume" + VOLUME,
        ),
        (
            CODE[:-1],
            f"f: offset 0x0: volume of {len(CODE)} bytes with a header of 72, {len(CODE) - 1} are left"
            + VOLUME,
        ),
        (
            patch(CODE, 48, b"\x40\0"),
            f"f: offset 0x0: volume of {len(CODE)} bytes with a header of 64, {len(CODE)} are left" + VOLUME,
        ),
        (
            patch(PEI, 0, b"\1"),
            f"f: offset 0x0: volume header checksum is {PEI_SUM:#06x}, expected {PEI_SUM - 1:#06x}" + VOLUME,
        ),
        (
            volume(b"", kind=NAME),
            f"f: offset 0x10: volume format is {NAME}, expected a firmware file system 2 or 3" + VOLUME,
        ),
        (
            volume(b"", attributes=0x4F6FF),
            "f: offset 0x2c: volume attributes are 0x4f6ff: erased bytes of 0, expected of 0xff" + VOLUME,
        ),
        (
            volume(b"", ext=struct.pack("<16sI", b"", 19)),
            "f: offset 0x48: extended header of 19 bytes at 0x48 does not fit" + VOLUME,
        ),
        (
            volume(file(b"x")[:20] + b"\xff\xff\x7f" + file(b"x")[23:]),
            f"f: offset 0x48: file {NAME} of 8388607 bytes, 96 are left" + FILE,
        ),
        (
            volume(patch(file(b"x"), 16, b"\1")),
            f"f: offset 0x48: file {NAME}: header checksum 0x01 is wrong" + FILE,
        ),
        (
            volume(patch(file(b"x", attributes=0x40), 24, b"y")),
            f"f: offset 0x48: file {NAME}: checksum 0x88 and state 0xf8, expected 0x87 and 0xf8" + FILE,
        ),
        (
            volume(file(b"x", state=0xFC)),
            f"f: offset 0x48: file {NAME}: checksum 0xaa and state 0xfc, expected 0xaa and 0xf8" + FILE,
        ),
        (
            volume(file(b"\x09\0\0\2abcd")),
            "f: offset 0x0: section of 9 bytes, expected 4 to 8" + SECTION,
        ),
        (
            volume(file(b"\x03\0\0\2")),
            "f: offset 0x0: section of 3 bytes, expected 4 to 4" + SECTION,
        ),
        (
            volume(file(b"\x04\0")),
            "f: offset 0x0: section of 4 bytes, expected 4 to 2" + SECTION,
        ),
        (
            volume(file(guided(b"", data_offset=23))),
            "f: offset 0x0: data offset 23 of a GUID-defined section is outside of it" + SECTION,
        ),
        (
            volume(file(guided(b"", data_offset=25))),
            "f: offset 0x0: data offset 25 of a GUID-defined section is outside of it" + SECTION,
        ),
        (
            volume(file(guided(b"", kind=NAME)) + file(section(2, b"")[:0])),
            "f: no LZMA-compressed firmware volume in the first volume; give the code file of an x86 OVMF"
            " build" + FDF,
        ),
        (
            volume(file(guided(b"short"))),
            "f: LZMA section: 5 bytes that inflate to 0; a header of 13 and at most 67108864 are read",
        ),
        (
            volume(file(guided(b"]\0\0\1\0" + struct.pack("<Q", 2**26 + 1)))),
            (
                "f: LZMA section: 13 bytes that inflate to 67108865; a header of 13 and at most"
                " 67108864 are read"
            ),
        ),
        (
            volume(file(guided(patch(compress(bytes(99)), 0, b"\xff")))),
            (
                "f: LZMA section: does not inflate (Input format not supported by decoder);"
                " the file is damaged"
            ),
        ),
        (
            volume(file(guided(patch(compress(bytes(99)), 1, b"\0\0\0\x7f")))),
            "f: LZMA section: does not inflate (Memory usage limit exceeded); the file is damaged",
        ),
        (
            volume(file(guided(compress(section(0x17, PEI))))),
            "f: inflated: 1 firmware volumes, expected PEIFV and DXEFV" + FDF,
        ),
        (
            volume(file(guided(compress(section(0x17, PEI[:-8]) * 2)))),
            f"f: inflated: offset 0x0: volume of {len(PEI)} bytes with a header of 72,"
            f" {len(PEI) - 8} are left" + VOLUME,
        ),
    ],
)
def test_bad_code(code: bytes, message: str) -> None:
    with pytest.raises(FormatError) as error:
        ovmf.measured_volumes(code, "f")
    assert str(error.value) == message


def test_a_cut_lzma_stream() -> None:
    cut = compress(bytes(range(256)))[:-40]
    with pytest.raises(
        FormatError, match=r"^f: LZMA section: inflates to [0-9]+ bytes, its header says 256$"
    ):
        ovmf.measured_volumes(volume(file(guided(cut))), "f")


def test_bad_aarch64_code() -> None:
    with pytest.raises(FormatError) as error:
        ovmf.aarch64_blob(bytes(4096), "f")
    assert str(error.value) == (
        "f: offset 0x1000: FirmwareVolumeHeader needs 56 bytes, 0 are left; the data is truncated"
    )


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, len(CODE) - 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_fuzz_code(changes: list[tuple[int, int]]) -> None:
    bad = bytearray(CODE)
    for at, value in changes:
        bad[at] = value
    for code in (bytes(bad), CODE[: changes[0][0]]):
        try:
            volumes = ovmf.measured_volumes(code, "f")
        except FormatError:
            continue
        assert len(volumes) == 2


@FUZZ
@given(st.binary(max_size=200))
def test_fuzz_sections_and_files(data: bytes) -> None:
    for parse in (
        lambda raw: [fv.guided_section(item, "f") for item in fv.sections(memoryview(raw), "f")],
        lambda raw: list(fv.files(memoryview(volume(raw)), "f")),
        lambda raw: ovmf.measured_volumes(volume(file(raw)), "f"),
        lambda raw: ovmf.measured_volumes(volume(file(guided(raw))), "f"),
        lambda raw: ovmf.measured_volumes(volume(file(guided(compress(raw)))), "f"),
    ):
        try:
            parse(data)
        except FormatError:
            continue
