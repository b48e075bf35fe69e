from __future__ import annotations

import base64
import struct
import zlib
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.aws_uefi_data import Header, read, write
from recipes.formats.efi import Variable

QUIET = settings(max_examples=100)
VENDOR = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
REF = " [python-uefivars 47291b3fb6]"
HUGE = 2**64 - 1
CUT = f"the store is truncated{REF}"
STREAM = "x: offset 0x10: the zlib stream"
# Lower bits: stored, and read and written at boot and at run time; 0x20: writes are authenticated by time.
VARIABLES = (Variable("PK", VENDOR, 0x27, b"key"), Variable("Größe", VENDOR, 7, b""))


def crc32c(data: bytes) -> int:
    """Bit by bit; 123456789 has 0xe3069283 (RFC 3720 appendix B.4 and the usual check value)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def text(store: bytes, *, version: int = 0, magic: bytes = b"AMZNUEFI", packed: bytes | None = None) -> bytes:
    covered = struct.pack("<I", version) + (zlib.compress(store) if packed is None else packed)
    return base64.b64encode(magic + struct.pack("<I", crc32c(covered)) + covered)


def field(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


STORE = (
    struct.pack("<Q", 2)
    + (
        field(b"PK")
        + field(b"key")
        + VENDOR.bytes_le
        + struct.pack("<I", 0x27)
        + bytes(16)
        + field(bytes(32))
    )
    + (field("Größe".encode()) + field(b"") + VENDOR.bytes_le + struct.pack("<I", 7))
)


def test_check_value() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert Header.SIZE == 16


def test_fields_in_order() -> None:
    made = base64.b64decode(write(VARIABLES), validate=True)
    assert made[:8] == b"AMZNUEFI"
    assert struct.unpack("<II", made[8:16]) == (crc32c(made[12:]), 0)
    assert zlib.decompress(made[16:]) == STORE
    assert not made[17] & 0x20  # no preset dictionary


def test_read() -> None:
    assert read(text(STORE), "x") == VARIABLES
    lines = b"\n".join(text(STORE)[at : at + 64] for at in range(0, 999, 64))
    assert read(lines + b"\r\n", "x") == VARIABLES


def test_the_same_text_every_time_and_no_line_end() -> None:
    assert write(VARIABLES) == write(VARIABLES)
    assert not write(VARIABLES).split(None, 1)[1:]


def test_an_empty_store() -> None:
    assert read(write(()), "x") == ()


@QUIET
@given(
    st.lists(
        st.builds(
            Variable,
            st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            st.uuids(),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=40),
        ),
        max_size=4,
    )
)
def test_what_is_written_is_read(variables: list[Variable]) -> None:
    assert read(write(variables), "x") == tuple(variables)


def changed(at: int, new: bytes) -> bytes:
    return text(STORE[:at] + new + STORE[at + len(new) :])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"?", "x: not base64 (Only base64 data is allowed)"),
        (b"AAAA", "x: offset 0x0: Header needs 16 bytes, 3 are left; the data is truncated"),
        (text(STORE, magic=b"amznuefi"), f"x: it starts with b'amznuefi', expected b'AMZNUEFI'{REF}"),
        (text(STORE, version=1), f"x: version 1, expected 0{REF}"),
        (
            text(STORE, packed=b"no zlib"),
            f"{STREAM} is damaged (Error -3 while decompressing data: incorrect header check)",
        ),
        (
            text(STORE, packed=zlib.compress(STORE)[:-1]),
            f"{STREAM} is cut short, followed by something, or holds more than 1048576 bytes",
        ),
        (
            text(STORE, packed=zlib.compress(STORE) + b"\0"),
            f"{STREAM} is cut short, followed by something, or holds more than 1048576 bytes",
        ),
        (
            text(bytes((1 << 20) + 1)),
            f"{STREAM} is cut short, followed by something, or holds more than 1048576 bytes",
        ),
        (
            text(b"1234567"),
            f"x, unpacked: offset 0x0: 8 bytes are to follow, 7 are left; the store is truncated{REF}",
        ),
        (
            changed(0, b"\xff" * 8),
            f"x, unpacked: offset 0x0: {2**64 - 1} variables cannot be in {len(STORE)} bytes{REF}",
        ),
        (
            changed(8, b"\xff" * 8),
            f"x, unpacked: offset 0x10: {HUGE} bytes are to follow, 132 are left; {CUT}",
        ),
        (changed(16, b"\xff"), "x, unpacked: offset 0x8: a variable name is not UTF-8"),
        (
            text(STORE + b"\0\0"),
            f"x, unpacked: offset {len(STORE):#x}: 2 bytes follow the last variable{REF}",
        ),
    ],
)
def test_bad_texts(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(data, "x")
    assert str(caught.value) == message


def test_a_flipped_bit_is_seen() -> None:
    good = bytearray(base64.b64decode(text(STORE)))
    good[40] ^= 1
    with pytest.raises(FormatError, match=r"the checksum is .* and should be .*; was all of it copied"):
        read(base64.b64encode(good), "x")


def test_a_name_that_is_no_text() -> None:
    with pytest.raises(FormatError) as caught:
        write([Variable("a\ud800", VENDOR, 7, b"")])
    assert str(caught.value) == "uefi data: the variable name 'a\\ud800' is not text"


@QUIET
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for made in (data, base64.b64encode(data), text(data), text(b"", packed=data)):
        try:
            read(made, "x")
        except FormatError:
            continue


@QUIET
@given(st.integers(0, len(STORE) - 1), st.binary(min_size=1, max_size=9))
def test_any_change_to_the_store(at: int, new: bytes) -> None:
    try:
        read(changed(at, new), "x")
    except FormatError:
        return
