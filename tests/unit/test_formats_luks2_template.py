from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import luks2
from recipes.formats.luks2_json import Charset
from recipes.formats.luks2_model import (
    Argon2id,
    Expected,
    Integrity,
    KdfBounds,
    Pbkdf2,
    TokenField,
    TokenShape,
)
from recipes.formats.luks2_template import (
    Hole,
    Literal,
    Same,
    Template,
    check,
    checksum,
    fill,
    matches,
    pin,
    shell_table,
    template,
)
from tests.unit import luks2_forgeries as forge

EXAMPLES = (
    forge.PLAIN,
    forge.OWNED,
    replace(forge.PLAIN, uuid=forge.VOLUME_UUID),
    Expected(
        keyslots=(KdfBounds(Argon2id(1, 64, 1)), KdfBounds(Pbkdf2(1234))),
        sector_size=512,
        integrity=Integrity.HMAC_SHA256,
        tokens=(
            TokenShape(
                "x",
                (0, 1),
                (
                    TokenField("hash", size=64, charset=Charset.HEX),
                    TokenField("pin", False),
                    TokenField("id", size=36, charset=Charset.UUID),
                    TokenField("blob", size=42, padding=2),
                ),
            ),
            TokenShape("y", (1,)),
        ),
    ),
)
# Where the writers' own numbers say that the holes are: "Binary Header", and the text before each salt.
PLAIN_HOLES = (
    ("sequence", 22, 2, Charset.BINARY),
    ("primary.salt", 104, 64, Charset.BINARY),
    ("uuid", 168, 36, Charset.UUID),
    ("primary.checksum", 448, 32, Charset.SHA256),
    ("keyslots.0.kdf.salt", 4361, 43, Charset.BASE64),
    ("digests.0.salt", 4666, 43, Charset.BASE64),
    ("digests.0.digest", 4722, 43, Charset.BASE64),
    ("secondary.salt", 16488, 64, Charset.BINARY),
    ("secondary.checksum", 16832, 32, Charset.SHA256),
    ("keyslot.0", 32768, 258048, Charset.BINARY),
)


NULL, AES = b'cipher_null-ecb","key_si', b'aes-xts-plain64","key_si'


@cache
def shape_of(index: int) -> Template:
    return template(EXAMPLES[index])


@cache
def good(index: int) -> bytes:
    if index == 3:
        return luks2.format(
            EXAMPLES[3],
            uuid=forge.VOLUME_UUID,
            seed=luks2.Seed(bytes(32)),
            volume_key=hashlib.shake_256(b"k").digest(96),
            passphrases=[b"a", b"b"],
            tokens=[("0f" * 32, str(forge.VOLUME_UUID), "A" * 42), ()],
        )
    return forge.volume(EXAMPLES[index])


def test_the_holes_are_where_a_header_differs_from_another() -> None:
    shape = shape_of(0)
    assert tuple((hole.name, hole.offset, hole.size, hole.charset) for hole in shape.holes) == PLAIN_HOLES
    data = good(0)
    value = forge.document(data)
    for name, offset, size, _ in PLAIN_HOLES[4:7]:
        text = data[offset : offset + size].decode()
        kind = name.split(".")
        found = (
            value[kind[0]]["0"]["kdf"]["salt"] if kind[0] == "keyslots" else value["digests"]["0"][kind[2]]
        )
        assert found == text + "="
    assert data[168:204] == str(forge.VOLUME_UUID).encode()


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_parts_have_no_gap_and_cover_everything(index: int) -> None:
    shape = shape_of(index)
    position = 0
    for part in shape.parts:
        assert part.offset == position
        assert part.size > 0
        if isinstance(part, Same):
            assert part.earlier + part.size <= part.offset
        position += part.size
    assert position == shape.size == EXAMPLES[index].metadata_size == len(good(index))
    names = [hole.name for hole in shape.holes]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_what_is_formatted_matches(index: int) -> None:
    assert matches(good(index), shape_of(index))
    assert matches(good(index) + b"data", shape_of(index))
    check(good(index), shape_of(index), "disk")
    assert luks2.read(good(index), EXAMPLES[index], "disk")


