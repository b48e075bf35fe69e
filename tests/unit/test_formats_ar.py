from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import ar
from tests import packages

PACKAGE = packages.ar(("debian-binary", b"2.0\n"), ("control.tar", b"abc"), ("data.tar", b"defg"))


def members(data: bytes) -> list[tuple[str, bytes]]:
    found = ar.members(io.BytesIO(data), "x.deb")
    return [(member.name, data[member.offset : member.offset + member.size]) for member in found]


def test_header_size() -> None:
    assert ar.Header.SIZE == 60


def test_members_in_order() -> None:
    assert members(PACKAGE) == [("debian-binary", b"2.0\n"), ("control.tar", b"abc"), ("data.tar", b"defg")]


def test_system_v_name() -> None:
    assert members(packages.ar(("debian-binary/", b"2.0\n"))) == [("debian-binary", b"2.0\n")]


def test_no_members() -> None:
    assert members(b"!<arch>\n") == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.deb: offset 0x0: not an ar archive: begins with b'', expected b'!<arch>\\n'"),
        (
            b"PK\3\4zip",
            "x.deb: offset 0x0: not an ar archive: begins with b'PK\\x03\\x04zip', expected b'!<arch>\\n'",
        ),
        (
            PACKAGE[:30],
            (
                "x.deb: member header at offset 0x8: offset 0x0: Header needs 60 bytes, 22 are left; "
                "the data is truncated"
            ),
        ),
        (PACKAGE[:70], "x.deb: offset 0x8: member debian-binary should have 4 bytes, 2 are left; truncated"),
        (
            PACKAGE[:135],
            (
                "x.deb: offset 0x87: member control.tar is followed by b'', expected a newline; "
                "truncated or damaged"
            ),
        ),
        (
            PACKAGE + b"x" * 60,
            "x.deb: offset 0xc8: member header ends with b'xx', expected b'`\\n'; damaged or trailing bytes",
        ),
        (
            packages.ar(("a", b""), ("a", b"")),
            "x.deb: offset 0x44: member 'a' is there twice",
        ),
        (
            packages.ar(("../a", b"")),
            "x.deb: offset 0x8: member name b'../a            ' is not one that a package may have",
        ),
        (
            packages.ar(("a", b"")).replace(b"0         `", b"-1        `"),
            "x.deb: offset 0x8: member size b'-1        ' is not a decimal number",
        ),
        (
            packages.ar(*((f"m{index}", b"") for index in range(65))),
            "x.deb: offset 0xf08: more than 64 members; not a package",
        ),
    ],
)
def test_bad_archives(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        members(data)
    assert str(caught.value) == message


@settings(max_examples=100)
@given(st.integers(0, len(PACKAGE) - 1), st.binary(max_size=12), st.integers(0, 12))
def test_mutations_never_escape(offset: int, patch: bytes, removed: int) -> None:
    data = PACKAGE[:offset] + patch + PACKAGE[offset + removed :]
    try:
        found = ar.members(io.BytesIO(data), "x.deb")
    except FormatError:
        return
    assert all(member.offset + member.size <= len(data) for member in found)
