"""File trees for the tests of every file-system writer: one with everything in it, and random ones."""

from __future__ import annotations

import random
import stat
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from recipes.formats.tree import BytesPayload, FileTree, Node, NodeType

EPOCH = 1_700_000_000
TYPES = {
    NodeType.FILE: stat.S_IFREG,
    NodeType.DIRECTORY: stat.S_IFDIR,
    NodeType.SYMLINK: stat.S_IFLNK,
    NodeType.CHARACTER: stat.S_IFCHR,
    NodeType.BLOCK: stat.S_IFBLK,
    NodeType.FIFO: stat.S_IFIFO,
}


@dataclass(frozen=True)
class Expected:
    """What a reader must find at a path."""

    mode: int
    uid: int
    gid: int
    mtime: int
    content: bytes
    device: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]


def expected(tree: FileTree) -> dict[str, Expected]:
    """Every path with what it must read as, hard links followed."""
    found = {}
    for path, node in tree.nodes.items():
        real = tree[node.target] if node.type is NodeType.HARDLINK else node
        content = real.read()
        if real.type is NodeType.SYMLINK:
            content = real.target.encode("utf-8", "surrogateescape")
        found[path] = Expected(
            mode=TYPES[real.type] | real.mode,
            uid=real.uid,
            gid=real.gid,
            mtime=real.mtime,
            content=content,
            device=real.device if real.type in (NodeType.CHARACTER, NodeType.BLOCK) else (0, 0),
            xattrs=tuple(sorted(real.xattrs)),
        )
    return found


def file(data: bytes, mode: int = 0o644, **fields: object) -> Node:
    """A regular file of the epoch."""
    return replace(
        Node(type=NodeType.FILE, mode=mode, payload=BytesPayload(data), mtime=EPOCH),
        **fields,  # type: ignore[arg-type]
    )


def example_tree(*, xattrs: bool = True) -> FileTree:
    """One of everything: types, owners over 16 bits, set-id bits, hard links, odd names, boundary sizes."""
    tree = FileTree()
    for path in ("usr", "usr/bin", "usr/lib", "dev", "tmp", "deep", "deep/er", "deep/er/est", "empty"):
        mode = 0o1777 if path == "tmp" else 0o755
        tree[path] = Node(type=NodeType.DIRECTORY, mode=mode, mtime=EPOCH)
    for size in (0, 1, 31, 32, 4031, 4032, 4033, 4064, 4065, 4095, 4096, 4097, 8192, 12287, 70_000):
        tree[f"usr/lib/size-{size}"] = file(bytes(index * 7 % 251 for index in range(size)))
    tree["usr/bin/su"] = file(b"#!su", 0o4755)
    tree["usr/bin/wall"] = file(b"#!wall", 0o2755, gid=5)
    tree["usr/bin/owned"] = file(b"far", 0o600, uid=100_000, gid=4_000_000_000)
    tree["usr/bin/older"] = file(b"old", mtime=EPOCH - 12_345)
    tree["usr/bin/newer"] = file(b"new", mtime=EPOCH + 5)
    tree["usr/bin/a-link"] = Node(type=NodeType.HARDLINK, mode=0, target="usr/bin/su")
    tree["deep/er/est/link"] = Node(type=NodeType.HARDLINK, mode=0, target="usr/bin/su")
    tree["bin"] = Node(type=NodeType.SYMLINK, mode=0o777, target="usr/bin", mtime=EPOCH)
    tree["deep/long"] = Node(type=NodeType.SYMLINK, mode=0o777, target="x/" * 2047 + "y", mtime=EPOCH)
    tree["dev/null"] = Node(type=NodeType.CHARACTER, mode=0o666, device=(1, 3), mtime=EPOCH)
    tree["dev/far"] = Node(type=NodeType.CHARACTER, mode=0o600, device=(4000, 300_000), mtime=EPOCH)
    tree["dev/sda"] = Node(type=NodeType.BLOCK, mode=0o660, gid=6, device=(8, 0), mtime=EPOCH)
    tree["dev/pipe"] = Node(type=NodeType.FIFO, mode=0o644, mtime=EPOCH)
    for name in ("!first", "-before-dot", ".hidden", "..more", "~last", "ünï", "byte-\udcff", "n" * 255):
        tree[name] = file(name.encode("utf-8", "surrogateescape"))
    if xattrs:
        tree["usr/bin/ping"] = file(b"ping", xattrs=(("security.capability", bytes(range(20))),))
        tree["usr/bin/many"] = file(
            b"m" * 3000,
            xattrs=(
                ("user.long", b"v" * 5000),
                ("system.posix_acl_access", b"\2\0\0\0"),
                ("trusted.empty", b""),
                ("user.b", b"12345"),
            ),
        )
        tree["deep/er"] = replace(
            tree["deep/er"], xattrs=(("system.posix_acl_default", b"\2\0\0\0\1\0\7\0\xff\xff\xff\xff"),)
        )
    return tree


def shuffled(tree: FileTree, seed: int) -> FileTree:
    """The same tree, filled in another order."""
    items = list(tree.nodes.items())
    random.Random(seed).shuffle(items)
    return FileTree(dict(items))


_NAMES = st.text(
    alphabet=st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="/"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))
_SIZES = st.one_of(
    st.integers(0, 200), st.integers(3900, 4200), st.sampled_from([8192, 4096, 12288]), st.integers(0, 20_000)
)
_XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "user.bb", "trusted.x", "security.capability", "system.posix_acl_access"]),
    st.binary(max_size=300),
    max_size=3,
).map(lambda found: tuple(sorted(found.items())))


@st.composite
def trees(draw: st.DrawFn, *, xattrs: bool = True) -> FileTree:
    """Random trees that hold together."""
    tree = FileTree()
    directories = [""]
    for _ in range(draw(st.integers(0, 14))):
        above = draw(st.sampled_from(directories))
        path = (above + "/" if above else "") + draw(_NAMES)
        if path in tree or path == "TRAILER!!!":
            continue
        files = [name for name, node in tree.nodes.items() if node.type is NodeType.FILE]
        node = draw(_nodes(files))
        if xattrs and node.type is not NodeType.HARDLINK:
            node = replace(node, xattrs=draw(_XATTRS))
        tree[path] = node
        if node.type is NodeType.DIRECTORY:
            directories.append(path)
    return tree


@st.composite
def _nodes(draw: st.DrawFn, files: list[str]) -> Node:
    kind = draw(st.sampled_from(list(NodeType)))
    if kind is NodeType.HARDLINK:
        if not files:
            return file(b"")
        return Node(type=kind, mode=0, target=draw(st.sampled_from(files)))
    node = Node(
        type=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.sampled_from([0, 1000, 65535, 65536, 0xFFFFFFFE])),
        gid=draw(st.sampled_from([0, 42, 65536])),
        mtime=draw(st.sampled_from([EPOCH, EPOCH, EPOCH - 1, 0])),
    )
    if kind is NodeType.FILE:
        size = draw(_SIZES)
        return replace(node, payload=BytesPayload((bytes(range(1, 252)) * (size // 251 + 1))[:size]))
    if kind is NodeType.SYMLINK:
        return replace(node, mode=0o777, target=draw(_NAMES) * draw(st.sampled_from([1, 2, 80])))
    if kind in (NodeType.CHARACTER, NodeType.BLOCK):
        return replace(node, device=(draw(st.integers(0, 4095)), draw(st.integers(0, 0xFFFFF))))
    return node
