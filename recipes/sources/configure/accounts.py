"""Users and groups of an image: /etc/passwd, group, shadow and gshadow, every account locked.

The base accounts are Debian's, what packages ask for comes from sysusers.d and a table of those that use a
script. Spec: passwd(5), group(5), shadow(5), gshadow(5) of shadow 4.17; base-passwd 3.6.7; systemd 257
src/sysusers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from ...errors import SpecError
from ...formats.tree import FileTree
from .paths import read_text
from .sysusers import GroupLine, Line, MemberLine, RangeLine, UserLine, parse_line, read_lines

MASTERS = ("usr/share/base-passwd/passwd.master", "usr/share/base-passwd/group.master")
SHADOW_GID = 42  # base-passwd 3.6.7 group.master
LOCKED = "!*"  # what systemd-sysusers writes: no password can match, and `!` marks the account as locked
NOLOGIN = "/usr/sbin/nologin"  # systemd 257 src/basic/constants.h, as Debian builds it

# Accounts that a package makes in a script instead of a sysusers.d file: package, then the line it amounts
# to. Facts from the postinst scripts of Debian 13.
SCRIPTED: tuple[tuple[str, str], ...] = (
    ("tpm-udev", 'u tss - "TPM software stack" /var/lib/tpm /bin/false'),
    ("openssh-server", "u sshd - - /run/sshd /usr/sbin/nologin"),
)

# Numbers that stay the same in every image, so that files on a persistent /var keep their owners when
# packages come and go. The first eight are those a fresh Debian 13 gives when the packages are installed in
# dependency order.
STABLE: tuple[tuple[str, int], ...] = (
    ("systemd-journal", 999),
    ("systemd-network", 998),
    ("messagebus", 997),
    ("input", 996),
    ("sgx", 995),
    ("clock", 994),
    ("kvm", 993),
    ("render", 992),
    ("tss", 991),
    ("systemd-timesync", 990),
    ("systemd-resolve", 989),
    ("systemd-coredump", 988),
    ("systemd-oom", 987),
    ("sshd", 986),
    ("polkitd", 985),
    ("_chrony", 984),
)


@dataclass(frozen=True)
class User:
    """One line of /etc/passwd and its line of /etc/shadow."""

    name: str
    uid: int
    gid: int
    gecos: str
    home: str
    shell: str
    expired: bool = False


@dataclass(frozen=True)
class Group:
    """One line of /etc/group and its line of /etc/gshadow; ``members`` in the order they were added."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


@dataclass
class Accounts:
    """Users and groups while they are collected, in the order of the files."""

    users: dict[str, User] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)

    def uid(self, name: str) -> int:
        """The number of a user.

        Raises:
            SpecError: there is no such user.
        """
        if name not in self.users:
            raise SpecError(f"accounts: there is no user {name!r}; declare it in a sysusers.d file")
        return self.users[name].uid

    def gid(self, name: str) -> int:
        """The number of a group.

        Raises:
            SpecError: there is no such group.
        """
        if name not in self.groups:
            raise SpecError(f"accounts: there is no group {name!r}; declare it in a sysusers.d file")
        return self.groups[name].gid


