from __future__ import annotations

import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.tarstream import BytesArchive, Header, entries
from recipes.formats.tree import Node, NodeType
from tests.packages import MTIME, Entry, directory, entry, hardlink, symlink, tar


def read(data: bytes) -> list[tuple[str, Node]]:
    return list(entries(BytesArchive(data, "t.tar"), owner="pkg"))


def complaint(data: bytes) -> str:
    with pytest.raises(FormatError) as caught:
        read(data)
    return str(caught.value)


def test_header_size() -> None:
    assert Header.SIZE == 512


def test_every_type() -> None:
    device = entry("./dev/null", type_=tarfile.CHRTYPE, mode=0o666)
    device[0].devmajor, device[0].devminor = 1, 3
    block = entry("./dev/sda", type_=tarfile.BLKTYPE, mode=0o660)
    block[0].devmajor, block[0].devminor, block[0].gid = 8, 0x12345, 6
    found = read(
        tar(
            directory("./"),
            directory("./usr/", 0o1777),
            entry("./usr/a", b"content" * 100, mode=0o4755),
            symlink("./usr/s", "../x/./y"),
            hardlink("./usr/h", "./usr/a"),
            device,
            block,
            entry("./run", type_=tarfile.FIFOTYPE, mode=0o600),
        )
    )

    def node(
        type_: NodeType, mode: int, *, gid: int = 0, target: str = "", device: tuple[int, int] = (0, 0)
    ) -> Node:
        return Node(type=type_, mode=mode, gid=gid, mtime=MTIME, target=target, device=device, source="pkg")

    assert [item for item in found if item[1].type is not NodeType.FILE] == [
        ("", node(NodeType.DIRECTORY, 0o755)),
        ("usr", node(NodeType.DIRECTORY, 0o1777)),
        ("usr/s", node(NodeType.SYMLINK, 0o777, target="../x/./y")),
        ("usr/h", node(NodeType.HARDLINK, 0o644, target="usr/a")),
        ("dev/null", node(NodeType.CHARACTER, 0o666, device=(1, 3))),
        ("dev/sda", node(NodeType.BLOCK, 0o660, gid=6, device=(8, 0x12345))),
        ("run", node(NodeType.FIFO, 0o600)),
    ]
    path, file = found[2]
    assert (path, file.mode, file.read()) == ("usr/a", 0o4755, b"content" * 100)


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(format_: int) -> None:
    # 90 and 120 characters fit into a ustar name and prefix.
    path = "d" * 90 + "/" + "f" * 90
    [(found, node)] = read(tar(entry("./" + path, b"x"), format_=format_))
    assert (found, node.read(), node.mtime) == (path, b"x", MTIME)


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_large_numbers(format_: int) -> None:
    path, target = "/".join(["däta" * 30] * 9), "../" * 100 + "t"
    info, _ = symlink("./" + path, target)
    info.uid, info.gid, info.mtime = 3_000_000, 4_000_000_000, 1 << 34
    [(found, node)] = read(tar((info, b""), format_=format_))
    assert (found, node.target) == (path, target)
    assert (node.uid, node.gid, node.mtime) == (3_000_000, 4_000_000_000, 1 << 34)


def test_extended_attributes_and_fractional_times() -> None:
    info, data = entry("ping", b"x")
    info.pax_headers = {
        "SCHILY.xattr.user.b": "2",
        "SCHILY.xattr.security.capability": "\1\0\0\2",
        "mtime": "12.9",
    }
    [(_, node)] = read(tar((info, data), format_=tarfile.PAX_FORMAT))
    assert node.xattrs == (("security.capability", b"\1\0\0\2"), ("user.b", b"2"))
    assert node.mtime == 12


def test_global_pax_values() -> None:
    block = tarfile.TarInfo.create_pax_global_header({"mtime": "77", "comment": "c"})
    own = entry("b")
    own[0].pax_headers = {"mtime": "78"}
    found = read(block + tar(entry("a"), own, format_=tarfile.PAX_FORMAT))
    assert [node.mtime for _, node in found] == [77, 78]


