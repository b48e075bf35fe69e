"""Two device trees side by side: nodes and properties that are not the same in both, and what caused them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..formats.fdt import Node, Property, walk
from ..formats.fdt_source import format_value
from ..measure.kvmtool_fdt import ALWAYS
from .realm_options import OptionDifference

# Devices whose name in origins, that of measure/kvmtool_devices.py, does not begin with their option.
_OPTIONS = {"default network device": "-n", "-d scsi disk": "-d scsi:"}


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
        cause: command-line options, as ``-c 1 -> -c 2`` or ``-d: 1 disk -> 2 disks``; empty where neither
            tree says.
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


@dataclass(frozen=True)
class _Options:
    """The options that differ, by their names, and those whose files do."""

    values: Mapping[str, OptionDifference]
    files: tuple[str, ...]

    def names(self, parts: Iterable[str]) -> list[str]:
        """The options that differ, of those that parts of an origin come from."""
        found = (name for name in map(_option, parts) if name in self.values or name in self.files)
        return list(dict.fromkeys(found))

    def changes(self, parts: Iterable[str]) -> list[str]:
        """How those options differ."""
        return list(dict.fromkeys(text for part in parts for text in self._change(part)))

    def all_names(self) -> list[str]:
        """Every option that differs."""
        return [*self.values, *self.files]

    def _change(self, part: str) -> Iterator[str]:
        name = _option(part)
        found = self.values.get(name)
        if found is not None:
            words = [f"{name} {value}" for value in (found.before, found.after)]
            # What stands on the command lines like this is written like this: -m 128 -> -m 256.
            yield " -> ".join(words) if part in words else str(found)
        elif name in self.files:
            yield name


def _option(part: str) -> str:
    """The option that a part of an origin comes from, as lists of options have it."""
    special = (name for start, name in _OPTIONS.items() if part.startswith(start))
    return next(special, part.partition(" ")[0])


def _statement(item: Property, sign: str) -> str:
    value = format_value(item, f"  {sign}     ")
    return f"{item.name} = {value};" if value else f"{item.name};"


def tree_differences(
    before: Node, after: Node, options: Iterable[OptionDifference] = (), files: Iterable[str] = ()
) -> tuple[TreeDifference, ...]:
    """What differs, in the order of the trees.

    Args:
        options: those that are known to differ. They are named where the trees name them, and where both
            trees name the same origin, as for a device whose interrupt another device took.
        files: options that name files which are known to differ.
    """
    differing = _Options({item.option: item for item in options}, tuple(files))
    old, new = dict(walk(before)), dict(walk(after))
    found: list[TreeDifference] = []
    for path, node in old.items():
        if path not in new:
            found.append(_node(path, Change.REMOVED, node, differing))
            continue
        found += _properties(path, node, new[path], differing)
        order = [child.name for child in node.children if child.name in _names(new[path].children)]
        if order != [child.name for child in new[path].children if child.name in _names(node.children)]:
            found.append(TreeDifference(path=path, change=Change.MOVED, name="(nodes)"))
    found += [_node(path, Change.ADDED, node, differing) for path, node in new.items() if path not in old]
    return tuple(found)


def _node(path: str, change: Change, node: Node, options: _Options) -> TreeDifference:
    added = change is Change.ADDED
    return TreeDifference(
        path=path,
        change=change,
        before=() if added else node.properties,
        after=node.properties if added else (),
        cause=_cause(*("", node.origin) if added else (node.origin, ""), options),
    )


def _properties(path: str, before: Node, after: Node, options: _Options) -> Iterator[TreeDifference]:
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


def _cause(before: str, after: str, options: _Options) -> str:
    """How those options differ that one origin has; else which differ that both have; else all that differ.

    Where no option is known to differ, what the origins say.
    """
    old, new = _parts(before), _parts(after)
    moved = [part for part in old if part not in new] + [part for part in new if part not in old]
    shared = options.names(part for part in new if part in old)
    if moved:
        gone, come = (", ".join(part for part in parts if part in moved) for parts in (old, new))
        said = f"{gone} -> {come}" if gone and come else gone or come
        changed = options.changes(moved)
        beside = [name for name in shared if name not in options.names(moved)]
        return ", ".join([*beside, *changed] if changed else [said])
    return ", ".join(shared or options.all_names() or new)


def _parts(origin: str) -> list[str]:
    return [part for part in origin.split(", ") if part not in ("", ALWAYS)]
