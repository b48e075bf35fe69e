"""YAML to frozen dataclasses: every mistake at once, each with its line and column.

A field's type says what is accepted, and nothing is converted on the quiet: ``no`` is not a string,
``512`` is not a size, a key written twice is a mistake. Types: ``str``, ``int``, ``bool``, enums,
dataclasses, ``tuple[T, ...]`` (a single value is a list of one), ``dict[str, T]`` (keys of the writer's own
choice, in the file's order), ``T | None``, and ``Annotated`` with a :class:`Size` or a :class:`Text` rule.
"""

from __future__ import annotations

import difflib
import re
import types
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import Problem, SpecError, suggestion
from .units import parse_size

MAX_TEXT = 4 << 20
MAX_DEPTH = 16
# Of a number: the largest that a recipe may have is 2**64-1.
MAX_DIGITS = 40

T = TypeVar("T")
Place = tuple[str | int, ...]


class Size:
    """Marks an ``int`` that is written as a size: ``512MiB``."""


@dataclass(frozen=True)
class Text:
    """A rule for a string: it must match ``pattern``; ``example`` tells people what to write."""

    pattern: str
    example: str


@dataclass
class Marks:
    """Where each value of a document stands, and the problems found in it so far."""

    path: str
    places: dict[Place, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, place: Place, message: str) -> None:
        """Notes a problem at a place, or at the nearest one above it that is written in the file."""
        while place and place not in self.places:
            place = place[:-1]
        line, column = self.places.get(place, (1, 1))
        self.problems.append(Problem(self.path, line, column, message))

    def raise_problems(self) -> None:
        """Stops here if problems were noted.

        Raises:
            SpecError: with all problems noted so far.
        """
        if self.problems:
            raise SpecError(self.problems)


def load(text: str, path: str, kind: type[T]) -> tuple[T, Marks]:
    """The document as a ``kind``, and where its values stand.

    Raises:
        SpecError: the YAML does not parse, or values are not what ``kind`` says; all problems at once.
    """
    value, marks = read(text, path, kind)
    marks.raise_problems()
    return value, marks


def read(text: str, path: str, kind: type[T]) -> tuple[T, Marks]:
    """As ``load``, for a caller with checks of its own: problems are noted, and what they are in is None.

    Raises:
        SpecError: the YAML does not parse.
    """
    marks = Marks(path)
    node = _compose(text, marks)
    value: T = _Reader(marks).value(node, kind, ())
    return value, marks


