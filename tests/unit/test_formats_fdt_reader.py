from __future__ import annotations

import random
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.fdt import Node, Property, encode, guest_region
from recipes.formats.fdt_reader import MAX_SIZE, parse_fdt, read_fdt
from tests.unit.fdt_trees import TREES, blob, words

EMPTY = words(1, 0, 2, 9)
SECTION = "[Devicetree Specification v0.4 section 5"
NAMES = b"reg\0compatible\0"
CHILD = words(1) + b"cpu@0\0\0\0"
PROPERTY = words(3, 4, 0, 7)  # reg = <7>

# What dtc 1.6.1 makes of `/dts-v1/; / { a = <1>; b@2 { xa; }; };`; its table of names grows at the end.
DTC = bytes.fromhex(
    "d00dfeed 00000075 00000038 00000070 00000028 00000011 00000010 00000000 00000005 00000038"
    "00000000 00000000 00000000 00000000"
    "00000001 00000000 00000003 00000004 00000000 00000001 00000001 62403200 00000003 00000000"
    "00000002 00000002 00000002 00000009"
    "6100786100"
)
DTC_TREE = Node("", (Property("a", b"\0\0\0\1"),), (Node("b@2", (Property("xa"),)),))


def test_a_blob_of_dtc() -> None:
    assert read_fdt(DTC, "x.dtb") == DTC_TREE


def test_values_names_and_order() -> None:
    structure = words(1, 0) + PROPERTY + words(3, 3, 4) + b"ab\0\0" + words(4) + CHILD + words(4, 2)
    structure += words(1) + b"a\0\0\0" + words(3, 0, 8) + words(2, 2, 4, 9)
    expected = Node(
        "",
        (Property("reg", b"\0\0\0\7"), Property("compatible", b"ab\0")),
        (Node("cpu@0"), Node("a", (Property("atible"),))),
    )
    assert read_fdt(blob(structure, NAMES), "x.dtb") == expected


def test_what_else_a_blob_says() -> None:
    reserved = bytes(7) + b"\1" + bytes(7) + b"\2" + bytes(16)
    read = parse_fdt(blob(EMPTY, reserved=reserved, boot_cpuid_phys=5) + b"tail", "x.dtb")
    assert (read.root, read.reserved, read.boot_cpu, read.size) == (Node(""), ((1, 2),), 5, 88)


def test_the_order_of_the_blocks_is_free() -> None:
    data = words(0xD00DFEED, 88, 56, 40, 72, 18, 17, 0, 4, 16) + b"reg\0" + bytes(12) + EMPTY + bytes(16)
    assert read_fdt(data, "x.dtb") == Node("")


def test_a_captured_region_is_longer_than_its_blob() -> None:
    tree = Node("", (Property("interrupt-parent", b"\0\0\0\1"),))
    region = guest_region(tree)
    assert len(region) == 0x10000
    assert read_fdt(region, "x.dtb") == tree


def nested(levels: int) -> bytes:
    return words(1, 0) + (words(1) + b"n\0\0\0") * (levels - 1) + words(2) * levels + words(9)


def test_the_deepest_tree() -> None:
    node = read_fdt(blob(nested(63)), "x.dtb")
    for _ in range(62):
        assert len(node.children) == 1
        node = node.children[0]
    assert node == Node("n")