def test_names_that_are_not_utf8() -> None:
    info, _ = entry("a\udcff")
    data = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape") + bytes(1024)
    assert read(data)[0][0] == "a\udcff"


def patched(offset: int, patch: bytes, what: Entry | None = None) -> bytes:
    """One entry with some of its header replaced and the checksum made right again."""
    data = bytearray(tar(what or entry("name", b"0123")))
    data[offset : offset + len(patch)] = patch
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


GOOD = tar(entry("name", b"0123"))
CHECKSUM = tarfile.TarInfo.frombuf(GOOD[:512], "utf-8", "strict").chksum


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "t.tar: offset 0x0: ends without an end-of-archive block (0 bytes are left); truncated"),
        (
            GOOD[:100],
            "t.tar: offset 0x0: ends without an end-of-archive block (100 bytes are left); truncated",
        ),
        (GOOD[:600], "t.tar: offset 0x0: entry has 4 bytes, 88 are left; truncated"),
        (
            GOOD[:1024],
            "t.tar: offset 0x400: ends without an end-of-archive block (0 bytes are left); truncated",
        ),
        (GOOD[:1536], "t.tar: offset 0x400: a lone zero block; truncated or damaged"),
        (GOOD[:2048] + b"x", "t.tar: offset 0x800: bytes follow the end of the archive"),
        (
            b"m" + GOOD[1:],
            (
                f"t.tar: offset 0x0: header checksum is {CHECKSUM}, computed {CHECKSUM - 1}; damaged, "
                f"or trailing bytes"
            ),
        ),
        (
            patched(257, bytes(8)),
            (
                "t.tar: offset 0x0: header magic is b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00', "
                "expected b'ustar\\x0000' (POSIX) or b'ustar  \\x00' (GNU)"
            ),
        ),
        (
            patched(156, b"S"),
            "t.tar: offset 0x0: entry of type b'S' has 4 bytes of content, expected none",
        ),
        (
            patched(156, b"S", entry("name")),
            "t.tar: offset 0x0: entry type b'S' is not supported; an image has no such files",
        ),
        (
            patched(124, b"xyz"),
            (
                "t.tar: offset 0x0: size field is b'xyz00000004\\x00', expected octal digits or a "
                "base-256 number that is not negative"
            ),
        ),
        (
            patched(124, b"\x80" + b"\xff" * 11),
            f"t.tar: offset 0x0: entry has {2**88 - 1} bytes, 9728 are left; truncated",
        ),
        (
            patched(108, b"\x80" + b"\xff" * 7),
            f"t.tar: offset 0x0: uid is {2**56 - 1}, at most 4294967295 is possible",
        ),
        (
            tar(entry("/etc/passwd")),
            "t.tar: offset 0x0: path '/etc/passwd' is empty or leaves the archive's own tree",
        ),
        (
            tar(entry("a/../../b")),
            "t.tar: offset 0x0: path 'a/../../b' is empty or leaves the archive's own tree",
        ),
        (patched(0, b"\0"), "t.tar: offset 0x0: path '' is empty or leaves the archive's own tree"),
        (
            tar(hardlink("a", "../b")),
            "t.tar: offset 0x0: path '../b' is empty or leaves the archive's own tree",
        ),
        (tar(hardlink("a", "")), "t.tar: offset 0x0: hardlink 'a' has the target b''"),
        (tar(symlink("a", "")), "t.tar: offset 0x0: symlink 'a' has the target b''"),
        (tar(entry("./", b"x")), "t.tar: offset 0x0: the root is a file, expected a directory"),
        (patched(156, b"5"), "t.tar: offset 0x0: entry of type b'5' has 4 bytes of content, expected none"),
        (
            patched(329, b"0010000\0", entry("d", type_=tarfile.CHRTYPE)),
            "t.tar: offset 0x0: device 4096:0 is beyond 4095:1048575",
        ),
    ],
)
def test_bad_archives(data: bytes, message: str) -> None:
    assert complaint(data) == message


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (b"x", "bad PAX record b'x', expected `LENGTH KEYWORD=VALUE`"),
        (b"9 a=b\n", "bad PAX record b'9 a=b\\n', expected `LENGTH KEYWORD=VALUE`"),
        (b"2 a=b\n", "bad PAX record b'2 a=b\\n', expected `LENGTH KEYWORD=VALUE`"),
        (b"5 ab\n", "bad PAX record b'5 ab\\n', expected `LENGTH KEYWORD=VALUE`"),
        (b"5 =b\n", "bad PAX record b'5 =b\\n', expected `LENGTH KEYWORD=VALUE`"),
        (b"22 GNU.sparse.major=1\n", "PAX keyword GNU.sparse.major is not supported"),
        (b"23 SCHILY.acl.access=x\n", "PAX keyword SCHILY.acl.access is not supported"),
    ],
)
def test_bad_pax_records(records: bytes, message: str) -> None:
    info, _ = entry("PaxHeader", type_=tarfile.XHDTYPE)
    info.size = len(records)
    data = info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + GOOD
    assert complaint(data) == f"t.tar: offset 0x200: {message}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mtime", "-1", "PAX mtime is b'-1', expected a decimal number"),
        ("uid", "4294967296", "uid is 4294967296, at most 4294967295 is possible"),
        (
            "mtime",
            "9223372036854775808",
            "mtime is 9223372036854775808, at most 9223372036854775807 is possible",
        ),
        ("path", "/x", "path '/x' is empty or leaves the archive's own tree"),
        ("path", "x\0y", "path 'x\\x00y' is empty or leaves the archive's own tree"),
    ],
)
def test_bad_pax_values(key: str, value: str, message: str) -> None:
    info, _ = entry("name")
    info.pax_headers = {key: value}
    assert complaint(tar((info, b""), format_=tarfile.PAX_FORMAT)) == f"t.tar: offset 0x400: {message}"


