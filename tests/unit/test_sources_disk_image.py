from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, ToolError
from recipes.sources.disk_image import DiskImage, Filesystem, ImageFormat, choose_root, identify
from tests.unit.guest import FakeGuest

ELSEWHERE = (
    "image: its content is in another file; make one file of it, `qemu-img convert -O qcow2` "
    "[QEMU docs/interop/qcow2.txt]"
)
NOTHING = (
    "base: has no Linux file system that can be read (found: {}); give a bootable image that is not encrypted"
)
WRONG_KIND = (
    "base: its root {}; only ext4 can be converted, xfs and btrfs are not supported yet; "
    "give an image with ext4"
)
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
LINUX_TYPE = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


def qcow2(
    *, version: int = 3, backing: int = 0, name: int = 0, crypt: int = 0, incompatible: int = 0
) -> bytes:
    """By hand, from docs/interop/qcow2.txt."""
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, name, 16, 1 << 20, crypt)
    tables = struct.pack(">IQQIIQ", 1, 0x10000, 0x20000, 1, 0, 0)
    return (head + tables + struct.pack(">Q", incompatible)).ljust(512, b"\0")


def image(folder: Path, data: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(data)
    return path


def test_kinds_of_images(tmp_path: Path) -> None:
    assert identify(image(tmp_path, bytes(1024))) is ImageFormat.RAW
    assert identify(image(tmp_path, qcow2())) is ImageFormat.QCOW2
    # Version 2 has no features; what stands there is something else.
    assert identify(image(tmp_path, qcow2(version=2, incompatible=4))) is ImageFormat.QCOW2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "image: 0 bytes are no raw disk, which is whole sectors of 512; was it cut short?"),
        (bytes(1000), "image: 1000 bytes are no raw disk, which is whole sectors of 512; was it cut short?"),
        (b"KDMV" + bytes(508), "image: is a VMDK image; convert it first, `qemu-img convert -O qcow2`"),
        (b"vhdxfile" + bytes(504), "image: is a VHDX image; convert it first, `qemu-img convert -O qcow2`"),
        (b"<<< Oracle", "image: is a VDI image; convert it first, `qemu-img convert -O qcow2`"),
        (
            qcow2(backing=0x200, name=11),
            ELSEWHERE,
        ),
        (
            qcow2(incompatible=4),
            ELSEWHERE,
        ),
        (qcow2(crypt=1), "image: is encrypted; convert it to a plain one [QEMU docs/interop/qcow2.txt]"),
        (qcow2(version=4), "image: qcow2 version 4; 2 and 3 are supported [QEMU docs/interop/qcow2.txt]"),
        (b"QFI\xfb", "image: qcow2 version 0; 2 and 3 are supported [QEMU docs/interop/qcow2.txt]"),
    ],
)
def test_images_that_are_not_read(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        identify(image(tmp_path, data))
    assert str(caught.value) == message


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="there is no such file; check the path"):
        identify(tmp_path / "none")


@given(st.binary(max_size=120), st.booleans())
@settings(max_examples=100)
def test_any_bytes_are_an_image_or_a_format_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes((b"QFI\xfb" if head else b"") + data)
    with suppress(FormatError):
        assert identify(path) in ImageFormat


def found(*items: tuple[str, str, int, str]) -> tuple[Filesystem, ...]:
    guest = FakeGuest({device: (kind, size, gpt) for device, kind, size, gpt in items})
    return DiskImage(guest, "base.qcow2").filesystems()


def test_the_root_is_what_the_partition_table_says() -> None:
    root = choose_root(
        found(
            ("/dev/sda1", "vfat", 100, ESP_TYPE),
            ("/dev/sda2", "ext4", 10, ROOT_TYPE),
            ("/dev/sda3", "ext4", 900, LINUX_TYPE),
        ),
        "base",
    )
    assert (root.device, root.size) == ("/dev/sda2", 10)


def test_without_a_type_the_root_is_the_largest_linux_file_system() -> None:
    items = [
        ("/dev/sda1", "ext4", 50, ""),
        ("/dev/sda2", "swap", 9000, ""),
        ("/dev/sda3", "unknown", 9000, ""),
        ("/dev/vg/root", "ext4", 500, ""),
        ("/dev/sdb", "ext4", 9999, ""),
        ("btrfsvol:/dev/sda9/home", "btrfs", 9999, ""),
    ]
    assert choose_root(found(*items), "base").device == "/dev/vg/root"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((), NOTHING.format("nothing")),
        (
            (("/dev/sda1", "vfat", 1, ""), ("/dev/sda2", "unknown", 1, "")),
            NOTHING.format("/dev/sda1 vfat, /dev/sda2 unknown"),
        ),
        ((("/dev/sda1", "xfs", 1, ROOT_TYPE),), WRONG_KIND.format("/dev/sda1 is xfs")),
        (
            (("/dev/sda1", "ext4", 1, ""), ("/dev/sda2", "btrfs", 2, "")),
            WRONG_KIND.format("/dev/sda2 is btrfs"),
        ),
        (
            (("/dev/sda1", "ext4", 1, ROOT_TYPE), ("/dev/sda2", "ext4", 2, ROOT_TYPE)),
            "base: /dev/sda1, /dev/sda2 are all marked as the root; give an image with one system",
        ),
    ],
)
def test_images_without_a_root_that_can_be_converted(
    items: tuple[tuple[str, str, int, str], ...], message: str
) -> None:
    with pytest.raises(FormatError) as caught:
        choose_root(found(*items), "base")
    assert str(caught.value) == message


def test_files_are_read_and_large_ones_are_refused() -> None:
    reader = DiskImage(FakeGuest(files={"/etc/fstab": b"a\xff\n", "/boot": None}), "base")
    assert reader.read_file("/etc/fstab") == b"a\xff\n"
    assert reader.read_text("/etc/fstab") == "a\udcff\n"
    assert reader.read_text("/etc/none") == reader.read_text("/boot") == ""
    with pytest.raises(FormatError, match=r"^base: /etc/fstab has 3 B, at most 2 B are sensible$"):
        reader.read_file("/etc/fstab", limit=2)
    with pytest.raises(ToolError, match="No such file"):
        reader.read_file("/etc/none")
