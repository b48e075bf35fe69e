"""Classes of recipes.record beside the same classes of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from recipes import record
from tests.support import ROOT


def make(module: Any) -> list[type[Any]]:
    """The same classes, once made by us and once by the standard library."""

    @module.dataclass(frozen=True, order=True)
    class Place:
        """A place."""

        kind: ClassVar[str] = "place"
        row: int
        column: int = 7

    @module.dataclass(frozen=True, kw_only=True)
    class Named:
        """A value given by name."""

        name: str
        places: tuple[Any, ...] = ()
        secret: bytes = module.field(default=b"", repr=False)
        notes: dict[str, str] = module.field(default_factory=dict, compare=False)

    @module.dataclass(frozen=True, kw_only=True)
    class More(Named):
        """One with a field more."""

        size: int

    @module.dataclass
    class Open:
        """One that changes."""

        words: list[str] = module.field(default_factory=list)
        count: int = 0

        def __post_init__(self) -> None:
            self.count += 1

    @module.dataclass(frozen=True, eq=False)
    class Apart:
        """One that is equal to itself alone."""

        row: int

    return [Place, Named, More, Open, Apart]


OURS, THEIRS = make(record), make(dataclasses)
PLACE, NAMED, MORE, OPEN, APART = range(5)
CALLS: tuple[tuple[int, tuple[Any, ...], dict[str, Any]], ...] = (
    (PLACE, (1,), {}),
    (PLACE, (1, 2), {}),
    (PLACE, (), {"column": 2, "row": 1}),
    (NAMED, (), {"name": "a"}),
    (NAMED, (), {"name": "a", "secret": b"s", "notes": {"x": "y"}}),
    (MORE, (), {"name": "a", "size": 3, "places": (1, 2)}),
    (OPEN, (), {}),
    (OPEN, (["w"],), {"count": 5}),
    (APART, (1,), {}),
)


@pytest.mark.parametrize(("index", "given", "named"), CALLS)
def test_same_values(index: int, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    ours, theirs = OURS[index](*given, **named), THEIRS[index](*given, **named)
    assert repr(ours) == repr(theirs)
    assert vars(ours) == vars(theirs)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert record.items_of(ours) == record.items_of(theirs) == list(vars(theirs).items())
    assert (ours == OURS[index](*given, **named)) is (theirs == THEIRS[index](*given, **named))
    assert copy.deepcopy(ours) == ours or index == APART


@pytest.mark.parametrize("index", range(5))
def test_same_fields(index: int) -> None:
    rows = [
        [
            (item.name, item.type, item.default, item.default_factory, item.kw_only, item.repr, item.compare)
            for item in dataclasses.fields(made[index])
        ]
        for made in (OURS, THEIRS)
    ]
    assert rows[0] == rows[1]
    assert OURS[index].__match_args__ == THEIRS[index].__match_args__
    assert dataclasses.is_dataclass(OURS[index])
    assert record.names_of(OURS[index]) == tuple(row[0] for row in rows[1])


@pytest.mark.parametrize(
    ("index", "given", "named", "text"),
    [
        (PLACE, (), {}, "Place: given twice, unknown or missing: row"),
        (PLACE, (1, 2, 3), {}, "Place: takes 2 values by place, 3 given"),
        (PLACE, (1,), {"row": 2}, "Place: given twice, unknown or missing: row"),
        (PLACE, (1,), {"rwo": 2}, "Place: given twice, unknown or missing: rwo"),
        (NAMED, ("a",), {}, "Named: takes 0 values by place, 1 given"),
        (MORE, (), {"name": "a", "sise": 1}, "More: given twice, unknown or missing: sise, size"),
    ],
)
def test_wrong_calls(index: int, given: tuple[Any, ...], named: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError):
        THEIRS[index](*given, **named)
    with pytest.raises(TypeError) as caught:
        OURS[index](*given, **named)
    assert str(caught.value) == text


@pytest.mark.parametrize("made", [OURS, THEIRS])
def test_equal_ordered_and_hashed(made: list[type[Any]]) -> None:
    place = made[PLACE]
    assert place(1, 2) == place(1, 2) != place(1, 3)
    assert place(1, 2) != made[APART](1)
    assert hash(place(1, 2)) == hash(place(1, 2))
    assert sorted([place(2, 1), place(1, 9), place(1, 2)]) == [place(1, 2), place(1, 9), place(2, 1)]
    assert place(1, 2) <= place(1, 2) < place(1, 3)
    assert place(1, 3) >= place(1, 3) > place(1, 2)
    with pytest.raises(TypeError):
        _ = place(1) < 1
    assert made[NAMED](name="a", notes={"x": ""}) == made[NAMED](name="a")
    assert made[NAMED](name="a") != made[MORE](name="a", size=1)
    assert made[APART](1) != made[APART](1)
    with pytest.raises(TypeError):
        hash(made[OPEN]())
    assert made[OPEN]().words is not made[OPEN]().words


@pytest.mark.parametrize("made", [OURS, THEIRS])
@pytest.mark.parametrize("replace", [record.replace, dataclasses.replace])
def test_replaced_and_frozen(made: list[type[Any]], replace: Callable[..., Any]) -> None:
    value = made[MORE](name="a", size=1)
    assert replace(value, size=2) == made[MORE](name="a", size=2)
    with pytest.raises(TypeError):
        replace(value, sise=2)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'size'"):
        value.size = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'size'"):
        del value.size
    opened = made[OPEN]()
    opened.count = 9
    assert opened == made[OPEN]([], 8)


def test_derived() -> None:
    rows = [("size", int, dataclasses.field(kw_only=True))]
    derived = dataclasses.make_dataclass("Derived", rows, bases=(OURS[NAMED],), frozen=True)
    value = derived(name="a", size=1)
    assert record.replace(value, size=2) == derived(name="a", size=2)
    assert record.items_of(value) == list(dataclasses.asdict(value).items())
    wrong = type("Wrong", (THEIRS[NAMED],), {"__annotations__": {"size": "int"}})
    with pytest.raises(
        TypeError, match="Wrong: derived from a class that dataclasses made; use one for both"
    ):
        record.dataclass(frozen=True)(wrong)


def test_no_record() -> None:
    assert record.items_of(1) is None
    with pytest.raises(TypeError, match="int: is no dataclass, nothing of it can be replaced"):
        record.replace(1)  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"Shared.words: values would share \[\]; use default_factory"):

        @record.dataclass
        class Shared:
            words: list[str] = []  # noqa: RUF012 - what is refused


def test_pickled() -> None:
    from recipes.errors import Problem

    problem = Problem("recipe.yaml", 1, 2, "unknown key")
    assert pickle.loads(pickle.dumps(problem)) == problem


def test_measuring_reads_no_dataclasses() -> None:
    library = "import sys, argparse, hashlib, json, pathlib, struct; before = set(sys.modules)"
    modules = "recipes.__main__, recipes.commands.measure, recipes.vmm.sev_parse, recipes.steps.measure_sev"
    code = f"{library}; import {modules}, recipes.golden.rows; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    read = done.stdout.split()
    assert "recipes.measure.sev" in read
    assert {"dataclasses", "inspect", "typing", "uuid"}.isdisjoint(read)
    assert {"recipes.measure.igvm", "recipes.measure.stage0", "recipes.vmm.qemu_parse"}.isdisjoint(read)
