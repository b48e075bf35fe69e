"""Flattened device trees: the tree as a value, and the blob that libfdt's sequential writer makes of it.

A monitor that writes its device tree with libfdt gives the guest bytes that depend on the order of calls, not
only on the tree: the string table grows downwards, a name that is the end of another one is not stored again,
and eight bytes of an earlier copy stay behind the blob. All of it lies in measured memory.

Spec: Devicetree Specification v0.4 chapter 5; libfdt 1.6.1 ``fdt_sw.c``, ``fdt_rw.c``; kvmtool ``arm/fdt.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..binary import Struct, u32, u64
from ..errors import FormatError
from ..units import KIB, pad

MAGIC = 0xD00DFEED  # Devicetree Specification v0.4 section 5.2
VERSION = 17  # section 5.2: the only version in use
LAST_COMPATIBLE = 16  # section 5.2: what version 17 has to say here
BEGIN_NODE, END_NODE, PROP, NOP, END = 1, 2, 3, 4, 9  # section 5.4.1
REGION_SIZE = 64 * KIB  # kvmtool include/kvm/fdt.h FDT_MAX_SIZE: the writer's buffer and the guest's memory
# fdt_create puts the reserve map at 48 (the header aligned to an entry), fdt_pack moves all of it down to 40.
PACK_SHIFT = 8
# Linux drivers/of/fdt.c unflatten_dt_nodes (FDT_MAX_DEPTH 64) leaves deeper nodes out; the root counts as 1.
MAX_DEPTH = 63
# Devicetree Specification v0.4 tables 2.1 and 2.2 with a *: dtc 1.6.1 checks.c NODECHARS and PROPCHARS.
NODE_NAME = re.compile(r"[0-9A-Za-z,._+-]+(@[0-9A-Za-z,._+-]*)?")
PROPERTY_NAME = re.compile(r"[0-9A-Za-z,._+*#?-]+")
# Ours: names in use stay far below, and a blob of hostile names cannot become much larger in memory.
MAX_NAME = 255
NAME_RULE = (
    f"letters, digits and ,._+- are, one @ for nodes, *#? for properties; {MAX_NAME} characters at most"
)

_WHERE = "device tree"


@dataclass(frozen=True, slots=True)
class Property:
    """A property of a node.

    Attributes:
        data: the value as it is stored, without padding.
        origin: what caused it, a command-line option; no part of the bytes and not compared.
    """

    name: str
    data: bytes = b""
    origin: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Node:
    """A node with what is in it, all in the order of the blob; the root has an empty name.

    Attributes:
        origin: what caused it, a command-line option; no part of the bytes and not compared.
    """

    name: str
    properties: tuple[Property, ...] = ()
    children: tuple[Node, ...] = ()
    origin: str = field(default="", compare=False)

    def value(self, name: str) -> bytes | None:
        """Value of the first property of this name, or None."""
        return next((item.data for item in self.properties if item.name == name), None)

    def child(self, name: str) -> Node | None:
        """The first child whose whole name (with unit address) is this, or None."""
        return next((item for item in self.children if item.name == name), None)


class FdtHeader(Struct, endian=">"):
    """The ten words at the start of a blob; offsets count from its first byte. Spec: section 5.2."""

    magic: u32
    totalsize: u32
    off_dt_struct: u32
    off_dt_strings: u32
    off_mem_rsvmap: u32
    version: u32
    last_comp_version: u32
    boot_cpuid_phys: u32
    size_dt_strings: u32
    size_dt_struct: u32


class ReserveEntry(Struct, endian=">"):
    """One range of memory that the guest must leave alone; both zero end the list. Spec: section 5.3."""

    address: u64
    size: u64


def is_name(text: str, pattern: re.Pattern[str]) -> bool:
    """Whether a node or property (by the pattern) may be named so."""
    return len(text) <= MAX_NAME and pattern.fullmatch(text) is not None


def check_names(node: Node, depth: int) -> None:
    """Refuse a node that cannot be stored at this depth, 1 for the root; its children are not looked at.

    Raises:
        FormatError: the name of the node or of a property, or the depth.
    """
    if depth > MAX_DEPTH:
        raise FormatError(_WHERE, f"more than {MAX_DEPTH} levels of nodes; Linux leaves deeper ones out")
    if depth == 1 and node.name:
        raise FormatError(_WHERE, f"the root is named {node.name!r}; it has no name")
    if depth > 1 and not is_name(node.name, NODE_NAME):
        raise FormatError(_WHERE, f"{node.name!r} is no name of a node; {NAME_RULE}")
    for item in node.properties:
        if not is_name(item.name, PROPERTY_NAME):
            raise FormatError(_WHERE, f"{item.name!r} is no name of a property; {NAME_RULE}")


def cells(*values: int) -> bytes:
    """The value of a property made of 32-bit cells.

    Raises:
        FormatError: a number that is no unsigned 32-bit one.
    """
    return b"".join(_number(value, 4) for value in values)


def quads(*values: int) -> bytes:
    """The value of a property made of 64-bit numbers, two cells each.

    Raises:
        FormatError: a number that is no unsigned 64-bit one.
    """
    return b"".join(_number(value, 8) for value in values)


def strings(*values: str) -> bytes:
    """The value of a property that is a list of strings, a NUL behind each.

    Surrogate escapes, which stand for bytes of a command line that are no UTF-8, become those bytes.

    Raises:
        FormatError: a NUL in a string, or a character that no byte stands for.
    """
    for value in values:
        if "\0" in value:
            raise FormatError(_WHERE, f"a NUL in the string {value!r}; it would end there")
    try:
        return b"".join(value.encode("utf-8", "surrogateescape") + b"\0" for value in values)
    except UnicodeEncodeError as error:
        raise FormatError(_WHERE, f"the string {error.object!r} cannot be written as bytes") from None


def walk(root: Node) -> Iterator[tuple[str, Node]]:
    """Full path and node of all nodes, parents first, in the order of the blob; the root is ``/``."""
    waiting = [("/", root)]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        prefix = path.rstrip("/")
        waiting += [(f"{prefix}/{child.name}", child) for child in reversed(node.children)]


def encode(root: Node) -> bytes:
    """The blob as ``fdt_create`` to ``fdt_pack`` leave it, ``totalsize`` bytes.

    Like libfdt this does not look for names that a node has twice.

    Raises:
        FormatError: a name that cannot be stored, a root with a name, more than ``MAX_DEPTH`` levels.

    Spec: libfdt 1.6.1 ``fdt_sw.c`` ``fdt_property_placeholder``, ``fdt_finish``; ``fdt_rw.c`` ``fdt_pack``.
    """
    writer = _SequentialWriter()
    waiting: list[Node | None] = [root]
    depth = 0
    while waiting:
        node = waiting.pop()
        if node is None:
            writer.end_node()
            depth -= 1
            continue
        depth += 1
        check_names(node, depth)
        writer.begin_node(node.name)
        for item in node.properties:
            writer.property(item)
        waiting += [None, *reversed(node.children)]
    return writer.finish()


def stale_tail(blob: bytes) -> bytes:
    """What stands behind a blob of ``encode`` in guest memory: its own last 8 bytes once more.

    ``fdt_open_into`` copies the tree to the guest 8 bytes longer than ``fdt_pack`` leaves it there.

    Spec: libfdt 1.6.1 ``fdt_sw.c`` ``fdt_create_with_flags``, ``fdt_rw.c`` ``fdt_packblocks_``.
    """
    return blob[-PACK_SHIFT:]


def guest_region(root: Node, size: int = REGION_SIZE) -> bytes:
    """The ``size`` bytes of guest memory that the monitor gives to its device tree.

    Raises:
        FormatError: as ``encode``, or the tree does not fit; libfdt needs 8 bytes more than the blob.
    """
    blob = encode(root)
    if len(blob) + PACK_SHIFT > size:
        what = f"{len(blob)} bytes and {PACK_SHIFT} for writing them exceed the {size} bytes of its memory"
        raise FormatError(_WHERE, f"{what}; shorten the kernel command line or remove devices")
    return (blob + stale_tail(blob)).ljust(size, b"\0")


class _SequentialWriter:
    """Blocks of one blob as libfdt's calls of the same names fill them.

    The string table grows at its front, so until it is complete a name's place is known from its end only.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._table = b""
        self._from_end: dict[str, int] = {}
        self._uses: list[tuple[int, int, int]] = []  # of a name: part to fill, value's length, place from end

    def begin_node(self, name: str) -> None:
        self._parts += [cells(BEGIN_NODE), pad(name.encode("ascii") + b"\0", 4)]

    def property(self, item: Property) -> None:
        self._uses.append((len(self._parts), len(item.data), self._place(item.name)))
        self._parts += [b"", pad(item.data, 4)]

    def end_node(self) -> None:
        self._parts.append(cells(END_NODE))

    def finish(self) -> bytes:
        table = self._table
        for part, length, from_end in self._uses:
            self._parts[part] = cells(PROP, length, len(table) - from_end)
        structure = b"".join([*self._parts, cells(END)])
        reserved = ReserveEntry(address=0, size=0).pack()
        structure_at = FdtHeader.SIZE + len(reserved)
        header = FdtHeader(
            magic=MAGIC,
            totalsize=structure_at + len(structure) + len(table),
            off_dt_struct=structure_at,
            off_dt_strings=structure_at + len(structure),
            off_mem_rsvmap=FdtHeader.SIZE,
            version=VERSION,
            last_comp_version=LAST_COMPATIBLE,
            boot_cpuid_phys=0,
            size_dt_strings=len(table),
            size_dt_struct=len(structure),
        )
        return b"".join([header.pack(), reserved, structure, table])

    def _place(self, name: str) -> int:
        """Distance of the first ``name`` in the table from the table's end, which later names do not move.

        A name in front of it may end with it, then that place is found from there on: hence the clearing.
        """
        if name not in self._from_end:
            entry = name.encode("ascii") + b"\0"
            found = self._table.find(entry)
            if found < 0:
                self._table = entry + self._table
                self._from_end.clear()
                found = 0
            self._from_end[name] = len(self._table) - found
        return self._from_end[name]


def _number(value: int, size: int) -> bytes:
    if not 0 <= value < 1 << 8 * size:
        raise FormatError(_WHERE, f"{value:#x} is no unsigned number of {8 * size} bits")
    return value.to_bytes(size, "big")
