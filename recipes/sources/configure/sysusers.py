"""sysusers.d files: which system users and groups the packages of a tree ask for.

Spec: systemd 257, sysusers.d(5); src/sysusers/sysusers.c for the order in which numbers are given.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import SpecError
from ...formats.tree import FileTree
from .paths import configuration_files, read_text

DIRECTORIES = ("etc/sysusers.d", "run/sysusers.d", "usr/local/lib/sysusers.d", "usr/lib/sysusers.d")
_FIELDS = 6  # type, name, id, GECOS, home, shell
_MAX_ID = 65533  # 65534 is nobody, 65535 and 2**32-1 are invalid everywhere (systemd docs/UIDS-GIDS.md)
_NOBODY = 65534


@dataclass(frozen=True)
class UserLine:
    """A ``u`` line; ``uid`` and ``gid`` are None when one is to be chosen.

    Attributes:
        group: a group given by name (``u name 5:games``); then none of the user's own name is made.
        expired: the line was ``u!``: the account can never be used to log in.
    """

    name: str
    uid: int | None
    gid: int | None
    group: str | None
    gecos: str
    home: str
    shell: str
    expired: bool


@dataclass(frozen=True)
class GroupLine:
    """A ``g`` line; ``gid`` is None when one is to be chosen."""

    name: str
    gid: int | None


@dataclass(frozen=True)
class MemberLine:
    """An ``m`` line: a user that is a member of a group."""

    user: str
    group: str


@dataclass(frozen=True)
class RangeLine:
    """An ``r`` line: numbers that may be chosen from, both ends included."""

    first: int
    last: int


Line = UserLine | GroupLine | MemberLine | RangeLine


def _expand(text: str, where: str) -> str:
    """Text with ``%%`` as ``%``.

    Other specifiers name the machine the image will run on, which a build cannot know.
    """
    pieces = text.split("%%")
    for piece in pieces:
        if "%" in piece:
            raise SpecError(
                f"{where}: specifier in {text!r} depends on the running machine; write the value itself"
            )
    return "%".join(pieces)


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()) or not (0 <= int(text) <= _MAX_ID or int(text) == _NOBODY):
        raise SpecError(f"{where}: {text!r} is not a user or group number from 0 to {_MAX_ID}, or {_NOBODY}")
    return int(text)


def _user(fields: Sequence[str], where: str, *, expired: bool) -> UserLine:
    _, name, ident, gecos, home, shell = fields
    uid: int | None = None
    gid: int | None = None
    group: str | None = None
    first, colon, second = ident.partition(":")
    if ident.startswith("/"):
        raise SpecError(f"{where}: the owner of {ident} as the number is not supported; write the number")
    if first not in ("", "-"):
        uid = _number(first, where)
    if colon and second.isdigit():
        gid = _number(second, where)
    elif colon:
        group = second
    return UserLine(name, uid, gid, group, gecos, home, shell, expired)


def parse_line(line: str, where: str) -> Line | None:
    """What one line asks for; None for a comment or an empty line.

    Raises:
        SpecError: the line is not one of the documented kinds.
    """
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    try:
        words = [_expand(word, where) for word in shlex.split(text)]
    except ValueError as error:
        raise SpecError(f"{where}: {error}; close the quotation") from None
    if not 2 <= len(words) <= _FIELDS:
        raise SpecError(f"{where}: {len(words)} fields; expected a type, a name and up to four more")
    fields = ["" if word == "-" else word for word in words] + [""] * (_FIELDS - len(words))
    kind, name, ident = fields[:3]
    if kind in ("u", "u!"):
        return _user(fields, where, expired=kind == "u!")
    if kind == "g":
        return GroupLine(name, _number(ident, where) if ident else None)
    if kind == "m":
        return MemberLine(name, ident)
    if kind == "r":
        first, _, last = ident.partition("-")
        return RangeLine(_number(first, where), _number(last or first, where))
    raise SpecError(f"{where}: line type {kind!r} is not one of u, u!, g, m, r")


def read_lines(tree: FileTree) -> tuple[Line, ...]:
    """The lines of every sysusers.d file of a tree, files by name.

    Raises:
        SpecError: a line is malformed; names the file and the line.
    """
    found: list[Line] = []
    for path in configuration_files(tree, DIRECTORIES, ".conf"):
        text = read_text(tree, path) or ""
        for number, line in enumerate(text.splitlines(), start=1):
            parsed = parse_line(line, f"{path}:{number}")
            if parsed is not None:
                found.append(parsed)
    return tuple(found)
