from __future__ import annotations

import dataclasses
import io
import os
import struct
import tracemalloc
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.binary import Struct
from recipes.errors import FormatError
from recipes.formats import erofs, erofs_layout, erofs_ondisk, inodes
from recipes.formats.crc32c import crc32c
from recipes.formats.tree import BytesPayload, FilePayload, FileTree, Node, NodeType
from tests.erofs_reader import ReadImage, ReadInode, read_erofs
from tests.trees import EPOCH, example_tree, expected, file, shuffled, trees

UUID = uuid.UUID("0f0e0d0c-0b0a-0908-0706-050403020100")


def image_of(tree: FileTree, epoch: int = EPOCH, label: str = "root") -> bytes:
    out = io.BytesIO()
    stats = erofs.write(tree, out, epoch=epoch, uuid=UUID, label=label)
    assert stats.size == len(out.getvalue()) == out.tell()
    return out.getvalue()


def read(tree: FileTree) -> ReadImage:
    return read_erofs(image_of(tree))


def one(node: Node) -> ReadInode:
    return read(FileTree({"": FileTree()[""], "f": node})).files["f"]


def encoded(device: tuple[int, int]) -> int:
    """new_encode_dev of Linux include/linux/kdev_t.h, by arithmetic."""
    major, minor = device
    return minor % 256 + major * 256 + minor // 256 * 2**20


def check(tree: FileTree) -> ReadImage:
    image = read(tree)
    want = expected(tree)
    assert set(image.files) == set(want)
    for path, inode in image.files.items():
        good = want[path]
        got = (inode.mode, inode.uid, inode.gid, inode.mtime, inode.xattrs, inode.rdev)
        assert got == (good.mode, good.uid, good.gid, good.mtime, good.xattrs, encoded(good.device)), path
        if tree[path].type is not NodeType.DIRECTORY:
            assert inode.content == good.content, path
    return image


def test_everything_reads_back() -> None:
    tree = example_tree()
    image = check(tree)
    assert (image.uuid, image.label, image.build_time) == (UUID, b"root", EPOCH)
    links = [image.files[path] for path in ("usr/bin/su", "usr/bin/a-link", "deep/er/est/link")]
    assert {inode.nid for inode in links} == {links[0].nid}
    assert links[0].links == 3
    assert [image.files[path].links for path in ("", "usr", "deep/er", "empty")] == [7, 4, 3, 2]
    assert sorted(i.ino for i in {i.nid: i for i in image.files.values()}.values()) == list(
        range(1, image.inos + 1)
    )


@settings(max_examples=60)
@given(trees())
def test_random_trees_read_back(tree: FileTree) -> None:
    check(tree)


def test_an_empty_tree_is_one_block() -> None:
    image = image_of(FileTree(), epoch=0, label="")
    assert len(image) == 4096
    assert list(read_erofs(image).files) == [""]
    assert read_erofs(image).files[""].size == 2 * 12 + 1 + 2


@pytest.mark.parametrize(
    ("size", "layout"),
    [(0, 0), (1, 2), (4064, 2), (4065, 0), (4095, 0), (4096, 0), (4097, 2), (8160, 2), (8161, 0), (8192, 0)],
)
def test_the_tail_is_inline_while_it_shares_a_block_with_the_inode(size: int, layout: int) -> None:
    inode = one(file(b"\xa5" * size))
    assert (inode.layout, inode.extended, inode.content) == (layout, False, b"\xa5" * size)


@pytest.mark.parametrize(
    ("changes", "extended"),
    [
        ({}, False),
        ({"mtime": EPOCH - 1}, True),
        ({"mtime": EPOCH + 1}, True),
        ({"uid": 65535, "gid": 65535}, False),
        ({"uid": 65536}, True),
        ({"gid": 65536}, True),
        ({"mode": 0o7777}, False),
    ],
)
def test_the_long_form_is_taken_only_where_it_is_needed(changes: dict[str, int], extended: bool) -> None:
    inode = one(dataclasses.replace(file(b"x"), **changes))  # type: ignore[arg-type]
    assert inode.extended == extended
    assert inode.mtime == changes.get("mtime", EPOCH)


