"""The part of JMESPath that the scripts use. Spec: https://jmespath.org/specification.html."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<raw>'[^']*')|(?P<json>`[^`]*`)|(?P<number>-?[0-9]+)"
    r"|(?P<mark>\|\||&&|==|!=|\[\?|[\[\](),.|!@*]))"
)
Value = Any
Node = Callable[[Value], Value]


class QueryError(Exception):
    """The text is no query that is understood here."""


def search(text: str, value: Value) -> Value:
    """What a query finds in a value."""
    parser = _Parser(text)
    node = parser.pipe()
    parser.end()
    return node(value)


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise QueryError(f"bad jmespath expression: {text}")
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()

    def peek(self) -> str:
        return self.tokens[0][1] if self.tokens else ""

    def take(self, *wanted: str) -> bool:
        if self.tokens and self.tokens[0][0] == "mark" and self.tokens[0][1] in wanted:
            self.tokens.pop(0)
            return True
        return False

    def need(self, mark: str) -> None:
        if not self.take(mark):
            raise QueryError(f"bad jmespath expression: expected {mark} before {self.peek()!r}")

    def end(self) -> None:
        if self.tokens:
            raise QueryError(f"bad jmespath expression: {self.peek()!r} is too much")

    def pipe(self) -> Node:
        left = self.either()
        while self.take("|"):
            left = _then(left, self.either())
        return left

    def either(self) -> Node:
        left = self.both()
        while self.take("||"):
            left = _either(left, self.both())
        return left

    def both(self) -> Node:
        left = self.compared()
        while self.take("&&"):
            left = _both(left, self.compared())
        return left

    def compared(self) -> Node:
        left = self.inverted()
        for mark, equal in (("==", True), ("!=", False)):
            if self.take(mark):
                return _compare(left, self.inverted(), equal=equal)
        return left

    def inverted(self) -> Node:
        if self.take("!"):
            inner = self.inverted()
            return lambda value: not _truth(inner(value))
        return self.chain()

    def chain(self) -> Node:
        node = self.first()
        while True:
            if self.take("."):
                node = _then(node, self.first())
            elif self.take("[?"):
                condition = self.pipe()
                self.need("]")
                return self.projected(_filtered(node, condition))
            elif self.peek() == "[" and self.tokens[1][0] == "number":
                self.need("[")
                node = _then(node, _index(int(self.tokens.pop(0)[1])))
                self.need("]")
            else:
                return node

    def projected(self, items: Node) -> Node:
        """What follows a filter is done for each item; what is nothing is left out."""
        if not self.take("."):
            return items
        each = self.chain()

        def run(value: Value) -> Value:
            found = items(value)
            answers = [each(item) for item in found or []]
            return None if found is None else [answer for answer in answers if answer is not None]

        return run

    def first(self) -> Node:
        kind, text = self.tokens.pop(0) if self.tokens else ("", "")
        if kind == "raw":
            return lambda _: text[1:-1]
        if kind == "json":
            literal = _literal(text[1:-1])
            return lambda _: literal
        if text == "@":
            return lambda value: value
        if text == "[" and self.tokens and self.tokens[0][0] == "number":
            number = int(self.tokens.pop(0)[1])
            self.need("]")
            return _index(number)
        if text == "[":
            return _several(self.arguments("]"))
        if kind == "name" and self.take("("):
            return _call(text, self.arguments(")"))
        if kind == "name":
            return lambda value: value.get(text) if isinstance(value, dict) else None
        raise QueryError(f"bad jmespath expression at {text!r}")

    def arguments(self, end: str) -> list[Node]:
        nodes = [self.pipe()]
        while self.take(","):
            nodes.append(self.pipe())
        self.need(end)
        return nodes


def _literal(text: str) -> Value:
    """A bare word was a string in the first specification, and still is to the programs."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _truth(value: Value) -> bool:
    return value not in (None, False, "", [], {})


def _then(left: Node, right: Node) -> Node:
    return lambda value: right(left(value))


def _either(left: Node, right: Node) -> Node:
    return lambda value: found if _truth(found := left(value)) else right(value)


def _both(left: Node, right: Node) -> Node:
    return lambda value: right(value) if _truth(found := left(value)) else found


def _compare(left: Node, right: Node, *, equal: bool) -> Node:
    return lambda value: (left(value) == right(value)) is equal


def _index(number: int) -> Node:
    return lambda value: value[number] if isinstance(value, list) and number < len(value) else None


def _filtered(items: Node, condition: Node) -> Node:
    def run(value: Value) -> Value:
        found = items(value)
        return [item for item in found if _truth(condition(item))] if isinstance(found, list) else None

    return run


def _several(nodes: list[Node]) -> Node:
    return lambda value: None if value is None else [node(value) for node in nodes]


def _call(name: str, nodes: list[Node]) -> Node:
    def run(value: Value) -> Value:
        arguments = [node(value) for node in nodes]
        if name == "length":
            return len(arguments[0])
        if name == "to_string":
            return arguments[0] if isinstance(arguments[0], str) else json.dumps(arguments[0])
        if name == "join" and all(isinstance(item, str) for item in arguments[1] or [None]):
            return str(arguments[0]).join(arguments[1])
        if name == "join" and arguments[1] == []:
            return ""
        raise QueryError(f"In function {name}(), invalid type for value: {arguments}")

    return run
