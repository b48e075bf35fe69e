"""The lock of an image: exactly which packages it is made of, committed beside its recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from ..errors import Problem, SpecError

# libyaml is ten times faster and gives the same marks; a PyYAML built without it still works.
_Loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Mark(Protocol):
    """Where in a text, counted from 0; the two parsers have a class each."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


_NAME = r"[a-z0-9][a-z0-9+.-]+"  # Spec: Debian Policy 5.6.7
_VERSION = r"(?:[0-9]+:)?[0-9A-Za-z][0-9A-Za-z.+~:-]*"  # Spec: Debian Policy 5.6.12
_ARCHITECTURE = r"[a-z0-9][a-z0-9-]*"  # Spec: Debian Policy 11.1
_WORD = r"[a-z0-9][a-z0-9._-]*"
_PATH = r"(?!.*(?:^|/)\.\.?(?:/|$))[0-9A-Za-z+_~][0-9A-Za-z.+_~/%:-]*"
# A lock is a mapping with a list of mappings with a list in it.
_MAX_DEPTH = 4
_MAX_NUMBER = 1 << 53

_HEADER = """\
# What this image is made of: every Debian package by version and digest.
# Made by `python3 dodo.py update:{image}`, which resolves the recipe again; do not edit.
"""


@dataclass(frozen=True, kw_only=True)
class LockedPackage:
    """One package file.

    Attributes:
        sha256: 32 bytes, of the package file.
        size: bytes of the package file.
        source: name of the source package, which all its binary packages share.
        groups: what it is for (``rootfs``, ``initramfs``, ``kernel``), sorted.
        filename: path below the archive's root, or empty.
    """

    name: str
    version: str
    architecture: str
    sha256: bytes
    size: int
    source: str
    source_version: str
    groups: tuple[str, ...]
    filename: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Name, version and architecture, which name one package of an archive."""
        return self.name, self.version, self.architecture


@dataclass(frozen=True)
class Asked:
    """The packages that a recipe asked for in one group when its lock was made, sorted."""

    group: str
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Lock:
    """All packages of an image, sorted by name.

    Attributes:
        suite: the Debian release they come from, ``trixie``.
        architecture: Debian's name for the machine, ``amd64``; packages have this one or ``all``.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970: when the newest index was made.
        request: what the recipe asked for, sorted by group; a build refuses the lock when it asks for else.
    """

    suite: str
    architecture: str
    epoch: int
    packages: tuple[LockedPackage, ...]
    request: tuple[Asked, ...] = ()

    def group(self, name: str) -> tuple[LockedPackage, ...]:
        """The packages of one group, sorted by name."""
        return tuple(package for package in self.packages if name in package.groups)


def dump(lock: Lock, *, image: str = "IMAGE") -> str:
    """The text of a lock file: the same for equal locks, one package a line.

    Args:
        image: named in the comment that says how the file is made.
    """
    head: dict[str, str | int] = {"suite": lock.suite, "architecture": lock.architecture, "epoch": lock.epoch}
    lines = [_HEADER.format(image=image)]
    lines += [f"{key}: {_scalar(value)}\n" for key, value in head.items()]
    lines.append("request:\n" if lock.request else "request: {}\n")
    for item in sorted(lock.request, key=lambda item: item.group):
        names = ", ".join(_scalar(name) for name in sorted(item.packages))
        lines.append(f"  {_scalar(item.group)}: [{names}]\n")
    lines.append("packages:\n" if lock.packages else "packages: []\n")
    for package in sorted(lock.packages, key=lambda item: item.key):
        fields: dict[str, str | int] = {
            "name": package.name,
            "version": package.version,
            "architecture": package.architecture,
            "sha256": package.sha256.hex(),
            "size": package.size,
            "source": package.source,
            "source_version": package.source_version,
        }
        if package.filename:
            fields["filename"] = package.filename
        text = ", ".join(f"{key}: {_scalar(value)}" for key, value in fields.items())
        groups = ", ".join(_scalar(group) for group in sorted(package.groups))
        lines.append(f"- {{{text}, groups: [{groups}]}}\n")
    return "".join(lines)


def load(path: Path) -> Lock:
    """The lock at ``path``.

    Raises:
        SpecError: not a lock, with the line and column of every mistake; or there is none yet.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        what = f"{path}: there is no lock; run `python3 dodo.py update:{path.stem}`, which makes it"
        raise SpecError(what) from None
    return parse(data, str(path))


