from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import pe
from recipes.formats.pe import PeImage
from tests.unit.boot_images import (
    CERTIFICATES,
    COFF,
    DIRECTORIES,
    OPTIONAL,
    SECTIONS,
    kernel,
    le32,
    patched,
    stub,
)

FUZZ = settings(max_examples=150)


def test_struct_sizes() -> None:
    # Microsoft PE Format: 20, 24 + 88 without directories, 40 and 8 bytes.
    sizes = [each.SIZE for each in (pe.CoffHeader, pe.OptionalHeader, pe.SectionHeader, pe.DataDirectory)]
    assert sizes == [20, 112, 40, 8]


def test_stub_reads_as_objdump_says() -> None:
    image = PeImage.parse(stub(), "stub")
    # objdump -h and -x of binutils 2.40; addresses less the image base.
    assert [
        (each.name, each.header.virtual_size, each.header.virtual_address, each.header.pointer_to_raw_data)
        for each in image.sections
    ] == [
        (".text", 0x1080E, 0x1000, 0x600),
        (".rodata", 0x4EF0, 0x12000, 0x11000),
        (".data", 0xC0, 0x17000, 0x16000),
        (".sbat", 0xF9, 0x18000, 0x16200),
        (".sdmagic", 0x33, 0x19000, 0x16400),
        (".reloc", 0x88, 0x1A000, 0x16600),
    ]
    optional = image.optional
    assert (optional.image_base, optional.size_of_image, optional.size_of_headers) == (
        0x14DF90000,
        0x1B000,
        0x600,
    )
    assert (optional.section_alignment, optional.file_alignment, optional.subsystem) == (0x1000, 0x200, 10)
    assert image.coff.machine == pe.Machine.X86_64
    assert image.checksum_offset == 0x98
    assert image.certificate_directory_offset == CERTIFICATES
    assert image.certificates == (0, 0)
    assert image.section(".linux") is None


def test_section_data_is_what_lies_in_memory() -> None:
    data = PeImage.parse(stub(), "stub").section_data(".sdmagic")
    assert data == b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####"
    longer = patched(stub(), SECTIONS + 4 * 40 + 8, le32(0x300))
    data = PeImage.parse(longer, "stub").section_data(".sdmagic")
    assert data == b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####".ljust(0x300, b"\0")


def test_section_data_does_not_make_up_gigabytes() -> None:
    image = PeImage.parse(patched(stub(), SECTIONS + 8, le32(0xFFFFFFFF)), "stub")
    with pytest.raises(
        FormatError, match=r"^stub: section .text has 4294899199 bytes that are not stored, at most"
    ):
        image.section_data(".text")
    with pytest.raises(FormatError, match=r"^stub: there is no section .linux$"):
        image.section_data(".linux")


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (0, b"ZM", "offset 0x0: magic is 5a4d, expected 4d5a; this is not a PE image"),
        (0x3C, le32(0xFFFFFFF0), "offset 0xfffffff0: there is no PE magic; this is not a PE image"),
        (OPTIONAL, b"\x0b\x01", "offset 0x58: optional header magic is 0x10b, expected 0x20b (PE32+)"),
        (COFF + 16, b"\xe0\0", "offset 0x58: optional header of 224 bytes does not fit 16 directories"),
        (OPTIONAL + 108, le32(17), "offset 0x58: optional header of 240 bytes does not fit 17 directories"),
        (OPTIONAL + 32, le32(3), "section alignment 0x3 is not a power of two"),
        (OPTIONAL + 36, le32(0), "file alignment 0x0 is not a power of two"),
        (
            OPTIONAL + 60,
            le32(0x237),
            "headers of 0x237 bytes; the section table ends at 0x238 and the file at 0x16800",
        ),
        (
            OPTIONAL + 60,
            le32(0x602),
            "offset 0x600: section .text overlaps the headers (0x600 is before 0x602)",
        ),
        (SECTIONS, b"\xff", "offset 0x148: section name b'\\xfftext' is not ASCII"),
        (
            SECTIONS + 40 + 20,
            le32(0x10E00),
            "offset 0x10e00: section .rodata overlaps section .text (0x10e00 is before 0x11000)",
        ),
        (
            SECTIONS + 5 * 40 + 16,
            le32(0x400),
            "offset 0x16600: section .reloc ends at 0x16a00, the file at 0x16800; the data is truncated",
        ),
        (
            CERTIFICATES,
            le32(0x16000) + le32(0x800),
            "offset 0x16000: the certificate table overlaps section .reloc (0x16000 is before 0x16800)",
        ),
        (CERTIFICATES, le32(8), "certificate table of 0 bytes at 0x8; one of them is 0"),
    ],
)
def test_bad_bytes(offset: int, new: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        PeImage.parse(patched(stub(), offset, new), "image")
    assert str(caught.value) == f"image: {message} [Microsoft PE Format]"


def test_section_table_is_cut() -> None:
    with pytest.raises(FormatError) as caught:
        PeImage.parse(stub()[: SECTIONS + 50], "image")
    assert str(caught.value) == (
        "image: offset 0x170: SectionHeader needs 40 bytes, 10 are left; the data is truncated"
    )


def test_bytes_behind_the_certificate_table_are_ambiguous() -> None:
    data = patched(stub(), CERTIFICATES, le32(len(stub())) + le32(8)) + bytes(9)
    with pytest.raises(FormatError) as caught:
        PeImage.parse(data, "image")
    assert str(caught.value) == (
        "image: offset 0x16808: 1 bytes follow the certificate table; a digest would be ambiguous "
        "[Authenticode PE, section 'Calculating the PE Image Hash']"
    )


def test_certificate_table_beyond_the_file() -> None:
    data = patched(stub(), CERTIFICATES, le32(len(stub())) + le32(8)) + bytes(7)
    with pytest.raises(FormatError, match="the certificate table ends at 0x16808, the file at 0x16807"):
        PeImage.parse(data, "image")


@pytest.mark.parametrize("size", [0, 1, 2, 0x3F, 0x40, 0x60, 0x100, 0x200, 0x700, 2047])
def test_truncated(size: int) -> None:
    with pytest.raises(FormatError):
        PeImage.parse(kernel()[:size], "image")


def test_fewer_directories_have_no_certificate_entry() -> None:
    # Four directories, and the section table 96 bytes earlier.
    small = patched(stub(), COFF + 16, (112 + 32).to_bytes(2, "little"))
    small = patched(small, OPTIONAL + 108, le32(4))
    small = patched(small, DIRECTORIES + 32, stub()[SECTIONS : SECTIONS + 240])
    image = PeImage.parse(small, "image")
    assert image.certificate_directory_offset is None
    assert image.certificates == (0, 0)
    assert image.sections[5].name == ".reloc"


def _exercise(data: bytes) -> None:
    try:
        image = PeImage.parse(data, "fuzz")
        for section in image.sections:
            assert len(image.section_data(section.name)) <= len(data) + pe.ZERO_FILL_LIMIT
    except FormatError:
        return


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 0x240), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_fuzz_headers(edits: list[tuple[int, bytes]]) -> None:
    data = kernel()
    for offset, new in edits:
        data = patched(data, offset, new)
    _exercise(data)


@FUZZ
@given(st.binary(max_size=400))
def test_fuzz_random(data: bytes) -> None:
    _exercise(data)
    _exercise(kernel()[:COFF] + data)
