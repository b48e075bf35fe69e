"""IGVM files: what is read of them, and what is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.igvm import (
    GuestPolicy,
    IgvmFile,
    PageData,
    ParameterInsert,
    PlatformType,
    SnpIdBlock,
    VpContext,
    parse_fixed,
    parse_igvm,
)
from tests.unit import igvm_files as igvm

PAGE = bytes(range(256)) * 16
START = [igvm.platform(), igvm.policy(0x30000)]
VALID = igvm.build(
    [
        *START,
        igvm.area(7, 0x2000),
        igvm.parameter(0x30C, 7),
        igvm.page(0x1000, PAGE),
        igvm.page(0x2000, kind=igvm.SECRETS),
        igvm.insert(0x5000, 7),
        igvm.context(PAGE, 3),
        igvm.id_block(b"\x42" * 48),
        igvm.required(0x10_0000, 0x8000),
    ]
)


def parse(data: bytes) -> IgvmFile:
    return parse_igvm(data, "F", size=len(data))


def test_every_header() -> None:
    file = parse(VALID)
    assert (file.version, file.size) == (1, len(VALID))
    (platform,) = file.platforms
    assert (PlatformType(platform.platform_type), platform.compatibility_mask) == (PlatformType.SEV_SNP, 1)
    (policy,) = file.initialization
    assert isinstance(policy.value, GuestPolicy)
    assert policy.value.policy == 0x30000
    kinds = [item.type for item in file.directives]
    assert kinds == [0x301, 0x30C, 0x302, 0x302, 0x303, 0x304, 0x30B, 0x305]
    assert [item.number for item in file.directives] == list(range(8))
    first, second = (item.value for item in file.directives if isinstance(item.value, PageData))
    assert (first.gpa, VALID[first.file_offset :][:4096]) == (0x1000, PAGE)
    assert (second.gpa, second.file_offset, second.data_type) == (0x2000, 0, 1)
    insert, context, block = (item.value for item in file.directives[4:7])
    assert isinstance(insert, ParameterInsert)
    assert (insert.gpa, insert.parameter_area_index) == (0x5000, 7)
    assert isinstance(context, VpContext)
    assert (context.gpa, context.vp_index) == (igvm.VMSA_GPA, 3)
    assert isinstance(block, SnpIdBlock)
    assert block.ld == b"\x42" * 48


def test_headers_alone_are_enough() -> None:
    fixed = parse_fixed(VALID[:32], "F", size=len(VALID))
    assert parse_igvm(VALID[: fixed.headers_end], "F", size=len(VALID)) == parse(VALID)
    with pytest.raises(FormatError, match=r"^F: headers end at 0x[0-9a-f]+, 100 bytes are left"):
        parse_igvm(VALID[:100], "F", size=len(VALID))


def test_version_2() -> None:
    file = parse(igvm.build([*START, igvm.page(0, PAGE)], version=2))
    assert (file.version, len(file.directives)) == (2, 1)


def test_what_may_be_left_out_is_left_out() -> None:
    file = parse(igvm.build([*START, igvm.Header(0x8000_03FF, "<3s", (b"abc",)), igvm.page(0)]))
    assert [item.type for item in file.directives] == [0x302]
    file = parse(igvm.build([*START, igvm.Header(0x8000_0309, "<II", (0, 0))]))
    assert [(item.type, item.optional) for item in file.directives] == [(0x309, True)]


def changed(offset: int, value: bytes, *, seal: bool = True) -> bytes:
    data = VALID[:offset] + value + VALID[offset + len(value) :]
    return igvm.seal(data) if seal else data


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def with_header(header: igvm.Header) -> bytes:
    return igvm.build([*START, header])


V2 = igvm.build([*START, igvm.page(0)], version=2)
END = struct.unpack_from("<I", VALID, 12)[0] + 24
PLACE = f"{24 + 24 + 24:#x}"

BAD = {
    b"": "F: offset 0x0: FixedHeader needs 24 bytes, 0 are left; the data is truncated",
    changed(0, b"X"): (
        "F: offset 0x0: magic 0x4d564758 is none of an IGVM file; give the IGVM file that the VMM loads"
    ),
    changed(4, u32(3), seal=False): "F: offset 0x4: format version 3 is not known; known: 1, 2",
    V2[:24] + u32(1) + V2[28:]: "F: offset 0x18: architecture 1 is not x64 (0); give a file for x64",
    V2[:28] + u32(65536) + V2[32:]: (
        "F: offset 0x1c: pages of 65536 bytes, x64 has 4096; the file is damaged"
    ),
    changed(8, u32(20), seal=False): (
        "F: offset 0x8: variable headers at 0x14 are not behind the fixed one, in steps of 8; "
        "the file is damaged"
    ),
    changed(8, u32(28), seal=False): (
        "F: offset 0x8: variable headers at 0x1c are not behind the fixed one, in steps of 8; "
        "the file is damaged"
    ),
    changed(12, u32(1 << 31), seal=False): (
        f"F: offset 0xc: 2147483648 bytes of headers in a file of {len(VALID)}, at most 8388608; "
        "the file is damaged"
    ),
    VALID[:-1]: (
        f"F: offset 0x10: says that the file has {len(VALID)} bytes, it has {len(VALID) - 1}; "
        "the file is cut off or damaged"
    ),
    with_header(igvm.Header(0x3FF, "<I", (0,))): (
        f"F: offset {PLACE}: a header of type 0x3ff is not known; the file is damaged, "
        "or newer than this program"
    ),
    with_header(igvm.Header(0x302, "<I", (0,))): (
        "F: offset 0x50: a header of type 0x302 has 4 bytes, 24 are right; the file is damaged"
    ),
    igvm.build([igvm.page(0), *START]): (
        "F: offset 0x38: a header of type 0x1 stands behind those of a later section; the file is damaged"
    ),
    with_header(igvm.page(0x1234)): (
        f"F: offset {PLACE}: 0x1234 is not the address of a page; the file is damaged"
    ),
    with_header(igvm.insert(1 << 52)): (
        f"F: offset {PLACE}: 0x10000000000000 is not the address of a page; the file is damaged"
    ),
    with_header(igvm.page(0, flags=8)): (
        f"F: offset {PLACE}: what is reserved in a header is not zero; the file is damaged"
    ),
    with_header(igvm.page(0, kind=4)): (
        f"F: offset {PLACE}: a page has the data type 4, none that is known; the file is damaged"
    ),
    with_header(igvm.page(0x1000, flags=1)): (
        f"F: offset {PLACE}: a page of 2 MiB is at 0x1000, between two of them; the file is damaged"
    ),
    with_header(igvm.Header(0x302, "<QIIIHH", (0, 1, 0x50, 0, 0, 0))): (
        f"F: offset {PLACE}: a page's content at 0x50 is not in the file data; the file is damaged"
    ),
    with_header(igvm.Header(0x304, "<QIIHH", (0, 1, 0, 0, 0))): (
        f"F: offset {PLACE}: a page's content at 0x0 is not in the file data; the file is damaged"
    ),
    with_header(igvm.area(0, 100)): (
        f"F: offset {PLACE}: a parameter area has 100 bytes, not whole pages up to 16777216 bytes; "
        "the file is damaged"
    ),
    with_header(igvm.area(0, 1 << 63)): (
        f"F: offset {PLACE}: a parameter area has 9223372036854775808 bytes, not whole pages up to "
        "16777216 bytes; the file is damaged"
    ),
    igvm.build([*START, igvm.area(5), igvm.area(5)]): (
        "F: offset 0x60: parameter area 5 is declared twice; the file is damaged"
    ),
    with_header(igvm.insert(0, 9)): (
        f"F: offset {PLACE}: parameter area 9 is inserted, and never declared; the file is damaged"
    ),
    igvm.build([igvm.platform(mask=3)]): (
        "F: offset 0x18: compatibility mask 0x3 of a platform is not one bit of its own; the file is damaged"
    ),
    igvm.build([igvm.platform(), igvm.platform(0)]): (
        "F: offset 0x30: compatibility mask 0x1 of a platform is not one bit of its own; the file is damaged"
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD.items(), ids=[str(n) for n in range(len(BAD))])
def test_bad_files(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(data)
    assert str(caught.value) == message


def test_checksum_covers_the_headers_alone() -> None:
    with pytest.raises(FormatError, match=r"^F: offset 0x14: checksum 0x00000005 of the headers is not 0x"):
        parse(igvm.seal(VALID, 5))
    with pytest.raises(FormatError, match="checksum"):
        parse(changed(40, b"\xff", seal=False))
    assert parse(changed(len(VALID) - 1, b"\xff", seal=False)) == parse(VALID)


def test_lengths_are_held_against_the_headers() -> None:
    first = 24
    with pytest.raises(FormatError, match=r"^F: offset 0x18: a header of type 0x1 has 4294967295 bytes, "):
        parse(changed(first + 4, u32(0xFFFF_FFFF)))
    padding = igvm.build([*START, igvm.context(PAGE)])
    place = 24 + 24 + 24 + 8 + 20
    with pytest.raises(FormatError, match=r"^F: offset 0x64: the padding of a header is not zero; "):
        parse(igvm.seal(padding[:place] + b"\x01" + padding[place + 1 :]))


@settings(max_examples=80)
@given(st.data())
def test_damage_is_a_format_error_or_harmless(data: st.DataObject) -> None:
    blob = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, END + 8))
        blob[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(blob), len(blob), END, 40, 23]))
    damaged = bytes(blob[:cut])
    for item in (damaged, igvm.seal(damaged) if cut == len(blob) and damaged[12:16] < b"\0\x10" else damaged):
        try:
            parse(item)
        except FormatError as error:
            assert str(error).startswith("F: ")


@settings(max_examples=80)
@given(st.binary(min_size=1, max_size=300))
def test_random_headers(content: bytes) -> None:
    head = struct.pack("<4sIIIII", b"IGVM", 1, 24, len(content), 24 + len(content), 0)
    with pytest.raises(FormatError):
        parse(igvm.seal(head + content))
