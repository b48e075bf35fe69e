from __future__ import annotations

import pytest

from recipes.errors import SpecError
from recipes.formats.tree import FileTree
from recipes.sources.configure.accounts import (
    Accounts,
    add_lines,
    base_accounts,
    collect_accounts,
    write_accounts,
)
from recipes.sources.configure.ownership import OVERRIDES, apply_ownership
from recipes.sources.configure.sysusers import (
    GroupLine,
    MemberLine,
    RangeLine,
    UserLine,
    parse_line,
    read_lines,
)

from .debian13 import DEBIAN, account_tree


def _written(tree: FileTree) -> dict[str, list[str]]:
    return {name: tree[f"etc/{name}"].read().decode().splitlines() for name in ("passwd", "group", "shadow")}


def test_accounts_are_those_of_an_installation() -> None:
    tree = account_tree()
    write_accounts(tree, collect_accounts(tree, {"dbus", "systemd"}))
    written = _written(tree)
    # tpm-udev makes its account with adduser, which counts upwards from 100; ours has a number of its own.
    for name in ("passwd", "group"):
        want = [line for line in (DEBIAN / name).read_text().splitlines() if not line.startswith("tss:")]
        assert sorted(written[name]) == sorted(want)
    assert written["passwd"][:18] == (DEBIAN / "passwd").read_text().splitlines()[:18]


def test_every_account_is_locked() -> None:
    tree = account_tree()
    write_accounts(tree, collect_accounts(tree, {"tpm-udev"}))
    lines = [line.split(":") for line in _written(tree)["shadow"]]
    assert {len(fields) for fields in lines} == {9}
    assert {fields[1] for fields in lines} == {"!*"}
    assert {fields[2] for fields in lines} == {""}
    assert [fields[0] for fields in lines if fields[7] == "1"] == ["systemd-network"]
    for name, mode, gid in (("passwd", 0o644, 0), ("shadow", 0o640, 42), ("gshadow", 0o640, 42)):
        node = tree[f"etc/{name}"]
        assert (node.mode, node.uid, node.gid) == (mode, 0, gid)
    assert tree["etc/subuid"].read() == b""
    assert "tss:x:991:991:TPM software stack:/var/lib/tpm:/bin/false" in _written(tree)["passwd"]


