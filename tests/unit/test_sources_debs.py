from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from recipes.errors import FormatError, SpecError
from recipes.formats.tree import FileTree, Node, NodeType
from recipes.sources import debs
from tests.packages import MTIME, Entry, control, deb, directory, entry, hardlink, symlink, write_deb

USR = directory("./usr/")


def unpack(tmp_path: Path, *paths: Path, exclude: Sequence[str] = (), workers: int = 1) -> FileTree:
    tree, _ = debs.unpack(paths, tmp_path / "spool", workers=workers, exclude=exclude)
    return tree


def one(tmp_path: Path, *entries: Entry, exclude: Sequence[str] = ()) -> FileTree:
    return unpack(tmp_path, write_deb(tmp_path, control("pa"), *entries), exclude=exclude)


def two(
    tmp_path: Path, first: Sequence[Entry], second: Sequence[Entry], more: str = "", older: str = ""
) -> FileTree:
    return unpack(
        tmp_path,
        write_deb(tmp_path, control("pa", more=older), *first),
        write_deb(tmp_path, control("pb", more=more), *second),
    )


def complaint(tmp_path: Path, first: Sequence[Entry], second: Sequence[Entry], more: str = "") -> str:
    with pytest.raises(SpecError) as caught:
        two(tmp_path, first, second, more)
    return str(caught.value)


def contents(tree: FileTree) -> dict[str, bytes]:
    return {path: node.read() for path, node in tree.sorted() if node.type is NodeType.FILE}


def test_packages_in_order(tmp_path: Path) -> None:
    more = "Source: src (2:3)\n"
    paths = (
        write_deb(tmp_path, control("pb", "1-1"), conffiles=b"/etc/b\n", md5sums=b"00  usr/b\n"),
        write_deb(tmp_path, control("pa", "2", more, architecture="all")),
    )
    _, (first, second) = debs.unpack(paths, tmp_path / "spool", workers=1)
    assert (first.name, first.version, first.architecture) == ("pb", "1-1", "amd64")
    assert (first.source, first.source_version) == ("pb", "1-1")
    assert (first.conffiles, first.md5sums) == (("/etc/b",), b"00  usr/b\n")
    assert first.paragraph.get("Maintainer") == "Nobody <nobody@example.org>"
    assert (second.source, second.source_version, second.architecture) == ("src", "2:3", "all")


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    paths = [
        write_deb(tmp_path, control(f"p{index}"), USR, entry(f"./usr/{index}", bytes([index]) * index * 1000))
        for index in range(7)
    ]
    results = [debs.unpack(paths, tmp_path / "spool", workers=workers) for workers in (1, 2, 3)]
    assert results[0] == results[1] == results[2]
    assert contents(results[2][0])["usr/6"] == b"\6" * 6000


def test_a_worker_reports_bad_packages(tmp_path: Path) -> None:
    good = write_deb(tmp_path, control("pa"))
    for name in ("bad1.deb", "bad2.deb"):
        (tmp_path / name).write_bytes(b"!<arch>\n")
    for workers in (1, 2):
        with pytest.raises(FormatError) as caught:
            unpack(tmp_path, good, tmp_path / "bad1.deb", tmp_path / "bad2.deb", workers=workers)
        message = "bad1.deb: members are none; expected debian-binary, control.tar and data.tar"
        assert str(caught.value) == message


def test_messages_about_files_name_the_package(tmp_path: Path) -> None:
    (tmp_path / "0123.deb").write_bytes(deb(control("pa", "1-2"), entry("./x"), entry("./x")))
    with pytest.raises(FormatError) as caught:
        unpack(tmp_path, tmp_path / "0123.deb")
    assert str(caught.value) == "pa 1-2 (0123.deb): data.tar.xz: path 'x' is there twice"


def test_usr_is_merged(tmp_path: Path) -> None:
    tree = one(
        tmp_path,
        directory("./bin/"),
        entry("./bin/sh", b"sh"),
        hardlink("./bin/dash", "./bin/sh"),
        directory("./lib64/"),
        symlink("./lib64/ld.so", "../x"),
        directory("./etc/"),
        entry("./etc/bin", b"file"),
    )
    assert contents(tree) == {"usr/bin/dash": b"sh", "etc/bin": b"file"}
    assert (tree["usr/bin/sh"].type, tree["usr/bin/sh"].target) == (NodeType.HARDLINK, "usr/bin/dash")
    assert tree["usr/lib64/ld.so"].target == "../x"
    assert tree["bin"] == Node(type=NodeType.SYMLINK, mode=0o777, mtime=MTIME, target="usr/bin", source="pa")
    assert tree["lib64"].target == "usr/lib64"
    assert tree["usr"] == Node(type=NodeType.DIRECTORY, mode=0o755, mtime=MTIME, source="pa")
    assert "sbin" not in tree


def test_links_that_a_package_ships(tmp_path: Path) -> None:
    links = [USR, directory("./usr/bin/"), symlink("./bin", "usr/bin")]
    tree = two(tmp_path, [directory("./bin/"), entry("./bin/a", b"x")], links)
    assert contents(tree) == {"usr/bin/a": b"x"}
    assert (tree["bin"].type, tree["bin"].target, tree["bin"].source) == (NodeType.SYMLINK, "usr/bin", "pb")