def parse(data: bytes, source: str) -> Lock:
    """The lock whose text is ``data``.

    Raises:
        SpecError: as ``load`` says.
    """
    reader = _Reader(source)
    root = reader.root(data)
    fields = reader.mapping(root, _LOCK_FIELDS, advice=f"; {_UPDATE}")
    suite = reader.text(fields.get("suite"), _WORD, "a suite such as trixie")
    architecture = reader.text(
        fields.get("architecture"), _ARCHITECTURE, "a Debian architecture such as amd64"
    )
    epoch = reader.number(fields.get("epoch"))
    request = reader.request(fields.get("request"))
    packages = [reader.package(node, architecture) for node in reader.sequence(fields.get("packages"))]
    reader.unique(packages)
    if reader.problems:
        raise SpecError(reader.problems)
    found = sorted((package for _, package in packages), key=lambda item: item.key)
    return Lock(suite=suite, architecture=architecture, epoch=epoch, packages=tuple(found), request=request)


def _scalar(value: str | int) -> str:
    """A value as YAML that reads back as the same type; quoted only where it must be."""
    if isinstance(value, int):
        return str(value)
    plain = re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+~/_-]*", value) is not None
    if plain and getattr(yaml.compose(value, Loader=_Loader), "tag", None) == "tag:yaml.org,2002:str":
        return value
    return "'" + value.replace("'", "''") + "'"


_UPDATE = "run `python3 dodo.py update:` for the image, which makes it again"
_LOCK_FIELDS = ("suite", "architecture", "epoch", "request", "packages")
_PACKAGE_FIELDS = ("name", "version", "architecture", "sha256", "size", "source", "source_version", "groups")


