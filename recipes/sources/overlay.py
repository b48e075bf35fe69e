"""Overlays: folders of ``rootfs/`` laid over the packages of a root filesystem.

Only what git keeps of a file counts: its bytes and whether it is executable. Owner, times, umask and the
folder's own place leave no trace, so two checkouts give the same tree.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SpecError
from ..formats.tree import FilePayload, FileTree, Node, NodeType

REPLACES = ".replaces"
_LEFTOVERS = ("~", ".swp", ".swo", ".orig", ".rej", ".bak", ".tmp")  # what editors and patch(1) leave behind


@dataclass(frozen=True)
class Overlay:
    """An overlay that was read.

    Attributes:
        tree: its files; directories are there only as parents.
        replaces: tree paths of package files it is allowed to replace.
    """

    name: str
    tree: FileTree
    replaces: frozenset[str]


def read_overlay(folder: Path, name: str) -> Overlay:
    """The overlay in a folder: files 0644 or 0755, directories 0755, all owned by root, all times 0.

    ``.replaces`` at its top lists package files that the overlay replaces, one path a line.

    Raises:
        SpecError: something that is no file, directory or link inside the overlay; a name that is not UTF-8;
            a file an editor left behind; a line of ``.replaces`` that names no file of the overlay.
    """
    tree = FileTree()
    for path, entry in _entries(folder, "", name):
        if path == REPLACES:
            continue
        tree.add_parents(path)
        tree[path] = _node(path, entry, name)
    return Overlay(name, tree, _replaces(folder, name, tree))


def _entries(folder: Path, prefix: str, name: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    if not folder.is_dir():
        raise SpecError(
            f"overlay {name}: there is no folder rootfs/{name}; create it or correct rootfs.overlays"
        )
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        path = f"{prefix}{entry.name}"
        if not _is_utf8(entry.name):
            raise SpecError(f"overlay {name}: {path!r} is not UTF-8; rename it")
        if any(ord(letter) < 32 for letter in entry.name):
            raise SpecError(f"overlay {name}: {path!r} has a control character in its name; rename it")
        if entry.name.endswith(_LEFTOVERS) or entry.name.startswith(".#"):
            raise SpecError(f"overlay {name}: {path} is what an editor left behind; remove it")
        yield path, entry
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path), f"{path}/", name)


def _is_utf8(text: str) -> bool:
    return os.fsencode(text).decode("utf-8", "replace").encode() == os.fsencode(text)


def _node(path: str, entry: os.DirEntry[str], name: str) -> Node:
    source = f"overlay {name}"
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        return Node(type=NodeType.DIRECTORY, mode=0o755, source=source)
    if stat.S_ISREG(status.st_mode):
        mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        payload = FilePayload(Path(entry.path), 0, status.st_size)
        return Node(type=NodeType.FILE, mode=mode, payload=payload, source=source)
    if stat.S_ISLNK(status.st_mode):
        target = str(Path(entry.path).readlink())
        _check_link(path, target, name)
        return Node(type=NodeType.SYMLINK, mode=0o777, target=target, source=source)
    raise SpecError(f"overlay {name}: {path} is no file, directory or symbolic link; remove it")


def _check_link(path: str, target: str, name: str) -> None:
    """An absolute target is a path of the image; a relative one must not climb above the image's root."""
    if not _is_utf8(target):
        raise SpecError(f"overlay {name}: {path} points to {target!r}, which is not UTF-8; correct the link")
    if not target.startswith("/"):
        reached = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if reached == ".." or reached.startswith("../"):
            raise SpecError(
                f"overlay {name}: {path} points to {target}, above the image's root; correct the link"
            )


def _replaces(folder: Path, name: str, tree: FileTree) -> frozenset[str]:
    file = folder / REPLACES
    if not file.is_file():
        return frozenset()
    listed = set()
    for line in file.read_text("utf-8").splitlines():
        path = line.strip()
        if not path or path.startswith("#"):
            continue
        if path not in tree:
            raise SpecError(
                f"overlay {name}: {REPLACES} lists {path}, which the overlay does not have; remove the line"
            )
        listed.add(path)
    return frozenset(listed)


def lay_over(tree: FileTree, overlays: Sequence[Overlay]) -> FileTree:
    """A new tree: the packages' with the overlays on it, in order.

    Raises:
        SpecError: two overlays have the same file; an overlay replaces a package's file without listing it in
            ``.replaces``, or lists one that no package has; a file meets a directory; a path leads
            through a link.
    """
    result = FileTree(dict(tree.nodes))
    for overlay in overlays:
        for path, node in overlay.tree.sorted():
            _lay(result, path, node, overlay)
    return result


def _lay(result: FileTree, path: str, node: Node, overlay: Overlay) -> None:
    below = result.nodes.get(path)
    where = f"overlay {overlay.name}: {path}"
    if below is None:
        if path in overlay.replaces:
            raise SpecError(f"{where} is listed in {REPLACES}, but no package has it; remove the line")
        result[path] = node
        return
    other = below.source or "another source"
    if node.type is NodeType.DIRECTORY and below.type is NodeType.DIRECTORY:
        return
    if NodeType.DIRECTORY in (node.type, below.type):
        what = f"is a {node.type.value}, {other} has a {below.type.value} there"
        raise SpecError(f"{where} {what}; move it to where that leads, or rename it")
    if other.startswith("overlay "):
        raise SpecError(f"{where} is in {other} as well; keep it in one of them")
    if path not in overlay.replaces:
        raise SpecError(
            f"{where} is in {other} as well; list it in rootfs/{overlay.name}/{REPLACES} to replace it"
        )
    result[path] = node
