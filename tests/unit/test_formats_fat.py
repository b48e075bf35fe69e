from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import fat_layout, fat_names
from recipes.formats.fat import write
from recipes.formats.fat_layout import choose_geometry
from recipes.formats.fat_names import short_checksum, short_to_text, store_names, timestamp
from recipes.formats.fat_reader import FatFilesystem
from recipes.formats.tree import BytesPayload, Payload
from recipes.units import KIB, MIB

FUZZ = settings(max_examples=12)
# The least that FAT32 takes with 512-byte clusters, rounded up.
SIZE = 34 * MIB
EPOCH = 1700000000
UKI = random.Random(7).randbytes(5000)


def image(files: dict[str, bytes], *, label: str = "ESP", size: int = SIZE, epoch: int = EPOCH) -> io.BytesIO:
    out = io.BytesIO()
    payloads: dict[str, Payload] = {path: BytesPayload(data) for path, data in files.items()}
    write(out, size=size, volume_id=0x12345678, label=label, epoch=epoch, files=payloads)
    return out


@cache
def sample_bytes() -> bytes:
    return image(
        {
            "EFI/BOOT/BOOTX64.EFI": UKI,
            "EFI/Linux/debian-cvm.efi": b"uki",
            "loader/addons/x.addon.efi": b"",
            "loader/loader.conf": b"timeout 0\n",
        }
    ).getvalue()


class Overlay(io.BytesIO):
    """A copy of the sample with a few bytes changed and changed back, which is cheaper than a copy each."""

    def patch(self, offset: int, new: bytes) -> bytes:
        self.seek(offset)
        old = self.read(len(new))
        self.seek(offset)
        self.write(new)
        return old


@cache
def overlay() -> Overlay:
    return Overlay(sample_bytes())


def read_all(filesystem: FatFilesystem) -> dict[str, bytes]:
    return {path: file.read() for path, file in filesystem.files.items()}


def fat_at(cluster: int) -> int:
    """Where the sample's first FAT describes a cluster: 32 reserved sectors come before it."""
    return 32 * 512 + cluster * 4


def data_at(cluster: int) -> int:
    geometry = choose_geometry(SIZE)
    return (32 + 2 * geometry.fat_sectors + (cluster - 2)) * 512


def test_struct_sizes() -> None:
    structures = (
        fat_layout.BootSector,
        fat_layout.FsInfo,
        fat_layout.DirectoryEntry,
        fat_layout.LongNameEntry,
    )
    assert [each.SIZE for each in structures] == [512, 512, 32, 32]


