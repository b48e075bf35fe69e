from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

import pytest

from recipes.errors import FormatError
from recipes.formats.cpio import read_newc
from recipes.formats.tree import BytesPayload, FilePayload, FileTree, Node, NodeType
from recipes.sources.contributors import Breakdown, Contributor, breakdown, group_of, render

MODULE = "usr/lib/modules/6.12.0-test/kernel/fs/erofs.ko"
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def initramfs() -> FileTree:
    tree = FileTree()
    for path in ("dev", "usr/sbin"):
        tree.add_directory(path)
    tree.add_symlink("bin", "usr/bin")
    tree["dev/console"] = Node(type=NodeType.CHARACTER, mode=0o600, device=(5, 1), source="initramfs")
    tree.add_file("usr/bin/busybox", b"\x7fELF" + b"b" * 996, source="busybox-static")
    tree.add_symlink("usr/bin/sh", "busybox", source="busybox")
    tree.add_file(f"{LIBRARIES}/libc.so.6", b"\x7fELF" + b"c" * 1996, source="libc6")
    tree.add_symlink("usr/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/ld.so", source="libc6")
    tree.add_file("usr/sbin/mke2fs", b"\x7fELF" + b"m" * 296, source="e2fsprogs")
    tree["usr/sbin/mkfs.ext4"] = Node(type=NodeType.HARDLINK, mode=0o755, target="usr/sbin/mke2fs")
    tree.add_file("etc/mke2fs.conf", b"e" * 80, source="e2fsprogs")
    tree.add_file(MODULE, b"\x7fELF" + b"k" * 496, source="kernel")
    tree.add_file("init", b"#!/bin/sh\n", source="initrd/init")
    tree.add_file("usr/lib/goldsmith/boot.sh", b"# boot\n", source="initrd/boot.sh")
    tree.add_file("usr/lib/goldsmith/tpm2", b"\x7fELF" + b"t" * 96, source="initrd/helpers/tpm2.c")
    tree.add_file("usr/lib/unlock.d/tpm2", b"#!/bin/sh\n", source="initrd/unlock.d/tpm2")
    tree.add_file("etc/initramfs/config", b"PROFILE='release'\n")
    tree.add_file("etc/initramfs/modules", b"/usr/lib/modules/x.ko\n")
    tree.add_file("usr/share/site/data", b"s" * 7, source="keys/data")
    return tree


SIZES = {
    "package libc6": (1, 2000),
    "busybox": (1, 1000),
    "kernel modules": (1, 500),
    "package e2fsprogs": (2, 380),
    "helpers": (1, 100),
    "configuration": (2, 40),
    "scripts": (3, 27),
    "other files": (1, 7),
    "directories and links": (0, 0),
}


class Compressor:
    """Another library's compression that keeps what it was given."""

    def __init__(self) -> None:
        self.archives: list[bytes] = []

    def __call__(self, plain: BinaryIO, out: BinaryIO) -> None:
        self.archives.append(plain.read())
        out.write(zlib.compress(self.archives[-1]))


def files(archive: bytes) -> dict[str, bytes]:
    return {entry.name: entry.data for entry in read_newc(archive, "archive") if entry.mode >> 12 == 0o10}


def test_parts_and_what_their_files_hold() -> None:
    found = breakdown(initramfs(), Compressor())
    assert {each.name: (each.files, each.size) for each in found.contributors} == SIZES


def test_alone_is_the_parts_own_archive_compressed() -> None:
    tree, compressor = initramfs(), Compressor()
    found = breakdown(tree, compressor)
    *parts, whole = compressor.archives
    assert found.whole == len(zlib.compress(whole))
    assert len(parts) == len(SIZES)
    alone = {each.name: each.alone for each in found.contributors}
    assert [alone[name] for name in sorted(SIZES)] == [len(zlib.compress(part)) for part in parts]
    named = dict(zip(sorted(SIZES), parts, strict=True))
    assert set(files(named["scripts"])) == {"init", "usr/lib/goldsmith/boot.sh", "usr/lib/unlock.d/tpm2"}
    assert files(named["kernel modules"]) == {MODULE: tree[MODULE].read()}


