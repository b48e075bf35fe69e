from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import uki
from recipes.formats.pe import PeImage
from recipes.formats.uki import SECTION_ORDER, UkiSection, build, stub_version
from tests.support import VECTORS
from tests.unit.boot_images import (
    CERTIFICATES,
    COFF,
    DIRECTORIES,
    OPTIONAL,
    SECTIONS,
    kernel,
    le32,
    patched,
    stub,
)

FUZZ = settings(max_examples=50)


def payload(**extra: bytes) -> list[UkiSection]:
    parts = {
        "cmdline": b"console=ttyS0",
        "initrd": b"cpio" * 300,
        "osrel": b"ID=test\n",
        "uname": b"6.12",
    } | extra
    return [UkiSection(".linux", kernel()), *(UkiSection(f".{name}", data) for name, data in parts.items())]


def plain_vector() -> dict[str, Any]:
    """The ``plain`` image that ukify 257 made with the same stub, and which booted."""
    vector: dict[str, Any] = json.loads((VECTORS / "pcr" / "ukis.json").read_text())["plain"]
    return vector


def test_stub_sections_are_those_of_ukify() -> None:
    image = PeImage.parse(build(stub(), payload()), "uki")
    for expected in plain_vector()["sections"][:6]:
        data = image.section_data(expected["name"])
        section = image.section(expected["name"])
        assert section is not None
        assert hashlib.sha256(data).hexdigest() == expected["sha256"], expected["name"]
        assert section.header.virtual_size == expected["virtual_size"]
        assert section.header.size_of_raw_data == expected["raw_size"]


def test_sbat_is_that_of_ukify() -> None:
    image = PeImage.parse(build(stub(), payload()), "uki")
    assert image.section_data(".sbat").decode() == plain_vector()["small_sections"][".sbat"]


def test_small_sections_are_those_of_ukify() -> None:
    small = plain_vector()["small_sections"]
    texts = {name: small[f".{name}"].encode() for name in ("osrel", "cmdline", "uname")}
    image = PeImage.parse(build(stub(), payload(**texts)), "uki")
    for expected in plain_vector()["sections"]:
        if expected["name"] in {".osrel", ".cmdline", ".uname"}:
            assert hashlib.sha256(image.section_data(expected["name"])).hexdigest() == expected["sha256"]


def test_section_names_are_in_the_order_of_ukify() -> None:
    image = PeImage.parse(build(stub(), payload()), "uki")
    assert [each.name for each in image.sections] == [each["name"] for each in plain_vector()["sections"]]


