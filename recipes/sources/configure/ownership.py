"""Owners and modes that packages set in a script because the account is made at installation.

Spec: the postinst scripts of Debian 13 (each line names its package); dpkg-statoverride(1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import SpecError
from ...formats.tree import FileTree
from .accounts import Accounts
from .paths import read_text, resolve


@dataclass(frozen=True)
class Ownership:
    """Who owns a path and what it may do; ``create`` makes the directory when no package ships it."""

    path: str
    user: str
    group: str
    mode: int
    create: bool = False


TABLE: tuple[Ownership, ...] = (
    Ownership("usr/lib/dbus-1.0/dbus-daemon-launch-helper", "root", "messagebus", 0o4754),  # dbus
    Ownership("var/lib/tpm", "tss", "tss", 0o755),  # tpm-udev
    Ownership("var/mail", "root", "mail", 0o2775, create=True),  # base-files
    Ownership("etc/security/opasswd", "root", "root", 0o600),  # libpam-modules
)
OVERRIDES = "var/lib/dpkg/statoverride"


def _overrides(tree: FileTree) -> list[Ownership]:
    """The lines of dpkg's own table, which an overlay may ship."""
    found = []
    for number, line in enumerate((read_text(tree, OVERRIDES) or "").splitlines(), start=1):
        words = line.split(maxsplit=3)
        if len(words) != 4 or not set(words[2]) <= set("01234567") or not words[3].startswith("/"):
            raise SpecError(f"{OVERRIDES}:{number}: {line!r} is not `user group mode /path`")
        found.append(Ownership(words[3].strip("/"), words[0], words[1], int(words[2], 8)))
    return found


def apply_ownership(tree: FileTree, accounts: Accounts, table: Sequence[Ownership] = TABLE) -> None:
    """Sets owner, group and mode of every path of the table that the tree has.

    Raises:
        SpecError: an account of a path that is there does not exist.
    """
    for entry in (*table, *_overrides(tree)):
        path = resolve(tree, entry.path)
        if path is None:
            if not entry.create:
                continue
            path = entry.path
            tree.add_directory(path)
        uid = int(entry.user[1:]) if entry.user.startswith("#") else accounts.uid(entry.user)
        gid = int(entry.group[1:]) if entry.group.startswith("#") else accounts.gid(entry.group)
        tree[path] = replace(tree[path], uid=uid, gid=gid, mode=entry.mode)
