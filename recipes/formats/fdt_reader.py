"""Reading a flattened device tree that nobody vouches for.

A device tree comes from the host. Whatever stands in it, reading ends with a tree or with a ``FormatError``,
in time and memory that grow with the blob's size alone.

Spec: Devicetree Specification v0.4 chapter 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from ..errors import FormatError
from ..units import MIB, align_up
from .fdt import (
    BEGIN_NODE,
    END,
    END_NODE,
    LAST_COMPATIBLE,
    MAGIC,
    MAX_DEPTH,
    MAX_NAME,
    NODE_NAME,
    NOP,
    PROP,
    PROPERTY_NAME,
    VERSION,
    FdtHeader,
    Node,
    Property,
    ReserveEntry,
    is_name,
)

MAX_SIZE = 2 * MIB  # Linux Documentation/arch/arm64/booting.rst section 2: a larger one does not boot
SPEC = "Devicetree Specification v0.4 section 5"


@dataclass(frozen=True, kw_only=True)
class Fdt:
    """Everything that a blob says.

    Attributes:
        reserved: address and size of the memory that the guest must leave alone.
        boot_cpu: physical number of the CPU that boots.
        size: of the blob; memory behind it may have been captured with it.
    """

    root: Node
    reserved: tuple[tuple[int, int], ...]
    boot_cpu: int
    size: int


def read_fdt(data: bytes, source: str) -> Node:
    """The root of the tree; reserved memory and boot CPU are what ``parse_fdt`` gives besides.

    Raises:
        FormatError: as ``parse_fdt``.
    """
    return parse_fdt(data, source).root


def parse_fdt(data: bytes, source: str) -> Fdt:
    """What the blob at the start of ``data`` says; bytes behind its ``totalsize`` are not looked at.

    Stricter than libfdt: names may occur once in a node, consist of what ``NODE_NAME`` and ``PROPERTY_NAME``
    allow, and properties stand before the node's children.

    Args:
        source: a file name or a description, for messages.

    Raises:
        FormatError: no version 17 blob, or one that is damaged, deeper than ``MAX_DEPTH`` or larger than
            ``MAX_SIZE``.
    """
    header = _header(data, source)
    blob = data[: header.totalsize]
    reserved_end, reserved = _reserved(blob, header, source)
    structure_end = header.off_dt_struct + header.size_dt_struct
    strings_end = header.off_dt_strings + header.size_dt_strings
    _check_apart(
        [
            (0, FdtHeader.SIZE, "header"),
            (header.off_mem_rsvmap, reserved_end, "reserve map"),
            (header.off_dt_struct, structure_end, "structure block"),
            (header.off_dt_strings, strings_end, "strings block"),
        ],
        source,
    )
    names = _Names(blob[header.off_dt_strings : strings_end], header.off_dt_strings, source)
    root = _Structure(blob[:structure_end], header.off_dt_struct, names, source).read()
    return Fdt(root=root, reserved=reserved, boot_cpu=header.boot_cpuid_phys, size=header.totalsize)


def _header(data: bytes, source: str) -> FdtHeader:
    """The header, its numbers in bounds of the blob and the blob in bounds of ``data``."""
    header = FdtHeader.unpack(data, source=source)
    if header.magic != MAGIC:
        raise FormatError(
            source, f"magic {header.magic:#010x}, not {MAGIC:#010x}; this is no device tree blob", offset=0
        )
    if header.version < VERSION or not LAST_COMPATIBLE <= header.last_comp_version <= VERSION:
        what = f"version {header.version}, readable as {header.last_comp_version}; {VERSION} is known"
        raise FormatError(source, what, offset=20, spec=f"{SPEC}.2")
    if header.totalsize > MAX_SIZE:
        raise FormatError(source, f"the blob has {header.totalsize} bytes, {MAX_SIZE} are allowed", offset=4)
    if header.totalsize > len(data):
        what = f"the blob has {header.totalsize} bytes, {len(data)} are there; the data is truncated"
        raise FormatError(source, what, offset=4)
    for at, start, size, alignment, block in (
        (8, header.off_dt_struct, header.size_dt_struct, 4, "structure block"),
        (12, header.off_dt_strings, header.size_dt_strings, 1, "strings block"),
        (16, header.off_mem_rsvmap, ReserveEntry.SIZE, 8, "reserve map"),
    ):
        if start % alignment:
            what = f"the {block} starts at {start:#x}, not at a multiple of {alignment}"
            raise FormatError(source, what, offset=at, spec=f"{SPEC}.6")
        if start + size > header.totalsize:
            what = f"the {block} ends at {start + size:#x}, the blob at {header.totalsize:#x}"
            raise FormatError(source, what, offset=at)
    return header


def _reserved(blob: bytes, header: FdtHeader, source: str) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Offset behind the reserve map, and its entries without the closing one."""
    found: list[tuple[int, int]] = []
    at = header.off_mem_rsvmap
    while True:
        if at + ReserveEntry.SIZE > len(blob):
            raise FormatError(source, "the reserve map has no closing entry before the blob ends", offset=at)
        entry = ReserveEntry.unpack(blob, at, source=source)
        at += ReserveEntry.SIZE
        if not entry.address and not entry.size:
            return at, tuple(found)
        found.append((entry.address, entry.size))


