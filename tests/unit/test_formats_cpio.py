from __future__ import annotations

import dataclasses
import hashlib
import io
import stat

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.cpio import CpioEntry, pack_entries, read_newc, write_newc
from recipes.formats.tree import FileTree, Node, NodeType
from recipes.formats.zstd import KERNEL_WINDOW_LOG_MAX, compress_zstd, library_version
from tests.trees import EPOCH, example_tree, expected, file, shuffled, trees


def archive_of(tree: FileTree, *, epoch: int = EPOCH, alignment: int = 4) -> bytes:
    out = io.BytesIO()
    assert write_newc(tree, out, epoch=epoch, alignment=alignment) == len(out.getvalue())
    return out.getvalue()


def header(ino: int, mode: int, nlink: int, mtime: int, size: int, name: bytes, rest: bytes = b"") -> bytes:
    fields = b"%08x%08x%08x%08x%08x%08x%08x" % (ino, mode, 0, 0, nlink, mtime, size)
    rest = rest or b"0" * 32
    return b"070701" + fields + rest + b"%08x" % (len(name) + 1) + b"0" * 8 + name + b"\0"


TRAILER = header(0, 0, 1, 0, 0, b"TRAILER!!!").replace(b"b00000000T", b"B00000000T") + b"\0\0\0"


def test_an_archive_byte_for_byte() -> None:
    tree = FileTree()
    tree["f"] = file(b"hello", 0o640)
    tree["dev"] = Node(type=NodeType.CHARACTER, mode=0o600, device=(4000, 300_000), mtime=7)
    tree["link"] = Node(type=NodeType.SYMLINK, mode=0o777, target="f", mtime=EPOCH + 1)
    assert archive_of(tree) == (
        header(1, 0o40755, 2, 0, 0, b".")
        + header(2, 0o20600, 1, 7, 0, b"dev", b"0" * 16 + b"00000fa0000493e0")
        + b"\0\0"
        + header(3, 0o100640, 1, EPOCH, 5, b"f")
        + b"hello\0\0\0"
        + header(4, 0o120777, 1, EPOCH, 1, b"link")
        + b"\0f\0\0\0"
        + TRAILER
    )


def test_hard_links_share_an_inode_and_the_last_name_has_the_content() -> None:
    tree = FileTree()
    tree["b"] = file(b"shared")
    tree["a"] = Node(type=NodeType.HARDLINK, mode=0, target="b")
    tree["c"] = Node(type=NodeType.HARDLINK, mode=0, target="b")
    entries = read_newc(archive_of(tree), "archive")
    got = [(entry.name, entry.ino, entry.nlink, entry.data) for entry in entries]
    assert got == [(".", 1, 2, b""), ("a", 2, 3, b""), ("b", 2, 3, b""), ("c", 2, 3, b"shared")]


def unpacked(archive: bytes) -> dict[str, CpioEntry]:
    """Entries by tree path, with the content of shared files given to all their names."""
    entries = read_newc(archive, "archive")
    content = {entry.ino: entry.data for entry in entries if entry.data}
    return {
        "" if entry.name == "." else entry.name: dataclasses.replace(entry, data=content.get(entry.ino, b""))
        for entry in entries
    }


def check(tree: FileTree) -> None:
    got = unpacked(archive_of(tree))
    want = expected(tree)
    assert set(got) == set(want)
    for path, entry in got.items():
        good = want[path]
        assert (entry.mode, entry.uid, entry.gid) == (good.mode, good.uid, good.gid), path
        assert (entry.mtime, entry.data) == (min(good.mtime, EPOCH), good.content), path
        assert (entry.rmajor, entry.rminor, entry.major, entry.minor) == (*good.device, 0, 0), path


def test_everything_reads_back() -> None:
    check(example_tree(xattrs=False))


@settings(max_examples=60)
@given(trees(xattrs=False))
def test_random_trees_read_back(tree: FileTree) -> None:
    check(tree)