@pytest.mark.parametrize(
    ("size", "sectors_per_cluster"),
    [
        (34 * MIB, 1),
        (64 * MIB, 1),
        (128 * MIB, 2),
        (256 * MIB, 4),
        (260 * MIB, 8),
        (512 * MIB, 8),
        (2048 * MIB, 8),
    ],
)
def test_geometry(size: int, sectors_per_cluster: int) -> None:
    geometry = choose_geometry(size)
    assert geometry.sectors_per_cluster == sectors_per_cluster
    assert geometry.clusters >= 65525 + 16
    # Everything fits, the FAT describes every cluster, and one sector less would not.
    used = 32 + 2 * geometry.fat_sectors + geometry.clusters * sectors_per_cluster
    assert 0 <= size // 512 - used < sectors_per_cluster + 2
    assert (geometry.clusters + 2) * 4 <= geometry.fat_sectors * 512


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (32 * MIB, "fat: size 33554432 gives 64496 clusters; FAT32 needs 34 MiB or more [fatgen103]"),
        (1000, "fat: size 1000 is not a multiple of 512; round it up"),
        (0, "fat: size 0 gives 0 clusters; FAT32 needs 34 MiB or more [fatgen103]"),
        (1 << 41, "fat: size 2199023255552 is too large; at most 1 TiB less one cluster fits [fatgen103]"),
    ],
)
def test_sizes_that_are_refused(size: int, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        choose_geometry(size)
    assert str(caught.value) == message


def test_write_is_deterministic_and_order_does_not_matter() -> None:
    files = {"b/c.txt": b"1", "A.TXT": b"2", "b/Long name.txt": b"3"}
    backwards = dict(reversed(files.items()))
    assert image(files).getvalue() == image(backwards).getvalue()


def test_write_at_an_offset() -> None:
    out = io.BytesIO(b"\xff" * 4096)
    out.seek(4096)
    write(out, size=SIZE, volume_id=1, label="", epoch=0, files={"A": BytesPayload(b"x")})
    assert len(out.getvalue()) == 4096 + SIZE
    assert read_all(FatFilesystem.open(out, 4096, "disk")) == {"A": b"x"}


def test_sample_comes_back() -> None:
    filesystem = FatFilesystem.open(io.BytesIO(sample_bytes()), 0, "esp")
    assert list(filesystem.files) == [
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/Linux/debian-cvm.efi",
        "loader/addons/x.addon.efi",
        "loader/loader.conf",
    ]
    assert filesystem.directories == ("EFI", "EFI/BOOT", "EFI/Linux", "loader", "loader/addons")
    assert filesystem.file("efi/boot/bootx64.efi").read() == UKI
    assert filesystem.file("loader/addons/x.addon.efi").size == 0
    with pytest.raises(FormatError, match=r"^esp: there is no file EFI/nothing$"):
        filesystem.file("EFI/nothing")


def test_chunks_are_at_most_1_mib() -> None:
    data = random.Random(3).randbytes(3 * MIB + 17)
    filesystem = FatFilesystem.open(image({"a": data, "b": b"b"}), 0, "esp")
    chunks = list(filesystem.file("a").chunks())
    assert max(map(len, chunks)) == MIB
    assert b"".join(chunks) == data


def test_big_directory_spans_clusters() -> None:
    files = {f"dir/file with a long name {number}": str(number).encode() for number in range(300)}
    assert read_all(FatFilesystem.open(image(files), 0, "esp")) == files


def test_a_full_file_system() -> None:
    geometry = choose_geometry(SIZE)
    room = (geometry.clusters - 1) * geometry.cluster_size
    out = image({"full": bytes(room)})
    assert FatFilesystem.open(out, 0, "esp").file("full").size == room
    assert len(out.getvalue()) == SIZE
    with pytest.raises(FormatError) as caught:
        image({"full": bytes(room + 1)})
    assert str(caught.value) == (
        f"fat: the files need {geometry.clusters + 1} clusters of 512 bytes, there are {geometry.clusters}; "
        "make the file system larger"
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "fat: : name '' is not a file name"),
        ("/EFI", "fat: /EFI: name '' is not a file name"),
        ("EFI/", "fat: EFI/: name '' is not a file name"),
        ("a/../b", "fat: a/../b: name '..' is not a file name"),
        ("a:b", "fat: a:b: name 'a:b' has ':', which FAT cannot store; rename it [fatgen103]"),
        ("a\\b", "fat: a\\b: name 'a\\\\b' has '\\\\', which FAT cannot store; rename it [fatgen103]"),
        ("a\x01", "fat: a\x01: name 'a\\x01' has '\\x01', which FAT cannot store; rename it [fatgen103]"),
        ("a.", "fat: a.: name 'a.' starts or ends with a space or ends with a dot; rename it [fatgen103]"),
        (" a", "fat:  a: name ' a' starts or ends with a space or ends with a dot; rename it [fatgen103]"),
        ("\udc80", "fat: \udc80: name '\\udc80' is not Unicode text; rename it"),
        (
            "x" * 256,
            "fat: " + "x" * 256 + ": name of 256 UTF-16 units, at most 255 fit; shorten it [fatgen103]",
        ),
    ],
)
def test_paths_that_are_refused(path: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        image({path: b""})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("EFI/a", "efi/b"), "fat: efi/b: efi and EFI are the same name on FAT; rename one"),
        (("Readme", "README"), "fat: Readme: Readme and README are the same name on FAT; rename one"),
        (("a", "a/b"), "fat: a/b: a is both a file and a directory"),
    ],
)
def test_names_that_clash(files: tuple[str, ...], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        image(dict.fromkeys(files, b""))
    assert str(caught.value) == message


@dataclass(frozen=True)
class Liar:
    size: int
    data: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.data


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (Liar(3, b"ab"), "fat: A: gave 2 bytes, 3 were announced; it changed while it was read"),
        (Liar(3, b"abcd"), "fat: A: gave more bytes, 3 were announced; it changed while it was read"),
        (Liar(1 << 32, b""), "fat: A: 4294967296 bytes, a file holds at most 4294967295 [fatgen103]"),
    ],
)
def test_payloads_that_are_refused(payload: Liar, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        write(io.BytesIO(), size=SIZE, volume_id=0, label="", epoch=0, files={"A": payload})
    assert str(caught.value) == message


def test_other_values_that_are_refused() -> None:
    with pytest.raises(
        FormatError, match=r"^fat: label 'esp', expected 1 to 11 of A-Z, 0-9, space and \$%'-_"
    ):
        image({}, label="esp")
    with pytest.raises(FormatError, match=r"^fat: volume id 0x100000000 does not fit 32 bits$"):
        write(io.BytesIO(), size=SIZE, volume_id=1 << 32, label="", epoch=0, files={})
    with pytest.raises(
        FormatError, match=r"^fat: time 4354819200 lies after 2107, the last year of a FAT date"
    ):
        image({}, epoch=4354819200)


def test_timestamp() -> None:
    # 2023-11-14 22:13:20 UTC, as `date -u -d @1700000000` says.
    when = timestamp(1700000001)
    assert when.date == (2023 - 1980) << 9 | 11 << 5 | 14
    assert when.time == 22 << 11 | 13 << 5 | 10
    assert when.tenth == 100
    assert timestamp(0) == timestamp(315532800) == fat_names.Timestamp(date=0x21, time=0, tenth=0)


def test_names_that_fit_keep_themselves() -> None:
    names = ["BOOTX64.EFI", "loader", "a.TXT", "B.txt", "VMLINUZ", "a-b_c~1.e$f"]
    stored = store_names(names)
    assert [(each.short, each.case, each.long) for each in stored] == [
        (b"BOOTX64 EFI", 0, ""),
        (b"LOADER     ", 0x08, ""),
        (b"A       TXT", 0x08, ""),
        (b"B       TXT", 0x10, ""),
        (b"VMLINUZ    ", 0, ""),
        (b"A-B_C~1 E$F", 0x18, ""),
    ]


def test_aliases() -> None:
    names = [
        "debian-cvm.efi",
        "debian-cvm2.efi",
        "DEBIAN~1.EFI",
        "Debian~3.efi",
        "a.b.conf",
        ".hidden",
        "ä+",
        "x y.z",
    ]
    stored = store_names(names)
    assert [each.short for each in stored] == [
        b"DEBIAN~2EFI",
        b"DEBIAN~4EFI",
        b"DEBIAN~1EFI",
        b"DEBIAN~5EFI",
        b"AB~1    CON",
        b"HIDDEN~1   ",
        b"__~1       ",
        b"XY~1    Z  ",
    ]
    assert all(each.long == name for each, name in zip(stored, names, strict=True) if name != "DEBIAN~1.EFI")
    many = store_names([f"longest name {number}" for number in range(11)])
    assert many[9].short == b"LONGE~10   "


def test_checksum_and_long_entries() -> None:
    # By hand: the last byte is added as it is, the first is rotated right ten times, which is once and eight.
    assert short_checksum(bytes(11)) == 0
    assert short_checksum(bytes(10) + b"A") == 0x41
    assert short_checksum(b"\x01" + bytes(10)) == 0x40
    stored = store_names(["thirteen char"])[0]
    (entry,) = stored.long_entries()
    assert entry[0] == 0x41
    assert entry[1:11] + entry[14:26] + entry[28:32] == "thirteen char".encode("utf-16-le")
    two = store_names(["fourteen chars"])[0].long_entries()
    assert [each[0] for each in two] == [0x42, 0x01]
    assert two[0][1:11] == "s\0".encode("utf-16-le") + b"\xff" * 6


def test_short_names_in_other_alphabets() -> None:
    assert short_to_text(b"\x05BC     X  ", 0) == "\u03c3BC.X"
    assert short_to_text(b"README  TXT", 0x18) == "readme.txt"


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (510, "0000", "esp: offset 0x1fe: boot sector signature is 0x0000, expected 0xaa55; this is not FAT"),
        (11, "0001", "esp: 256 bytes per sector, expected 512 to 4096; this is not FAT"),
        (13, "03", "esp: 3 sectors per cluster, expected a power of two up to 128"),
        (14, "0000", "esp: 0 reserved sectors and 2 FATs, expected at least 1 and 1 or 2"),
        (16, "03", "esp: 32 reserved sectors and 3 FATs, expected at least 1 and 1 or 2"),
        (17, "0002", "esp: this is FAT16; only FAT32 is supported, format with mkfs.fat -F 32"),
        (42, "01", "esp: FAT32 version 0x0001, expected 0"),
        (40, "80", "esp: FAT mirroring is switched off, which is not supported"),
        (32, "00000000", "esp: 0 sectors with 536 in each FAT leave 0 clusters"),
        (32, "ffffffff", "esp: 4294967295 sectors with 536 in each FAT leave 4294966191 clusters"),
        (32, "80380100", "esp: a FAT of 536 sectors does not describe 78896 clusters"),
        (36, "10000000", "esp: a FAT of 16 sectors does not describe "),
        (44, "00000000", "esp: /: its chain leads to cluster 0x0; clusters are 2 to "),
        (44, "ffffff0f", None),
    ],
)
def test_bad_boot_sectors(offset: int, new: str, message: str | None) -> None:
    file = overlay()
    old = file.patch(offset, bytes.fromhex(new))
    try:
        if message is None:
            # A root directory without clusters is empty.
            assert not FatFilesystem.open(file, 0, "esp").files
            return
        with pytest.raises(FormatError) as caught:
            FatFilesystem.open(file, 0, "esp")
        assert str(caught.value).startswith(message)
    finally:
        file.patch(offset, old)


