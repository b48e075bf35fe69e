"""What an initramfs is made of: how much of it the kernel modules, each package and our own parts take.

Two measures, and neither is the archive's size split up. ``size`` is what the files hold. ``alone`` is a
group's own archive compressed by itself, at the level of the real one: it is what the group costs when
nothing else is there. The sum of all ``alone`` is a little more than the whole archive, because groups that
are compressed together share what is alike in them; ``Breakdown.shared`` is that difference, and no group is
given a part of it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from ..formats import cpio
from ..formats.tree import FileTree, Node, NodeType
from ..units import format_size

MODULES, BUSYBOX, SCRIPTS, HELPERS = "kernel modules", "busybox", "scripts", "helpers"
CONFIGURATION, OTHERS, LAYOUT = "configuration", "other files", "directories and links"
# Where the initramfs has its own programs and scripts; ``sources.initramfs`` puts them there.
_OWN = ("usr/lib/goldsmith/", "usr/lib/unlock.d/")
_ELF = b"\x7fELF"  # System V gABI 4.1, ELF header, e_ident

Compress = Callable[[BinaryIO, BinaryIO], object]


@dataclass(frozen=True, kw_only=True)
class Contributor:
    """One part of an initramfs.

    Attributes:
        name: ``kernel modules``, ``busybox``, ``scripts``, ``helpers``, ``configuration``, ``other files``,
            ``directories and links``, or ``package NAME``.
        files: regular files in it.
        size: bytes of their content.
        alone: bytes of an archive of these and the directories they lie in, compressed by itself.
    """

    name: str
    files: int
    size: int
    alone: int


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """All parts, the largest ``alone`` first.

    Attributes:
        whole: bytes of the compressed archive with all of them.
    """

    contributors: tuple[Contributor, ...]
    whole: int

    @property
    def shared(self) -> int:
        """Bytes that compressing all parts together saves; negative where it costs some."""
        return sum(each.alone for each in self.contributors) - self.whole


def breakdown(tree: FileTree, compress: Compress, *, epoch: int = 0) -> Breakdown:
    """The parts of ``tree`` and what each takes.

    Args:
        compress: from a plain archive to a compressed one, as the real one is made.
        epoch: no file counts as younger, in seconds since 1970.

    Raises:
        FormatError: the tree does not go into a cpio archive.
    """
    groups: dict[str, FileTree] = {}
    for path, node in tree.sorted():
        if path:
            part = groups.setdefault(group_of(tree, path), FileTree())
            part.add_parents(path)
            part[path] = node
    found = [_contributor(name, groups[name], compress, epoch) for name in sorted(groups)]
    found.sort(key=lambda each: (-each.alone, each.name))
    return Breakdown(contributors=tuple(found), whole=_compressed(tree, compress, epoch))


def render(found: Breakdown) -> str:
    """A table for people: what each part costs when nothing else is there, the largest first."""
    rows = [
        (each.name, f"{each.files} files", format_size(each.size), format_size(each.alone))
        for each in found.contributors
    ]
    rows.append(("saved by compressing together", "", "", format_size(found.shared)))
    rows.append(("the initramfs", "", "", format_size(found.whole)))
    head = ("part", "", "plain", "compressed alone")
    return "".join(f"{a:<32} {b:>10} {c:>10} {d:>17}".rstrip() + "\n" for a, b, c, d in (head, *rows))


def group_of(tree: FileTree, path: str) -> str:
    """The name of the part that ``path`` belongs to; a second name of a file goes with the file."""
    node = tree[path]
    if node.type is NodeType.HARDLINK:
        return group_of(tree, node.target)
    if path == "usr/bin/busybox" or node.source == "busybox":
        return BUSYBOX
    if node.type is NodeType.FILE:
        return _group_of_file(path, node)
    shipped = node.type is NodeType.SYMLINK and node.source not in ("", "generated")
    return f"package {node.source}" if shipped else LAYOUT


def _group_of_file(path: str, node: Node) -> str:
    if path.startswith("usr/lib/modules/") and path.endswith(".ko"):
        return MODULES
    if path == "init" or path.startswith(_OWN):
        return HELPERS if _begins_with(node, _ELF) else SCRIPTS
    if path.startswith("etc/") and _is_ours(node):
        return CONFIGURATION
    return OTHERS if _is_ours(node) else f"package {node.source}"


def _is_ours(node: Node) -> bool:
    """Whether a file is made by the build or is part of the project, and so comes from no package."""
    return node.source in ("", "generated") or "/" in node.source or node.source.startswith("volume ")


def _begins_with(node: Node, magic: bytes) -> bool:
    pieces = node.payload.chunks() if node.payload else iter(())
    return next(pieces, b"").startswith(magic)


def _contributor(name: str, part: FileTree, compress: Compress, epoch: int) -> Contributor:
    payloads = [node.payload for _, node in part.sorted() if node.type is NodeType.FILE and node.payload]
    return Contributor(
        name=name,
        files=len(payloads),
        size=sum(payload.size for payload in payloads),
        alone=_compressed(part, compress, epoch),
    )


def _compressed(tree: FileTree, compress: Compress, epoch: int) -> int:
    with io.BytesIO() as plain, io.BytesIO() as out:
        cpio.write_newc(tree, plain, epoch=epoch)
        plain.seek(0)
        compress(plain, out)
        return len(out.getbuffer())
