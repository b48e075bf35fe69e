from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.vmm.fwcfg import DmaAccess, E820Entry, FileEntry, parse_e820, read_directory


class Device:
    """A fw_cfg device with the given items; reads past the end give zeros, as in QEMU."""

    def __init__(self, items: dict[int, bytes]) -> None:
        self.items = items

    def read(self, selector: int, size: int) -> bytes:
        return self.items.get(selector, b"")[:size].ljust(size, b"\0")

    def write(self, selector: int, data: bytes) -> None:
        self.items[selector] = data


def directory(*files: tuple[bytes, int, int]) -> bytes:
    entries = (struct.pack(">IHH56s", size, select, 0, name) for name, select, size in files)
    return struct.pack(">I", len(files)) + b"".join(entries)


def test_sizes() -> None:
    assert (DmaAccess.SIZE, FileEntry.SIZE, E820Entry.SIZE) == (16, 64, 20)


def test_dma_access_is_big_endian() -> None:
    assert DmaAccess(control=0x19000A, length=4, address=0x101000).pack().hex() == (
        "0019000a000000040000000000101000"
    )


def test_files_are_read_by_name() -> None:
    device = Device({0x19: directory((b"etc/e820", 0x20, 3), (b"etc/x", 0x21, 0)), 0x20: b"abc"})
    files = read_directory(device)
    assert files.read("etc/e820") == b"abc"
    assert files.read("etc/x") == b""
    assert "etc/x" in files
    assert "etc" not in files


def test_files_are_written_whole() -> None:
    device = Device({0x19: directory((b"a", 0x20, 2)), 0x20: b"xx"})
    read_directory(device).write("a", b"yz")
    assert device.items[0x20] == b"yz"
    with pytest.raises(FormatError) as caught:
        read_directory(device).write("a", b"y")
    assert str(caught.value) == "fw_cfg: a holds 2 bytes, not 1"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({}, "fw_cfg: there is no file a; this QEMU does not offer it"),
        ({0x19: b"\xff\xff\xff\xff"}, "fw_cfg: 4294967295 files in the directory; at most 4096 are read"),
        (
            {0x19: directory((b"x" * 56, 1, 1))},
            "fw_cfg directory: entry 0 has no ASCII name that ends in a zero byte",
        ),
        (
            {0x19: directory((b"\xe9", 1, 1))},
            "fw_cfg directory: entry 0 has no ASCII name that ends in a zero byte",
        ),
        ({0x19: directory((b"a", 1, 1 << 31))}, "fw_cfg: a has 2147483648 bytes; at most 16777216 are read"),
    ],
)
def test_bad_directories(items: dict[int, bytes], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_directory(Device(items)).read("a")
    assert str(caught.value) == message


def test_memory_map_of_qemu() -> None:
    data = bytes.fromhex("00000000fd0000000000000003000000020000000000000000000000000000200000000001000000")
    assert [(entry.address, entry.length, entry.type) for entry in parse_e820(data)] == [
        (0xFD00000000, 0x300000000, 2),
        (0, 512 << 20, 1),
    ]


def test_a_broken_memory_map() -> None:
    with pytest.raises(FormatError) as caught:
        parse_e820(bytes(21))
    assert str(caught.value) == "etc/e820: 21 bytes are not a multiple of 20"


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_any_directory_gives_files_or_a_format_error(data: bytes) -> None:
    try:
        files = read_directory(Device({0x19: data}))
    except FormatError:
        return
    assert len(files.entries) == int.from_bytes(data[:4].ljust(4, b"\0"), "big")