def test_layout_and_headers() -> None:
    sections = payload(pcrpkey=b"key", pcrsig=b"{}")
    data = build(stub(), sections)
    assert data == build(stub(), list(reversed(sections)))
    image = PeImage.parse(data, "uki")
    assert image.coff.time_date_stamp == 0
    assert image.optional.check_sum == 0
    assert [each.name for each in image.sections[6:]] == [
        ".osrel",
        ".cmdline",
        ".uname",
        ".pcrpkey",
        ".pcrsig",
        ".linux",
        ".initrd",
    ]
    end = offset = 0
    for section in image.sections:
        assert section.header.virtual_address % 0x1000 == 0
        assert section.header.virtual_address >= end
        end = section.header.virtual_address + section.header.virtual_size
        assert section.raw_range.start % 0x200 == 0
        assert section.raw_range.start == (offset or 0x600)
        offset = section.raw_range.stop
    assert offset == len(data)
    assert image.optional.size_of_image == -(-end // 0x1000) * 0x1000
    # The stub's own sum covers .text's neighbours; objdump -x shows 0x5164 before padding is counted.
    stored = sum(each.header.size_of_raw_data for each in image.sections if each.name != ".text")
    assert image.optional.size_of_initialized_data == stored
    for section in image.sections[6:]:
        assert section.header.characteristics == 0x40000040
    for part in sections:
        assert image.section_data(part.name) == part.data


def test_headers_grow_when_the_table_is_full() -> None:
    # The stub claims 0x400 bytes of headers, which hold 17 section headers.
    small = patched(stub(), OPTIONAL + 60, le32(0x400))
    names = [name for name in SECTION_ORDER if name != ".linux"]
    sections = [UkiSection(".linux", kernel()), *(UkiSection(name, name.encode()) for name in names)]
    image = PeImage.parse(build(small, sections), "uki")
    assert len(image.sections) == 19
    assert image.optional.size_of_headers == 0x600
    assert PeImage.parse(build(small, payload()), "uki").optional.size_of_headers == 0x400
    for section in sections:
        assert image.section_data(section.name) == section.data
    assert image.section_data(".text") == PeImage.parse(stub(), "stub").section_data(".text")


def test_headers_cannot_run_into_sections() -> None:
    # The first section at address 0x400 while the headers need 0x600.
    small = patched(patched(stub(), OPTIONAL + 60, le32(0x400)), SECTIONS + 12, le32(0x400))
    names = [name for name in SECTION_ORDER if name != ".linux"]
    sections = [UkiSection(".linux", kernel()), *(UkiSection(name, b"x") for name in names)]
    with pytest.raises(FormatError) as caught:
        build(small, sections)
    assert str(caught.value) == "UKI stub: 19 section headers end at 0x600, sections start at 0x400"


def test_sbat_of_the_kernel_is_merged() -> None:
    # A kernel with a .sbat of its own: the stub again, whose lines then are there twice.
    sections = [UkiSection(".linux", stub())]
    lines = PeImage.parse(build(stub(), sections, sbat="mine,1,Me,mine,1,url"), "uki").section_data(".sbat")
    text = plain_vector()["small_sections"][".sbat"].removesuffix("\0").splitlines()
    assert lines.decode() == "\n".join([text[0], *text[1:3], *text[1:3], "mine,1,Me,mine,1,url"]) + "\n\0"


def test_stub_without_sbat_gets_one() -> None:
    bare = patched(stub(), SECTIONS + 3 * 40, b".other\0\0")
    image = PeImage.parse(build(bare, payload()), "uki")
    assert [each.name for each in image.sections][5:8] == [".reloc", ".sbat", ".osrel"]
    assert image.section_data(".sbat").splitlines()[1:] == [uki.UKI_SBAT.encode(), b"\0"]


def test_stub_version() -> None:
    assert stub_version(stub()) == "257.13-1~deb13u1"
    assert stub_version(build(stub(), payload())) == "257.13-1~deb13u1"


def test_stub_version_of_something_else() -> None:
    with pytest.raises(FormatError) as caught:
        stub_version(kernel())
    assert str(caught.value) == (
        "UKI: section .sdmagic is b'#### LoaderInfo: systemd-addon 257.13-1~deb13u1 ####', "
        "expected '#### LoaderInfo: systemd-stub VERSION ####'"
    )


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (COFF, b"\x4c\x01", "machine is 0x014c, expected one of 0x8664 (x86_64), 0xaa64 (aarch64)"),
        (SECTIONS + 4 * 40, b".sdmagik", "there is no section .sdmagic; take systemd's linux*.efi.stub"),
        (SECTIONS + 2 * 40, b".text\0\0\0", "two sections have the same name"),
        (
            DIRECTORIES + 6 * 8,
            le32(1) + le32(28),
            "the stub has a debug directory, which is not supported; strip it",
        ),
    ],
)
def test_stubs_that_are_refused(offset: int, new: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        build(patched(stub(), offset, new), payload())
    assert str(caught.value) == f"UKI stub: {message}"


def test_signed_stub_is_refused() -> None:
    signed = patched(stub(), CERTIFICATES, le32(len(stub())) + le32(8)) + bytes(8)
    with pytest.raises(FormatError) as caught:
        build(signed, payload())
    assert (
        str(caught.value)
        == "UKI stub: the stub is signed, and adding sections breaks that; take an unsigned one"
    )


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([UkiSection(".initrd", b"x")], "section .linux: missing; a UKI needs a kernel"),
        ([UkiSection(".linux", b"")], "section .linux: empty; leave it out or give it content"),
        (
            [*payload(), UkiSection(".linux", kernel())],
            "section .linux: there twice; a UKI has each section once",
        ),
        ([*payload(), UkiSection(".text", b"x")], None),
        ([UkiSection(".linux", b"ELF")], None),
        (
            [UkiSection(".linux", patched(kernel(), COFF, b"\x64\xaa"))],
            "section .linux: machine 0xaa64, the stub has 0x8664; take the other stub",
        ),
    ],
)
def test_payload_that_is_refused(sections: list[UkiSection], message: str | None) -> None:
    with pytest.raises(FormatError) as caught:
        build(stub(), sections)
    text = str(caught.value)
    if message is None:
        assert text.startswith(
            ("section .text: not a section of a UKI; known are .osrel ", "section .linux: offset 0x0")
        )
    else:
        assert text == message


def test_sbat_must_fit_and_be_text() -> None:
    with pytest.raises(
        FormatError, match=r"^section .sbat: 5[0-9]{3} bytes, the stub has room for 4096; shorten"
    ):
        build(stub(), payload(), sbat="x" * 5000)
    with pytest.raises(FormatError, match=r"^sbat: 'é' is not ASCII$"):
        build(stub(), payload(), sbat="é")
    broken = patched(stub(), 0x16200, b"tabs")
    with pytest.raises(FormatError) as caught:
        build(broken, payload())
    assert str(caught.value) == (
        "UKI stub .sbat: starts with b'tabs,1,SBAT Vers', expected 'sbat,1,' and ASCII text [shim SBAT.md]"
    )


names = st.lists(st.sampled_from([n for n in SECTION_ORDER if n != ".linux"]), unique=True, max_size=6)


@FUZZ
@given(names, st.binary(min_size=1, max_size=3000))
def test_payload_comes_back_unchanged(chosen: list[str], data: bytes) -> None:
    sections = [UkiSection(".linux", kernel()), *(UkiSection(name, data) for name in chosen)]
    image = PeImage.parse(build(stub(), sections), "uki")
    assert {each.name: image.section_data(each.name) for each in sections} == {
        each.name: each.data for each in sections
    }
