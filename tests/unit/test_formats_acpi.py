from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.acpi import (
    AcpiTable,
    LoaderCommand,
    LoaderCommandType,
    LoaderZone,
    parse_loader,
    split_tables,
)
from tests.unit.stage0_samples import (
    add_checksum,
    add_pointer,
    allocate,
    command,
    write_pointer,
)


def test_commands() -> None:
    data = b"".join(
        [
            allocate("etc/acpi/rsdp", 16, 2),
            command(0, b"anything"),
            add_pointer("a", "b", 8, 4),
            add_checksum("a", 9, 3, 40),
            write_pointer("etc/vmgenid_addr", "etc/vmgenid_guid"),
        ]
    )
    found = parse_loader(data)
    assert found == (
        LoaderCommand(
            index=0,
            type=LoaderCommandType.ALLOCATE,
            file="etc/acpi/rsdp",
            alignment=16,
            zone=LoaderZone.FSEG,
        ),
        LoaderCommand(index=2, type=LoaderCommandType.ADD_POINTER, file="a", other="b", offset=8, length=4),
        LoaderCommand(index=3, type=LoaderCommandType.ADD_CHECKSUM, file="a", offset=9, start=3, length=40),
        LoaderCommand(
            index=4,
            type=LoaderCommandType.WRITE_POINTER,
            file="etc/vmgenid_addr",
            other="etc/vmgenid_guid",
            length=8,
        ),
    )
    assert [str(item) for item in found[:3]] == [
        "etc/acpi/rsdp in zone FSEG, aligned to 16",
        "a+0x8 of 4 bytes to b",
        "a+0x9 of 40 bytes from 0x3",
    ]
    assert parse_loader(b"") == ()


BAD = [
    (bytes(127), "etc/table-loader: 127 bytes are not up to 4096 commands of 128; capture the file again"),
    (
        bytes(4097 * 128),
        "etc/table-loader: 524416 bytes are not up to 4096 commands of 128; capture the file again",
    ),
    (
        command(0) + command(5),
        (
            "etc/table-loader: command 1: type 0x5 is none of ALLOCATE 1, ADD_POINTER 2, "
            "ADD_CHECKSUM 3, WRITE_POINTER 4; capture the file from QEMU itself"
        ),
    ),
    (
        command(0x8000_0001),
        (
            "etc/table-loader: command 0: type 0x80000001 is none of ALLOCATE 1, ADD_POINTER 2, "
            "ADD_CHECKSUM 3, WRITE_POINTER 4; capture the file from QEMU itself"
        ),
    ),
    (allocate("a", 3), "etc/table-loader: command 0: alignment 3 is no power of two up to 1048576"),
    (allocate("a", 0), "etc/table-loader: command 0: alignment 0 is no power of two up to 1048576"),
    (allocate("a", 16, 3), "etc/table-loader: command 0: zone 3 is neither HIGH (1) nor FSEG (2)"),
    (
        allocate("x" * 56),
        "etc/table-loader: command 0: b'xxxxxxxxxxxxxxxx'... is no file name that ends in a zero byte",
    ),
    (
        allocate(""),
        "etc/table-loader: command 0: " + repr(bytes(16)) + "... is no file name that ends in a zero byte",
    ),
    (
        allocate("é"),
        "etc/table-loader: command 0: "
        + repr("é".encode().ljust(16, b"\0"))
        + "... is no file name that ends in a zero byte",
    ),
    (add_pointer("a", "b", 0, 3), "etc/table-loader: command 0: a pointer has 1, 2, 4 or 8 bytes, not 3"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_bad_commands(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_loader(data)
    assert str(caught.value) == message


def table(name: str, size: int) -> bytes:
    return (name.encode() + struct.pack("<I", size)).ljust(size, b"\x01")


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"", []),
        (table("FACS", 64) + table("DSDT", 100), [("FACS", 0, 64), ("DSDT", 64, 100)]),
        (table("FACS", 64) + bytes(100), [("FACS", 0, 64), ("padding", 64, 100)]),
        (table("FACS", 64) + b"x" * 100, [("FACS", 0, 64), ("", 64, 100)]),
        (b"RSD PTR " + bytes(12), [("RSDP", 0, 20)]),
        (table("DSDT", 100)[:99], [("", 0, 99)]),
        (b"DSDT" + struct.pack("<I", 0) + bytes(40), [("", 0, 48)]),
        (b"abc", [("", 0, 3)]),
    ],
)
def test_tables(data: bytes, names: list[tuple[str, int, int]]) -> None:
    assert split_tables(data) == tuple(AcpiTable(*item) for item in names)


VALID = (
    allocate("etc/acpi/rsdp", 16, 2)
    + add_pointer("a", "b", 8, 4)
    + add_checksum("a", 9, 3, 40)
    + write_pointer("a", "b")
)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6))
def test_mutations_parse_or_are_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for place, value in changes:
        data[place] = value
    with contextlib.suppress(FormatError):
        parse_loader(bytes(data))


@settings(max_examples=100)
@given(st.binary(max_size=400))
def test_tables_are_the_whole_file(data: bytes) -> None:
    pieces = split_tables(data)
    assert b"".join(data[item.offset : item.offset + item.size] for item in pieces) == data
    with contextlib.suppress(FormatError):
        parse_loader(data)