@pytest.mark.parametrize("forgery", forge.FORGERIES, ids=lambda each: each.name)
def test_forged_headers_do_not_match(forgery: forge.Forgery) -> None:
    forged = forgery.make(good(0))
    assert not matches(forged, shape_of(0))
    with pytest.raises(FormatError, match=r"^disk: offset 0x[0-9a-f]+: .*; do not open this volume$"):
        check(forged, shape_of(0), "disk")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("null cipher in the key slot", f"offset 0x10a8: header has {NULL!r}, the template {AES!r}"),
        ("wrong checksum", "offset 0x1c0: the header checksum is wrong"),
        ("mismatched copies", "offset 0x5000: 12288 bytes differ from those at 0x1000"),
        ("a second copy of another volume", "offset 0x40a8: 36 bytes differ from those at 0xa8"),
        ("an upper-case UUID", "offset 0xa8: uuid is not 36 characters of uuid"),
        ("cut file", "offset 0x46fff: the header ends after 290815 of 290816 bytes"),
        (
            "salt with a line end",
            'offset 0x1265: header has b\'\\\\n","digest":\', the template b\'=","digest":"\'',
        ),
    ],
)
def test_what_the_template_says(name: str, message: str) -> None:
    (forgery,) = [each for each in forge.FORGERIES if each.name == name]
    with pytest.raises(FormatError) as caught:
        check(forgery.make(good(0)), shape_of(0), "disk")
    assert str(caught.value) == f"disk: {message}{forge.ADVICE}"


def test_members_in_another_order_do_not_match() -> None:
    """The reader takes them; the template knows one order only."""
    forged = forge.edited(good(0), lambda value: value.update(keyslots=value.pop("keyslots")))
    assert luks2.read(forged, forge.PLAIN, "disk")
    assert not matches(forged, shape_of(0))


def test_a_range_has_no_template() -> None:
    expected = replace(forge.PLAIN, keyslots=(KdfBounds(Pbkdf2(1000), Pbkdf2(2000)),))
    with pytest.raises(FormatError) as caught:
        template(expected)
    assert str(caught.value) == (
        "luks2 template: keyslots.0.kdf.iterations is a range, 1000 to 2000; give one cost"
    )


_ALPHABET = {
    Charset.BASE64: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    Charset.HEX: "0123456789abcdef",
}


def _content(draw: st.DrawFn, hole: Hole) -> bytes:
    if hole.charset in (Charset.BINARY, Charset.SHA256):
        return hashlib.shake_256(draw(st.binary(max_size=4))).digest(hole.size)
    if hole.charset is Charset.UUID:
        return str(draw(st.uuids())).encode()
    return draw(st.text(_ALPHABET[hole.charset], min_size=hole.size, max_size=hole.size)).encode()


@st.composite
def matching(draw: st.DrawFn) -> tuple[int, bytes]:
    """Which example, and a header that its template matches, filled part by part without our writer."""
    index = draw(st.integers(0, len(EXAMPLES) - 1))
    shape = shape_of(index)
    out = bytearray(good(index))
    for part in shape.parts:
        if isinstance(part, Hole):
            out[part.offset : part.offset + part.size] = _content(draw, part)
        elif isinstance(part, Same):
            out[part.offset : part.offset + part.size] = out[part.earlier : part.earlier + part.size]
    return index, forge.resealed(bytes(out))