def test_every_file_is_in_one_part() -> None:
    compressor = Compressor()
    breakdown(initramfs(), compressor)
    *parts, whole = compressor.archives
    together = [item for part in parts for item in files(part).items()]
    assert sorted(together) == sorted(files(whole).items())


def test_the_costliest_comes_first() -> None:
    # Content that does not compress puts the parts in the order of their sizes.
    tree = FileTree()
    noise = zlib.compress(bytes(range(256)) * 4, 9)
    tree.add_file("etc/a", noise[:20])
    tree.add_file("init", noise * 3, source="initrd/init")
    tree.add_file("usr/bin/b", noise * 2, source="b")
    tree.add_file("usr/bin/a", noise * 2, source="a")
    found = breakdown(tree, lambda plain, out: out.write(plain.read()))
    names = [each.name for each in found.contributors]
    assert names.index("scripts") == 0
    assert names[1:3] == ["package a", "package b"]
    assert [each.alone for each in found.contributors] == sorted(
        (each.alone for each in found.contributors), reverse=True
    )


def test_what_parts_have_in_common_is_no_parts() -> None:
    tree = FileTree()
    same = bytes(range(256)) * 8
    tree.add_file("usr/bin/a", same, source="a")
    tree.add_file("usr/bin/b", same, source="b")
    found = breakdown(tree, Compressor())
    assert found.shared == sum(each.alone for each in found.contributors) - found.whole
    # The second copy costs next to nothing behind the first, and is in full in a part of its own.
    assert found.shared > 256


def test_the_order_of_the_tree_makes_no_difference() -> None:
    tree = initramfs()
    backwards = FileTree(dict(reversed(list(tree.nodes.items()))))
    assert breakdown(tree, Compressor()) == breakdown(backwards, Compressor())


def test_content_may_stay_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"..\x7fELF-more")
    tree = FileTree()
    tree.add_parents("usr/lib/goldsmith/kbs")
    payload = FilePayload(tmp_path / "spool", 2, 9)
    tree["usr/lib/goldsmith/kbs"] = Node(type=NodeType.FILE, mode=0o755, payload=payload, source="kbs")
    assert group_of(tree, "usr/lib/goldsmith/kbs") == "helpers"
    sizes = {each.name: each.size for each in breakdown(tree, Compressor()).contributors}
    assert sizes == {"helpers": 9, "directories and links": 0}


def test_an_empty_file_is_a_script_and_no_fault() -> None:
    tree = FileTree()
    tree.add_file("usr/lib/goldsmith/empty.sh", b"", source="initrd/empty.sh")
    tree["usr/lib/goldsmith/none.sh"] = Node(type=NodeType.FILE, mode=0o644, source="initrd/none.sh")
    assert group_of(tree, "usr/lib/goldsmith/empty.sh") == "scripts"
    assert group_of(tree, "usr/lib/goldsmith/none.sh") == "scripts"


def test_a_file_that_no_archive_holds() -> None:
    tree = FileTree()
    tree["usr"] = Node(type=NodeType.DIRECTORY, mode=0o755)
    tree["usr/x"] = Node(
        type=NodeType.FILE, mode=0o644, payload=BytesPayload(b""), xattrs=(("user.x", b"1"),), source="x"
    )
    with pytest.raises(FormatError, match="newc holds no extended attributes"):
        breakdown(tree, Compressor())


def test_the_table_for_people() -> None:
    parts = (
        Contributor(name="package libc6", files=3, size=2 << 20, alone=1 << 20),
        Contributor(name="scripts", files=9, size=40 << 10, alone=12 << 10),
    )
    lines = render(Breakdown(contributors=parts, whole=1 << 20)).splitlines()
    assert [line.split() for line in lines] == [
        ["part", "plain", "compressed", "alone"],
        ["package", "libc6", "3", "files", "2", "MiB", "1", "MiB"],
        ["scripts", "9", "files", "40", "KiB", "12", "KiB"],
        ["saved", "by", "compressing", "together", "12", "KiB"],
        ["the", "initramfs", "1", "MiB"],
    ]
    # The last column ends at one place.
    assert len({len(line) for line in lines}) == 1