def test_fat12_and_fat16_are_named() -> None:
    file = overlay()
    # 16-bit fields as FAT16 has them: 512 root entries, 20 000 or 4 000 sectors, 60 in each FAT.
    for total, kind in ((20000, "FAT16"), (4000, "FAT12")):
        old = file.patch(17, (512).to_bytes(2, "little") + total.to_bytes(2, "little") + b"\xf8" + b"\x3c\0")
        with pytest.raises(FormatError, match=f"^esp: this is {kind}; only FAT32 is supported"):
            FatFilesystem.open(file, 0, "esp")
        file.patch(17, old)


def test_truncated_image() -> None:
    with pytest.raises(FormatError) as caught:
        FatFilesystem.open(io.BytesIO(sample_bytes()[:-1]), 0, "esp")
    have = f"{SIZE // 512} sectors of 512 bytes do not fit the {SIZE - 1} bytes left"
    assert str(caught.value) == f"esp: {have}; the image is truncated"
    with pytest.raises(FormatError, match="BootSector needs 512 bytes, 100 are left"):
        FatFilesystem.open(io.BytesIO(sample_bytes()[:100]), 0, "esp")


# Clusters of the sample: 2 root, 3 EFI, 4 loader, 5 EFI/BOOT, 6 EFI/Linux, 7 loader/addons, then the files:
# 8 to 17 BOOTX64.EFI, 18 debian-cvm.efi, 19 loader/loader.conf.
@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([(fat_at(8), "08000000")], "EFI/BOOT/BOOTX64.EFI: cluster 8 is used twice; chains loop or cross"),
        ([(fat_at(8), "03000000")], "EFI/BOOT/BOOTX64.EFI: cluster 3 is used twice; chains loop or cross"),
        ([(fat_at(8), "ffffff0f")], "EFI/BOOT/BOOTX64.EFI: 5000 bytes need 10 clusters, its chain has 1"),
        (
            [(fat_at(8), "00000000")],
            "EFI/BOOT/BOOTX64.EFI: its chain leads to cluster 0x0; clusters are 2 to 68529",
        ),
        ([(fat_at(17), "30000000")], "EFI/BOOT/BOOTX64.EFI: its chain is longer than 10 clusters"),
        ([(fat_at(2), "02000000")], "/: cluster 2 is used twice; chains loop or cross"),
        ([(fat_at(3), "f7ffff0f")], "EFI: its chain leads to cluster 0xffffff7; clusters are 2 to 68529"),
    ],
)
def test_damaged_trees(edits: list[tuple[int, str]], message: str) -> None:
    file = overlay()
    old = [(offset, file.patch(offset, bytes.fromhex(new))) for offset, new in edits]
    try:
        with pytest.raises(FormatError) as caught:
            FatFilesystem.open(file, 0, "esp")
        assert str(caught.value) == f"esp: {message} [fatgen103]"
    finally:
        for offset, data in old:
            file.patch(offset, data)