def _compose(text: str, marks: Marks) -> yaml.Node:
    if len(text) > MAX_TEXT:
        marks.add((), f"the file has {len(text)} characters; at most {MAX_TEXT} are read")
        marks.raise_problems()
    try:
        _check_depth(text, marks)
        node = yaml.compose(text, yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise SpecError(
            [Problem(marks.path, line, column, f"not YAML: {error.problem or error.context}")]
        ) from None
    except yaml.YAMLError as error:
        raise SpecError([Problem(marks.path, 1, 1, f"not YAML: {error}".splitlines()[0])]) from None
    if node is None:
        raise SpecError([Problem(marks.path, 1, 1, "the file is empty")])
    return node


def _check_depth(text: str, marks: Marks) -> None:
    """Stops before the composer's recursion could: a recipe is a few levels deep, never hundreds."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise SpecError([Problem(marks.path, line, 1, f"nested more than {MAX_DEPTH} levels deep")])


class _Reader:
    def __init__(self, marks: Marks) -> None:
        self.marks = marks

    def value(self, node: yaml.Node, kind: Any, place: Place) -> Any:
        self.marks.places[place] = (node.start_mark.line + 1, node.start_mark.column + 1)
        rule: Any = None
        if get_origin(kind) is Annotated:
            kind, rule = get_args(kind)[:2]
        # `X | None` of a class and of an Annotated differ in kind.
        if get_origin(kind) in (types.UnionType, Union) and type(None) in get_args(kind):
            if _tag(node) == "null":
                return None
            kind = next(option for option in get_args(kind) if option is not type(None))
            return self.value(node, kind, place)
        if get_origin(kind) is tuple:
            return self.sequence(node, get_args(kind)[0], place)
        if get_origin(kind) is dict:
            name, item = get_args(kind)
            return self.table(node, name, item, place)
        if is_dataclass(kind):
            return self.mapping(node, kind, place)
        return self.scalar(node, kind, rule, place)

    def sequence(self, node: yaml.Node, kind: Any, place: Place) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            if isinstance(node, yaml.ScalarNode) and _tag(node) != "null":
                return (self.value(node, kind, (*place, 0)),)
            self.marks.add(place, f"{_name(place)}: expected a list, found {_found(node)}")
            return ()
        return tuple(self.value(item, kind, (*place, index)) for index, item in enumerate(node.value))

    def table(self, node: yaml.Node, name: Any, kind: Any, place: Place) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            self.marks.add(place, f"{_name(place)}: expected keys and values, found {_found(node)}")
            return {}
        rule = get_args(name)[1] if get_origin(name) is Annotated else None
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            known = len(self.marks.problems)
            self.marks.places[(*place, "")] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            key = self.scalar(key_node, str, rule, (*place, ""))
            if len(self.marks.problems) == known and key in values:
                self.marks.add((*place, ""), f"key {key!r} is written twice")
            elif len(self.marks.problems) == known:
                values[key] = self.value(value_node, kind, (*place, key))
        return values

    def mapping(self, node: yaml.Node, kind: Any, place: Place) -> Any:
        if not isinstance(node, yaml.MappingNode):
            self.marks.add(place, f"{_name(place)}: expected keys and values, found {_found(node)}")
            return None
        hints = get_type_hints(kind, include_extras=True)
        known = {item.name: item for item in fields(kind) if item.init}
        values: dict[str, Any] = {}
        misspelt: set[str] = set()
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.tag)
            here = (*place, key)
            self.marks.places.setdefault(here, (key_node.start_mark.line + 1, key_node.start_mark.column + 1))
            if key not in known:
                self.marks.add(here, f"unknown key {key!r}{suggestion(key, known)}")
                misspelt.update(difflib.get_close_matches(key, known, n=1))
            elif key in values:
                line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
                self.marks.problems.append(
                    Problem(self.marks.path, line, column, f"key {key!r} is written twice")
                )
            else:
                values[key] = self.value(value_node, hints[key], here)
        for name, item in known.items():
            if name not in values and item.default is MISSING and item.default_factory is MISSING:
                if name not in misspelt:
                    self.marks.add(place, f"{_name(place)}: key {name!r} is missing")
                values[name] = None
        return kind(**values)

    def scalar(self, node: yaml.Node, kind: Any, rule: Any, place: Place) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            self.marks.add(place, f"{_name(place)}: expected {_expected(kind, rule)}, found {_found(node)}")
            return None
        text = str(node.value)
        if rule is Size:
            return self.size(text, place)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return self.choice(text, kind, place)
        wanted = {str: "str", int: "int", bool: "bool"}[kind]
        if _tag(node) != wanted:
            quote = f"; write {text!r} in quotes" if kind is str else ""
            if kind is str and isinstance(rule, Text) and re.fullmatch(rule.pattern, text) is None:
                quote = f"; write for example {rule.example}"
            self.marks.add(
                place, f"{_name(place)}: expected {_expected(kind, rule)}, found {_found(node)}{quote}"
            )
            return None
        if kind is str and isinstance(rule, Text) and re.fullmatch(rule.pattern, text) is None:
            self.marks.add(
                place, f"{_name(place)}: {text!r} is not allowed; write for example {rule.example}"
            )
        if kind is int:
            return self.number(text, place)
        return text if kind is str else text.lower() in ("true", "yes", "on")

    def number(self, text: str, place: Place) -> int | None:
        """What the field's own rule judges: it knows how large the number may be."""
        if re.fullmatch(r"0|[1-9][0-9]*", text) is None:
            self.marks.add(place, f"{_name(place)}: {text!r} is not a whole number in decimal digits")
        elif len(text) > MAX_DIGITS:
            what = f"a number of {len(text)} digits; none may have more than {MAX_DIGITS}"
            self.marks.add(place, f"{_name(place)}: {what}")
        else:
            return int(text)
        return None

    def size(self, text: str, place: Place) -> int | None:
        try:
            return parse_size(text)
        except ValueError as error:
            self.marks.add(place, f"{_name(place)}: {error}")
            return None

    def choice(self, text: str, kind: type[Enum], place: Place) -> Enum | None:
        names = [str(item.value) for item in kind]
        if text in names:
            return kind(text)
        self.marks.add(place, f"{_name(place)}: {text!r} is not known{suggestion(text, names)}")
        return None


def _tag(node: yaml.Node) -> str:
    return str(node.tag).rpartition(":")[2]


def _found(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        kinds = {
            "str": "text",
            "int": "a number",
            "float": "a number",
            "bool": "yes or no",
            "null": "nothing",
        }
        return f"{kinds.get(_tag(node), _tag(node))} ({node.value!r})"
    return "a list" if isinstance(node, yaml.SequenceNode) else "keys and values"


def _expected(kind: Any, rule: Any) -> str:
    if rule is Size:
        return "a size such as 512MiB"
    return {str: "text", int: "a whole number", bool: "true or false"}.get(kind, "one word")


def _name(place: Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the recipe"
