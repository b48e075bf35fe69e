from __future__ import annotations

import re

import pytest

from recipes.errors import FormatError
from recipes.formats.fdt import Node, Property, cells, quads, strings
from recipes.formats.fdt_source import to_dts

TREE = Node(
    "",
    (Property("interrupt-parent", cells(1)), Property("compatible", strings("linux,dummy-virt"))),
    (
        Node(
            "chosen",
            (
                Property("bootargs", strings('a="b\\c"\n\té\x7f'), "-p"),
                Property("kaslr-seed", b"ABCDEFG\0", "--kaslr-seed"),
            ),
            (),
            "always",
        ),
        Node("cpus", (), (Node("cpu@0", (Property("reg", cells(0)),), (), "-c 2"), Node("cpu@1")), "-c 2"),
        Node(
            "pci",
            (
                Property("dma-coherent"),
                Property("reg", quads(0x40000000, 0x10000000)),
                Property("interrupt-map", cells(*range(20)), "-d"),
                Property("list", strings("arm,psci-0.2", "arm,psci")),
                Property("mac", b"\x52\x55\0"),
            ),
        ),
    ),
    "run",
)
TEXT = r"""/dts-v1/;

/ { /* run */
	interrupt-parent = <0x1>;
	compatible = "linux,dummy-virt";

	chosen { /* always */
		bootargs = "a=\"b\\c\"\n\t\xc3\xa9\x7f"; /* -p */
		kaslr-seed = <0x41424344 0x45464700>; /* --kaslr-seed */
	};

	cpus { /* -c 2 */

		cpu@0 { /* -c 2 */
			reg = <0x0>;
		};

		cpu@1 {
		};
	};

	pci {
		dma-coherent;
		reg = <0x0 0x40000000 0x0 0x10000000>;
		interrupt-map = <0x0 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8 0x9>,
			<0xa 0xb 0xc 0xd 0xe 0xf 0x10 0x11 0x12 0x13>; /* -d */
		list = "arm,psci-0.2", "arm,psci";
		mac = "RU";
	};
};
"""


def test_the_whole_text() -> None:
    assert to_dts(TREE) == TEXT
    assert to_dts(TREE, origins=False) == re.sub(r" /\* .* \*/$", "", TEXT, flags=re.MULTILINE)


def test_reserved_memory() -> None:
    expected = "/dts-v1/;\n\n/memreserve/ 0x80000000 0x1000;\n/memreserve/ 0x0 0x1;\n\n/ {\n};\n"
    assert to_dts(Node(""), reserved=[(0x80000000, 0x1000), (0, 1)]) == expected


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Property("a"), "a;"),
        (Property("a", b"\0"), "a = [00];"),
        (Property("bootargs", b"\0"), 'bootargs = "";'),
        (Property("bootargs", b"x"), "bootargs = [78];"),
        (Property("bootargs", b"x\0\0"), 'bootargs = "x", "";'),
        (Property("a", b"x\0\0"), "a = [78 00 00];"),
        (Property("a", b"x\0\0\0"), "a = <0x78000000>;"),
        (Property("a", b"abc\0"), 'a = "abc";'),
        (Property("reg", b"abc\0"), "reg = <0x61626300>;"),
        (Property("a", b"abcd"), "a = <0x61626364>;"),
        (Property("a", b"a\x1b[m\0"), "a = [61 1b 5b 6d 00];"),
        (Property("model", b"a\x1b[m1\0"), r'model = "a\x1b[m1";'),
        (Property("a", bytes(range(1, 18))), f"a = [{bytes(range(1, 17)).hex(' ')}],\n\t\t[11];"),
        (Property("a", cells(*range(9))), "a = <0x0 0x1 0x2 0x3 0x4 0x5 0x6 0x7>,\n\t\t<0x8>;"),
        (Property("interrupts", cells(0, 4, 1)), "interrupts = <0x0 0x4 0x1>;"),
        (Property("interrupts", cells(*range(6))), "interrupts = <0x0 0x1 0x2>,\n\t\t<0x3 0x4 0x5>;"),
        (Property("interrupts", cells(7)), "interrupts = <0x7>;"),
        (Property("a", b"", "-p */ x; /*"), r"a; /* -p *\/ x; /* */"),
        (Property("a", b"", "-p\n\x1b[31mé\udcff*"), r"a; /* -p\n\x1b[31m\xe9\udcff* */"),
    ],
)
def test_notation(item: Property, text: str) -> None:
    assert to_dts(Node("", (item,))) == "/dts-v1/;\n\n/ {\n\t" + text + "\n};\n"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (Node("x"), "device tree: the root is named 'x'; it has no name"),
        (Node("", (Property('a = "'),)), "device tree: 'a = \"' is no name of a property; letters, digits"),
        (Node("", (), (Node("a; };"),)), "device tree: 'a; };' is no name of a node; letters, digits"),
    ],
)
def test_names_that_would_change_the_text(tree: Node, message: str) -> None:
    with pytest.raises(FormatError, match=f"^{re.escape(message)}"):
        to_dts(tree)
