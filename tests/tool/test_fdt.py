"""Our device trees judged by dtc, and our blobs byte by byte by libfdt, whose writer they imitate."""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest
from hypothesis import given, settings

from recipes.errors import FormatError
from recipes.formats.fdt import REGION_SIZE, Node, Property, cells, encode, guest_region, quads, strings
from recipes.formats.fdt_reader import parse_fdt, read_fdt
from recipes.formats.fdt_source import to_dts
from tests.support import require_tool
from tests.unit.fdt_trees import TREES
from tests.vectors.kvmtool_inputs import vectors

pytestmark = pytest.mark.tool

RECORDED = [pytest.param(vector.dtb, id=vector.name) for vector in vectors() if vector.dtb is not None]
AWKWARD = Node(
    "",
    (
        Property("bootargs", strings('"quotes" \\back */ /* é\n\t\x01\x7f', "", "\udcff9")),
        Property("empty"),
        Property("compatible", strings("a", "b")),
        Property("one", b"\0"),
        Property("odd", bytes(range(256)) + b"\xff"),
        Property("cells", cells(*range(100))),
        Property("#a,b._+?-", quads(2**64 - 1), "-p */ }; bad"),
    ),
    (
        Node("a@0", (Property("1", b"x\0"),), (Node("b", origin="*/"), Node("9"))),
        Node("U6_16550A@1000000", (Property("reg", b"abc\0"),), (), "--console\nserial"),
    ),
    "/* -m 256",
)


def dtc(data: bytes, *, source: str, target: str) -> bytes:
    command = [require_tool("dtc"), "-q", "-I", source, "-O", target, "-"]
    done = subprocess.run(command, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def compiled(tree: Node, *, origins: bool = True) -> Node:
    return read_fdt(dtc(to_dts(tree, origins=origins).encode("ascii"), source="dts", target="dtb"), "dtc")


@pytest.mark.parametrize("data", RECORDED)
def test_recorded_trees(data: bytes) -> None:
    tree = read_fdt(data, "dtb")
    ours, theirs = (dtc(item, source="dtb", target="dts") for item in (encode(tree), data))
    assert ours == theirs
    assert compiled(tree) == tree


@pytest.mark.parametrize("origins", [True, False])
def test_awkward_values(origins: bool) -> None:
    assert compiled(AWKWARD, origins=origins) == AWKWARD
    again = dtc(dtc(encode(AWKWARD), source="dtb", target="dts"), source="dts", target="dtb")
    assert read_fdt(again, "dtc") == AWKWARD


def test_reserved_memory() -> None:
    reserved = ((0x80000000, 0x1000), (0, 1))
    text = to_dts(Node(""), reserved=reserved).encode("ascii")
    assert parse_fdt(dtc(text, source="dts", target="dtb"), "dtc").reserved == reserved


@settings(max_examples=40)
@given(TREES)
def test_dtc_makes_equal_trees_of_our_text_and_blob(tree: Node) -> None:
    assert compiled(tree) == tree
    again = dtc(encode(tree), source="dtb", target="dtb")
    assert read_fdt(again, "dtc") == tree


def libfdt() -> ctypes.CDLL:
    """The library of which dtc is a part; of any version, the writer has stayed the same."""
    require_tool("dtc")
    try:
        return ctypes.CDLL("libfdt.so.1")
    except OSError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error}; dtc is there without its library")
        pytest.skip(str(error))


def sequentially(tree: Node) -> bytes | None:
    """The guest's 64 KiB as kvmtool's ``setup_fdt`` makes them, or None if there is no room."""
    library = libfdt()
    staging, guest = (ctypes.create_string_buffer(REGION_SIZE) for _ in range(2))

    def write(node: Node) -> bool:
        fine = library.fdt_begin_node(staging, node.name.encode()) == 0
        for item in node.properties:
            size = len(item.data)
            fine = fine and library.fdt_property(staging, item.name.encode(), item.data, size) == 0
        return fine and all(map(write, node.children)) and library.fdt_end_node(staging) == 0

    assert library.fdt_create(staging, REGION_SIZE) == 0
    assert library.fdt_finish_reservemap(staging) == 0
    if not write(tree) or library.fdt_finish(staging) != 0:
        return None
    assert library.fdt_open_into(staging, guest, REGION_SIZE) == 0
    assert library.fdt_pack(guest) == 0
    return guest.raw


@settings(max_examples=80)
@given(TREES)
def test_libfdt_writes_the_same_region(tree: Node) -> None:
    assert guest_region(tree) == sequentially(tree)


def test_libfdt_agrees_on_names_within_names() -> None:
    names = ["reg", "xreg", "reg", "g", "dma-ranges", "ranges", "x", "xx", "x", "ges", "bges", "ges", "reg"]
    children = tuple(Node(f"n{index}", (Property(name),)) for index, name in enumerate(names))
    tree = Node("", (), children)
    assert guest_region(tree) == sequentially(tree)


@pytest.mark.parametrize("depth", range(4))
def test_libfdt_agrees_on_where_the_end_of_its_room_is(depth: int) -> None:
    outcomes = set()
    for size in range(REGION_SIZE - 160, REGION_SIZE - 88):
        tree = Node("", (Property("abc", bytes(size)),))
        for _ in range(depth):
            tree = Node("", tree.properties, (Node("n", (), tree.children),))
        theirs = sequentially(tree)
        outcomes.add(theirs is None)
        if theirs is not None:
            assert guest_region(tree) == theirs
            continue
        with pytest.raises(FormatError, match="exceed the 65536 bytes"):
            guest_region(tree)
    assert outcomes == {True, False}
