"""Bundles for HATs byte for byte as GNU tar writes them, with the options that HATs' scripts have."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from recipes.formats.gnu_tar import write_gnu_tar
from recipes.formats.tree import FilePayload, FileTree, Node, NodeType
from tests.support import require_tool

pytestmark = pytest.mark.tool

OPTIONS = ("--mtime=@0", "--sort=name", "--owner=root:0", "--group=root:0", "--format=gnu")
# Spec: private-compute-infra-toolkit/hats 7d61840, client/scripts/build-lib.sh build_test_bundles.
PLAIN = ("--mode", "a=r,u+w,a+X")


def read_folder(folder: Path) -> FileTree:
    """The tree of a folder on disk."""
    tree = FileTree()
    first: dict[int, str] = {}
    tree[""] = Node(type=NodeType.DIRECTORY, mode=folder.stat().st_mode & 0o7777)
    for path in sorted(folder.rglob("*"), key=lambda path: [os.fsencode(part) for part in path.parts]):
        name, status = path.relative_to(folder).as_posix(), path.lstat()
        mode = status.st_mode & 0o7777
        if path.is_symlink():
            tree[name] = Node(type=NodeType.SYMLINK, mode=mode, target=str(path.readlink()))
        elif path.is_dir():
            tree[name] = Node(type=NodeType.DIRECTORY, mode=mode)
        elif status.st_ino in first:
            tree[name] = Node(type=NodeType.HARDLINK, mode=mode, target=first[status.st_ino])
        else:
            first[status.st_ino] = name
            payload = FilePayload(path, 0, status.st_size)
            tree[name] = Node(type=NodeType.FILE, mode=mode, payload=payload)
    return tree


def make_folder(folder: Path) -> None:
    """Files of every size, mode and length of name that matters."""
    folder.mkdir()
    for name, size in (("empty", 0), ("one", 1), ("block", 512), ("more", 70000), ("B", 3), ("é", 5)):
        (folder / name).write_bytes(os.urandom(size))
    (folder / "one").chmod(0o755)
    (folder / "more").chmod(0o640)
    for depth in (94, 95, 96, 97, 98, 99, 150):
        (folder / ("d" * depth)).mkdir()
        (folder / ("d" * depth) / "f").write_text(str(depth))
        (folder / ("f" * depth)).write_text(str(depth))
        (folder / f"l{depth}").symlink_to("t" * (depth + 4))
        (folder / f"z{depth}").hardlink_to(folder / ("f" * depth))
    (folder / "a").mkdir(mode=0o700)
    (folder / "a.b").write_text("sorts before what is in the folder, by name alone")
    (folder / "a" / "x").write_text("x")
    (folder / "a" / "set").write_text("s")
    (folder / "a" / "set").chmod(0o4755)


@pytest.mark.parametrize("plain", [True, False])
def test_the_same_bytes(tmp_path: Path, plain: bool) -> None:
    tar = require_tool("tar")
    folder, made = tmp_path / "in", tmp_path / "out.tar"
    make_folder(folder)
    options = (*PLAIN, *OPTIONS) if plain else OPTIONS
    subprocess.run([tar, *options, "-C", str(folder), "-cf", str(made), "."], check=True)
    ours = io.BytesIO()
    write_gnu_tar(read_folder(folder), ours, plain_modes=plain)
    expected, found = made.read_bytes(), ours.getvalue()
    pairs = enumerate(zip(expected, found, strict=False))
    place = next((at for at, (theirs, mine) in pairs if theirs != mine), None)
    assert place is None, f"block {place // 512}: {expected[place // 512 * 512 :][:512]!r}"
    assert len(expected) == len(found)


def test_the_files_of_a_system_bundle(tmp_path: Path) -> None:
    tar = require_tool("tar")
    folder, made = tmp_path / "in", tmp_path / "out.tar"
    folder.mkdir()
    for name in ("stage0_bin", "kernel_bin", "initrd.cpio.xz", "system.tar.xz"):
        (folder / name).write_bytes(name.encode() * 5000)
        (folder / name).chmod(0o755 if name == "stage0_bin" else 0o600)
    subprocess.run([tar, *PLAIN, *OPTIONS[:-1], "-C", str(folder), "-cf", str(made), "."], check=True)
    ours = io.BytesIO()
    write_gnu_tar(read_folder(folder), ours, plain_modes=True)
    assert made.read_bytes() == ours.getvalue()
