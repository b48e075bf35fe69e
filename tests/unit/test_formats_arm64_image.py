from __future__ import annotations

import bz2
import gzip
import lzma
import re
import struct

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.arm64_image import HEAD_SIZE, Arm64Image, Arm64ImageHeader, foreign_kind, read_header

# The first 64 bytes of Debian's linux-image-6.1.0-50-cloud-arm64 6.1.176-1.
DEBIAN = bytes.fromhex(
    "4d5a40fa53234e14 0000000000000000 0000aa0100000000 0a00000000000000"
    "0000000000000000 0000000000000000 0000000000000000 41524d6440000000"
)
WANTED = "an uncompressed arm64 kernel Image is needed"
OTHER = "take that of an arm64 package or build"


def header(offset: int = 0, size: int = 0, flags: int = 0) -> bytes:
    return struct.pack("<2I3Q24x4sI", 0x14000010, 0xD503201F, offset, size, flags, b"ARM\x64", 0)


def put(at: int, text: bytes, start: bytes = b"") -> bytes:
    return start.ljust(at, b"\xcc") + text + b"\xcc" * 1024


def test_size_of_the_header() -> None:
    assert Arm64ImageHeader.SIZE == 64


def test_the_header_of_a_distribution_kernel() -> None:
    image = read_header(DEBIAN, 27236288, "Image")
    assert image == Arm64Image(text_offset=0, image_size=27918336, flags=10)
    assert (image.big_endian, image.page_size, image.anywhere) == (False, 4096, True)


@pytest.mark.parametrize(
    ("flags", "big_endian", "page_size", "anywhere"),
    [
        (0, False, 0, False),
        (1, True, 0, False),
        (4, False, 16384, False),
        (6, False, 65536, False),
        (8, False, 0, True),
    ],
)
def test_flags(flags: int, big_endian: bool, page_size: int, anywhere: bool) -> None:
    image = read_header(header(flags=flags), 64, "Image")
    assert image is not None
    assert (image.big_endian, image.page_size, image.anywhere) == (big_endian, page_size, anywhere)


def test_any_number_is_reported() -> None:
    image = read_header(header(2**64 - 1, 2**64 - 1, 2**64 - 1), 64, "Image")
    assert image == Arm64Image(text_offset=2**64 - 1, image_size=2**64 - 1, flags=2**64 - 1)
    assert read_header(header(0x80000), 64, "Image") == Arm64Image(text_offset=0x80000, image_size=0, flags=0)


def with_stub(*sections: tuple[int, int], pe_offset: int = 64, magic: bytes = b"PE\0\0") -> bytes:
    """An Image with an EFI stub of such sections (size and offset of the stored bytes), by the PE format."""
    image = bytearray(header(size=1 << 20))
    image[:2] = b"MZ"
    image[60:64] = pe_offset.to_bytes(4, "little")
    # Machine, sections, time, two for symbols, optional header (112 and six directories), characteristics.
    coff = struct.pack("<2H3I2H", 0xAA64, len(sections), 0, 0, 0, 160, 0x206)
    optional = struct.pack("<H", 0x20B).ljust(160, b"\0")
    table = b"".join(
        struct.pack("<8s4I12xI", b".text", 1 << 20, 0x1000, size, offset, 0x60000020)
        for size, offset in sections
    )
    return (bytes(image) + magic + coff + optional + table).ljust(HEAD_SIZE, b"\0")


@pytest.mark.parametrize(
    "head",
    [
        with_stub((0x10000, 0x1000), (0x400, 0x11000)),
        with_stub((0x10000, 0x1000), (0, 0x99999999)),
        with_stub((0xFFFFFFFF, 0xFFFFFFFF), magic=b"PE\0\1"),
        with_stub((0xFFFFFFFF, 0xFFFFFFFF), pe_offset=0xFFFFFFFF),
        with_stub((0xFFFFFFFF, 0xFFFFFFFF), pe_offset=HEAD_SIZE - 8),
    ],
)
def test_the_sections_of_an_efi_stub_are_in_the_file(head: bytes) -> None:
    assert read_header(head, 0x11400, "Image") == Arm64Image(text_offset=0, image_size=1 << 20, flags=0)


@pytest.mark.parametrize("allow_raw", [False, True])
@pytest.mark.parametrize(
    ("head", "end"),
    [
        (with_stub((0x10000, 0x1000), (0x401, 0x11000)), 0x11401),
        (with_stub((0x10401, 0x1000), (0x400, 0x1000)), 0x11401),
        (with_stub((0xFFFFFFFF, 0xFFFFFFFF)), 0x1FFFFFFFE),
    ],
)
def test_a_truncated_image_is_refused(head: bytes, end: int, allow_raw: bool) -> None:
    message = (
        f"Image: truncated: its EFI stub has content up to {end:#x}, the file ends at 0x11400; copy the "
        "kernel again [Microsoft PE Format]"
    )
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        read_header(head, 0x11400, "Image", allow_raw=allow_raw)


def test_without_the_stub_its_table_means_nothing() -> None:
    """The MS-DOS magic is the first instruction of an Image with a stub; others have some other one."""
    head = b"\0\0" + with_stub((0xFFFFFFFF, 0xFFFFFFFF))[2:]
    assert read_header(head, 0x11400, "Image") is not None


@settings(max_examples=150)
@given(st.integers(0, 255), st.integers(0, 255), st.integers(64, HEAD_SIZE))
def test_mutations_of_a_stub(at: int, value: int, length: int) -> None:
    head = bytearray(with_stub((0x10000, 0x1000), (0x400, 0x11000)))
    head[at] = value
    try:
        read_header(bytes(head[:length]), 0x11400, "x", allow_raw=True)
    except FormatError as error:
        assert str(error).startswith("x: ")


