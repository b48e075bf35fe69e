"""Two device trees side by side: nodes and properties that are not the same in both, and what caused them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..formats.fdt import Node, Property, walk
from ..formats.fdt_source import format_value
from ..measure.kvmtool_fdt import ALWAYS


class Change(Enum):
    """What became of a node or property."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    MOVED = "in another place among its neighbours"


@dataclass(frozen=True, kw_only=True)
class TreeDifference:
    """A node, or one property of a node, that is not the same in two trees.

    Attributes:
        path: of the node.
        name: of the property; empty where it is the whole node.
        before: the first tree's property, or all of the node's own; empty where it has none.
        after: the same of the second tree.
        cause: command-line options, as ``-c 1 -> -c 2``; empty where neither tree says.
    """

    path: str
    change: Change
    name: str = ""
    before: tuple[Property, ...] = ()
    after: tuple[Property, ...] = ()
    cause: str = ""

    def __str__(self) -> str:
        what = f"{self.path} {self.name}".rstrip()
        lines = [f"{what}: {self.change.value}" + (f", by {self.cause}" if self.cause else "")]
        for sign, items in (("-", self.before), ("+", self.after)):
            lines += [f"  {sign} {_statement(item, sign)}" for item in items]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The difference with its values as dts text."""
        return {
            "path": self.path,
            "property": self.name or None,
            "change": self.change.name.lower(),
            "cause": self.cause,
            "before": {item.name: format_value(item) for item in self.before},
            "after": {item.name: format_value(item) for item in self.after},
        }


def _statement(item: Property, sign: str) -> str:
    value = format_value(item, f"  {sign}     ")
    return f"{item.name} = {value};" if value else f"{item.name};"


def tree_differences(before: Node, after: Node, options: Iterable[str] = ()) -> tuple[TreeDifference, ...]:
    """What differs, in the order of the trees.

    Args:
        options: those that are known to differ. Where both trees name the same origin, as for a device whose
            interrupt another device took, the cause is looked for among them.
    """
    differing = tuple(options)
    old, new = dict(walk(before)), dict(walk(after))
    found: list[TreeDifference] = []
    for path, node in old.items():
        if path not in new:
            found.append(_node(path, Change.REMOVED, node))
            continue
        found += _properties(path, node, new[path], differing)
        order = [child.name for child in node.children if child.name in _names(new[path].children)]
        if order != [child.name for child in new[path].children if child.name in _names(node.children)]:
            found.append(TreeDifference(path=path, change=Change.MOVED, name="(nodes)"))
    found += [_node(path, Change.ADDED, node) for path, node in new.items() if path not in old]
    return tuple(found)


def _node(path: str, change: Change, node: Node) -> TreeDifference:
    added = change is Change.ADDED
    return TreeDifference(
        path=path,
        change=change,
        before=() if added else node.properties,
        after=node.properties if added else (),
        cause=_cause(*("", node.origin) if added else (node.origin, ""), ()),
    )


def _properties(path: str, before: Node, after: Node, options: tuple[str, ...]) -> Iterator[TreeDifference]:
    old = {item.name: item for item in before.properties}
    new = {item.name: item for item in after.properties}
    for name in [*old, *(name for name in new if name not in old)]:
        one, other = old.get(name), new.get(name)
        if one == other:
            continue
        change = Change.ADDED if one is None else Change.REMOVED if other is None else Change.CHANGED
        yield TreeDifference(
            path=path,
            change=change,
            name=name,
            before=(one,) if one else (),
            after=(other,) if other else (),
            cause=_cause(one.origin if one else "", other.origin if other else "", options),
        )
    if [name for name in old if name in new] != [name for name in new if name in old]:
        yield TreeDifference(path=path, change=Change.MOVED, name="(properties)")


def _names(items: Iterable[Node]) -> frozenset[str]:
    return frozenset(item.name for item in items)


def _cause(before: str, after: str, options: tuple[str, ...]) -> str:
    """The origins of one side only, and those of both that are known to differ; else whatever differs."""
    old, new = _parts(before), _parts(after)
    gone = ", ".join(part for part in old if part not in new)
    come = ", ".join(part for part in new if part not in old)
    shared = [part for part in new if part in old and part in options]
    if gone and come:
        return ", ".join([*shared, f"{gone} -> {come}"])
    if gone and new:
        return ", ".join([*shared, f"no {gone}"])
    if gone or come:
        return ", ".join([*shared, come or gone])
    words = {option.split(" ")[0] for option in options}
    own = shared or [part for part in new if part.split(" ")[0] in words]
    return ", ".join(own or options or new)


def _parts(origin: str) -> list[str]:
    return [part for part in origin.split(", ") if part not in ("", ALWAYS)]