@settings(max_examples=100)
@given(matching())
def test_whatever_matches_is_read(example: tuple[int, bytes]) -> None:
    index, data = example
    assert matches(data, shape_of(index))
    header = luks2.read(data, EXAMPLES[index], "disk")
    value = forge.document(data)
    for number, slot in enumerate(header.keyslots):
        assert slot.salt == base64.b64decode(value["keyslots"][str(number)]["kdf"]["salt"])
    areas = [
        data[EXAMPLES[index].area(slot) : EXAMPLES[index].area(slot + 1)]
        for slot in range(len(header.keyslots))
    ]
    again = luks2.pack(header, areas)
    # base64 has spare bits at its end that the writer leaves at zero
    assert luks2.read(again, EXAMPLES[index], "disk") == header
    assert matches(again, shape_of(index))


def _changed(data: bytes, at: int, change: int, *, both: bool) -> bytes:
    """One literal byte changed, in both copies of the JSON area if asked; checksums made right again."""
    out = bytearray(data)
    out[at] ^= change
    if both and 4096 <= at < 16384:
        out[at + 16384] ^= change
    return forge.resealed(bytes(out))


@settings(max_examples=150)
@given(
    st.integers(0, len(EXAMPLES) - 1),
    st.integers(0, 32767),
    st.integers(1, 255),
    st.booleans(),
    st.booleans(),
)
def test_a_changed_literal_byte_is_refused_by_both(
    index: int, at: int, change: int, both: bool, early: bool
) -> None:
    shape = shape_of(index)
    literals = [part for part in shape.parts if isinstance(part, Literal)]
    if early:  # where the text is
        at = 4096 + at % 1200
    if not any(part.offset <= at < part.offset + part.size for part in literals):
        return
    if 448 <= at % 16384 < 512:
        return  # the checksum's field is made right again
    forged = _changed(good(index), at, change, both=both)
    assert not matches(forged, shape)
    with pytest.raises(FormatError):
        luks2.read(forged, EXAMPLES[index], "disk")


def test_every_literal_byte_of_the_text_counts() -> None:
    """All of them, changed alike in both copies and with right checksums: each change has a meaning."""
    shape, data = shape_of(0), good(0)
    for part in shape.parts:
        if not isinstance(part, Literal) or part.offset >= 16384:
            continue
        for at in range(part.offset, part.offset + part.size):
            if at > 5300 or 600 < at < 4096 or 448 <= at < 512:
                continue
            forged = _changed(data, at, 1, both=True)
            assert not matches(forged, shape), at
            with pytest.raises(FormatError):
                luks2.read(forged, forge.PLAIN, "disk")


@pytest.mark.parametrize("at", [480, 511, 16384 + 480])
def test_the_rest_of_the_checksum_field_is_zero(at: int) -> None:
    forged = good(0)[:at] + b"\1" + good(0)[at + 1 :]
    assert not matches(forged, shape_of(0))
    with pytest.raises(FormatError):
        luks2.read(forged, forge.PLAIN, "disk")


def by_table(data: bytes, table: str) -> bool:
    """What a shell does with the table, from its lines alone."""
    for line in table.splitlines():
        kind, *words = line.split(" ")
        offset, size = map(int, words[-3:-1] if kind == "hole" else words[:2])
        part = data[offset : offset + size]
        if len(part) != size:
            return False
        if kind == "literal":
            right = hashlib.sha256(part).hexdigest() == words[2]
        elif kind == "same":
            right = part == data[int(words[2]) : int(words[2]) + size]
        elif words[-1] == "sha256":
            start = offset // 16384 * 16384
            copy = data[start:offset] + bytes(32) + data[offset + 32 : start + 16384]
            right = hashlib.sha256(copy).digest() == part
        else:
            alphabet = {
                "binary": rb"[\x00-\xff]*",
                "base64": rb"[A-Za-z0-9+/]*",
                "hex": rb"[0-9a-f]*",
                "uuid": rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            }
            right = re.fullmatch(alphabet[words[-1]], part) is not None
        if not right:
            return False
    return True


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_the_table_says_all_that_the_template_does(index: int) -> None:
    table = shell_table(shape_of(index))
    assert table.isascii()
    assert table.endswith("\n")
    assert by_table(good(index), table)