HEADER = [
    (b"", "x.dtb: offset 0x0: FdtHeader needs 40 bytes, 0 are left; the data is truncated"),
    (blob(EMPTY)[:39], "x.dtb: offset 0x0: FdtHeader needs 40 bytes, 39 are left; the data is truncated"),
    (
        blob(EMPTY, magic=0xEDFE0DD0),
        "x.dtb: offset 0x0: magic 0xedfe0dd0, not 0xd00dfeed; this is no device tree blob",
    ),
    (
        blob(EMPTY, version=16),
        f"x.dtb: offset 0x14: version 16, readable as 16; 17 is known {SECTION}.2]",
    ),
    (
        blob(EMPTY, version=18, last_comp_version=18),
        f"x.dtb: offset 0x14: version 18, readable as 18; 17 is known {SECTION}.2]",
    ),
    (blob(EMPTY)[:-1], "x.dtb: offset 0x4: the blob has 72 bytes, 71 are there; the data is truncated"),
    (
        blob(EMPTY, totalsize=0xFFFFFFFF),
        "x.dtb: offset 0x4: the blob has 4294967295 bytes, 2097152 are allowed",
    ),
    (blob(EMPTY, totalsize=71), "x.dtb: offset 0x8: the structure block ends at 0x48, the blob at 0x47"),
    (
        blob(EMPTY, off_dt_struct=58),
        f"x.dtb: offset 0x8: the structure block starts at 0x3a, not at a multiple of 4 {SECTION}.6]",
    ),
    (
        blob(EMPTY, off_mem_rsvmap=44),
        f"x.dtb: offset 0x10: the reserve map starts at 0x2c, not at a multiple of 8 {SECTION}.6]",
    ),
    (
        blob(EMPTY, size_dt_struct=0xFFFFFFFC),
        "x.dtb: offset 0x8: the structure block ends at 0x100000034, the blob at 0x48",
    ),
    (
        blob(EMPTY, NAMES, off_dt_strings=0xFFFFFFFF),
        "x.dtb: offset 0xc: the strings block ends at 0x10000000e, the blob at 0x57",
    ),
    (blob(EMPTY, off_mem_rsvmap=64), "x.dtb: offset 0x10: the reserve map ends at 0x50, the blob at 0x48"),
    (
        blob(EMPTY, reserved=bytes(15) + b"\1"),
        "x.dtb: offset 0x48: the reserve map has no closing entry before the blob ends",
    ),
    (
        blob(EMPTY, reserved=bytes(32), off_mem_rsvmap=32),
        "x.dtb: offset 0x20: the reserve map starts in the header, which ends at 0x28",
    ),
    (
        blob(EMPTY, off_dt_struct=48),
        "x.dtb: offset 0x30: the structure block starts in the reserve map, which ends at 0x38",
    ),
    (
        blob(EMPTY, NAMES, off_dt_strings=71),
        "x.dtb: offset 0x47: the strings block starts in the structure block, which ends at 0x48",
    ),
]

TREE = [
    (b"", "offset 0x38: the structure block ends without its end token"),
    (words(1, 0, 2), "offset 0x44: the structure block ends without its end token"),
    (words(1, 0, 2) + b"\0\0", "offset 0x44: the structure block ends without its end token"),
    (words(9), "offset 0x38: a tree without a root"),
    (words(2, 9), "offset 0x38: the end of a node where none is open"),
    (words(1, 0, 2, 2, 9), "offset 0x44: the end of a node where none is open"),
    (words(1, 0, 9), "offset 0x40: the tree ends in /, which is still open"),
    (words(1, 0) + CHILD + words(9), "offset 0x4c: the tree ends in /cpu@0, which is still open"),
    (words(1, 0, 2, 1, 0, 2, 9), "offset 0x44: a second node beside the root"),
    (words(1, 0, 5, 2, 9), "offset 0x40: token 0x5; 1, 2, 3, 4 and 9 are known"),
    (words(1, 0, 0x1000000, 2, 9), "offset 0x40: token 0x1000000; 1, 2, 3, 4 and 9 are known"),
    (words(1, 0, 2, 9, 9), "offset 0x48: 4 bytes of the structure block stand behind its end"),
    (words(1) + b"/\0\0\0" + words(2, 9), "offset 0x3c: the root has a name; it has none"),
    (PROPERTY + words(9), "offset 0x38: a property outside the root"),
    (EMPTY[:-4] + PROPERTY + words(9), "offset 0x44: a property outside the root"),
    (
        words(1, 0) + CHILD + words(2) + CHILD + words(2, 2, 9),
        "offset 0x50: a second node 'cpu@0' in /",
    ),
    (words(1, 0) + PROPERTY * 2 + words(2, 9), "offset 0x50: a second property 'reg' in /"),
    (
        words(1, 0) + CHILD + words(2) + PROPERTY + words(2, 9),
        "offset 0x50: property 'reg' of / stands behind a child node",
    ),
    (words(1, 0, 3, 4, 15, 7, 2, 9), "offset 0x40: name at 0xf of a strings block of 0xf bytes"),
    (words(1, 0, 3, 0, 0xFFFFFFFF, 2, 9), "offset 0x40: name at 0xffffffff of a strings block of 0xf bytes"),
    (words(1, 0, 3, 9, 0, 7, 9), "offset 0x40: property 'reg' has 9 bytes, 8 are left in the block"),
    (
        words(1, 0, 3, 0xFFFFFFFF, 0, 7, 2, 9),
        "offset 0x40: property 'reg' has 4294967295 bytes, 12 are left in the block",
    ),
    (words(1, 0, 3, 5, 0, 7, 9), "offset 0x54: the structure block ends without its end token"),
    (words(1, 0, 3), "offset 0x44: the structure block ends without its end token"),
    (nested(64), "offset 0x230: more than 63 levels of nodes"),
]

