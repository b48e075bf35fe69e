"""Unit files of a tree: where they are, and what their [Install] sections say.

Spec: systemd 257, systemd.unit(5), "Unit File Load Path" and "[Install] Section Options"; systemd.syntax(7).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import SpecError
from ...formats.tree import FileTree, NodeType
from .paths import masked, read_text, resolve

ETC = "etc/systemd/system"
DIRECTORIES = (ETC, "usr/local/lib/systemd/system", "usr/lib/systemd/system")
SUFFIXES = (  # systemd.unit(5), DESCRIPTION
    *(".service", ".socket", ".target", ".device", ".mount", ".automount"),
    *(".swap", ".timer", ".path", ".slice", ".scope"),
)
_NAME = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]*)?\.[a-z]+")
_LISTS = ("WantedBy", "RequiredBy", "UpheldBy", "Alias", "Also")


@dataclass(frozen=True)
class Install:
    """The [Install] section of a unit and its drop-ins."""

    wanted_by: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()
    upheld_by: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    default_instance: str = ""

    def __bool__(self) -> bool:
        return bool(self.wanted_by or self.required_by or self.upheld_by or self.aliases or self.also)


def is_unit_name(name: str) -> bool:
    """Whether a file name is that of a unit."""
    return _NAME.fullmatch(name) is not None and name.endswith(SUFFIXES)


def template_of(name: str) -> str:
    """The template that a name with an instance comes from (``a@b.service``: ``a@.service``), or it."""
    stem, _, suffix = name.rpartition(".")
    prefix, at, instance = stem.partition("@")
    return f"{prefix}@.{suffix}" if at and instance else name


def instance_of(name: str) -> str:
    """The instance in a name; empty for a template and for a plain unit."""
    return name.rpartition(".")[0].partition("@")[2]


def is_template(name: str) -> bool:
    """Whether a name is that of a template, ``a@.service``."""
    return name.rpartition(".")[0].endswith("@")


def with_instance(template: str, instance: str) -> str:
    """The name of a template's instance."""
    stem, _, suffix = template.rpartition(".")
    return f"{stem}{instance}.{suffix}"


def sections(text: str) -> list[tuple[str, str, str]]:
    """Section, key and value of every assignment, in order; continued lines are joined."""
    found: list[tuple[str, str, str]] = []
    section = pending = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(("#", ";")) or (not stripped and not pending):
            continue
        if stripped.endswith("\\"):
            pending += stripped[:-1] + " "
            continue
        whole, pending = (pending + stripped).strip(), ""
        if whole.startswith("[") and whole.endswith("]"):
            section = whole[1:-1]
        elif "=" in whole:
            key, _, value = whole.partition("=")
            found.append((section, key.strip(), value.strip()))
    return found


def _expand(text: str, name: str, where: str) -> str:
    """A name with the specifiers that a build can know."""
    stem = name.rpartition(".")[0]
    known = {
        "%": "%",
        "n": name,
        "N": stem,
        "p": stem.partition("@")[0],
        "i": instance_of(name),
        "j": stem.partition("@")[0].rpartition("-")[2],
    }

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise SpecError(f"{where}: specifier %{match[1]} in {text!r} is not known at build time")
        return known[match[1]]

    return re.sub(r"%(.)", value, text)


def parse_install(texts: Sequence[str], name: str, where: str) -> Install:
    """The [Install] section of a unit's file and drop-ins; an empty value forgets what came before.

    Raises:
        SpecError: a specifier depends on the running machine.
    """
    lists: dict[str, list[str]] = {key: [] for key in _LISTS}
    default = ""
    for section, key, value in (entry for text in texts for entry in sections(text)):
        if section == "Install" and key == "DefaultInstance":
            default = _expand(value, name, where)
        elif section == "Install" and key in lists:
            lists[key] = lists[key] + value.split() if value else []
    shown = with_instance(name, default) if is_template(name) and default else name
    wanted, required, upheld, aliases, also = (
        tuple(_expand(word, shown, where) for word in lists[key]) for key in _LISTS
    )
    return Install(wanted, required, upheld, aliases, also, default)


class UnitFiles:
    """The unit files of a tree as they are now; links made later are not seen.

    Attributes:
        paths: unit name and the tree path of its file or link, in the first directory that has it.
    """

    def __init__(self, tree: FileTree) -> None:
        self.tree = tree
        self.paths: dict[str, str] = {}
        self._drop_ins: dict[str, dict[str, str]] = {}
        for directory in DIRECTORIES:
            start = directory + "/"
            for path in sorted(path for path in tree.nodes if path.startswith(start)):
                name, _, inside = path.removeprefix(start).partition("/")
                if not inside and is_unit_name(name):
                    self.paths.setdefault(name, path)
                elif name.endswith(".d") and inside.endswith(".conf") and "/" not in inside:
                    self._drop_ins.setdefault(name.removesuffix(".d"), {}).setdefault(inside, path)

    def is_masked(self, name: str) -> bool:
        """Whether a unit is switched off by a link to /dev/null or an empty file."""
        return name in self.paths and masked(self.tree, self.paths[name])

    def real(self, name: str) -> tuple[str, str]:
        """The name and tree path of the file behind a unit: a link's target, an instance's template.

        Raises:
            SpecError: there is no such unit; the message suggests names that are close.
        """
        for candidate in (name, template_of(name)):
            real = resolve(self.tree, self.paths.get(candidate, ""))
            if real and self.tree[real].type is NodeType.FILE:
                base, instance = real.rpartition("/")[2], instance_of(name)
                return (with_instance(base, instance) if instance and is_template(base) else base), real
        close = difflib.get_close_matches(name, sorted(self.paths), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "add the package or overlay that has it"
        raise SpecError(f"units: there is no unit {name!r}; {hint}")

    def install(self, name: str) -> Install:
        """The [Install] section of a unit, its drop-ins included; ``name`` may have an instance.

        Raises:
            SpecError: there is no such unit, or a specifier depends on the running machine.
        """
        base, path = self.real(name)
        drop_ins = {**self._drop_ins.get(template_of(base), {}), **self._drop_ins.get(base, {})}
        files = (path, *(drop_ins[drop_in] for drop_in in sorted(drop_ins)))
        return parse_install([read_text(self.tree, file) or "" for file in files], base, path)