def test_link_counts_over_16_bits_take_the_long_form() -> None:
    tree = FileTree()
    tree["f"] = file(b"")
    for index in range(65_535):
        tree[f"l{index}"] = Node(type=NodeType.HARDLINK, mode=0, target="f")
    placed = erofs_layout.lay_out(tree, EPOCH).inodes[1]
    assert (placed.inode.links, placed.extended) == (65_536, True)


def test_a_directory_of_ten_thousand_entries() -> None:
    tree = FileTree()
    for index in range(10_000):
        tree.add_file(f"big/{index * 7919 % 10_000:05}-entry", b"%d" % index)
    image = check(tree)
    directory = image.files["big"]
    assert directory.size // 4096 == 10_000 * (12 + 11) // 4096
    names = [name for start in range(0, directory.size, 4096) for name in block_names(directory, start)]
    assert names == sorted([b".", b"..", *(b"%05d-entry" % index for index in range(10_000))])


def block_names(directory: ReadInode, start: int) -> list[bytes]:
    block = directory.content[start : start + 4096]
    count = struct.unpack_from("<H", block, 8)[0] // 12
    offsets = [struct.unpack_from("<H", block, 12 * index + 8)[0] for index in range(count)] + [len(block)]
    return [block[one:two].rstrip(b"\0") for one, two in pairwise(offsets)]


def test_dots_are_sorted_among_the_names() -> None:
    tree = FileTree()
    for name in ("!", "-", ".a", "..", "...", "z"):
        if name != "..":
            tree.add_file(name, b"")
    root = read(tree).files[""]
    assert block_names(root, 0) == [b"!", b"-", b".", b"..", b"...", b".a", b"z"]


@pytest.mark.parametrize("length", [1, 4064, 4065, 4095])
def test_symbolic_links_of_any_length(length: int) -> None:
    inode = one(Node(type=NodeType.SYMLINK, mode=0o777, target="t" * length, mtime=EPOCH))
    assert inode.content == b"t" * length
    assert inode.layout == (2 if length <= 4064 else 0)


def test_device_numbers() -> None:
    # 4000 = 0xfa0, 300000 = 0x493e0: the minor's low byte, the major, the rest of the minor.
    assert erofs_ondisk.encode_device(4000, 300_000) == 0x493F_A0E0
    assert erofs_ondisk.encode_device(8, 1) == 0x801
    assert erofs_ondisk.encode_device(0xFFF, 0xFFFFF) == 0xFFFF_FFFF


def test_extended_attributes_as_packed_bytes() -> None:
    packed = erofs_ondisk.pack_xattrs(
        (("user.ab", b"xyz"), ("security.s", b""), ("system.posix_acl_access", b"A"), ("trusted.t", b"1234")),
        "f",
    )
    assert packed == (
        bytes(12)
        + b"\x01\x06\x00\x00s\0\0\0"
        + b"\x00\x02\x01\x00A\0\0\0"
        + b"\x01\x04\x04\x00t1234\0\0\0"
        + b"\x02\x01\x03\x00abxyz\0\0\0"
    )
    assert erofs_ondisk.xattr_icount(len(packed)) == 1 + (len(packed) - 12) // 4
    assert erofs_ondisk.pack_xattrs((), "f") == b""


def test_attributes_longer_than_a_block() -> None:
    values = tuple((f"user.{letter}", letter.encode() * 60_000) for letter in "abcd")
    inode = one(file(b"content", xattrs=values))
    assert inode.xattrs == values
    assert inode.content == b"content"


def test_the_image_depends_on_content_alone(tmp_path: Path) -> None:
    tree = example_tree()
    image = image_of(tree)
    for seed in range(3):
        assert image_of(shuffled(tree, seed)) == image
    backing = tmp_path / "content"
    moved = shuffled(tree, 9)
    with backing.open("wb") as out:
        for path, node in moved.nodes.items():
            if node.type is NodeType.FILE:
                out.write(b"gap")
                moved[path] = dataclasses.replace(
                    node, payload=FilePayload(backing, out.tell(), len(node.read())), source="elsewhere"
                )
                out.write(node.read())
    assert image_of(moved) == image


