from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from recipes.errors import FormatError
from recipes.formats.fdt import (
    FdtHeader,
    Node,
    Property,
    ReserveEntry,
    cells,
    encode,
    guest_region,
    quads,
    stale_tail,
    strings,
    walk,
)
from tests.unit.fdt_trees import TREES, blob, words

EMPTY = words(1, 0, 2, 9)  # a root with nothing in it, written down by hand


def chain(levels: int) -> Node:
    node = Node("n") if levels > 1 else Node("")
    for level in range(levels - 1, 0, -1):
        node = Node("n" if level > 1 else "", children=(node,))
    return node


def test_sizes_of_the_structures() -> None:
    assert (FdtHeader.SIZE, ReserveEntry.SIZE) == (40, 16)


def test_values() -> None:
    assert cells(1, 0xFFFFFFFF) == b"\0\0\0\1\xff\xff\xff\xff"
    assert quads(1, 2**64 - 1) == b"\0\0\0\0\0\0\0\1" + b"\xff" * 8
    assert strings("a", "", "bc") == b"a\0\0bc\0"
    assert strings("é\udcff") == b"\xc3\xa9\xff\0"
    assert (cells(), quads(), strings()) == (b"", b"", b"")


def test_an_empty_tree() -> None:
    assert encode(Node("")) == blob(EMPTY)
    assert len(encode(Node(""))) == 72


def test_names_go_in_front_of_the_table() -> None:
    tree = Node(
        "",
        (Property("first", b"\x01\x02\x03\x04\x05"), Property("next", b"abcd")),
        (Node("child@0", (Property("first"), Property("last", b"\xff"))),),
    )
    # The table ends as "last", "next", "first": last at 0, next at 5, first at 10.
    expected = words(1, 0)
    expected += words(3, 5, 10) + b"\x01\x02\x03\x04\x05\0\0\0"
    expected += words(3, 4, 5) + b"abcd"
    expected += words(1) + b"child@0\0"
    expected += words(3, 0, 10)
    expected += words(3, 1, 0) + b"\xff\0\0\0"
    expected += words(2, 2, 9)
    assert encode(tree) == blob(expected, b"last\0next\0first\0")


def test_a_name_that_ends_a_longer_one_is_not_stored_again() -> None:
    tree = Node("", (Property("dma-ranges"), Property("ranges")))
    expected = words(1, 0) + words(3, 0, 0) + words(3, 0, 4) + words(2, 9)
    assert encode(tree) == blob(expected, b"dma-ranges\0")


def test_a_name_is_found_in_a_longer_one_that_came_later() -> None:
    # The second "reg" is looked for from the start, where "xreg" stands in front of the first one.
    tree = Node("", (Property("reg"), Property("xreg")), (Node("a", (Property("reg"),)),))
    expected = words(1, 0) + words(3, 0, 5) + words(3, 0, 0)
    expected += words(1) + b"a\0\0\0" + words(3, 0, 1) + words(2, 2, 9)
    assert encode(tree) == blob(expected, b"xreg\0reg\0")


def test_the_tail_is_the_last_8_bytes_once_more() -> None:
    tree = Node("", (Property("interrupt-parent", cells(1)),))
    whole = encode(tree)
    assert stale_tail(whole) == b"-parent\0"
    assert guest_region(tree) == whole + b"-parent\0" + bytes(0x10000 - len(whole) - 8)
    # A table shorter than that: the words before it are copied as well.
    assert stale_tail(encode(Node("", (Property("abc"),)))) == b"\0\0\0\x09abc\0"


def test_libfdt_needs_8_bytes_more_than_the_blob() -> None:
    room = 0x10000 - 8 - 72 - 12 - 4  # an empty tree's blob, a property's words and its name
    tree = Node("", (Property("abc", bytes(room)),))
    assert len(encode(tree)) == 0x10000 - 8
    assert len(guest_region(tree)) == 0x10000
    message = (
        "device tree: 65532 bytes and 8 for writing them exceed the 65536 bytes of its memory; "
        "shorten the kernel command line or remove devices"
    )
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        guest_region(Node("", (Property("abc", bytes(room + 1)),)))


