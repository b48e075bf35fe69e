from __future__ import annotations

import hashlib

import pytest

from recipes.errors import FormatError, MeasureError
from recipes.measure import ukifile
from recipes.measure.trace import HashAlgorithm, measured
from recipes.measure.ukifile import Addon
from tests.unit.measure_images import SDMAGIC, kernel, pe_image, uki


def authenticode(data: bytes) -> bytes:
    """Digest of an image of ``pe_image``: all of it but CheckSum and the certificate table's entry."""
    optional = 0x40 + 4 + 20
    kept = data[: optional + 64] + data[optional + 68 : optional + 144] + data[optional + 152 :]
    return hashlib.sha256(kept).digest()


def test_sections_in_the_order_of_the_stub() -> None:
    image = uki(
        initrd=b"initrd", cmdline=b"quiet", osrel=b"ID=x\n", pcrsig=b"{}", sbat=b"sbat", uname=b"6.12"
    )
    found = ukifile.read_uki(image, "u.efi")
    assert [section.name for section in found.sections] == [
        ".linux",
        ".osrel",
        ".cmdline",
        ".initrd",
        ".uname",
        ".sbat",
        ".pcrsig",
    ]
    assert (found.stub_version, found.name) == ("257.13-1~deb13u1", "u.efi")
    assert found.data(".initrd") == b"initrd"
    assert found.data(".ucode") is None
    linux = found.sections[0]
    assert (linux.data, linux.content) == (kernel(), measured(kernel()))
    assert found.image.digests[HashAlgorithm.SHA256] == authenticode(image)
    assert found.kernel.digests[HashAlgorithm.SHA256] == authenticode(kernel())
    assert (found.image.size, found.kernel.size) == (len(image), len(kernel()))


def test_only_virtual_size_bytes_count() -> None:
    image = bytearray(uki(cmdline=b"quiet"))
    # The bytes behind the section's end in the file are padding that is not mapped into it.
    image[image.index(b"quiet\0") + 5] = 0x41
    assert ukifile.read_uki(bytes(image), "u.efi").data(".cmdline") == b"quiet"


def test_empty_sections_are_missing_and_the_first_of_a_name_counts() -> None:
    sections = [
        (".sdmagic", SDMAGIC),
        (".osrel", b""),
        (".cmdline", b"a"),
        (".cmdline", b"b"),
        (".linux", kernel()),
    ]
    found = ukifile.read_uki(pe_image(sections), "u.efi")
    assert [section.name for section in found.sections] == [".linux", ".cmdline"]
    assert found.data(".cmdline") == b"a"


PROFILES = [
    (".sdmagic", SDMAGIC),
    (".linux", kernel()),
    (".cmdline", b"base"),
    (".osrel", b"ID=x"),
    (".profile", b"ID=main"),
    (".profile", b"ID=debug"),
    (".cmdline", b"debug"),
]


@pytest.mark.parametrize(("profile", "expected"), [(0, (b"ID=main", b"base")), (1, (b"ID=debug", b"debug"))])
def test_profiles_replace_sections(profile: int, expected: tuple[bytes, bytes]) -> None:
    found = ukifile.read_uki(pe_image(PROFILES), "u.efi", profile)
    assert (found.data(".profile"), found.data(".cmdline")) == expected
    assert found.data(".osrel") == b"ID=x"


@pytest.mark.parametrize(("image", "count"), [(pe_image(PROFILES), 2), (uki(), 0)])
def test_a_profile_that_is_not_there(image: bytes, count: int) -> None:
    with pytest.raises(MeasureError) as caught:
        ukifile.read_uki(image, "u.efi", 2)
    expected = f"u.efi: profile 2 is asked for, the image has {count} profiles; boot one that is there"
    assert str(caught.value) == expected


def test_a_uki_needs_a_kernel() -> None:
    with pytest.raises(MeasureError) as caught:
        ukifile.read_uki(uki(linux=b""), "u.efi")
    expected = "u.efi: there is no section .linux; the stub boots nothing without a kernel"
    assert str(caught.value) == expected


def test_hardware_chosen_device_trees_are_not_modelled() -> None:
    expected = (
        "x.efi: section .dtbauto is used or not by the hardware the stub runs on, which is not modelled;"
        " use .dtb or none"
    )
    for read in (ukifile.read_uki, ukifile.read_addon):
        with pytest.raises(MeasureError) as caught:
            read(uki(dtbauto=b"x"), "x.efi")
        assert str(caught.value) == expected


def test_a_kernel_that_is_no_image() -> None:
    with pytest.raises(FormatError, match=r"u.efi .linux: offset 0x0: magic is 7879, expected 4d5a"):
        ukifile.read_uki(uki(linux=b"xyz"), "u.efi")


def test_addon_sections() -> None:
    image = pe_image(
        [(".cmdline", b"a=1\n"), (".uname", b"6.12\0"), (".dtb", b"tree"), (".ucode", b"mc"), (".sbat", b"s")]
    )
    found = ukifile.read_addon(image, "a.addon.efi")
    assert (found.command_line, found.uname, found.initrd, found.is_uki) == (b"a=1\n", b"6.12\0", None, False)
    assert found.devicetree is not None
    assert found.microcode is not None
    assert (found.devicetree.data, found.microcode.content) == (b"tree", measured(b"mc"))
    assert found.image.digests[HashAlgorithm.SHA256] == authenticode(image)


@pytest.mark.parametrize(
    ("given", "wanted", "applies"),
    [
        (None, b"6.12", True),
        (b"6.12", None, True),
        (b"6.12", b"6.12", True),
        (b"6.12", b"6.12\0\0", True),
        (b"6.12\0", b"6.12", True),
        (b"6.1", b"6.12", True),
        (b"6.1\0", b"6.12", False),
        (b"6.13", b"6.12", False),
        (b"6.12.1", b"6.12", False),
    ],
)
def test_addons_fit_a_kernel_release(given: bytes | None, wanted: bytes | None, applies: bool) -> None:
    addon = Addon(name="a", image=measured(b""), command_line=b"x", uname=given)
    assert addon.applies_to(wanted) is applies


def test_addons_that_are_passed_over() -> None:
    assert not Addon(name="empty", image=measured(b"")).applies_to(None)
    assert not Addon(name="uki", image=measured(b""), is_uki=True, command_line=b"x").applies_to(None)
    assert ukifile.read_addon(uki(cmdline=b"x"), "uki").is_uki
