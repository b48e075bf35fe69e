"""tmpfiles.d at build time: what it would make on a read-only root is made now, /var gets a skeleton.

Spec: systemd 257, tmpfiles.d(5). At boot systemd-tmpfiles finds the directories and links of the root as it
wants them and writes nothing. /var is an empty file system at first boot, so whatever packages ship below it
is declared in a tmpfiles.d file of ours, which makes it then.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...errors import SpecError
from ...formats.tree import FileTree, Node, NodeType
from .accounts import Accounts
from .paths import configuration_files, read_text, resolve

DIRECTORIES = ("etc/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d")
SKELETON = "usr/lib/tmpfiles.d/goldsmith-var.conf"
_AT_RUN_TIME = ("dev", "proc", "run", "sys", "tmp", "var")  # file systems of their own once the system runs
# The package database describes the image; on a /var of the running system it would be stale after an update.
_ONLY_IN_IMAGE = ("var/lib/dpkg/", "var/lib/pam/", "var/lib/apt/", "var/cache/apt/", "var/cache/debconf/")


@dataclass(frozen=True)
class TmpfilesLine:
    """One line, with ``-`` and missing fields as empty text.

    Attributes:
        kind: the letter that says what to make.
        modifiers: what follows the letter.
    """

    kind: str
    modifiers: str
    path: str
    mode: str
    user: str
    group: str
    argument: str


def read_lines(tree: FileTree) -> Iterator[TmpfilesLine]:
    """The lines of every tmpfiles.d file of a tree, files by name.

    Raises:
        SpecError: a quotation is not closed; names the file and the line.
    """
    for path in configuration_files(tree, DIRECTORIES, ".conf"):
        for number, line in enumerate((read_text(tree, path) or "").splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                words = shlex.split(line)
            except ValueError as error:
                raise SpecError(f"{path}:{number}: {error}; close the quotation") from None
            fields = ["" if word == "-" else word for word in words[:5]] + [""] * (5 - len(words))
            kind, target, mode, user, group = fields
            yield TmpfilesLine(kind[:1], kind[1:], target, mode, user, group, " ".join(words[6:]))


def apply_tmpfiles(tree: FileTree, accounts: Accounts) -> None:
    """Makes the directories and links outside /var, /run and the like, and sets owners and modes there.

    Lines with a credential (``^``), with a specifier, or for clean-up do nothing now.

    Raises:
        SpecError: a line is malformed, or names an account that does not exist.
    """
    for line in read_lines(tree):
        path = line.path.strip("/")
        if not path or path.partition("/")[0] in _AT_RUN_TIME or "^" in line.modifiers or "%" in path:
            continue
        if line.kind in "dDqQv" and path not in tree:
            tree.add_directory(path)
            tree[path] = _owned(tree[path], line, accounts, new=True)
        elif line.kind in "dDqQvz" and path in tree and tree[path].type is not NodeType.SYMLINK:
            tree[path] = _owned(tree[path], line, accounts, new=False)
        elif line.kind == "L" and (path not in tree or "+" in line.modifiers):
            if "?" in line.modifiers and resolve(tree, line.argument) is None:
                continue
            tree.add_symlink(path, line.argument or f"/usr/share/factory/{path}")


def _owned(node: Node, line: TmpfilesLine, accounts: Accounts, *, new: bool) -> Node:
    """A file or directory with the owner and mode of its line.

    What is behind ``:`` is for new ones only; ``~`` masks a mode by that of the file, which is left as it is.
    """
    user, group, mode = (
        "" if text.startswith((":", "~")) and not new else text.lstrip(":~")
        for text in (line.user, line.group, line.mode)
    )
    if user:
        node = replace(node, uid=int(user) if user.isdigit() else accounts.uid(user))
    if group:
        node = replace(node, gid=int(group) if group.isdigit() else accounts.gid(group))
    return replace(node, mode=int(mode, 8)) if mode else node


def write_var_skeleton(tree: FileTree) -> None:
    """Declares the directories and links the image has below /var and no other tmpfiles.d file has."""
    known = {line.path.strip("/") for line in read_lines(tree)}
    lines = [
        "# What the packages of this image ship below /var, for a file system that is empty at first boot."
    ]
    for path, node in tree.sorted():
        if not path.startswith("var/") or path in known or f"{path}/".startswith(_ONLY_IN_IMAGE):
            continue
        name = shlex.quote(f"/{path}").replace("%", "%%")
        if node.type is NodeType.DIRECTORY:
            lines.append(f"d {name} {node.mode:04o} {node.uid} {node.gid} -")
        elif node.type is NodeType.SYMLINK:
            lines.append(f"L {name} - - - - {node.target.replace('%', '%%')}")
    tree.add_file(SKELETON, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