def _fields(text: str, path: str, count: int) -> Iterable[list[str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        values = line.split(":")
        if len(values) != count or not all(value.isdigit() for value in values[2 : 4 if count == 7 else 3]):
            raise SpecError(f"{path}:{number}: {line!r} is not a line of {count} fields with numbers")
        yield values


def base_accounts(tree: FileTree) -> Accounts:
    """The accounts every Debian system has, from the master files of base-passwd.

    Raises:
        SpecError: the master files are not in the tree, or malformed.
    """
    texts = [read_text(tree, path) for path in MASTERS]
    if texts[0] is None or texts[1] is None:
        raise SpecError(f"{MASTERS[0]}: not in the tree; add base-passwd to rootfs.packages")
    accounts = Accounts()
    for name, _, uid, gid, gecos, home, shell in _fields(texts[0], MASTERS[0], 7):
        accounts.users[name] = User(name, int(uid), int(gid), gecos, home, shell)
    for name, _, gid, members in _fields(texts[1], MASTERS[1], 4):
        accounts.groups[name] = Group(name, int(gid), tuple(filter(None, members.split(","))))
    return accounts


class _Numbers:
    """Free user and group numbers, chosen downwards; a user and the group of its name share one."""

    def __init__(
        self, accounts: Accounts, lines: Collection[Line], stable: Iterable[tuple[str, int]]
    ) -> None:
        ranges = [line for line in lines if isinstance(line, RangeLine)] or [RangeLine(1, 999)]
        self.free = sorted({n for line in ranges for n in range(line.first, line.last + 1)})
        self.stable = dict(stable)
        taken = {user.uid for user in accounts.users.values()} | {g.gid for g in accounts.groups.values()}
        for line in lines:  # a number somebody insists on is never given to somebody else
            if isinstance(line, UserLine):
                taken |= {number for number in (line.uid, line.gid) if number is not None}
            elif isinstance(line, GroupLine) and line.gid is not None:
                taken.add(line.gid)
        self.taken = taken

    def take(self, name: str) -> int:
        wanted = self.stable.get(name)
        if wanted is not None and wanted not in self.taken:
            self.taken.add(wanted)
            return wanted
        reserved = set(self.stable.values())
        while self.free:
            number = self.free.pop()
            if number not in self.taken and number not in reserved:
                self.taken.add(number)
                return number
        raise SpecError(f"accounts: no number is left for {name!r}; widen the range with an `r` line")


def _add_group(accounts: Accounts, numbers: _Numbers, name: str, gid: int | None) -> int:
    if name not in accounts.groups:
        accounts.groups[name] = Group(name, numbers.take(name) if gid is None else gid)
    return accounts.groups[name].gid


def _add_user(accounts: Accounts, numbers: _Numbers, line: UserLine) -> None:
    if line.name in accounts.users:
        return
    if line.group is not None:
        gid = accounts.gid(line.group)
        uid = numbers.take(line.name) if line.uid is None else line.uid
    elif line.gid is not None:
        gid = line.gid
        uid = numbers.take(line.name) if line.uid is None else line.uid
    else:
        gid = _add_group(accounts, numbers, line.name, line.uid)
        uid = gid if line.uid is None else line.uid
    owner = next((user.name for user in accounts.users.values() if user.uid == uid), None)
    if owner is not None:
        raise SpecError(f"accounts: {line.name!r} and {owner!r} both want user number {uid}; change one")
    home, shell = (
        line.home or ("/root" if uid == 0 else "/"),
        line.shell or ("/bin/sh" if uid == 0 else NOLOGIN),
    )
    accounts.users[line.name] = User(line.name, uid, gid, line.gecos, home, shell, line.expired)


def add_lines(
    accounts: Accounts, lines: Collection[Line], stable: Iterable[tuple[str, int]] = STABLE
) -> None:
    """Adds what sysusers.d lines ask for: groups, then users with their groups, then members.

    Args:
        stable: names and the numbers they get when they may be chosen; nobody else gets those.

    Raises:
        SpecError: two users want one number, a group does not exist, or no number is left.
    """
    numbers = _Numbers(accounts, lines, stable)
    for line in lines:
        if isinstance(line, GroupLine):
            _add_group(accounts, numbers, line.name, line.gid)
    users = [line for line in lines if isinstance(line, UserLine)]
    members = [line for line in lines if isinstance(line, MemberLine)]
    named = {line.name for line in users}
    for member in members:  # sysusers.d(5): a member line makes the user and the group when nothing else does
        _add_group(accounts, numbers, member.group, None)
        if member.user not in named and member.user not in accounts.users:
            users.append(UserLine(member.user, None, None, None, "", "", "", expired=False))
            named.add(member.user)
    for line in users:
        _add_user(accounts, numbers, line)
    for member in members:
        group = accounts.groups[member.group]
        if member.user not in group.members:
            accounts.groups[member.group] = replace(group, members=(*group.members, member.user))


def collect_accounts(tree: FileTree, packages: Collection[str]) -> Accounts:
    """The accounts of an image: Debian's base, sysusers.d, and what packages would add in scripts.

    Raises:
        SpecError: a file is missing or malformed, or two accounts collide.
    """
    accounts = base_accounts(tree)
    scripted = [parse_line(line, f"package {name}") for name, line in SCRIPTED if name in packages]
    add_lines(accounts, (*read_lines(tree), *(line for line in scripted if line is not None)))
    return accounts


def write_accounts(tree: FileTree, accounts: Accounts) -> None:
    """Writes the four files, and the empty tables of subordinate numbers.

    No password works and none can be set at run time: /etc is read-only. The day of the last change is empty,
    which switches password ageing off (shadow(5)) and keeps the day of the build out of the image.
    """
    users, groups = accounts.users.values(), accounts.groups.values()
    passwd = [f"{u.name}:x:{u.uid}:{u.gid}:{u.gecos}:{u.home}:{u.shell}" for u in users]
    group = [f"{g.name}:x:{g.gid}:{','.join(g.members)}" for g in groups]
    shadow = [f"{u.name}:{LOCKED}::::::{'1' if u.expired else ''}:" for u in users]
    gshadow = [f"{g.name}:{LOCKED}::{','.join(g.members)}" for g in groups]
    for name, lines, mode in (("passwd", passwd, 0o644), ("group", group, 0o644), ("shadow", shadow, 0o640)):
        _write(tree, f"etc/{name}", lines, mode)
    _write(tree, "etc/gshadow", gshadow, 0o640)
    for name in ("subuid", "subgid"):
        _write(tree, f"etc/{name}", [], 0o644)


def _write(tree: FileTree, path: str, lines: Iterable[str], mode: int) -> None:
    tree.add_file(path, "".join(f"{line}\n" for line in lines).encode("utf-8"), mode)
    if mode == 0o640:
        tree[path] = replace(tree[path], gid=SHADOW_GID)