# EFI/Linux: two dot entries, two long entries, the short one at 128.
@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (64, "43", "EFI/Linux: long name entries are numbered [67, 1], expected [66, 1]"),
        (96, "02", "EFI/Linux: long name entries are numbered [66, 2], expected [66, 1]"),
        (96 + 13, "00", "EFI/Linux: a long name entry does not belong to the short name b'DEBIAN~1EFI'"),
        (64 + 1, "00d8", "EFI/Linux: a long name is not UTF-16"),
        (64 + 28, "4100", "EFI/Linux: a long name goes on behind its end"),
        (96 + 1, "2f00", "EFI/Linux: an entry is called '/ebian-cvm.efi', which is not a file name"),
        (96 + 1, "0000", "EFI/Linux: a long name goes on behind its end"),
        (128 + 11, "08", "EFI/Linux: a long name stands before a label or dot entry"),
        (128, "00", "EFI/Linux: a long name has no short entry behind it"),
        (128 + 28, "00", "EFI/Linux/debian-cvm.efi: it is empty but starts at cluster 18"),
        (128 + 26, "00", "EFI/Linux/debian-cvm.efi: its chain leads to cluster 0x0; clusters are 2 to 68529"),
    ],
)
def test_damaged_directory(offset: int, new: str, message: str) -> None:
    file = overlay()
    place = data_at(6) + offset
    old = file.patch(place, bytes.fromhex(new))
    try:
        with pytest.raises(FormatError) as caught:
            FatFilesystem.open(file, 0, "esp")
        assert str(caught.value) == f"esp: {message} [fatgen103]"
    finally:
        file.patch(place, old)


