"""Preset files: which units are enabled when nobody says otherwise.

Spec: systemd 257, systemd.preset(5): files by name over all directories, the first line that matches decides,
and a unit that no line matches is enabled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ...errors import SpecError
from ...formats.tree import FileTree
from .paths import configuration_files, read_text

DIRECTORIES = (
    "etc/systemd/system-preset",
    "usr/local/lib/systemd/system-preset",
    "usr/lib/systemd/system-preset",
)


@dataclass(frozen=True)
class Rule:
    """One line of a preset file.

    Attributes:
        action: ``enable``, ``disable`` or ``ignore``.
        instances: of a template, to be enabled.
    """

    action: str
    pattern: str
    instances: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the presets say about a unit."""

    enable: bool
    instances: tuple[str, ...] = ()


def parse_rules(text: str, where: str) -> tuple[Rule, ...]:
    """The lines of a preset file.

    Raises:
        SpecError: a line is neither empty, a comment, nor a known action and a pattern.
    """
    rules = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if len(words) < 2 or words[0] not in ("enable", "disable", "ignore"):
            raise SpecError(
                f"{where}:{number}: {line.strip()!r} is not enable, disable or ignore and a pattern"
            )
        rules.append(Rule(words[0], words[1], tuple(words[2:])))
    return tuple(rules)


def read_rules(tree: FileTree) -> tuple[Rule, ...]:
    """The lines of every preset file of a tree, in the order they are tried."""
    found: list[Rule] = []
    for path in configuration_files(tree, DIRECTORIES, ".preset"):
        found.extend(parse_rules(read_text(tree, path) or "", path))
    return tuple(found)


def verdict(rules: Sequence[Rule], unit: str) -> Verdict:
    """What the first matching line says about a unit; no line means enable."""
    for rule in rules:
        if fnmatchcase(unit, rule.pattern):
            return Verdict(rule.action == "enable", rule.instances if rule.action == "enable" else ())
    return Verdict(enable=True)
