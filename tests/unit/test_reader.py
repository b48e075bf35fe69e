from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import SpecError
from recipes.reader import Size, Text, load


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    name: Annotated[str, Text("[a-z]+", "abc")]
    count: int = 1


@dataclass(frozen=True)
class Outer:
    size: Annotated[int, Size]
    inner: Inner
    names: tuple[str, ...] = ()
    flag: bool = False
    colour: Colour = Colour.RED
    note: str | None = None


GOOD = "size: 2GiB\ninner: {name: abc, count: 3}\nnames: [a, b]\nflag: true\ncolour: blue\n"


def test_reads_every_kind_of_value() -> None:
    value, _ = load(GOOD, "x.yaml", Outer)
    assert value == Outer(2 << 30, Inner("abc", 3), ("a", "b"), True, Colour.BLUE, None)


def test_a_single_value_is_a_list_of_one() -> None:
    value, _ = load("size: 1MiB\ninner: {name: a}\nnames: one\n", "x.yaml", Outer)
    assert value.names == ("one",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml:1:1: the file is empty"),
        ("[]", "x.yaml:1:1: the recipe: expected keys and values, found a list"),
        ("a: [", "x.yaml:2:1: not YAML: did not find expected node content"),
        (
            "size: 2Gb\ninner: {name: a}",
            "x.yaml:1:7: size: '2Gb' is not a size; write for example 512MiB or 2GiB",
        ),
        (
            "size: 512\ninner: {name: a}",
            "x.yaml:1:7: size: '512' is not a size; write for example 512MiB or 2GiB",
        ),
        ("size: 1MiB\ninner: {nam: a}", "x.yaml:2:9: unknown key 'nam'; did you mean 'name'?"),
        (
            "size: 1MiB\ninner: {name: A}",
            "x.yaml:2:15: inner.name: 'A' is not allowed; write for example abc",
        ),
        ("size: 1MiB\nsize: 1MiB\ninner: {name: a}", "x.yaml:2:1: key 'size' is written twice"),
        ("inner: {name: a}", "x.yaml:1:1: the recipe: key 'size' is missing"),
        ("size: 1MiB\ninner: {name: no}", "x.yaml:2:15: inner.name: expected text, found yes or no ('no')"),
        ("size: 1MiB\ninner: {name: 12}", "x.yaml:2:15: inner.name: expected text, found a number ('12')"),
        (
            "size: 1MiB\ninner: {name: a, count: 010}",
            "inner.count: '010' is not a whole number in decimal digits",
        ),
        ("size: 1MiB\ninner: {name: a, count: many}", "expected a whole number, found text ('many')"),
        (
            "size: 1MiB\ninner: {name: a}\ncolour: bleu",
            "x.yaml:3:9: colour: 'bleu' is not known; did you mean 'blue'?",
        ),
        (
            "size: 1MiB\ninner: {name: a}\nflag: 1",
            "x.yaml:3:7: flag: expected true or false, found a number ('1')",
        ),
        (
            "size: 1MiB\ninner: {name: a}\nnames: {a: b}",
            "x.yaml:3:8: names: expected a list, found keys and values",
        ),
        ("[" * 100 + "]" * 100, "x.yaml:1:1: nested more than 16 levels deep"),
    ],
)
def test_every_mistake_has_its_message(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(text, "x.yaml", Outer)
    assert message in str(caught.value)


def test_all_mistakes_come_at_once_in_file_order() -> None:
    with pytest.raises(SpecError) as caught:
        load("sise: 1MiB\ninner: {name: 1, cont: 2}\ncolour: green\n", "x.yaml", Outer)
    assert [(item.line, item.column) for item in caught.value.problems] == [
        (1, 1),
        (2, 15),
        (2, 18),
        (3, 9),
    ]


@settings(max_examples=150)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda data: data.decode("latin-1"))))
def test_nothing_but_spec_errors_comes_out(text: str) -> None:
    try:
        load(text, "x.yaml", Outer)
    except SpecError as error:
        assert str(error).startswith("x.yaml:")


@settings(max_examples=150)
@given(st.data())
def test_mutated_recipes_give_spec_errors_only(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(GOOD) - 1))
    text = GOOD[:place] + data.draw(st.text(max_size=4)) + GOOD[place + data.draw(st.integers(0, 4)) :]
    try:
        load(text, "x.yaml", Outer)
    except SpecError as error:
        assert "x.yaml:" in str(error)
