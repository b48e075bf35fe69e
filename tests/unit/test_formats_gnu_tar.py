"""Archives in GNU tar's format, read back by Python's own reader; GNU tar itself judges in the tool tests."""

from __future__ import annotations

import io
import tarfile

import pytest

from recipes.errors import FormatError
from recipes.formats.gnu_tar import RECORD, write_gnu_tar
from recipes.formats.tree import FileTree, Node, NodeType


class Sized:
    """Content of any size that is never read."""

    def __init__(self, size: int) -> None:
        self.size = size

    def chunks(self) -> list[bytes]:
        raise AssertionError("it is not to be read")


def archive(tree: FileTree, *, plain_modes: bool = False) -> bytes:
    out = io.BytesIO()
    size = write_gnu_tar(tree, out, plain_modes=plain_modes)
    assert size == len(out.getvalue())
    return out.getvalue()


def sample() -> FileTree:
    tree = FileTree()
    tree.add_file("b/run", b"#!/bin/sh\n", 0o755)
    tree.add_file("a", bytes(513), 0o600)
    tree.add_file("n" * 120, b"long")
    tree.add_symlink("l", "x" * 130)
    tree["z"] = Node(type=NodeType.HARDLINK, mode=0o644, target="a")
    return tree


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        return {item.name: item for item in file.getmembers()}


def test_what_is_in_it() -> None:
    data = archive(sample())
    found = members(data)
    assert list(found) == [".", "./a", "./b", "./b/run", "./l", "./" + "n" * 120, "./z"]
    assert [item.mode for item in found.values()] == [0o755, 0o600, 0o755, 0o755, 0o777, 0o644, 0o600]
    assert {(item.uname, item.gname, item.uid, item.gid, item.mtime) for item in found.values()} == {
        ("root", "root", 0, 0, 0)
    }
    assert found["./z"].linkname == "./a"
    assert found["./l"].linkname == "x" * 130
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        content = file.extractfile("./a")
        assert content is not None
        assert content.read() == bytes(513)
    assert len(data) % RECORD == 0


def test_plain_modes() -> None:
    found = members(archive(sample(), plain_modes=True))
    assert {name: item.mode for name, item in found.items() if item.isfile()} == {
        "./a": 0o644,
        "./b/run": 0o644,
        "./" + "n" * 120: 0o644,
    }
    assert found["./b"].mode == 0o755


def test_the_end_fills_a_record_and_holds_two_blocks_of_zeros() -> None:
    tree = FileTree()
    # With its header and that of the folder this leaves one block of the record.
    tree.add_file("a", b"x" * (RECORD - 3 * 512))
    assert len(archive(tree)) == 2 * RECORD
    tree.add_file("a", b"x" * (RECORD - 4 * 512))
    assert len(archive(tree)) == RECORD


def test_what_has_no_place_in_it() -> None:
    tree = FileTree()
    tree["dev"] = Node(type=NodeType.CHARACTER, mode=0o600, device=(1, 3), source="s")
    with pytest.raises(FormatError, match="a character device has no place in a bundle; remove it"):
        archive(tree)
    tree = FileTree()
    tree["big"] = Node(type=NodeType.FILE, mode=0o600, payload=Sized(8 << 30), source="s")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="8589934592 bytes; a member has less than 8 GiB"):
        archive(tree)