def test_which_name_is_called_the_hard_link_makes_no_difference() -> None:
    node = file(b"shared", 0o755)
    other = FileTree()
    tree = FileTree()
    tree["a"], tree["b"] = node, Node(type=NodeType.HARDLINK, mode=0, target="a")
    other["b"], other["a"] = node, Node(type=NodeType.HARDLINK, mode=0o123, uid=9, target="b")
    assert image_of(tree) == image_of(other)


def test_an_image_can_stand_inside_a_file() -> None:
    out = io.BytesIO(b"before--")
    out.seek(8)
    erofs.write(example_tree(), out, epoch=EPOCH, uuid=UUID, label="root")
    assert out.getvalue() == b"before--" + image_of(example_tree())


def test_metadata_of_many_pieces() -> None:
    tree = FileTree()
    for index in range(5000):
        tree.add_file(f"d{index % 7}/f{index}", b"%04d" % index * (index % 900))
    image = check(tree)
    assert erofs_layout.lay_out(tree, EPOCH).meta_blocks > 1000
    # Best fit wastes little: 32 bytes of alignment an inode and some ends of blocks.
    assert image.blocks * 4096 < 1.08 * sum(inode.size + 64 for inode in image.files.values()) + 7 * 4096


class Repeated:
    """A payload that repeats one buffer."""

    def __init__(self, size: int) -> None:
        self.size = size

    def chunks(self) -> Iterator[bytes]:
        buffer = b"\x5a" * (1 << 20)
        for start in range(0, self.size, 1 << 20):
            yield buffer[: self.size - start]


class Head(io.RawIOBase):
    """A file that keeps its first 64 KiB and forgets the rest."""

    def __init__(self) -> None:
        self.head = bytearray(1 << 16)
        self.position = self.end = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.position < len(self.head):
            part = bytes(data[: len(self.head) - self.position])
            self.head[self.position : self.position + len(part)] = part
        self.position += len(data)
        self.end = max(self.end, self.position)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET
        self.position = offset
        return offset

    def tell(self) -> int:
        return self.position


def test_a_file_over_four_gibibytes() -> None:
    size = (5 << 30) + 100
    tree = FileTree({"": FileTree()[""]})
    tree["huge"] = Node(type=NodeType.FILE, mode=0o644, mtime=EPOCH, payload=Repeated(size))
    out = Head()
    stats = erofs.write(tree, out, epoch=EPOCH, uuid=UUID)  # type: ignore[arg-type]
    assert stats.size == out.end == 4096 + (5 << 30)
    placed = erofs_layout.lay_out(tree, EPOCH).inodes[1]
    i_format, _, mode, _, got_size, block = struct.unpack_from("<HHHHQI", out.head, placed.offset)
    assert (i_format, mode, got_size, block) == (5, 0o100644, size, 1)
    assert out.head[placed.offset + 64 :][:100] == b"\x5a" * 100


def test_memory_does_not_grow_with_content() -> None:
    tree = FileTree()
    tree["big"] = Node(type=NodeType.FILE, mode=0o644, payload=Repeated(64 << 20))
    tracemalloc.start()
    erofs.write(tree, Head(), epoch=EPOCH, uuid=UUID)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_an_image_too_large_for_its_block_numbers() -> None:
    tree = FileTree()
    tree["huge"] = Node(type=NodeType.FILE, mode=0o644, payload=Repeated(1 << 44))
    with pytest.raises(FormatError) as caught:
        erofs_layout.lay_out(tree, EPOCH)
    assert str(caught.value) == (
        "/: 4294967297 blocks of 4096 bytes, at most 4294967295 fit in an EROFS image"
    )


