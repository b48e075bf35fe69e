"""The index files of kmod (``modules.dep.bin`` and its kin): a trie from a key to values with priorities.

Spec: kmod 30, libkmod/libkmod-index.h (the disk format) and tools/depmod.c (the order of nodes and values).
Everything is big-endian: magic, version, offset of the root node, then nodes. The top bits of a node's offset
say which parts the node has, in this order: a prefix ending in NUL; the first and last child character and an
offset for every character between them; a count of values, each a priority and a text ending in NUL.
kmod 34 lays the same nodes out in another order; every version reads both.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import FormatError

MAGIC = 0xB007F457  # libkmod-index.h: INDEX_MAGIC
VERSION = 0x00020001  # libkmod-index.h: INDEX_VERSION, major 2, minor 1
HAS_PREFIX, HAS_VALUES, HAS_CHILDREN = 0x80000000, 0x40000000, 0x20000000  # libkmod-index.h: node_offset
OFFSET_MASK = 0x0FFFFFFF  # libkmod-index.h: INDEX_NODE_MASK
CHILD_LIMIT = 128  # libkmod-index.h: INDEX_CHILDMAX; keys and values are 7-bit ASCII
_SPEC = "kmod 30 libkmod-index.h"
_MAX_KEY = 4096  # longer than any alias; bounds what a crafted file can make us build
_MAX_PATHS = 1 << 22  # bytes of key prefixes still to visit; bounds a file whose nodes are shared


@dataclass(frozen=True)
class Entry:
    """One value of a key; a lower priority is found first."""

    key: str
    value: str
    priority: int = 0


@dataclass
class _Node:
    prefix: bytes
    children: dict[int, _Node] = field(default_factory=dict)
    values: list[tuple[int, bytes]] = field(default_factory=list)

    def split(self, at: int) -> None:
        """Keeps the first ``at`` bytes of the prefix and moves the rest of the node below it."""
        lower = _Node(self.prefix[at + 1 :], self.children, self.values)
        self.children, self.values = {self.prefix[at]: lower}, []
        self.prefix = self.prefix[:at]

    def add_value(self, priority: int, value: bytes) -> None:
        """Inserts a value before those of equal priority, as depmod.c ``index_add_value`` does."""
        place = sum(1 for known, _ in self.values if known < priority)
        self.values.insert(place, (priority, value))


def _ascii(text: str) -> bytes:
    if not text.isascii() or "\0" in text:
        raise FormatError("kmod index", f"{text!r} is not 7-bit ASCII without NUL; kmod cannot index it")
    return text.encode("ascii")


def _insert(root: _Node, key: bytes, priority: int, value: bytes) -> None:
    node, at = root, 0
    while True:
        common = 0
        while (
            common < len(node.prefix)
            and key[at + common : at + common + 1] == node.prefix[common : common + 1]
        ):
            common += 1
        if common < len(node.prefix):
            node.split(common)
        at += common
        if at == len(key):
            node.add_value(priority, value)
            return
        child = node.children.get(key[at])
        if child is None:
            node.children[key[at]] = _Node(key[at + 1 :], values=[(priority, value)])
            return
        node, at = child, at + 1


def write_index(entries: Iterable[Entry]) -> bytes:
    """The bytes of an index, as depmod of kmod 30 writes them for the same insertions in the same order.

    Raises:
        FormatError: a key or value is not 7-bit ASCII, or the file would pass 256 MiB.
    """
    root = _Node(b"")
    for entry in entries:
        _insert(root, _ascii(entry.key), entry.priority, _ascii(entry.value))
    out = bytearray(struct.pack(">III", MAGIC, VERSION, 0))
    offsets: dict[int, int] = {}
    pending: list[tuple[_Node, bool]] = [(root, False)]
    while pending:  # children are written before their parent, in the order of their character
        node, ready = pending.pop()
        if ready:
            offsets[id(node)] = _write_node(node, out, offsets)
        else:
            pending.append((node, True))
            pending.extend(
                (node.children[character], False) for character in sorted(node.children, reverse=True)
            )
    struct.pack_into(">I", out, 8, offsets[id(root)])
    return bytes(out)


def _write_node(node: _Node, out: bytearray, offsets: dict[int, int]) -> int:
    offset = len(out)
    if offset > OFFSET_MASK:
        raise FormatError(
            "kmod index", f"{offset} bytes pass the {OFFSET_MASK + 1} an index can address", spec=_SPEC
        )
    if node.prefix:
        out += node.prefix + b"\0"
        offset |= HAS_PREFIX
    if node.children:
        first, last = min(node.children), max(node.children)
        out += bytes((first, last))
        for character in range(first, last + 1):
            child = node.children.get(character)
            out += struct.pack(">I", offsets[id(child)] if child else 0)
        offset |= HAS_CHILDREN
    if node.values:
        out += struct.pack(">I", len(node.values))
        for priority, value in node.values:
            out += struct.pack(">I", priority) + value + b"\0"
        offset |= HAS_VALUES
    return offset


class _Reader:
    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source = data, source

    def fail(self, what: str, offset: int) -> FormatError:
        return FormatError(self.source, what, offset=offset, spec=_SPEC)

    def u32(self, at: int) -> int:
        if at + 4 > len(self.data):
            raise self.fail(
                f"4 bytes are needed, {max(len(self.data) - at, 0)} are left; the index is truncated", at
            )
        return int.from_bytes(self.data[at : at + 4], "big")

    def text(self, at: int) -> bytes:
        end = self.data.find(b"\0", at, at + _MAX_KEY + 1)
        if end < 0:
            raise self.fail(f"a text has no NUL within {_MAX_KEY} bytes", at)
        text = self.data[at:end]
        if not text.isascii():
            raise self.fail(f"{text!r} is not 7-bit ASCII", at)
        return text

    def values(self, at: int, key: bytes) -> list[Entry]:
        count, at = self.u32(at), at + 4
        if count > (len(self.data) - at) // 5:
            raise self.fail(
                f"{count} values do not fit the {len(self.data) - at} bytes that are left", at - 4
            )
        found = []
        for _ in range(count):
            priority, value = self.u32(at), self.text(at + 4)
            found.append(Entry(key.decode("ascii"), value.decode("ascii"), priority))
            at += 4 + len(value) + 1
        return found

    def children(self, at: int) -> tuple[list[tuple[int, int]], int]:
        if at + 2 > len(self.data):
            raise self.fail("the range of child characters is missing; the index is truncated", at)
        first, last = self.data[at], self.data[at + 1]
        if first > last or last >= CHILD_LIMIT:
            raise self.fail(
                f"child characters {first:#x} to {last:#x} are no range below {CHILD_LIMIT:#x}", at
            )
        offsets = [(first + i, self.u32(at + 2 + 4 * i)) for i in range(last - first + 1)]
        return [(character, offset) for character, offset in offsets if offset], at + 2 + 4 * len(offsets)


def read_index(data: bytes, source: str = "kmod index") -> tuple[Entry, ...]:
    """Every value of every key, keys in byte order, values in the order they are found.

    Raises:
        FormatError: the magic, the version, an offset, a text or a count is wrong, or a node is shared.
    """
    reader = _Reader(data, source)
    for at, name, want in ((0, "magic", MAGIC), (4, "version", VERSION)):
        if (got := reader.u32(at)) != want:
            raise reader.fail(f"{name} is {got:#010x}, expected {want:#010x}; this is not a kmod index", at)
    found: list[Entry] = []
    seen: set[int] = set()
    pending = [(reader.u32(8), b"", 8)]
    budget = _MAX_PATHS
    while pending:
        where, key, named_at = pending.pop()
        at = where & OFFSET_MASK
        if at < 12 or at > len(data):  # the root of an index without keys has no bytes
            raise reader.fail(f"node at {at:#x} is outside the {len(data)} bytes of the index", named_at)
        if at in seen:
            raise reader.fail(f"node at {at:#x} is reached twice; an index is a tree", named_at)
        seen.add(at)
        if where & HAS_PREFIX:
            prefix = reader.text(at)
            key, at = key + prefix, at + len(prefix) + 1
        if len(key) > _MAX_KEY:
            raise reader.fail(f"a key passes {_MAX_KEY} bytes", at)
        below: list[tuple[int, int]] = []
        if where & HAS_CHILDREN:
            named_at = at
            below, at = reader.children(at)
        if where & HAS_VALUES:
            found.extend(reader.values(at, key))
        budget -= len(below) * (len(key) + 1)
        if budget < 0:
            raise reader.fail(f"the keys of the index pass {_MAX_PATHS} bytes", at)
        pending.extend((offset, key + bytes((character,)), named_at) for character, offset in reversed(below))
    return tuple(found)
