from __future__ import annotations

import io
import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings

from recipes.formats.cpio import read_newc, write_newc
from recipes.formats.tree import FileTree, Node, NodeType
from recipes.formats.zstd import compress_zstd
from tests.support import require_tool
from tests.trees import EPOCH, example_tree, expected, file, trees

pytestmark = pytest.mark.tool

ROOT_USER = os.geteuid() == 0


def archive_of(tree: FileTree) -> bytes:
    out = io.BytesIO()
    write_newc(tree, out, epoch=EPOCH, alignment=512)
    return out.getvalue()


def cpio(*arguments: str, data: bytes, folder: Path) -> bytes:
    argv = [require_tool("cpio"), "--quiet", *arguments]
    done = subprocess.run(argv, input=data, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def judge(tree: FileTree, folder: Path) -> None:
    archive = archive_of(tree)
    want = expected(tree)
    listed = cpio("-it", "--null", data=archive, folder=folder)
    assert set(listed.split(b"\0")[:-1]) == {os.fsencode(path or ".") for path in want}
    cpio("-idm", "--no-absolute-filenames", data=archive, folder=folder)
    found = {""}
    for above, directories, names in os.walk(folder):
        found |= {os.path.relpath(Path(above) / name, folder) for name in directories + names}
    assert found == set(want)
    for path, good in want.items():
        at = folder / path
        status = at.lstat()
        assert stat.S_IFMT(status.st_mode) == stat.S_IFMT(good.mode), path
        if stat.S_ISREG(good.mode):
            assert at.read_bytes() == good.content, path
        if stat.S_ISLNK(good.mode):
            assert os.fsencode(at.readlink()) == good.content, path
        else:
            # Unpacking into a directory changes its time again, and cpio is not told to wait.
            assert int(status.st_mtime) == min(good.mtime, EPOCH) or stat.S_ISDIR(good.mode), path
            # The folder itself is there already; cpio leaves it as it is.
            assert status.st_mode == good.mode or path == "", path
        assert (status.st_uid, status.st_gid) == (good.uid, good.gid), path
        if stat.S_ISCHR(good.mode) or stat.S_ISBLK(good.mode):
            assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == good.device, path
    for path, node in tree.nodes.items():
        if node.type is NodeType.HARDLINK:
            assert (folder / path).samefile(folder / node.target)


@pytest.mark.skipif(not ROOT_USER, reason="device nodes and owners need root")
def test_gnu_cpio_unpacks_everything(tmp_path: Path) -> None:
    tree = example_tree(xattrs=False)
    judge(tree, tmp_path)


@pytest.mark.skipif(not ROOT_USER, reason="device nodes and owners need root")
@settings(max_examples=25)
@given(trees(xattrs=False))
def test_gnu_cpio_unpacks_random_trees(tmp_path_factory: pytest.TempPathFactory, tree: FileTree) -> None:
    judge(tree, tmp_path_factory.mktemp("cpio"))


def test_gnu_cpio_writes_the_same_members(tmp_path: Path) -> None:
    """Its own archive of the same files differs only in where inode numbers begin and the digits' case."""
    tree = FileTree()
    tree[""] = Node(type=NodeType.DIRECTORY, mode=0o755, mtime=EPOCH)
    tree["d"] = Node(type=NodeType.DIRECTORY, mode=0o750, mtime=EPOCH)
    tree["d/f"] = file(b"content", 0o640)
    tree["d/g"] = Node(type=NodeType.HARDLINK, mode=0, target="d/f")
    tree["l"] = Node(type=NodeType.SYMLINK, mode=0o777, target="d/f", mtime=EPOCH)
    tree["p"] = Node(type=NodeType.FIFO, mode=0o600, mtime=EPOCH)
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d/f").write_bytes(b"content")
    (tmp_path / "d/f").chmod(0o640)
    (tmp_path / "d/g").hardlink_to(tmp_path / "d/f")
    (tmp_path / "l").symlink_to("d/f")
    os.mkfifo(tmp_path / "p", 0o600)
    tmp_path.chmod(0o755)
    for path in ("p", "l", "d/f", "d", "."):
        os.utime(tmp_path / path, (EPOCH, EPOCH), follow_symlinks=False)
    names = b"\0".join([b".", b"d", b"d/f", b"d/g", b"l", b"p"]) + b"\0"
    theirs = cpio("-o0", "-H", "newc", "--reproducible", "-R", "0:0", data=names, folder=tmp_path)
    ours = archive_of(tree)
    assert len(ours) == len(theirs)
    first, second = read_newc(ours, "ours"), read_newc(theirs, "theirs")
    shift = first[0].ino - second[0].ino
    assert [(e.name, e.data, e.ino - shift, e.mode, e.nlink, e.mtime) for e in first] == [
        (e.name, e.data, e.ino, e.mode, e.nlink, e.mtime) for e in second
    ]


def test_the_zstd_program_reads_our_frames(tmp_path: Path) -> None:
    zstd = require_tool("zstd")
    archive = archive_of(example_tree(xattrs=False))
    frame = tmp_path / "archive.zst"
    with frame.open("wb") as out:
        compress_zstd(io.BytesIO(archive), out)
    done = subprocess.run([zstd, "-dc", frame], capture_output=True, check=True)
    assert done.stdout == archive
    listing = subprocess.run([zstd, "-lv", frame], capture_output=True, text=True, check=True).stdout
    assert f"({len(archive)} B)" in listing
    assert "Check: XXH64" in listing