LINK = Node(type=NodeType.HARDLINK, mode=0, target="gone")
LONG = "n" * 256
BAD_TREES = [
    ({LONG: file(b"")}, f"/{LONG}: a name of 256 bytes, at most 255 are possible; rename it"),
    ({"a/b": file(b"")}, "/a/b: its directory /a is missing; add it before"),
    ({"a": file(b""), "a/b": file(b"")}, "/a/b: /a is a file, not a directory; remove one of the two"),
    ({"l": LINK}, "/l: hard link to 'gone', which is not in the tree; add it"),
    (
        {"l": dataclasses.replace(LINK, target="")},
        "/l: hard link to '', a directory; only a regular file can have one",
    ),
    (
        {
            "f": file(b""),
            "k": dataclasses.replace(LINK, target="f"),
            "l": dataclasses.replace(LINK, target="k"),
        },
        "/l: hard link to 'k', a hardlink; only a regular file can have one",
    ),
    *(
        (
            {path: file(b"", source="pkg")},
            (
                f"/{path} (from pkg): {path!r} is not a path of a tree; "
                "write it relative and without empty, . and .. parts"
            ),
        )
        for path in ("/a", "..", ".", "a\0b")
    ),
    (
        {"s": Node(type=NodeType.SYMLINK, mode=0o777, target="t" * 4096)},
        "/s: a target of 4096 bytes; it must have 1 to 4095 and no NUL",
    ),
    (
        {"s": Node(type=NodeType.SYMLINK, mode=0o777)},
        "/s: a target of 0 bytes; it must have 1 to 4095 and no NUL",
    ),
    (
        {"s": Node(type=NodeType.SYMLINK, mode=0o777, target="\ud800")},
        "/s: the target is neither text nor escaped bytes; decode it with surrogateescape",
    ),
    (
        {"\ud800": file(b"")},
        "'\\ud800': the name is neither text nor escaped bytes; decode it with surrogateescape",
    ),
    ({"f": file(b"", 0o100644)}, "/f: mode 0o100644 is not in 0..0o7777; give no type bits"),
    ({"f": file(b"", uid=-1)}, "/f: uid -1 is not in 0..4294967294"),
    ({"f": file(b"", gid=1 << 32)}, "/f: gid 4294967296 is not in 0..4294967294"),
    ({"f": file(b"", mtime=-1)}, "/f: mtime -1 is not in 0..9223372036854775807"),
    (
        {"d": Node(type=NodeType.BLOCK, mode=0, device=(4096, 0))},
        "/d: device major 4096 is not in 0..4095",
    ),
    (
        {"d": Node(type=NodeType.CHARACTER, mode=0, device=(0, 1 << 20))},
        "/d: device minor 1048576 is not in 0..1048575",
    ),
    (
        {"f": file(b"", xattrs=(("user.a", bytes(65536)),))},
        "/f: extended attribute user.a has 65536 bytes, at most 65535 are possible",
    ),
    (
        {"f": file(b"", xattrs=tuple((f"user.{n}", bytes(65535)) for n in "abcd"))},
        "/f: extended attributes of 262172 bytes, at most 262148 fit",
    ),
    (
        {"f": file(b"", xattrs=(("user.a", b""), ("user.a", b"")))},
        "/f: an extended attribute is there twice: user.a, user.a",
    ),
    *(
        (
            {"f": file(b"", xattrs=((name, b""),))},
            (
                f"/f: extended attribute {name!a} cannot be stored; "
                "use user., trusted., security. or an ACL name"
            ),
        )
        for name in (
            "user.",
            "btrfs.x",
            "system.posix_acl_access2",
            "user.\ud800",
            "user." + "n" * 251,
            "user.a\0",
        )
    ),
]


@pytest.mark.parametrize(("nodes", "message"), BAD_TREES)
def test_what_cannot_be_stored_is_refused(nodes: dict[str, Node], message: str) -> None:
    tree = FileTree()
    tree.nodes.update(nodes)
    with pytest.raises(FormatError) as caught:
        image_of(tree)
    assert str(caught.value) == message


def test_a_tree_needs_a_root() -> None:
    for nodes in ({}, {"": file(b"")}):
        with pytest.raises(FormatError) as caught:
            inodes.inode_table(FileTree(nodes))
        assert str(caught.value) == "/: the root is not a directory; give the tree a root"


