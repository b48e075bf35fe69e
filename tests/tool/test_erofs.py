from __future__ import annotations

import os
import stat
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings

from recipes.formats import erofs
from recipes.formats.tree import FileTree, NodeType
from tests.erofs_reader import read_erofs
from tests.support import require_tool
from tests.trees import EPOCH, example_tree, expected, file, trees

pytestmark = pytest.mark.tool

UUID = uuid.UUID("0f0e0d0c-0b0a-0908-0706-050403020100")
ROOT_USER = os.geteuid() == 0


def write(tree: FileTree, path: Path) -> erofs.ErofsStats:
    with path.open("wb") as out:
        return erofs.write(tree, out, epoch=EPOCH, uuid=UUID, label="goldsmith")


def run(*argv: str | Path) -> str:
    done = subprocess.run([str(part) for part in argv], capture_output=True, check=False)
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, output
    return output


def judge(tree: FileTree, folder: Path) -> None:
    """fsck.erofs finds nothing wrong, and what it extracts is the tree."""
    fsck = require_tool("fsck.erofs")
    image, out = folder / "image", folder / "extracted"
    write(tree, image)
    assert "<E>" not in run(fsck, image)
    assert "<E>" not in run(fsck, f"--extract={out}", "--preserve" if ROOT_USER else "--no-preserve", image)
    want = expected(tree)
    devices = {path for path, good in want.items() if stat.S_ISCHR(good.mode) or stat.S_ISBLK(good.mode)}
    if not ROOT_USER:  # device nodes cannot be made, so fsck stops at the first
        assert not devices
    found = {""}
    for above, directories, names in os.walk(out):
        found |= {os.path.relpath(Path(above) / name, out) for name in directories + names}
    assert found == set(want)
    for path, good in want.items():
        at = out / path
        status = at.lstat()
        assert stat.S_IFMT(status.st_mode) == stat.S_IFMT(good.mode), path
        if stat.S_ISREG(good.mode):
            assert at.read_bytes() == good.content, path
        if stat.S_ISLNK(good.mode):
            assert os.fsencode(at.readlink()) == good.content, path
        if path in devices:
            assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == good.device, path
        if ROOT_USER:
            assert (status.st_uid, status.st_gid) == (good.uid, good.gid), path
            # Extraction sets the owner after the mode, which takes the set-id bits of files away.
            bits = 0o7777 if stat.S_ISDIR(good.mode) else 0o1777
            if not stat.S_ISLNK(good.mode):
                assert status.st_mode & bits == good.mode & bits, path
            assert int(status.st_mtime) == good.mtime or stat.S_ISDIR(good.mode), path


@pytest.mark.skipif(not ROOT_USER, reason="device nodes and owners need root")
def test_fsck_extracts_everything(tmp_path: Path) -> None:
    judge(example_tree(), tmp_path)


def test_fsck_extracts_what_an_ordinary_user_may_make(tmp_path: Path) -> None:
    tree = example_tree()
    for path in ("dev/null", "dev/far", "dev/sda"):
        del tree.nodes[path]
    judge(tree, tmp_path)


def test_fsck_extracts_ten_thousand_entries(tmp_path: Path) -> None:
    tree = FileTree()
    for index in range(10_000):
        tree.add_file(f"big/{'n' * (index % 40)}{index}", b"%d" % index)
    judge(tree, tmp_path)


@pytest.mark.skipif(not ROOT_USER, reason="device nodes and owners need root")
@settings(max_examples=25)
@given(trees())
def test_fsck_extracts_random_trees(tmp_path_factory: pytest.TempPathFactory, tree: FileTree) -> None:
    judge(tree, tmp_path_factory.mktemp("erofs"))


def test_fsck_notices_a_changed_first_block(tmp_path: Path) -> None:
    """The checksum that fsck accepts above is one that it looks at."""
    image = tmp_path / "image"
    write(FileTree(), image)
    data = bytearray(image.read_bytes())
    data[4000] ^= 1
    image.write_bytes(data)
    # Version 1.5 says so and ends with 0 all the same, which is why its output is looked at everywhere.
    assert "superblock chksum doesn't match" in run(require_tool("fsck.erofs"), image)


