from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import control
from recipes.formats.control import Paragraph
from recipes.formats.relations import Relation, compare_versions, relations

TEXT = b"""Package: hello
Version: 2.10-3
Depends: libc6 (>= 2.34)
Conffiles:
 /etc/hello 0123
Description: example
 Two lines.
 .
 Gr\xc3\xbc\xc3\x9fe
"""


def test_fields_in_order() -> None:
    paragraph = control.parse(TEXT, "control")
    assert paragraph.fields == (
        ("Package", "hello"),
        ("Version", "2.10-3"),
        ("Depends", "libc6 (>= 2.34)"),
        ("Conffiles", "\n /etc/hello 0123"),
        ("Description", "example\n Two lines.\n .\n Grüße"),
    )
    assert paragraph.render().encode() == TEXT


def test_get_ignores_case() -> None:
    paragraph = control.parse(TEXT, "control")
    assert paragraph.get("package") == paragraph.get("PACKAGE") == "hello"
    assert paragraph.get("Source") == ""
    assert paragraph.get("Source", "none") == "none"
    assert "version" in paragraph
    assert "Source" not in paragraph


def test_replaced() -> None:
    paragraph = control.parse(b"A: 1\nB: 2\n", "control")
    assert paragraph.replaced("a", "3").render() == "A: 3\nB: 2\n"
    assert paragraph.replaced("C", "3").render() == "A: 1\nB: 2\nC: 3\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "c: offset 0x0: an empty line, so no paragraph or more than one; within a field write ` .`"),
        (
            b"A: 1\n\nB: 2\n",
            "c: offset 0x5: an empty line, so no paragraph or more than one; within a field write ` .`",
        ),
        (
            b"A: 1\n \nB: 2\n",
            "c: offset 0x5: an empty line, so no paragraph or more than one; within a field write ` .`",
        ),
        (b"A: 1\nb\n", "c: offset 0x5: 'b' is no field; expected `Name: value`"),
        (b"#A: 1\n", "c: offset 0x0: '#A: 1' is no field; expected `Name: value`"),
        (b"-A: 1\n", "c: offset 0x0: '-A: 1' is no field; expected `Name: value`"),
        (b"A B: 1\n", "c: offset 0x0: 'A B: 1' is no field; expected `Name: value`"),
        (b" A: 1\n", "c: offset 0x0: continuation line ' A: 1' before any field"),
        (b"\n\nA: 1\na: 2\n", "c: offset 0x7: field a is there twice"),
        (b"A: \xff\n", "c: offset 0x3: not UTF-8"),
        (b"A: 1\r\nB: 2\n", "c: offset 0x0: a control character in 'A: 1\\r'"),
        (b"A: \0\n", "c: offset 0x0: a control character in 'A: \\x00'"),
        (b"A: " + b"x" * (4 << 20), "c: offset 0x0: a paragraph of 4.0 MiB, at most 4 MiB are sensible"),
    ],
)
def test_bad_paragraphs(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        control.parse(data, "c")
    assert str(caught.value) == message


def test_stanzas_across_read_boundaries() -> None:
    texts = [f"Package: p{index}\nFiller: {'x' * (index % 701)}\n" for index in range(4000)]
    data = "\n".join(texts).encode()
    found = list(control.stanzas(io.BytesIO(data), "Packages"))
    assert [control.package_name(stanza) for _, stanza in found] == [f"p{index}" for index in range(4000)]
    assert all(data[offset:].startswith(stanza) for offset, stanza in found)


def test_stanzas_with_more_empty_lines() -> None:
    found = list(control.paragraphs(io.BytesIO(b"\n\n\nA: 1\n\n\n\nB: 2\n\n\n"), "status"))
    assert found == [Paragraph((("A", "1"),)), Paragraph((("B", "2"),))]


def test_endless_stanza() -> None:
    with pytest.raises(FormatError) as caught:
        list(control.stanzas(io.BytesIO(b"x" * (9 << 20)), "Packages"))
    assert str(caught.value) == "Packages: offset 0x0: no paragraph ends within 4 MiB"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("Package: a\nVersion: 1-2\n", ("a", "1-2")),
        ("Package: a\nSource: b\nVersion: 1-2\n", ("b", "1-2")),
        ("Package: a\nSource: b (3:4)\nVersion: 1-2\n", ("b", "3:4")),
    ],
)
def test_source_of(text: str, source: tuple[str, str]) -> None:
    assert control.source_of(control.parse(text.encode(), "c")) == source