def _check_apart(blocks: list[tuple[int, int, str]], source: str) -> None:
    """Refuse blocks (start, end, name) that share bytes; an empty one shares none."""
    ordered = sorted(block for block in blocks if block[0] < block[1])
    for (_, end, first), (start, _, second) in pairwise(ordered):
        if start < end:
            raise FormatError(
                source, f"the {second} starts in the {first}, which ends at {end:#x}", offset=start
            )


@dataclass
class _Names:
    """The strings block, looked up by offset."""

    block: bytes
    start: int
    source: str
    _known: dict[int, str] = field(default_factory=dict)

    def get(self, offset: int, at: int) -> str:
        """The property name at ``offset`` of the block; ``at`` is where the blob asks for it."""
        if offset not in self._known:
            if offset >= len(self.block):
                what = f"name at {offset:#x} of a strings block of {len(self.block):#x} bytes"
                raise FormatError(self.source, what, offset=at)
            self._known[offset] = _name(self.block, offset, self.start, PROPERTY_NAME, self.source)
        return self._known[offset]


def _name(data: bytes, at: int, shift: int, pattern: re.Pattern[str], source: str) -> str:
    """The NUL-terminated name at ``at`` of ``data``, which starts at ``shift`` of what is read."""
    end = data.find(b"\0", at, at + MAX_NAME + 1)
    if end < 0:
        raise FormatError(source, f"a name without an end within {MAX_NAME} bytes", offset=shift + at)
    name = data[at:end].decode("latin-1")
    if not is_name(name, pattern):
        kind = "node" if pattern is NODE_NAME else "property"
        raise FormatError(
            source, f"{name!r} is no name of a {kind}", offset=shift + at, spec=f"{SPEC}.4, 2.2"
        )
    return name


@dataclass
class _OpenNode:
    """A node whose end is not read yet."""

    name: str
    properties: list[Property] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    child_names: set[str] = field(default_factory=set)


class _Structure:
    """The structure block, read token by token. Spec: section 5.4."""

    def __init__(self, blob: bytes, start: int, names: _Names, source: str) -> None:
        """Take ``blob`` up to the block's end; ``start`` is where the block begins."""
        self._blob, self._at, self._names, self._source = blob, start, names, source
        self._open: list[_OpenNode] = []
        self._root: Node | None = None

    def read(self) -> Node:
        """The root."""
        while True:
            token_at = self._at
            token = self._word()
            if token == BEGIN_NODE:
                self._begin(token_at)
            elif token == PROP:
                self._property(token_at)
            elif token == END_NODE:
                self._end(token_at)
            elif token == END:
                return self._finish(token_at)
            elif token != NOP:
                raise self._error(f"token {token:#x}; 1, 2, 3, 4 and 9 are known", token_at)

    def _begin(self, token_at: int) -> None:
        if self._root is not None:
            raise self._error("a second node beside the root", token_at)
        if len(self._open) == MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} levels of nodes", token_at)
        if not self._open:
            if self._blob[self._at : self._at + 1] != b"\0":
                raise self._error("the root has a name; it has none", self._at)
            name = ""
        else:
            name = _name(self._blob, self._at, 0, NODE_NAME, self._source)
            siblings = self._open[-1].child_names
            if name in siblings:
                raise self._error(f"a second node {name!r} in {self._path()}", token_at)
            siblings.add(name)
        self._open.append(_OpenNode(name))
        self._skip(len(name) + 1)

    def _property(self, token_at: int) -> None:
        if not self._open:
            raise self._error("a property outside the root", token_at)
        node = self._open[-1]
        length, name_offset = self._word(), self._word()
        name = self._names.get(name_offset, token_at)
        if node.children:
            raise self._error(f"property {name!r} of {self._path()} stands behind a child node", token_at)
        if name in node.names:
            raise self._error(f"a second property {name!r} in {self._path()}", token_at)
        if length > len(self._blob) - self._at:
            left = len(self._blob) - self._at
            raise self._error(f"property {name!r} has {length} bytes, {left} are left in the block", token_at)
        node.names.add(name)
        node.properties.append(Property(name, self._blob[self._at : self._at + length]))
        self._skip(length)

    def _end(self, token_at: int) -> None:
        if not self._open:
            raise self._error("the end of a node where none is open", token_at)
        node = self._open.pop()
        complete = Node(node.name, tuple(node.properties), tuple(node.children))
        if self._open:
            self._open[-1].children.append(complete)
        else:
            self._root = complete

    def _finish(self, token_at: int) -> Node:
        if self._open:
            raise self._error(f"the tree ends in {self._path()}, which is still open", token_at)
        if self._root is None:
            raise self._error("a tree without a root", token_at)
        if self._at != len(self._blob):
            left = len(self._blob) - self._at
            raise self._error(f"{left} bytes of the structure block stand behind its end", self._at)
        return self._root

    def _word(self) -> int:
        """The next word of the block."""
        word = self._blob[self._at : self._at + 4]
        if len(word) < 4:
            raise self._error("the structure block ends without its end token", self._at)
        self._at += 4
        return int.from_bytes(word, "big")

    def _skip(self, size: int) -> None:
        """Go behind ``size`` bytes and their padding."""
        self._at = align_up(self._at + size, 4)

    def _path(self) -> str:
        """Path of the node that is open."""
        return "/".join(node.name for node in self._open) or "/"

    def _error(self, what: str, at: int) -> FormatError:
        return FormatError(self._source, what, offset=at, spec=f"{SPEC}.4")