def test_names_that_are_there_twice() -> None:
    file = image({"A.TXT": b"1", "B.TXT": b"2"}, label="")
    file.seek(data_at(2) + 32)
    file.write(b"A")
    with pytest.raises(FormatError, match=r"^esp: A.TXT: its name is there twice \[fatgen103\]$"):
        FatFilesystem.open(file, 0, "esp")


def test_deleted_entries_are_skipped() -> None:
    file = image({"A.TXT": b"1", "Long name of b": b"2"}, label="")
    for entry in (1, 2, 3):
        file.seek(data_at(2) + entry * 32)
        file.write(b"\xe5")
    assert list(FatFilesystem.open(file, 0, "esp").files) == ["A.TXT"]


# Building a file system costs 34 MiB of memory each time, so there are few examples.
letters = st.characters(
    exclude_categories=["Cs", "Cc"], exclude_characters='"*/:<>?\\|\x7f', max_codepoint=0x2FFF
)
components = st.text(letters, min_size=1, max_size=40).filter(
    lambda name: name[-1] not in ". " and name[0] != " " and "\x7f" not in name
)
paths = st.lists(components, min_size=1, max_size=3).map("/".join)


@FUZZ
@given(st.dictionaries(paths, st.binary(max_size=3 * KIB), max_size=8))
def test_round_trip(files: dict[str, bytes]) -> None:
    try:
        out = image(files)
    except FormatError as error:
        assert "same name" in str(error) or "both a file and a directory" in str(error)
        return
    assert read_all(FatFilesystem.open(out, 0, "esp")) == files


_PLACES = st.one_of(
    st.integers(0, 90),
    st.integers(fat_at(0), fat_at(24)),
    st.integers(data_at(2), data_at(2) + 160),
    st.integers(data_at(3), data_at(8) - 1),
)


@settings(FUZZ, max_examples=100)
@given(st.lists(st.tuples(_PLACES, st.binary(min_size=1, max_size=4)), min_size=1, max_size=4))
def test_fuzz(edits: list[tuple[int, bytes]]) -> None:
    file = overlay()
    old = [(offset, file.patch(offset, new)) for offset, new in edits]
    try:
        total = sum(len(data) for data in read_all(FatFilesystem.open(file, 0, "fuzz")).values())
        assert total <= SIZE
    except FormatError:
        return
    finally:
        for offset, data in reversed(old):
            file.patch(offset, data)


@FUZZ
@given(st.binary(max_size=700))
def test_fuzz_random(data: bytes) -> None:
    with pytest.raises(FormatError):
        FatFilesystem.open(io.BytesIO(data), 0, "fuzz")
    with pytest.raises(FormatError):
        FatFilesystem.open(io.BytesIO(data[:510].ljust(510, b"\0") + b"\x55\xaa" + data), 0, "fuzz")