def test_bad_source() -> None:
    with pytest.raises(FormatError) as caught:
        control.source_of(control.parse(b"Package: a\nSource: b 3\n", "c"))
    assert str(caught.value) == "package a: source field is 'b 3', expected `name` or `name (version)`"


NAMES = st.from_regex(r"[A-Z][A-Za-z0-9-]{0,8}", fullmatch=True)
LINES = st.text("aZ0:#-.,éß", max_size=12)


@settings(max_examples=40)
@given(
    st.dictionaries(
        NAMES.map(str.upper), st.tuples(LINES, st.lists(LINES.filter(bool), max_size=3)), min_size=1
    )
)
def test_round_trip(values: dict[str, tuple[str, list[str]]]) -> None:
    fields = tuple((name, "\n ".join((first, *rest))) for name, (first, rest) in values.items())
    assert control.parse(Paragraph(fields).render().encode(), "c") == Paragraph(fields)


@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=60), st.tuples(st.integers(0, len(TEXT)), st.binary(max_size=6))))
def test_random_bytes_never_escape(change: bytes | tuple[int, bytes]) -> None:
    data = change if isinstance(change, bytes) else TEXT[: change[0]] + change[1] + TEXT[change[0] :]
    try:
        assert control.parse(data, "c").fields
        control.source_of(control.parse(data, "c"))
    except FormatError:
        pass


def test_relations() -> None:
    assert relations("libc6 (>= 2.38), awk | mawk:any(<<1~),perl:any", "c") == (
        (Relation("libc6", ">=", "2.38"),),
        (Relation("awk"), Relation("mawk", "<<", "1~")),
        (Relation("perl"),),
    )
    assert relations("", "c") == ()


@pytest.mark.parametrize("text", ["libc6 (2.38)", "LIBC6", "a b", "a |", "a (>= 1", "a (!= 1)"])
def test_bad_relations(text: str) -> None:
    with pytest.raises(FormatError, match="is no package relation; expected `name` or `name "):
        relations(text, "c")


# Orders that Debian Policy 5.6.12 and deb-version(7) give as examples; test_debs.py asks dpkg itself.
ORDERED = ["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-1", "1.0a", "1.0+b1", "1.2", "1.10", "1:0.1"]


def test_versions_in_order() -> None:
    for index, left in enumerate(ORDERED):
        for other, right in enumerate(ORDERED):
            order = compare_versions(left, right)
            assert (order > 0) - (order < 0) == (index > other) - (index < other), (left, right)


@pytest.mark.parametrize(("left", "right"), [("1.0", "0:1.0-0"), ("1.01", "1.1"), ("1.0-1", "1.0-01")])
def test_equal_versions(left: str, right: str) -> None:
    assert compare_versions(left, right) == 0


@pytest.mark.parametrize("version", ["", "1 2", "a:1", "1_2", "1" * 1025])
def test_bad_versions(version: str) -> None:
    with pytest.raises(FormatError, match=r"expected \[epoch:\]upstream\[-revision\]"):
        compare_versions(version, "1")


@pytest.mark.parametrize(
    ("operator", "allowed"),
    [
        ("<<", [True, False, False]),
        ("<=", [True, True, False]),
        ("=", [False, True, False]),
        (">=", [False, True, True]),
        (">>", [False, False, True]),
        ("", [True, True, True]),
    ],
)
def test_relation_allows(operator: str, allowed: list[bool]) -> None:
    relation = Relation("a", operator, "2" if operator else "")
    assert [relation.allows("a", version) for version in ("1", "2", "3")] == allowed
    assert not relation.allows("b", "2")
