from __future__ import annotations

from pathlib import Path

import pytest

from recipes.formats.tree import BytesPayload, FilePayload, FileTree, Node, NodeType, sort_key


def test_a_new_tree_has_its_root() -> None:
    tree = FileTree()
    assert [(path, node.type, node.mode) for path, node in tree.sorted()] == [("", NodeType.DIRECTORY, 0o755)]
    assert "" in tree
    assert "a" not in tree


def test_two_trees_share_nothing() -> None:
    one, two = FileTree(), FileTree()
    one.add_file("a", b"")
    assert "a" not in two


def test_parents_come_before_children_in_byte_order_of_components() -> None:
    tree = FileTree()
    for path in ("a-b", "a/z", "a!", "b", "ä", "a/\udcff", "Z"):
        tree.add_file(path, b"")
    # A sort of whole paths would put a! and a-b between a and a/z, because ! and - are below the slash.
    assert [path for path, _ in tree.sorted()] == ["", "Z", "a", "a/z", "a/\udcff", "a!", "a-b", "b", "ä"]


def test_sort_keys_are_bytes() -> None:
    assert sort_key("") == []
    assert sort_key("usr/\udc80é") == [b"usr", b"\x80\xc3\xa9"]


def test_adding_makes_the_directories_above() -> None:
    tree = FileTree()
    tree.add_file("a/b/c", b"data", 0o600, source="here")
    tree.add_symlink("a/l", "b/c")
    tree.add_directory("x/y", 0o700)
    kinds = {path: (node.type, node.mode) for path, node in tree.nodes.items()}
    assert kinds == {
        "": (NodeType.DIRECTORY, 0o755),
        "a": (NodeType.DIRECTORY, 0o755),
        "a/b": (NodeType.DIRECTORY, 0o755),
        "a/b/c": (NodeType.FILE, 0o600),
        "a/l": (NodeType.SYMLINK, 0o777),
        "x": (NodeType.DIRECTORY, 0o755),
        "x/y": (NodeType.DIRECTORY, 0o700),
    }
    assert tree["a/b/c"].read() == b"data"
    assert (tree["a/b/c"].source, tree["a/l"].target) == ("here", "b/c")


def test_adding_keeps_a_directory_that_is_there() -> None:
    tree = FileTree()
    tree["tmp"] = Node(type=NodeType.DIRECTORY, mode=0o1777, uid=3)
    tree.add_file("tmp/f", b"")
    assert (tree["tmp"].mode, tree["tmp"].uid) == (0o1777, 3)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_payloads_come_in_pieces_of_at_most_a_mebibyte(tmp_path: Path, size: int) -> None:
    data = bytes(size)
    path = tmp_path / "f"
    path.write_bytes(b"before" + data + b"after")
    for payload in (BytesPayload(data), FilePayload(path, 6, size)):
        pieces = list(payload.chunks())
        assert payload.size == size
        assert b"".join(pieces) == data
        assert all(0 < len(piece) <= 1 << 20 for piece in pieces)
        assert list(payload.chunks()) == pieces, "a payload can be read again"


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    with pytest.raises(EOFError) as caught:
        list(FilePayload(path, 2, 10).chunks())
    assert str(caught.value) == f"{path}: 7 bytes are missing; it changed while it was read"


def test_a_node_without_payload_reads_empty() -> None:
    assert Node(type=NodeType.FILE, mode=0).read() == b""
