"""Strict reading of JSON: what other readers could take for something else is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.document import parse_json, read_document
from recipes.errors import FormatError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: no JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"a":1,"a":1}', "f: no JSON: a key is written twice in one object"),
        ('[{"a":{"b":1,"b":2}}]', "f: no JSON: a key is written twice in one object"),
        ("[NaN]", "f: no JSON: NaN is no number of JSON"),
        ("-Infinity", "f: no JSON: -Infinity is no number of JSON"),
        ("[-1e999]", "f: no JSON: a number is beyond every float"),
        ("7" * 101, "f: no JSON: a number has 101 digits, at most 100 are read"),
        ("7" * 9000, "f: no JSON: a number has 9000 digits, at most 100 are read"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_json(text, "f")
    assert str(caught.value) == message


def test_depth_is_an_error_of_the_format() -> None:
    with pytest.raises(FormatError, match=r"^f: no JSON: "):
        parse_json("[" * 200_000, "f")


def test_largest_number_that_is_read() -> None:
    assert parse_json("7" * 100, "f") == (10**100 - 1) // 9 * 7


def test_document_of_another_schema() -> None:
    with pytest.raises(FormatError, match=r"^f: schema 2; this version reads schema 1$"):
        read_document('{"schema":2}', "f", 1)


@settings(max_examples=150)
@given(st.text(alphabet='{}[]",:0123456789-+.eE \\untrfalsNIi\x00é', max_size=60))
def test_any_text(text: str) -> None:
    with contextlib.suppress(FormatError):
        parse_json(text, "f")