def test_the_archive_depends_on_content_alone() -> None:
    tree = example_tree(xattrs=False)
    assert len({archive_of(shuffled(tree, seed)) for seed in range(3)} | {archive_of(tree)}) == 1


def test_inodes_count_up_and_parents_come_first() -> None:
    entries = read_newc(archive_of(example_tree(xattrs=False)), "archive")
    seen: set[str] = {"."}
    highest = 1
    for entry in entries[1:]:
        assert (entry.name.rpartition("/")[0] or ".") in seen
        seen.add(entry.name)
        assert entry.ino <= highest + 1
        highest = max(highest, entry.ino)


@pytest.mark.parametrize("alignment", [4, 512, 4096])
def test_the_end_is_padded(alignment: int) -> None:
    archive = archive_of(FileTree(), alignment=alignment)
    assert len(archive) % alignment == 0
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")
    assert len(archive) < 248 + alignment


# systemd-stub 257 under OVMF: the digests of the EV_IPL events of its archives in the event log of the boot
# q35-512m-1cpu-addons, whose input files are given here.
@pytest.mark.parametrize(
    ("directories", "name", "data", "modes", "digest"),
    [
        (
            (".extra", ".extra/credentials"),
            "foo.cred",
            b"foo-cred-value",
            (0o500, 0o400),
            "e94b7391f612df58282076554adba426245b92cac71a2339964d616999a47db6",
        ),
        (
            (".extra", ".extra/global_credentials"),
            "glob.cred",
            b"global-cred",
            (0o500, 0o400),
            "005ac3bb893bad2674fecd8df47e8b3d853fa0c0191e0e904e098696505f7ed7",
        ),
        (
            (".extra", ".extra/sysext"),
            "ext.raw",
            b"fake sysext image " * 100,
            (0o555, 0o444),
            "c8e8b2f32c88077f05fe5be14e57b066f90154e0ac157d4371741ca02049d8f9",
        ),
        (
            (".extra", ".extra/confext"),
            "c.confext.raw",
            b"fake confext " * 33,
            (0o555, 0o444),
            "30057713fc7144b13640f1b58bb8adf2f72f3ab6901dfe05857cfab12325e503",
        ),
    ],
)
def test_archives_of_systemd_stub(
    directories: tuple[str, ...], name: str, data: bytes, modes: tuple[int, int], digest: str
) -> None:
    archive = pack_entries(
        [
            CpioEntry(name=directories[0], ino=1, mode=stat.S_IFDIR | 0o555),
            CpioEntry(name=directories[1], ino=2, mode=stat.S_IFDIR | modes[0]),
            CpioEntry(name=f"{directories[1]}/{name}", data=data, ino=3, mode=stat.S_IFREG | modes[1]),
        ]
    )
    assert hashlib.sha256(archive).hexdigest() == digest


NUMBERS = st.integers(0, 0xFFFFFFFF)
ENTRIES = st.builds(
    CpioEntry,
    name=st.text(st.characters(exclude_characters="\0", max_codepoint=0x7FF), min_size=1, max_size=20),
    data=st.binary(max_size=50),
    ino=NUMBERS,
    mode=NUMBERS,
    uid=NUMBERS,
    gid=NUMBERS,
    nlink=NUMBERS,
    mtime=NUMBERS,
    major=NUMBERS,
    minor=NUMBERS,
    rmajor=NUMBERS,
    rminor=NUMBERS,
    check=NUMBERS,
)


@settings(max_examples=100)
@given(st.lists(ENTRIES, max_size=5), st.integers(0, 600))
def test_entries_pack_and_read_back(entries: list[CpioEntry], padding: int) -> None:
    packed = pack_entries(entries)
    assert len(packed) % 4 == 0
    assert read_newc(packed + bytes(padding), "archive") == entries


