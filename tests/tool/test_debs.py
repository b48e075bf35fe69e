"""Our unpacking judged by dpkg-deb, our version order by dpkg."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from recipes.formats import deb
from recipes.formats.relations import compare_versions
from recipes.formats.tree import Node, NodeType
from recipes.sources import debs
from tests.support import require_tool

pytestmark = pytest.mark.tool

CONTROL = """Package: sample
Version: 1:2.3-4~rc1
Architecture: all
Maintainer: Nobody <nobody@example.org>
Depends: libc6 (>= 2.38), awk | mawk
Conffiles-Are-Elsewhere: yes
Description: a package
 with more than
 .
 one line: Grüße
"""
LONG = "/".join(["d" * 60] * 4) + "/" + "f" * 120


def tree(folder: Path) -> Path:
    """A package folder with every kind of file that a user may make."""
    root = folder / "root"
    for name, mode in (
        ("DEBIAN", 0o755),
        ("etc", 0o755),
        ("usr/bin", 0o755),
        ("var/mail", 0o2775),
        ("tmp", 0o1777),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    (root / "DEBIAN/control").write_text(CONTROL)
    (root / "DEBIAN/conffiles").write_text("/etc/sample.conf\n")
    (root / "DEBIAN/md5sums").write_text("d41d8cd98f00b204e9800998ecf8427e  usr/bin/empty\n")
    (root / "etc/sample.conf").write_text("a = 1\n")
    (root / "usr/bin/sample").write_bytes(os.urandom(70_000) + bytes(3_000_000))
    (root / "usr/bin/sample").chmod(0o4755)
    (root / "usr/bin/again").hardlink_to(root / "usr/bin/sample")
    (root / "usr/bin/empty").touch()
    (root / "usr/bin/link").symlink_to("/usr/bin/sample")
    (root / "usr/bin/far").symlink_to("../" * 50 + "x")
    (root / "etc/ümlaut").write_text("name")
    (root / LONG).parent.mkdir(parents=True)
    (root / LONG).write_text("deep")
    for path in sorted(root.rglob("*")):
        os.utime(path, (1_700_000_000, 1_700_000_000 + len(path.name)), follow_symlinks=False)
    return root


def build(folder: Path, *options: str) -> Path:
    path = folder / "sample.deb"
    tool = require_tool("dpkg-deb")
    argv = [tool, "--root-owner-group", *options, "--build", str(tree(folder)), str(path)]
    subprocess.run(argv, check=True, capture_output=True)
    return path


def describe(path: Path) -> tuple[str, int, int, object]:
    """Type, mode, time and content of a file on disk."""
    status = path.lstat()
    mode, time = status.st_mode & 0o7777, int(status.st_mtime)
    if path.is_symlink():
        return "symlink", mode, time, str(path.readlink())
    if path.is_dir():
        return "directory", mode, 0, None  # its time is when the last link in it was made
    return "file", mode, time, path.read_bytes()


def describe_node(nodes: dict[str, Node], path: str) -> tuple[str, int, int, object]:
    node = nodes[path]
    if node.type is NodeType.HARDLINK:
        node = nodes[node.target]
    content = {NodeType.SYMLINK: node.target, NodeType.FILE: node.read()}.get(node.type)
    time = 0 if node.type is NodeType.DIRECTORY else node.mtime
    return node.type.value, node.mode, time, content


@pytest.mark.parametrize(
    "options", [["-Znone"], ["-Zgzip"], ["-Zxz"], ["-Zxz", "-z9"], ["-Zzstd"]], ids="-".join
)
def test_the_same_files_as_dpkg_deb(tmp_path: Path, options: list[str]) -> None:
    path = build(tmp_path, *options, *(["--uniform-compression"] if "-Zzstd" in options else []))
    theirs = tmp_path / "theirs"
    subprocess.run([require_tool("dpkg-deb"), "-x", str(path), str(theirs)], check=True)
    spool_path = tmp_path / "spool"
    with spool_path.open("wb") as spool:
        nodes = dict(deb.open_deb(path).unpack(spool, spool_path))
    assert set(nodes) == {"", *(str(found.relative_to(theirs)) for found in theirs.rglob("*"))}
    for name, node in nodes.items():
        assert describe_node(nodes, name) == describe(theirs / name), name
        assert (node.uid, node.gid) == (0, 0)
    argv = [require_tool("dpkg-deb"), "--fsys-tarfile", str(path)]
    plain = subprocess.run(argv, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        times = {member.name.removeprefix("./").removeprefix("."): member.mtime for member in archive}
    assert {name: node.mtime for name, node in nodes.items()} == times
    assert [path for path, node in nodes.items() if node.type is NodeType.HARDLINK] in (
        ["usr/bin/sample"],
        ["usr/bin/again"],
    )


def test_the_same_fields_as_dpkg_deb(tmp_path: Path) -> None:
    path = build(tmp_path, "-Zgzip")
    about = deb.open_deb(path).control()
    for name, value in about.paragraph.fields:
        argv = [require_tool("dpkg-deb"), "-f", str(path), name]
        assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout == f"{value}\n"
    assert len(about.paragraph.fields) == 7
    _, (package,) = debs.unpack([path], tmp_path / "spools", workers=1)
    assert package.conffiles == ("/etc/sample.conf",)
    assert package.md5sums == (tmp_path / "root/DEBIAN/md5sums").read_bytes()
    assert package.paragraph.render() == CONTROL


VERSIONS = [
    "0",
    "0~",
    "1",
    "1.0",
    "1.0-0",
    "1.0-1",
    "1.0~rc1-1",
    "1.0+b1",
    "1.0a",
    "1a0",
    "01.0",
    "1:0",
    "0:1",
    "1.10",
    "1.9",
    "1.0.",
    "1.0-1~",
    "1.0-1+deb13u1",
    "1.0-1~deb13u1",
    "2.41-12+deb13u4",
    "1.0--1",
    "1.~0",
    "1.+0",
]


def test_the_same_order_as_dpkg(tmp_path: Path) -> None:
    tool = require_tool("dpkg")
    script = "".join(
        f'"$0" --compare-versions {left} {operator} {right} && echo y || echo n\n'
        for left in VERSIONS
        for right in VERSIONS
        for operator in ("lt", "eq")
    )
    output = subprocess.run(["sh", "-c", script, tool], check=True, capture_output=True, text=True).stdout
    theirs = [answer == "y" for answer in output.split()]
    orders = [compare_versions(left, right) for left in VERSIONS for right in VERSIONS]
    ours = [answer for order in orders for answer in (order < 0, order == 0)]
    assert ours == theirs