def test_parse_line() -> None:
    assert parse_line("  # no", "x:1") is parse_line("", "x:1") is None
    assert parse_line('u! a 7 "A %% B" /home/a /bin/sh', "x:1") == UserLine(
        "a", 7, None, None, "A % B", "/home/a", "/bin/sh", expired=True
    )
    assert parse_line("u b 5:60", "x:1") == UserLine("b", 5, 60, None, "", "", "", expired=False)
    assert parse_line("u c -:games", "x:1") == UserLine("c", None, None, "games", "", "", "", expired=False)
    assert parse_line("g d -", "x:1") == GroupLine("d", None)
    assert parse_line("m a d", "x:1") == MemberLine("a", "d")
    assert parse_line("r - 500-900", "x:1") == RangeLine(500, 900)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u", "x:3: 1 fields; expected a type, a name and up to four more"),
        ("u a - b c d e", "x:3: 7 fields; expected a type, a name and up to four more"),
        ("z a", "x:3: line type 'z' is not one of u, u!, g, m, r"),
        ('u a - "open', "x:3: No closing quotation; close the quotation"),
        ("u a 65535", "x:3: '65535' is not a user or group number from 0 to 65533, or 65534"),
        ("g a 1²", "x:3: '1²' is not a user or group number from 0 to 65533, or 65534"),
        ("u a /bin/x", "x:3: the owner of /bin/x as the number is not supported; write the number"),
        ("u %m", "x:3: specifier in '%m' depends on the running machine; write the value itself"),
    ],
)
def test_bad_lines(line: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_line(line, "x:3")
    assert str(caught.value) == message


def test_files_by_precedence() -> None:
    tree = FileTree()
    tree.add_file("usr/lib/sysusers.d/b.conf", b"g two 2\n")
    tree.add_file("usr/lib/sysusers.d/a.conf", b"g one 1\n")
    tree.add_file("usr/lib/sysusers.d/c.conf", b"g three 3\n")
    tree.add_file("usr/lib/sysusers.d/README", b"nonsense")
    tree.add_file("etc/sysusers.d/b.conf", b"g zwei 22\n")
    tree.add_symlink("etc/sysusers.d/c.conf", "/dev/null")
    assert read_lines(tree) == (GroupLine("one", 1), GroupLine("zwei", 22))


def _add(*lines: str) -> Accounts:
    accounts = Accounts()
    parsed = [parse_line(line, "x:1") for line in lines]
    add_lines(accounts, [line for line in parsed if line is not None], stable=[("fixed", 997)])
    return accounts


def test_numbers() -> None:
    accounts = _add("u a", "g late 999", "u fixed", "u b", "r - 990-999", "m c a")
    assert {user.name: (user.uid, user.gid) for user in accounts.users.values()} == {
        "a": (998, 998),
        "fixed": (997, 997),
        "b": (996, 996),
        "c": (995, 995),
    }
    assert accounts.groups["late"].gid == 999
    assert accounts.groups["a"].members == ("c",)
    assert accounts.users["a"].home == "/"
    assert accounts.users["a"].shell == "/usr/sbin/nologin"
    root = _add("u root 0").users["root"]
    assert (root.home, root.shell) == ("/root", "/bin/sh")


def test_collisions() -> None:
    with pytest.raises(SpecError, match="accounts: 'b' and 'a' both want user number 5; change one"):
        _add("u a 5", "u b 5")
    with pytest.raises(SpecError, match="accounts: no number is left for 'b'; widen the range"):
        _add("u a", "u b", "r - 7")
    with pytest.raises(SpecError, match="accounts: there is no group 'no'"):
        _add("u a -:no")


def test_master_files() -> None:
    with pytest.raises(
        SpecError, match=r"passwd.master: not in the tree; add base-passwd to rootfs.packages"
    ):
        base_accounts(FileTree())
    tree = account_tree()
    tree.add_file("usr/share/base-passwd/group.master", b"root:*:0:\nbad:*:x:\n")
    with pytest.raises(
        SpecError, match=r"group.master:2: 'bad:\*:x:' is not a line of 4 fields with numbers"
    ):
        base_accounts(tree)


def test_ownership() -> None:
    tree = account_tree()
    helper = "usr/lib/dbus-1.0/dbus-daemon-launch-helper"
    tree.add_file(helper, b"x", 0o755)
    tree.add_file("usr/bin/own", b"x", 0o755)
    tree.add_file(OVERRIDES, b"games #60 2755 /usr/bin/own\nroot root 755 /not/there\n")
    apply_ownership(tree, collect_accounts(tree, ()))
    assert (tree[helper].uid, tree[helper].gid, tree[helper].mode) == (0, 997, 0o4754)
    assert (tree["usr/bin/own"].uid, tree["usr/bin/own"].gid, tree["usr/bin/own"].mode) == (5, 60, 0o2755)
    assert (tree["var/mail"].gid, tree["var/mail"].mode) == (8, 0o2775)
    assert "var/lib/tpm" not in tree
    tree.add_directory("var/lib/tpm")
    with pytest.raises(SpecError, match=r"there is no user 'tss'; declare it in a sysusers.d file"):
        apply_ownership(tree, collect_accounts(tree, ()))
    tree.add_file(OVERRIDES, b"root 755 /usr/bin/own\n")
    with pytest.raises(SpecError, match=rf"{OVERRIDES}:1: .* is not `user group mode /path`"):
        apply_ownership(tree, collect_accounts(tree, {"tpm-udev"}))