NAME_RULE = "cannot be stored; give it 1 to 4095 bytes, no NUL, not TRAILER!!!"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (CpioEntry(name=""), f"cpio member '': a name of 0 bytes {NAME_RULE}"),
        (CpioEntry(name="a\0"), f"cpio member 'a\\x00': a name of 2 bytes {NAME_RULE}"),
        (CpioEntry(name="TRAILER!!!"), f"cpio member 'TRAILER!!!': a name of 10 bytes {NAME_RULE}"),
        (CpioEntry(name="n" * 4096), f"cpio member {'n' * 4096!r}: a name of 4096 bytes {NAME_RULE}"),
        (CpioEntry(name="\ud800"), "cpio member '\\ud800': the name is neither text nor escaped bytes"),
        (CpioEntry(name="a", ino=1 << 32), "cpio member 'a': ino 4294967296 is not in 0..4294967295"),
        (CpioEntry(name="a", mtime=-1), "cpio member 'a': mtime -1 is not in 0..4294967295"),
    ],
)
def test_entries_that_cannot_be_stored(entry: CpioEntry, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        pack_entries([entry])
    assert str(caught.value) == message


class Huge:
    """A payload of 4 GiB that nobody may read."""

    size = 1 << 32

    def chunks(self) -> io.BytesIO:
        raise AssertionError("the size is checked before content is read")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            {"f": file(b"", xattrs=(("security.capability", b"1"),))},
            "/f: newc holds no extended attributes ('security.capability'); remove them from this tree",
        ),
        (
            {"f": Node(type=NodeType.FILE, mode=0, payload=Huge())},
            "cpio member 'f': filesize 4294967296 is not in 0..4294967295",
        ),
        ({"TRAILER!!!": file(b"")}, f"cpio member 'TRAILER!!!': a name of 10 bytes {NAME_RULE}"),
        ({"a/b": file(b"")}, "/a/b: its directory /a is missing; add it before"),
    ],
)
def test_trees_that_cannot_be_stored(nodes: dict[str, Node], message: str) -> None:
    tree = FileTree()
    tree.nodes.update(nodes)
    with pytest.raises(FormatError) as caught:
        archive_of(tree)
    assert str(caught.value) == message


def test_an_epoch_over_32_bits_is_refused_only_where_a_time_needs_it() -> None:
    tree = FileTree()
    tree["f"] = file(b"")
    assert archive_of(tree, epoch=1 << 40) == archive_of(tree)
    tree["f"] = file(b"", mtime=1 << 35)
    with pytest.raises(FormatError, match="mtime 34359738368 is not in"):
        archive_of(tree, epoch=1 << 40)


def test_alignment_must_keep_members_aligned() -> None:
    for alignment in (0, 2, 510):
        with pytest.raises(FormatError) as caught:
            archive_of(FileTree(), alignment=alignment)
        assert str(caught.value) == f"cpio: alignment {alignment} is not a multiple of 4"


