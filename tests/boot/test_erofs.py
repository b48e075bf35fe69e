"""EROFS images of our writer, as Linux sees them: nodes, content, links, attributes, a big directory."""

from __future__ import annotations

import hashlib
import stat

import pytest

from recipes.formats.tree import FileTree, NodeType

from .judge import Judged, boot_judge
from .specimen import BIG
from .support import Boot, Boots

pytestmark = pytest.mark.boot

BOOTS: dict[str, Boot] = {"judge": boot_judge}


@pytest.fixture(scope="module")
def judged(boots: Boots) -> Judged:
    found: Judged = boots["judge"].result()
    return found


def expected_nodes(tree: FileTree) -> set[str]:
    """What ``stat`` should say of each path outside ``big``; the size of a directory is of no interest."""
    kinds = {
        NodeType.FILE: stat.S_IFREG,
        NodeType.DIRECTORY: stat.S_IFDIR,
        NodeType.SYMLINK: stat.S_IFLNK,
        NodeType.CHARACTER: stat.S_IFCHR,
        NodeType.BLOCK: stat.S_IFBLK,
        NodeType.FIFO: stat.S_IFIFO,
    }
    paths = [path for path, _ in tree.sorted()]
    lines = set()
    for path, entry in tree.sorted():
        if path.startswith("big/"):
            continue
        node = tree[entry.target] if entry.type is NodeType.HARDLINK else entry
        links = 2 if path in ("hardlink", "again/hardlink") else 1
        size = str(node.payload.size if node.payload else len(node.target))
        if node.type is NodeType.DIRECTORY:
            below = [item for item in paths if item and item.rpartition("/")[0] == path]
            links = 2 + sum(tree[item].type is NodeType.DIRECTORY for item in below)
            size = "-"
        major, minor = node.device
        mode = kinds[node.type] | node.mode
        name = f"./{path}" if path else "."
        lines.add(f"{mode:x} {node.uid} {node.gid} {links} {major:x} {minor:x} {node.mtime} {size} {name}")
    return lines


def test_linux_sees_every_node_as_it_was_written(judged: Judged) -> None:
    seen = set()
    for fact in judged.facts["node"]:
        words = fact.split(" ", 8)
        if stat.S_ISDIR(int(words[0], 16)):
            words[7] = "-"
        seen.add(" ".join(words))
    assert seen == expected_nodes(judged.files)
    assert len(judged.facts["node"]) == len(seen) > 90


def test_linux_reads_every_file_as_it_was_written(judged: Judged) -> None:
    expected = {
        f"{hashlib.sha256(node.read()).hexdigest()}  ./{path}"
        for path, node in judged.files.sorted()
        if node.type is NodeType.FILE and not path.startswith("big/")
    }
    hardlink = hashlib.sha256(b"two names").hexdigest()
    assert set(judged.facts["content"]) == expected | {f"{hardlink}  ./again/hardlink"}


def test_linux_follows_links(judged: Judged) -> None:
    links = {
        f"{node.target} ./{path}" for path, node in judged.files.sorted() if node.type is NodeType.SYMLINK
    }
    assert set(judged.facts["link"]) == links
    assert judged.facts["same"] == ["hardlink again/hardlink"]


def test_linux_opens_device_nodes_and_honours_attributes(judged: Judged) -> None:
    assert [fact.split() for fact in judged.facts["zeros"]] == [["00", "00", "00", "00"]]
    shown = [fact for fact in judged.facts["xattr"] if "=" in fact]
    assert sorted(shown) == sorted(['user.colour="green"', 'user.empty=""', 'trusted.note="kept"'] * 2)
    assert judged.facts["capabilities"] == [f"{1 << 13:016x}"]


def test_linux_lists_and_searches_a_big_directory(judged: Judged) -> None:
    names = "".join(f"{name}\n" for name in sorted(BIG)).encode()
    assert judged.facts["big"] == [f"{len(BIG)} {hashlib.sha256(names).hexdigest()}  -"]
    assert judged.facts["lookups"] == ["0"]