class _Reader:
    """Turns YAML nodes into values and gathers what is wrong with them; a bad value reads as an empty one."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def problem(self, mark: _Mark | None, message: str) -> None:
        """Notes a mistake."""
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        self.problems.append(Problem(self.source, line, column, message))

    def root(self, data: bytes) -> yaml.Node | None:
        """The one document, which is neither deep nor has aliases."""
        try:
            self._check_events(data)
            if self.problems:
                raise SpecError(self.problems)
            node: yaml.Node | None = yaml.compose(data, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            words = " ".join(filter(None, (error.context, error.problem)))
            self.problem(error.problem_mark or error.context_mark, f"not YAML: {words}")
        except yaml.YAMLError as error:
            self.problem(None, f"not YAML: {str(error).splitlines()[0]}")
        else:
            if node is None:
                self.problem(None, f"the lock is empty; {_UPDATE}")
            return node
        raise SpecError(self.problems)

    def _check_events(self, data: bytes) -> None:
        """Refuses what would make composing recurse without bound."""
        depth = 0
        for event in yaml.parse(data, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                self.problem(event.start_mark, "anchors and aliases have no place in a lock")
                return
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                self.problem(event.start_mark, f"nested more than {_MAX_DEPTH} deep")
                return

    def mapping(
        self,
        node: yaml.Node | None,
        required: Sequence[str],
        optional: Sequence[str] = (),
        *,
        advice: str = "",
    ) -> dict[str, yaml.Node]:
        """The fields of a mapping; missing, unknown and repeated ones are mistakes."""
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.problem(node.start_mark, f"expected a mapping with {', '.join(required)}")
            return {}
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name in fields:
                self.problem(key.start_mark, f"{name} is there twice")
            elif name not in (*required, *optional):
                self.problem(
                    key.start_mark, f"unknown key {name[:64]}; known are {', '.join((*required, *optional))}"
                )
            else:
                fields[name] = value
        for name in required:
            if name not in fields:
                self.problem(node.start_mark, f"{name} is missing{advice}")
        return fields

    def sequence(self, node: yaml.Node | None) -> Iterator[yaml.Node]:
        """The items of a list."""
        if node is not None and not isinstance(node, yaml.SequenceNode):
            self.problem(node.start_mark, "expected a list")
        elif node is not None:
            yield from node.value

    def text(self, node: yaml.Node | None, pattern: str, wanted: str) -> str:
        """A string that matches ``pattern`` in full."""
        if node is None:
            return ""
        if not isinstance(node, yaml.ScalarNode):
            self.problem(node.start_mark, f"expected {wanted}")
        elif node.tag != "tag:yaml.org,2002:str":
            self.problem(node.start_mark, f"{node.value[:64]} is not text to YAML; write '{node.value[:64]}'")
        elif re.fullmatch(pattern, node.value) is None:
            self.problem(node.start_mark, f"{node.value[:80]!r} is not {wanted}")
        else:
            return str(node.value)
        return ""

    def number(self, node: yaml.Node | None) -> int:
        """A whole number that is not negative."""
        if node is None:
            return 0
        plain = isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int"
        if plain and re.fullmatch(r"0|[1-9][0-9]{0,15}", node.value) and int(node.value) < _MAX_NUMBER:
            return int(node.value)
        shown = repr(node.value[:64]) if isinstance(node, yaml.ScalarNode) else "this"
        self.problem(node.start_mark, f"{shown} is not a whole number")
        return 0

    def request(self, node: yaml.Node | None) -> tuple[Asked, ...]:
        """What was asked for by group, sorted."""
        found: dict[str, Asked] = {}
        if node is not None and not isinstance(node, yaml.MappingNode):
            self.problem(node.start_mark, "expected a mapping from groups to lists of package names")
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            group = self.text(key, _WORD, "a group name")
            if group and group in found:
                self.problem(key.start_mark, f"group {group} is there twice")
            names = self.names(value, _NAME, "a package name", "package")
            found[group] = Asked(group, names)
        return tuple(found[group] for group in sorted(found))

    def package(self, node: yaml.Node, architecture: str) -> tuple[yaml.Node, LockedPackage]:
        """One line of the list."""
        fields = self.mapping(node, _PACKAGE_FIELDS, ("filename",))
        digest = self.text(
            fields.get("sha256"), r"[0-9a-f]{64}", "a SHA-256, 64 hexadecimal digits in lower case"
        )
        package = LockedPackage(
            name=self.text(fields.get("name"), _NAME, "a package name"),
            version=self.text(fields.get("version"), _VERSION, "a package version"),
            architecture=self.text(fields.get("architecture"), _ARCHITECTURE, "a Debian architecture"),
            sha256=bytes.fromhex(digest),
            size=self.number(fields.get("size")),
            source=self.text(fields.get("source"), _NAME, "a source package name"),
            source_version=self.text(fields.get("source_version"), _VERSION, "a package version"),
            groups=self.groups(fields.get("groups")),
            filename=self.text(fields.get("filename"), _PATH, "a path below the archive's root"),
        )
        if package.architecture not in ("", "all", architecture) and architecture:
            what = f"architecture is {package.architecture}, expected {architecture} or all"
            self.problem(fields["architecture"].start_mark, what)
        return node, package

    def groups(self, node: yaml.Node | None) -> tuple[str, ...]:
        """Sorted names, at least one, none of them twice."""
        names = self.names(node, _WORD, "a group name", "group")
        if not names and isinstance(node, yaml.SequenceNode):
            self.problem(node.start_mark, "a package belongs to one group at least")
        return names

    def names(self, node: yaml.Node | None, pattern: str, wanted: str, kind: str) -> tuple[str, ...]:
        """The strings of a list, sorted; one that is there twice is a mistake."""
        seen: list[str] = []
        for item in self.sequence(node):
            name = self.text(item, pattern, wanted)
            if name and name in seen:
                self.problem(item.start_mark, f"{kind} {name} is there twice")
            seen.append(name)
        return tuple(sorted(seen))

    def unique(self, packages: Sequence[tuple[yaml.Node, LockedPackage]]) -> None:
        """Checks that no package is listed twice."""
        seen: set[tuple[str, str]] = set()
        for node, package in packages:
            key = package.name, package.architecture
            if package.name and key in seen:
                self.problem(
                    node.start_mark, f"package {package.name} ({package.architecture}) is there twice"
                )
            seen.add(key)