def test_an_extension_needs_its_entry() -> None:
    data = tar(entry("n" * 200), format_=tarfile.GNU_FORMAT)[:1024] + bytes(1024)
    assert complaint(data) == "t.tar: offset 0x400: ends behind an extension header without its entry"


def test_many_global_headers_add_up() -> None:
    """Each is within its limit; together they would fill memory, out of a small compressed layer."""
    parts = []
    for number in range(3):
        record = b"comment%d=%s\n" % (number, b"x" * 500_000)
        record = b"%d %s" % (len(record) + 7, record)
        header = tarfile.TarInfo("pax")
        header.type, header.size = tarfile.XGLTYPE, len(record)
        parts.append(header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(-(-len(record) // 512) * 512, b"\0"))
    assert "extended headers of 1.4 MiB in all, at most 1 MiB are sensible" in complaint(b"".join(parts))


def test_long_extension() -> None:
    info, _ = entry("././@LongLink", type_=tarfile.GNUTYPE_LONGNAME)
    info.size = (1 << 20) + 1
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(2 << 20)
    assert complaint(data) == "t.tar: offset 0x0: extension header of 1.0 MiB, at most 1 MiB are sensible"


SAMPLE = tar(directory("d"), entry("d/" + "f" * 120, b"x" * 700), hardlink("h", "d/" + "f" * 120))[:5120]
PAX_SAMPLE = tar(entry("d/" + "f" * 120, b"x" * 700), symlink("s", "t" * 120), format_=tarfile.PAX_FORMAT)[
    :5120
]


@settings(max_examples=100)
@given(
    st.sampled_from([SAMPLE, PAX_SAMPLE]),
    st.integers(0, 5119),
    st.binary(min_size=1, max_size=12),
    st.booleans(),
)
def test_mutations_never_escape(sample: bytes, offset: int, patch: bytes, repair: bool) -> None:
    data = bytearray(sample)
    data[offset : offset + len(patch)] = patch
    start = offset // 512 * 512
    if repair:  # so that the fields behind the checksum are reached
        data[start + 148 : start + 156] = b"        "
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    try:
        for path, node in read(bytes(data)):
            assert ".." not in path.split("/")
            assert not path.startswith("/")
            node.read()
    except FormatError:
        pass
