"""What every initramfs is put together from: files of packages, kernel modules, and the console."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import SpecError
from ..formats.elf import walk
from ..formats.kmod import decompress
from ..formats.tree import FileTree, Node, NodeType

# Linux Documentation/admin-guide/devices.txt: the console; the kernel opens it for init before any mount.
_CONSOLE = (5, 1)


def add_console(tree: FileTree) -> None:
    """Adds the one device that must be there before anything is mounted."""
    tree["dev/console"] = Node(type=NodeType.CHARACTER, mode=0o600, device=_CONSOLE, source="initramfs")


def copy_file(tree: FileTree, packages: FileTree, path: str) -> None:
    """Adds a file of a package, owned by root and with time 0.

    Raises:
        SpecError: no package has it.
    """
    if not walk(packages, path):
        raise SpecError(f"{path}: is in no package of the initramfs; add its package to initramfs.packages")
    node = packages[path]
    if node.type is NodeType.HARDLINK:
        # The other name may not be wanted; the content under this one is what counts.
        node = packages[node.target]
    tree.add_parents(path)
    tree[path] = replace(node, uid=0, gid=0, mtime=0, mode=node.mode & 0o777, xattrs=())


def add_modules(tree: FileTree, modules: FileTree, paths: Iterable[str]) -> bytes:
    """Adds kernel modules, decompressed because busybox's insmod reads no other.

    Returns:
        The list of their paths for the script that loads them, a line each, in the order given.

    Raises:
        FormatError: a module does not unpack.
    """
    lines = []
    for path in paths:
        plain = path[: path.rindex(".ko")] + ".ko"
        tree.add_file(plain, decompress(modules[path].read(), path), source=modules[path].source)
        lines.append(f"/{plain}\n")
    return "".join(lines).encode("ascii")