@pytest.mark.parametrize("forgery", forge.FORGERIES, ids=lambda each: each.name)
def test_the_table_refuses_forged_headers(forgery: forge.Forgery) -> None:
    assert not by_table(forgery.make(good(0)), shell_table(shape_of(0)))


def test_the_table_of_a_plain_volume() -> None:
    lines = shell_table(shape_of(0)).splitlines()
    assert len(lines) <= 30  # each costs the guest a process or two
    # magic, version 2, 16384 bytes, and six zero bytes of the sequence number
    start = bytes.fromhex("4c554b53babe 0002 0000000000004000 000000000000")
    assert lines[:2] == [f"literal 0 22 {hashlib.sha256(start).hexdigest()}", "hole sequence 22 2 binary"]
    assert lines[-2:] == ["same 20480 12288 4096", "hole keyslot.0 32768 258048 binary"]


# Of a plain volume: what says which volume key is the right one.
KEY_HOLES = ("digests.0.salt", "digests.0.digest")


def pinned(index: int, data: bytes) -> Template:
    shape = shape_of(index)
    places = {hole.name: slice(hole.offset, hole.offset + hole.size) for hole in shape.holes}
    return pin(shape, {name: data[places[name]] for name in KEY_HOLES})


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_a_pinned_template_is_of_one_volume_key(index: int) -> None:
    shape, data = pinned(index, good(index)), good(index)
    assert [hole for hole in shape_of(index).holes if hole.name not in KEY_HOLES] == list(shape.holes)
    position = 0
    # Both holes and the literal behind each are one with what is in front.
    assert len(shape.parts) == len(shape_of(index).parts) - 4
    for part in shape.parts:
        assert part.offset == position
        position += part.size
    assert position == shape.size == shape_of(index).size
    assert matches(data, shape)
    assert by_table(data, shell_table(shape))
    for hole in shape_of(index).holes:
        if hole.name in KEY_HOLES:
            other = bytearray(data)
            other[hole.offset] = ord("A") if data[hole.offset] != ord("A") else ord("B")
            for copy in range(2):
                start = copy * 16384
                other[start + 4096 : start + 16384] = other[4096:16384]
                other[start + 448 : start + 480] = checksum(other[start : start + 16384])
            assert matches(bytes(other), shape_of(index))
            assert not matches(bytes(other), shape)
            assert not by_table(bytes(other), shell_table(shape))


def test_nothing_pinned_is_the_same_template() -> None:
    assert pin(shape_of(0), {}) == shape_of(0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"digests.1.salt": b""}, "luks2 template: digests.1.salt is no hole that can be pinned"),
        ({"primary.checksum": bytes(32)}, "luks2 template: primary.checksum is no hole that can be pinned"),
        ({"digests.0.salt": b"A" * 42}, "luks2 header: digests.0.salt is not 43 characters of base64"),
        ({"digests.0.salt": b"-" * 43}, "luks2 header: digests.0.salt is not 43 characters of base64"),
    ],
)
def test_what_cannot_be_pinned(values: dict[str, bytes], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        pin(shape_of(0), values)
    assert str(caught.value) == message


def test_fill_wants_every_hole() -> None:
    with pytest.raises(FormatError) as caught:
        fill(shape_of(0), {"sequence": b"\0\1"})
    assert str(caught.value) == "luks2 header: primary.salt has no value"


@settings(max_examples=100)
@given(st.binary(max_size=200), st.integers(0, 40000), st.integers(0, 290816))
def test_any_bytes_have_an_answer(patch: bytes, at: int, size: int) -> None:
    data = (good(0)[:at] + patch + good(0)[at + len(patch) :])[:size]
    assert matches(data, shape_of(0)) == by_table(data, shell_table(shape_of(0)))
