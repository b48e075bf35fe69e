"""Looking things up in a tree the way a running system would: through symbolic links, inside the tree."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

from ...errors import SpecError
from ...formats.tree import FileTree, NodeType

_LINKS = 40  # Linux include/linux/namei.h: MAXSYMLINKS


def resolve(tree: FileTree, path: str) -> str | None:
    """The tree path that ``path`` leads to, links followed inside the tree; None if absent."""
    todo = [part for part in reversed(path.split("/")) if part and part != "."]
    here: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            here = here[:-1]
            continue
        node = tree.nodes.get("/".join((*here, part)))
        if node is None:
            return None
        if node.type is not NodeType.SYMLINK:
            here.append(part)
            continue
        links += 1
        if links > _LINKS:
            return None
        if node.target.startswith("/"):
            here = []
        todo.extend(part for part in reversed(node.target.split("/")) if part and part != ".")
    return "/".join(here)


def is_file(tree: FileTree, path: str) -> bool:
    """Whether a path leads to a regular file."""
    found = resolve(tree, path)
    return found is not None and tree[found].type in (NodeType.FILE, NodeType.HARDLINK)


def read_file(tree: FileTree, path: str) -> bytes | None:
    """The content a path leads to; None when that is no regular file."""
    found = resolve(tree, path)
    if found is None:
        return None
    node = tree[found]
    if node.type is NodeType.HARDLINK:
        node = tree[node.target]
    return node.read() if node.type is NodeType.FILE else None


def read_text(tree: FileTree, path: str) -> str | None:
    """As ``read_file``, as text.

    Raises:
        SpecError: the file is not UTF-8.
    """
    data = read_file(tree, path)
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: byte {error.start} is not UTF-8; a configuration file must be") from None


def names_in(tree: FileTree, directory: str) -> Iterator[str]:
    """The names of what is directly in a directory, sorted."""
    start = directory + "/"
    found = (path.removeprefix(start) for path in tree.nodes if path.startswith(start))
    yield from sorted(name for name in found if "/" not in name)


def masked(tree: FileTree, path: str) -> bool:
    """Whether a configuration file is switched off: a link to /dev/null, or an empty file.

    Spec: systemd 257, sysusers.d(5), "Configuration directories and precedence"; systemd.unit(5).
    """
    node = tree.nodes.get(path)
    if node is None:
        return False
    if node.type is NodeType.SYMLINK:
        return posixpath.normpath(node.target) == "/dev/null"
    return node.type is NodeType.FILE and node.payload is not None and node.payload.size == 0


def configuration_files(tree: FileTree, directories: Sequence[str], suffix: str) -> Iterator[str]:
    """Tree paths of drop-in files by name; of equal names the one in the earliest directory counts.

    Spec: systemd 257, sysusers.d(5), "Configuration directories and precedence".
    """
    chosen: dict[str, str] = {}
    for directory in directories:
        for name in names_in(tree, directory):
            if name.endswith(suffix):
                chosen.setdefault(name, f"{directory}/{name}")
    for name in sorted(chosen):
        if not masked(tree, chosen[name]):
            yield chosen[name]


def real_path(tree: FileTree, path: str) -> str:
    """``path`` with its directory's links followed, which is where a running system puts it."""
    directory, _, name = path.rpartition("/")
    real = resolve(tree, directory) if directory else ""
    return f"{real or directory}/{name}" if directory else name