def test_dump_shows_what_was_asked_for(tmp_path: Path) -> None:
    dump = require_tool("dump.erofs")
    image = tmp_path / "image"
    stats = write(example_tree(), image)
    rows = dict(line.split(":", 1) for line in run(dump, "-s", image).splitlines() if ":" in line)
    values = {name.removeprefix("Filesystem ").strip(): value.strip() for name, value in rows.items()}
    assert values["magic number"] == "0xE0F5E1E2"
    assert values["blocks"] == str(stats.size // 4096)
    assert values["inode count"] == str(stats.inodes)
    assert values["root nid"] == "36"
    assert values["features"] == "sb_csum mtime"
    assert values["UUID"] == str(UUID)
    info = run(dump, "--path=/usr/bin/owned", image)
    assert "Uid: 100000   Gid: 4000000000  Access: 0600" in info
    info = run(dump, "--path=/usr/bin/many", image)
    # A header of 12; then 4 and name, value and padding of each: 0 + 4, 5 + 0 + 3, 1 + 5 + 2, 4 + 5000.
    assert "Xattr size: 5052" in info


def test_our_reader_reads_what_mkfs_writes(tmp_path: Path) -> None:
    """The reader that judges us in the unit tests agrees with a foreign writer about what bytes mean."""
    mkfs = require_tool("mkfs.erofs")
    source, image = tmp_path / "source", tmp_path / "image"
    (source / "deep/er").mkdir(parents=True)
    contents = {f"deep/er/size-{size}": b"\x5a" * size for size in (0, 1, 4000, 4064, 4096, 4097, 9000)}
    for index in range(600):
        contents[f"many-{index}"] = b"%d" % index
    for path, data in contents.items():
        (source / path).write_bytes(data)
    (source / "hard").hardlink_to(source / "deep/er/size-1")
    (source / "soft").symlink_to("deep/er")
    os.mkfifo(source / "fifo")
    named = source / "deep/er/size-1"
    attributes = {}
    try:
        os.setxattr(named, "user.note", b"value")
        attributes["user.note"] = b"value"
    except OSError:
        pass  # this file system has no user attributes
    run(mkfs, "-T", str(EPOCH), "-U", str(UUID), "-x", "1000", "--all-root", "--quiet", image, source)
    read = read_erofs(image.read_bytes(), foreign=True)
    assert set(read.files) == {"", "deep", "deep/er", "hard", "soft", "fifo", *contents}
    for path, data in contents.items():
        assert read.files[path].content == data, path
    assert read.files["soft"].content == b"deep/er"
    assert read.files["hard"].nid == read.files["deep/er/size-1"].nid
    assert dict(read.files["hard"].xattrs) == attributes
    assert {inode.mtime for inode in read.files.values()} == {EPOCH}
    assert (read.uuid, read.build_time) == (UUID, EPOCH)


def test_our_images_are_not_larger_than_those_of_mkfs(tmp_path: Path) -> None:
    mkfs = require_tool("mkfs.erofs")
    source = tmp_path / "source"
    source.mkdir()
    tree = FileTree()
    for index in range(1000):
        data = b"%04d" % index * (index * 37 % 2500)
        tree[f"f{index}"] = file(data)
        (source / f"f{index}").write_bytes(data)
    run(mkfs, "-T", str(EPOCH), "--all-root", "--quiet", tmp_path / "theirs", source)
    ours = write(tree, tmp_path / "ours").size
    assert ours <= (tmp_path / "theirs").stat().st_size * 1.01


def test_hard_links_are_one_inode_for_dump(tmp_path: Path) -> None:
    image = tmp_path / "image"
    write(example_tree(), image)
    dump = require_tool("dump.erofs")
    infos = [
        run(dump, f"--path=/{path}", image) for path in ("usr/bin/su", "usr/bin/a-link", "deep/er/est/link")
    ]
    numbers = {info.split("NID:")[1].split()[0] for info in infos}
    assert len(numbers) == 1
    assert all("Links: 3" in info for info in infos)
    assert example_tree()["usr/bin/a-link"].type is NodeType.HARDLINK