def test_label_and_epoch_must_fit() -> None:
    with pytest.raises(FormatError) as caught:
        image_of(FileTree(), label="sixteen-bytes-xx")
    assert str(caught.value) == "EROFS label: 'sixteen-bytes-xx' has 16 bytes; use at most 15 and no NUL"
    assert read_erofs(image_of(FileTree(), label="fifteen-bytes-x")).label == b"fifteen-bytes-x"
    with pytest.raises(FormatError, match="EROFS epoch: -1 is not in"):
        image_of(FileTree(), epoch=-1)


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A payload whose size is not that of its content."""

    size: int
    data: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.data


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (9, "/f: content is shorter than its 9 bytes; it changed while it was read"),
        (3, "/f: content is longer than its 3 bytes; it changed while it was read"),
    ],
)
def test_content_of_another_length_is_noticed(size: int, message: str) -> None:
    tree = FileTree()
    tree["f"] = Node(type=NodeType.FILE, mode=0, payload=Wrong(size, b"12345"))
    with pytest.raises(FormatError) as caught:
        image_of(tree)
    assert str(caught.value) == message


def test_a_file_that_shrank_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"123")
    tree = FileTree()
    tree["f"] = Node(type=NodeType.FILE, mode=0, payload=FilePayload(path, 1, 9))
    with pytest.raises(FormatError) as caught:
        image_of(tree)
    assert str(caught.value) == (
        f"/f: {path}: 7 bytes are missing; it changed while it was read; build again"
    )


def test_a_file_without_payload_is_empty() -> None:
    assert one(Node(type=NodeType.FILE, mode=0o600)).content == b""


def test_structure_sizes() -> None:
    sizes: dict[type[Struct], int] = {
        erofs_ondisk.SuperBlock: 128,
        erofs_ondisk.CompactInode: 32,
        erofs_ondisk.ExtendedInode: 64,
        erofs_ondisk.XattrHeader: 12,
        erofs_ondisk.XattrEntry: 4,
        erofs_ondisk.DirEntry: 12,
    }
    assert {kind: kind.SIZE for kind in sizes} == sizes


@pytest.mark.parametrize(
    ("data", "value"),
    [  # RFC 3720 section B.4; the last is the usual check value
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c(data: bytes, value: int) -> None:
    assert crc32c(data) == value
    assert crc32c(data[5:], crc32c(data[:5])) == value


SMALL = image_of(
    FileTree(
        {
            "": FileTree()[""],
            "d": Node(type=NodeType.DIRECTORY, mode=0o755),
            "d/f": file(b"x" * 5000, xattrs=(("user.a", b"b"),)),
            "d/l": Node(type=NodeType.SYMLINK, mode=0o777, target="f"),
            "e": Node(type=NodeType.HARDLINK, mode=0, target="d/f"),
        }
    )
)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(1024, 2000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(SMALL)),
)
def test_the_reader_refuses_damage_with_a_format_error(changes: list[tuple[int, int]], cut: int) -> None:
    image = bytearray(SMALL)
    for offset, value in changes:
        image[offset] = value
    image[1028:1032] = bytes(4)
    image[1028:1032] = erofs_ondisk.superblock_checksum(image).to_bytes(4, "little")
    for damaged in (bytes(image), bytes(image[:cut])):
        try:
            read_erofs(damaged)
        except FormatError:
            continue


def test_the_checksum_covers_the_first_block() -> None:
    image = bytearray(SMALL)
    image[4095] ^= 1
    with pytest.raises(FormatError, match="checksum"):
        read_erofs(bytes(image))


def test_stats_count_what_was_written() -> None:
    tree = FileTree()
    tree["short"] = file(b"x")
    tree["long"] = file(b"y" * 4096, mtime=1)
    tree["again"] = Node(type=NodeType.HARDLINK, mode=0, target="long")
    stats = erofs.write(tree, io.BytesIO(), epoch=EPOCH, uuid=UUID)
    # The root has time 0 and its entries behind it; the short file its byte; the long one a block of its own.
    assert stats == erofs.ErofsStats(size=8192, meta_blocks=1, inodes=3, compact=1, inline=2)


def test_payload_protocol_of_the_example() -> None:
    payload = example_tree()["usr/lib/size-70000"].payload
    assert isinstance(payload, BytesPayload)
    assert payload.size == 70_000