GOOD = pack_entries([CpioEntry(name="abc", data=b"12345", mode=0o100644)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a: offset 0x0: a header needs 110 bytes, 0 are left; the archive is truncated"),
        (GOOD[:109], "a: offset 0x0: a header needs 110 bytes, 109 are left; the archive is truncated"),
        (GOOD[:124], "a: offset 0x7c: a header needs 110 bytes, 0 are left; the archive is truncated"),
        (b"070702" + GOOD[6:], "a: offset 0x0: magic is b'070702', expected b'070701'; make it with -H newc"),
        (GOOD[:14] + b"+" + GOOD[15:], "a: offset 0xe: b'+00081a4' is not 8 hexadecimal digits"),
        (GOOD[:14] + b" " + GOOD[15:], "a: offset 0xe: b' 00081a4' is not 8 hexadecimal digits"),
        (GOOD[:94] + b"00000001" + GOOD[102:], "a: offset 0x0: a name of 1 bytes is not in 2..4096"),
        (GOOD[:94] + b"00001001" + GOOD[102:], "a: offset 0x0: a name of 4097 bytes is not in 2..4096"),
        (GOOD[:94] + b"00001000" + GOOD[102:], "a: offset 0x0: a name of 4096 bytes is truncated"),
        (
            GOOD[:94] + b"00000003" + GOOD[102:],
            "a: offset 0x6e: the name b'abc' does not end with its only NUL",
        ),
        (
            GOOD[:111] + b"\0" + GOOD[112:],
            "a: offset 0x6e: the name b'a\\x00c\\x00' does not end with its only NUL",
        ),
        (GOOD[:114] + b"x" + GOOD[115:], "a: offset 0x72: padding to 4 bytes is b'x\\x00', expected zeros"),
        (
            GOOD[:122] + b"x" + GOOD[123:],
            "a: offset 0x79: padding to 4 bytes is b'\\x00x\\x00', expected zeros",
        ),
        (
            GOOD[:54] + b"ffffffff" + GOOD[62:],
            "a: offset 0x0: 'abc' has 4294967295 bytes of data, 132 are left; the archive is truncated",
        ),
        (GOOD[:-1], "a: offset 0xf5: padding to 4 bytes is b'\\x00\\x00', expected zeros"),
        (
            GOOD + b"\0\0\0\0" + GOOD,
            "a: offset 0xf8: data follows the trailer; split concatenated archives before reading them",
        ),
        (
            GOOD[:124] + GOOD[124:178] + b"00000004" + GOOD[186:] + b"data",
            "a: offset 0x7c: the trailer has 4 bytes of data",
        ),
    ],
)
def test_bad_archives(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_newc(data, "a")
    assert str(caught.value) == message


@settings(max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3).map(
            lambda changes: patched(GOOD, changes)
        ),
        st.integers(0, len(GOOD)).map(lambda size: GOOD[:size]),
    )
)
def test_only_format_errors_come_out(data: bytes) -> None:
    try:
        read_newc(data, "a")
    except FormatError:
        return


def patched(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    out = bytearray(data)
    for offset, value in changes:
        out[offset] = value
    return bytes(out)


def noise(size: int) -> bytes:
    """Data that neither compresses away nor stays as it is."""
    words = [hashlib.sha256(b"%d" % (index % 5000)).digest() for index in range(size // 32 + 1)]
    return b"".join(words)[:size]


@pytest.mark.parametrize("size", [0, 1, 100, 3_000_000])
@pytest.mark.parametrize("level", [1, 3, 10])
def test_compressed_data_is_the_same_for_any_thread_count(size: int, level: int) -> None:
    data = noise(size)
    results = set()
    for threads in (1, 2, 4):
        out = io.BytesIO()
        assert compress_zstd(io.BytesIO(data), out, level, threads=threads) == len(out.getvalue())
        results.add(out.getvalue())
    (frame,) = results
    assert zstandard.ZstdDecompressor().decompress(frame, max_output_size=size) == data
    parameters = zstandard.get_frame_parameters(frame)
    assert (parameters.content_size, parameters.has_checksum, parameters.dict_id) == (size, True, 0)
    assert parameters.window_size <= 1 << KERNEL_WINDOW_LOG_MAX


def test_compression_begins_at_the_position_of_the_source() -> None:
    source = io.BytesIO(b"skip" + b"data" * 10)
    source.seek(4)
    out = io.BytesIO(b"")
    compress_zstd(source, out)
    assert zstandard.ZstdDecompressor().decompress(out.getvalue()) == b"data" * 10


def test_the_highest_level_keeps_a_window_that_every_kernel_reads() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(19, source_size=1 << 30)
    assert parameters.window_log == 23


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 0}, "zstd: level 0 is not in 1..19; 3 builds fast, 19 is small"),
        ({"level": 20}, "zstd: level 20 is not in 1..19; 3 builds fast, 19 is small"),
        ({"threads": 0}, "zstd: 0 threads; give at least 1, the result is the same for any number"),
    ],
)
def test_bad_compression_parameters(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        compress_zstd(io.BytesIO(b""), io.BytesIO(), **arguments)
    assert str(caught.value) == message


def test_the_library_version_is_that_of_zstd() -> None:
    assert [int(part) for part in library_version().split(".")] == list(zstandard.ZSTD_VERSION)