def test_one_package_on_both_sides_of_the_link(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        one(tmp_path, entry("./bin/x"), entry("./usr/bin/x"))
    assert str(caught.value) == (
        "package pa: 'usr/bin/x' is there twice, in /usr and outside; "
        "/bin, /lib and so on are links into /usr"
    )


def test_directories_merge_and_the_first_wins(tmp_path: Path) -> None:
    first, second = directory("./srv/", 0o750), directory("./srv/", 0o700)
    second[0].mtime = 5
    tree = two(tmp_path, [first, entry("./srv/a")], [second, entry("./srv/b")])
    assert (tree["srv"].mode, tree["srv"].mtime, tree["srv"].source) == (0o750, MTIME, "pa")
    assert {"srv/a", "srv/b"} <= set(tree.nodes)


def test_the_root_is_the_first_package_s(tmp_path: Path) -> None:
    tree = two(tmp_path, [], [])
    assert tree[""] == Node(type=NodeType.DIRECTORY, mode=0o755, mtime=MTIME, source="pa")


def test_equal_files(tmp_path: Path) -> None:
    newer = entry("./x", b"same")
    newer[0].mtime = MTIME + 1
    tree = two(tmp_path, [entry("./x", b"same"), symlink("./s", "t")], [newer, symlink("./s", "t")])
    assert (tree["x"].source, tree["x"].mtime, tree["s"].source) == ("pa", MTIME, "pa")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (entry("./x", b"one"), entry("./x", b"two")),
        (entry("./x", b"one"), entry("./x", b"longer")),
        (entry("./x", b"one"), entry("./x", b"one", mode=0o755)),
        (symlink("./x", "a"), symlink("./x", "b")),
    ],
)
def test_different_files(tmp_path: Path, first: Entry, second: Entry) -> None:
    assert complaint(tmp_path, [first], [second]) == (
        "packages: packages pa and pb both ship /x, and neither replaces the other; "
        "leave one of them out, or exclude the path"
    )


def test_all_conflicts_at_once(tmp_path: Path) -> None:
    first = [entry(f"./{index:02}", b"one") for index in range(30)]
    second = [entry(f"./{index:02}", b"two") for index in range(30)]
    text = complaint(tmp_path, first, second)
    assert (
        text.splitlines()[0] == "packages: packages pa and pb both ship /00, and neither replaces the other"
    )
    assert text.splitlines()[-1] == "and 10 more; leave one of them out, or exclude the path"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (directory("./x"), entry("./x"), "/x is a directory in package pa and a file in pb"),
        (entry("./x"), directory("./x"), "/x is a file in package pa and a directory in pb"),
        (symlink("./x", "/etc"), directory("./x"), "/x is a symlink in package pa and a directory in pb"),
        (symlink("./x", "/etc"), entry("./x/y"), "/x is a symlink in package pa, but pb ships /x/y"),
        (symlink("./x", "/etc"), entry("./x/y/z"), "/x is a symlink in package pa, but pb ships /x/y/z"),
    ],
)
def test_types_that_do_not_fit(tmp_path: Path, first: Entry, second: Entry, message: str) -> None:
    text = complaint(tmp_path, [first], [second], "Replaces: pa\n")
    assert text == f"packages: {message}; leave one of them out, or exclude the path"


@pytest.mark.parametrize(
    ("newer", "older", "winner"),
    [
        ("Replaces: pa\n", "", "pb"),
        ("Replaces: xx, pa (<< 1.1) \n", "", "pb"),
        ("", "Replaces: pb\n", "pa"),
        ("Replaces: pa\n", "Replaces: pb\n", "pb"),
    ],
)
def test_replaces(tmp_path: Path, newer: str, older: str, winner: str) -> None:
    tree = two(tmp_path, [entry("./x", b"pa")], [entry("./x", b"pb")], newer, older)
    assert contents(tree) == {"x": winner.encode()}
    assert tree["x"].source == winner


def test_replaces_of_another_version(tmp_path: Path) -> None:
    text = complaint(tmp_path, [entry("./x", b"pa")], [entry("./x", b"pb")], "Replaces: pa (<< 1)\n")
    assert "both ship /x" in text


def test_a_replaced_file_keeps_its_other_names(tmp_path: Path) -> None:
    names = [entry("./m", b"old"), hardlink("./n", "./m"), hardlink("./z", "./n")]
    tree = two(tmp_path, names, [entry("./m", b"new")], "Replaces: pa\n")
    assert contents(tree) == {"m": b"new", "n": b"old"}
    assert (tree["z"].type, tree["z"].target) == (NodeType.HARDLINK, "n")


def test_excludes_in_order(tmp_path: Path) -> None:
    tree = one(
        tmp_path,
        *(directory(f"./{path}/") for path in ("usr", "usr/share", "usr/share/doc", "usr/share/doc/a")),
        entry("./usr/share/doc/a/copyright", b"c"),
        entry("./usr/share/doc/a/changelog", b"d"),
        directory("./usr/share/doc/b/"),
        directory("./usr/share/man/"),
        entry("./usr/share/mant", b"e"),
        exclude=["/usr/share/doc/*", "!usr/share/doc/*/copyright", "usr/share/man/*"],
    )
    assert contents(tree) == {"usr/share/doc/a/copyright": b"c", "usr/share/mant": b"e"}
    assert "usr/share/doc/a" in tree
    assert "usr/share/doc/b" not in tree
    assert "usr/share/man" in tree


def test_the_last_pattern_counts(tmp_path: Path) -> None:
    assert contents(one(tmp_path, entry("./x", b"x"), exclude=["!x", "*"])) == {}


def test_an_excluded_name_of_a_file(tmp_path: Path) -> None:
    tree = one(
        tmp_path,
        entry("./doc/a", b"x"),
        hardlink("./b", "./doc/a"),
        hardlink("./c", "./b"),
        exclude=["doc/*"],
    )
    assert contents(tree) == {"b": b"x"}
    assert tree["c"].target == "b"


def test_a_package_twice(tmp_path: Path) -> None:
    path = write_deb(tmp_path, control("pa"))
    with pytest.raises(SpecError) as caught:
        unpack(tmp_path, path, path)
    assert str(caught.value) == "packages: package pa is there twice, 1 and 1; keep one of them"