def test_origins_are_no_part_of_the_tree() -> None:
    plain = Node("", (Property("a", b"1"),), (Node("b"),))
    named = Node("", (Property("a", b"1", "-p"),), (Node("b", origin="-c"),), "-k")
    assert plain == named
    assert hash(plain) == hash(named)
    assert encode(plain) == encode(named)
    assert plain != Node("", (Property("a", b"2"),), (Node("b"),))


def test_access_by_name() -> None:
    inner = Node("b", (Property("a", b"1"), Property("c")))
    tree = Node("", (), (inner, Node("d@0", (), (Node("e"),))))
    assert tree.child("b") is inner
    assert (tree.child("d"), tree.child("")) == (None, None)
    assert (inner.value("a"), inner.value("c"), inner.value("x")) == (b"1", b"", None)
    assert [path for path, _ in walk(tree)] == ["/", "/b", "/d@0", "/d@0/e"]


RULE = "letters, digits and ,._+- are, one @ for nodes, *#? for properties; 255 characters at most"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (Node("x"), "the root is named 'x'; it has no name"),
        (Node("", (), (Node(""),)), f"'' is no name of a node; {RULE}"),
        (Node("", (), (Node("a/b"),)), f"'a/b' is no name of a node; {RULE}"),
        (Node("", (), (Node("a\0"),)), f"'a\\x00' is no name of a node; {RULE}"),
        (Node("", (), (Node("a\n"),)), f"'a\\n' is no name of a node; {RULE}"),
        (Node("", (), (Node("a@1@2"),)), f"'a@1@2' is no name of a node; {RULE}"),
        (Node("", (), (Node("@1"),)), f"'@1' is no name of a node; {RULE}"),
        (Node("", (), (Node("#a"),)), f"'#a' is no name of a node; {RULE}"),
        (Node("", (), (Node("é"),)), f"'é' is no name of a node; {RULE}"),
        (Node("", (Property(""),)), f"'' is no name of a property; {RULE}"),
        (Node("", (Property("a@1"),)), f"'a@1' is no name of a property; {RULE}"),
        (Node("", (Property("a" * 256),)), f"'{'a' * 256}' is no name of a property; {RULE}"),
        (chain(64), "more than 63 levels of nodes; Linux leaves deeper ones out"),
        (chain(5000), "more than 63 levels of nodes; Linux leaves deeper ones out"),
    ],
)
def test_what_no_blob_holds(tree: Node, message: str) -> None:
    with pytest.raises(FormatError, match=f"^{re.escape('device tree: ' + message)}$"):
        encode(tree)


def test_the_deepest_tree() -> None:
    assert encode(chain(63)) == blob(words(1, 0) + (words(1) + b"n\0\0\0") * 62 + words(2) * 63 + words(9))


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_a_number_over_its_cell(value: int) -> None:
    with pytest.raises(FormatError, match=f"^device tree: {value:#x} is no unsigned number of 32 bits$"):
        cells(1, value)
    with pytest.raises(
        FormatError, match=r"^device tree: 0x10000000000000000 is no unsigned number of 64 bits$"
    ):
        quads(1 << 64)


def test_strings_that_are_no_strings() -> None:
    with pytest.raises(
        FormatError, match=r"^device tree: a NUL in the string 'a\\x00b'; it would end there$"
    ):
        strings("ok", "a\0b")
    with pytest.raises(FormatError, match=r"^device tree: the string '\\ud800' cannot be written as bytes$"):
        strings("\ud800")


@settings(max_examples=60)
@given(TREES)
def test_every_block_is_where_the_header_says(tree: Node) -> None:
    data = encode(tree)
    header = FdtHeader.unpack(data)
    assert header.totalsize == len(data) == header.off_dt_strings + header.size_dt_strings
    assert header.off_dt_strings == header.off_dt_struct + header.size_dt_struct
    assert data[40:56] == bytes(16)
    assert data[header.off_dt_strings - 4 : header.off_dt_strings] == words(9)