NAMED = [
    (words(1, 0) + words(1) + b"abc/" + words(2, 9), "offset 0x44: 'abc/' is no name of a node"),
    (words(1, 0) + words(1, 0, 2, 2, 9), "offset 0x44: '' is no name of a node"),
    (words(1, 0) + words(1) + b"\x1b[m\0" + words(2, 2, 9), "offset 0x44: '\\x1b[m' is no name of a node"),
    (words(1, 0) + words(1) + b"a@b@c\0\0\0" + words(2, 2, 9), "offset 0x44: 'a@b@c' is no name of a node"),
    (words(1, 0) + words(3, 0, 3) + words(2, 9), "offset 0x57: '' is no name of a property"),
]


@pytest.mark.parametrize(("data", "message"), HEADER)
def test_a_header_that_lies(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        read_fdt(data, "x.dtb")


@pytest.mark.parametrize(("structure", "message"), TREE)
def test_a_damaged_tree(structure: bytes, message: str) -> None:
    where = f" {SECTION}.4]" if "name at" not in message else ""
    with pytest.raises(FormatError, match=f"^{re.escape('x.dtb: ' + message + where)}$"):
        read_fdt(blob(structure, NAMES), "x.dtb")


@pytest.mark.parametrize(("structure", "message"), NAMED)
def test_bad_names(structure: bytes, message: str) -> None:
    whole = f"x.dtb: {message} {SECTION}.4, 2.2]"
    with pytest.raises(FormatError, match=f"^{re.escape(whole)}$"):
        read_fdt(blob(structure, NAMES), "x.dtb")


def test_names_without_an_end() -> None:
    message = "a name without an end within 255 bytes"
    with pytest.raises(FormatError, match=f"^x.dtb: offset 0x44: {message}$"):
        read_fdt(blob(words(1, 0, 1) + b"a" * 256 + words(0, 2, 2, 9)), "x.dtb")
    with pytest.raises(FormatError, match=f"^x.dtb: offset 0x54: {message}$"):
        read_fdt(blob(words(1, 0) + words(3, 0, 0, 2, 9), b"reg"), "x.dtb")
    with pytest.raises(FormatError, match=f"^x.dtb: offset 0x55: {message}$"):
        read_fdt(blob(words(1, 0) + words(3, 0, 1, 2, 9), b"\0" + b"a" * 256 + b"\0"), "x.dtb")


def test_a_blob_over_the_limit() -> None:
    big = blob(words(1, 0) + words(3, MAX_SIZE, 0) + bytes(MAX_SIZE) + words(2, 9), NAMES)
    with pytest.raises(
        FormatError, match=r"^x\.dtb: offset 0x4: the blob has 2097251 bytes, 2097152 are allowed$"
    ):
        read_fdt(big, "x.dtb")


def test_many_names_of_one_string_stay_small() -> None:
    """Properties that all name places of one long string must not multiply it."""
    names = b"a" * 200_000 + b"\0"
    structure = words(1, 0) + b"".join(words(3, 0, at) for at in range(100_000, 200_000)) + words(2, 9)
    with pytest.raises(FormatError, match="a name without an end within 255 bytes"):
        read_fdt(blob(structure, names), "x.dtb")


def test_memory_grows_with_the_blob() -> None:
    nodes = b"".join(words(1) + f"n{index:05}\0\0".encode() + words(2) for index in range(20_000))
    data = blob(words(1, 0) + nodes + words(2, 9))
    tracemalloc.start()
    try:
        assert len(read_fdt(data, "x.dtb").children) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(data)


@settings(max_examples=150)
@given(TREES, st.binary(max_size=16))
def test_round_trip(tree: Node, tail: bytes) -> None:
    data = encode(tree)
    read = parse_fdt(data + tail, "x.dtb")
    assert read.root == tree
    assert read.size == len(data)
    assert encode(read.root) == data


def survives(data: bytes) -> None:
    try:
        tree = parse_fdt(data, "x.dtb").root
    except FormatError as error:
        assert str(error).startswith("x.dtb: ")
    else:
        assert read_fdt(encode(tree), "again") == tree


@settings(max_examples=100)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes(data: bytes, headed: bool) -> None:
    survives(blob(data) if headed else data)


@settings(max_examples=150)
@given(TREES, st.randoms(use_true_random=False))
def test_mutations(tree: Node, rng: random.Random) -> None:
    original = encode(tree)
    for _ in range(8):
        data = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            choice = rng.randrange(4)
            if choice == 0:
                data[at] = rng.randrange(256)
            elif choice == 1:
                at &= ~3
                data[at : at + 4] = words(
                    rng.choice([0, 1, 2, 3, 4, 9, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(200)])
                )
            elif choice == 2 and len(data) > 1:
                del data[at : at + rng.randint(1, 8)]
            else:
                data[at:at] = data[at : at + 4]
            if not data:
                break
        survives(bytes(data))


def test_truncation() -> None:
    for size in range(len(DTC)):
        with pytest.raises(FormatError, match=r"the data is truncated$"):
            read_fdt(DTC[:size], "x.dtb")
