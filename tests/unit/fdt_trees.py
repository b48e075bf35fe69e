"""Device trees for tests: any tree that a blob can hold, and pieces to put blobs together by hand."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from recipes.formats.fdt import Node, Property

LETTERS = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789,._+-"
# dtc holds these against the node's name and against each other. Hypothesis draws words of our own code, too.
SPECIAL = frozenset({"name", "phandle", "linux,phandle"})
# Few and short ones, so that names repeat and end with each other.
PROPERTY_NAMES = st.one_of(
    st.sampled_from(["reg", "g", "#reg", "xreg", "linux,reg", "compatible", "ranges", "dma-ranges"]),
    st.text("abr,#", min_size=1, max_size=4),
    st.text(LETTERS + "*#?", min_size=1, max_size=31),
).filter(lambda name: name not in SPECIAL)
NODE_NAMES = st.one_of(
    st.sampled_from(["cpu@0", "cpu@1", "cpus", "soc", "x@"]), st.text(LETTERS, min_size=1, max_size=31)
)
ORIGINS = st.sampled_from(["", "-c 4", "-p 'a */ b'"])
VALUES = st.one_of(
    st.just(b""),
    st.binary(max_size=24),
    st.integers(0, 0xFFFFFFFF).map(lambda value: value.to_bytes(4, "big")),
    st.lists(st.text('az /"\\\n*', max_size=5), min_size=1, max_size=3).map(
        lambda parts: b"".join(part.encode() + b"\0" for part in parts)
    ),
)
PROPERTIES = st.lists(
    st.builds(Property, PROPERTY_NAMES, VALUES, ORIGINS), max_size=6, unique_by=lambda item: item.name
).map(tuple)


def _inside(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(children, max_size=4, unique_by=lambda item: item.name).map(tuple)
    return st.builds(Node, NODE_NAMES, PROPERTIES, some, ORIGINS)


NODES = st.recursive(st.builds(Node, NODE_NAMES, PROPERTIES), _inside, max_leaves=12)
TREES = st.builds(
    Node,
    st.just(""),
    PROPERTIES,
    st.lists(NODES, max_size=5, unique_by=lambda item: item.name).map(tuple),
    ORIGINS,
)


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def blob(structure: bytes, names: bytes = b"", reserved: bytes = bytes(16), **changes: int) -> bytes:
    """A blob of these blocks in the usual order; ``changes`` put other numbers into the header."""
    at = 40 + len(reserved)
    header = {
        "magic": 0xD00DFEED,
        "totalsize": at + len(structure) + len(names),
        "off_dt_struct": at,
        "off_dt_strings": at + len(structure),
        "off_mem_rsvmap": 40,
        "version": 17,
        "last_comp_version": 16,
        "boot_cpuid_phys": 0,
        "size_dt_strings": len(names),
        "size_dt_struct": len(structure),
    }
    return words(*(header | changes).values()) + reserved + structure + names
