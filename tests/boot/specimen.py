"""A file tree with one of everything that EROFS can hold."""

from __future__ import annotations

import hashlib
import struct

from recipes.formats.tree import BytesPayload, FileTree, Node, NodeType

# Names of all lengths and in no order, for a directory of many blocks.
BIG = tuple(
    f"{hashlib.sha256(b'%d' % number).hexdigest()[: 1 + number % 60]}-{number}" for number in range(3000)
)
# CAP_NET_RAW, permitted and effective.
# Spec: Linux include/uapi/linux/capability.h, struct vfs_cap_data, version 2.
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def noise(size: int) -> bytes:
    """Bytes that look like nothing, the same every time."""
    return b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(-(-size // 32)))[:size]


def specimen(program: bytes) -> FileTree:
    """A tree with one of everything that EROFS can hold; ``program`` gets a file capability."""
    tree = FileTree()
    tree.add_file("plain", b"plain\n")
    for size in (0, 1, 4000, 4095, 4096, 4097, 8192, 300_001):
        tree.add_file(f"sizes/{size}", noise(size))
    for mode in (0o4755, 0o2755, 0o6711, 0o000, 0o777, 0o640):
        tree.add_file(f"modes/{mode:04o}", b"x", mode)
    tree.add_directory("modes/sticky", 0o1777)
    tree.add_directory("modes/closed", 0o700)
    tree.add_directory("empty")
    tree["owned"] = Node(type=NodeType.FILE, mode=0o600, uid=65536, gid=70_000, payload=BytesPayload(b"mine"))
    for name, mtime in (("old", 1), ("new", (1 << 31) - 1), ("later", (1 << 33) + 5)):
        tree[f"times-{name}"] = Node(type=NodeType.FILE, mode=0o644, mtime=mtime, payload=BytesPayload(b"t"))
    tree.add_symlink("links/short", "../plain")
    tree.add_symlink("links/long", "/".join(["component"] * 200))
    tree.add_symlink("links/dangling", "nowhere")
    tree.add_file("hardlink", b"two names")
    tree.add_directory("again")
    tree["again/hardlink"] = Node(type=NodeType.HARDLINK, mode=0, target="hardlink")
    tree.add_directory("nodes")
    for name, kind, device in (
        ("zero", NodeType.CHARACTER, (1, 5)),
        ("disk", NodeType.BLOCK, (259, 1_048_575)),
        ("far", NodeType.CHARACTER, (4095, 300)),
        ("fifo", NodeType.FIFO, (0, 0)),
    ):
        tree[f"nodes/{name}"] = Node(type=kind, mode=0o620, device=device)
    attributes = (("trusted.note", b"kept"), ("user.colour", b"green"), ("user.empty", b""))
    for name in ("attributes", "attributes-too"):
        tree[name] = Node(type=NodeType.FILE, mode=0o644, payload=BytesPayload(b"a"), xattrs=attributes)
    tree.add_file("/".join(["deep"] * 60) + "/file", b"down here")
    tree.add_file("names/with space", b"1")
    tree.add_file("names/" + "n" * 255, b"2")
    tree.add_file("names/\u00fcber-\u6f22", b"3")
    for name in BIG:
        tree.add_file(f"big/{name}", b"")
    capability = (("security.capability", CAPABILITY),)
    payload = BytesPayload(program)
    tree["capable"] = Node(type=NodeType.FILE, mode=0o755, payload=payload, xattrs=capability)
    return tree