TEXT = bytes(range(256)) * 64
FOREIGN = [
    (gzip.compress(TEXT), f"gzip-compressed data; {WANTED}, unpack it with gunzip"),
    (lzma.compress(TEXT), f"xz-compressed data; {WANTED}, unpack it with unxz"),
    (lzma.compress(TEXT, lzma.FORMAT_ALONE), f"lzma-compressed data; {WANTED}, unpack it with unlzma"),
    (bz2.compress(TEXT), f"bzip2-compressed data; {WANTED}, unpack it with bunzip2"),
    (zstandard.compress(TEXT), f"zstd-compressed data; {WANTED}, unpack it with unzstd"),
    (put(0, b"\x04\x22\x4d\x18"), f"lz4-compressed data; {WANTED}, unpack it with unlz4"),
    (put(0, b"\x02\x21\x4c\x18"), f"lz4 (legacy)-compressed data; {WANTED}, unpack it with unlz4"),
    (put(0, b"\x89LZO\0\r\n\x1a\n"), f"lzop-compressed data; {WANTED}, unpack it with lzop -d"),
    (
        put(24, b"zstd22\0\0", b"MZ\0\0zimg"),
        f"an EFI zboot kernel (zstd22-compressed); {WANTED}, take its payload out and unpack it",
    ),
    (
        put(24, b"\x1b[31m\0", b"MZ\0\0zimg"),
        f"an EFI zboot kernel; {WANTED}, take its payload out and unpack it",
    ),
    (put(0, b"\x7fELF\2\1\1"), f"an ELF file; {WANTED}: `objcopy -O binary` makes it of vmlinux"),
    (put(0x202, b"HdrS", b"MZ"), f"a Linux kernel for x86 (bzImage); {OTHER}"),
    (put(0x24, b"\x18\x28\x6f\x01"), f"a Linux kernel for 32-bit Arm (zImage); {OTHER}"),
    (put(56, b"RSC\x05", b"MZ"), f"a Linux kernel for RISC-V; {OTHER}"),
    (
        put(0, b"MZ"),
        f"an EFI program (PE); {WANTED}; that of a unified kernel image is its section .linux",
    ),
    (put(0, b"\xd0\x0d\xfe\xed"), f"a device tree or FIT image; {WANTED}"),
    (put(0, b"\x27\x05\x19\x56"), f"a U-Boot uImage; {WANTED}"),
    (put(0, b"070701"), f"a cpio archive; it may be the initramfs; {WANTED}"),
    (put(0, b"!<arch>\ndebian-binary"), f"an archive or Debian package; {WANTED}; unpack it"),
]


@pytest.mark.parametrize("allow_raw", [False, True])
@pytest.mark.parametrize(("data", "message"), FOREIGN)
def test_other_kinds_are_named(data: bytes, message: str, allow_raw: bool) -> None:
    with pytest.raises(FormatError, match=f"^{re.escape(f'vmlinuz: this is {message}')}$"):
        read_header(data[:HEAD_SIZE], len(data), "vmlinuz", allow_raw=allow_raw)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", f"vmlinuz: the file is empty; {WANTED}"),
        (b"A", f"vmlinuz: 1 bytes are no kernel; {WANTED}"),
        (DEBIAN[:63], f"vmlinuz: 63 bytes are no kernel; {WANTED}"),
    ],
)
@pytest.mark.parametrize("allow_raw", [False, True])
def test_files_without_room_for_a_header(data: bytes, message: str, allow_raw: bool) -> None:
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        read_header(data, len(data), "vmlinuz", allow_raw=allow_raw)


def test_raw_files_are_taken_when_asked_for() -> None:
    data = bytes(range(100, 200))
    assert read_header(data, len(data), "firmware", allow_raw=True) is None
    message = (
        f"firmware: offset 0x38: magic 9c9d9e9f, not 41524d64; {WANTED} "
        "[Linux Documentation/arch/arm64/booting.rst section 4]"
    )
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        read_header(data, len(data), "firmware")


def test_a_head_shorter_than_the_file_is_refused() -> None:
    with pytest.raises(
        FormatError, match=r"^Image: offset 0x0: Arm64ImageHeader needs 64 bytes, 60 are left"
    ):
        read_header(DEBIAN[:60], 27236288, "Image")


def test_the_magic_of_an_image_wins() -> None:
    assert foreign_kind(DEBIAN) is not None
    assert read_header(put(56, b"ARM\x64", b"\x7fELF"), 2000, "Image") is not None


@settings(max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=HEAD_SIZE),
        st.sampled_from([item for item, _ in FOREIGN]).map(lambda data: data[:99]),
    ),
    st.integers(0, 2**40),
    st.booleans(),
)
def test_random_bytes(data: bytes, size: int, allow_raw: bool) -> None:
    try:
        image = read_header(data, size, "x", allow_raw=allow_raw)
    except FormatError as error:
        assert str(error).startswith("x: ")
    else:
        assert allow_raw or image is not None
        assert (image is not None) == (data[56:60] == b"ARM\x64")


@settings(max_examples=50)
@given(st.integers(0, 63), st.integers(0, 255))
def test_mutations(at: int, value: int) -> None:
    data = bytearray(DEBIAN)
    data[at] = value
    if 56 <= at < 60 and value != DEBIAN[at]:
        with pytest.raises(FormatError):
            read_header(bytes(data), 27236288, "x")
    else:
        fields = struct.unpack_from("<3Q", data, 8)
        expected = Arm64Image(text_offset=fields[0], image_size=fields[1], flags=fields[2])
        assert read_header(bytes(data), 27236288, "x") == expected
