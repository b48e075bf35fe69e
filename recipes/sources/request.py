"""What a recipe asks for, and whether a lock and the packages in the cache are the answer to it.

A lock is made from a recipe once and used for years. Either can change alone, by hand or in a merge, and the
build would still work; so every build holds one against the other, offline.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..errors import SpecError
from ..formats import control, deb
from ..formats.control import Paragraph
from ..formats.relations import Relation, relations
from .lock import Asked, Lock, LockedPackage

# A suggestion for a name that is nearly a locked one; a lower bound takes other libraries for misspelt ones.
_CLOSE = 0.8


class Closure(Enum):
    """Which packages a group has besides those that are asked for."""

    DEPENDENCIES = "dependencies"
    """Everything they depend on, without recommendations."""

    NONE = "none"
    """Nothing."""

    KERNEL = "kernel"
    """The ``linux-image`` package that a metapackage depends on."""


@dataclass(frozen=True)
class Group:
    """Packages that are asked for under one name.

    Attributes:
        place: the key of the recipe that asks for them, ``rootfs.packages``, for messages.
        positions: ``line:column`` of each package in the recipe, where it is known, likewise.
    """

    name: str
    packages: tuple[str, ...]
    closure: Closure = Closure.DEPENDENCIES
    place: str = ""
    positions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the recipe of an image asks for.

    Attributes:
        image: its name, and ``recipe`` the path of its recipe, for messages.
        suite: the Debian release that the packages are to come from, by its code name.
        architecture: Debian's name of it, ``amd64``.
    """

    image: str
    recipe: str
    suite: str
    architecture: str
    groups: tuple[Group, ...]

    @property
    def update(self) -> str:
        """The command that makes the lock again."""
        return f"`python3 dodo.py update:{self.image}`"


def asked(groups: Sequence[Group]) -> tuple[Asked, ...]:
    """What a lock remembers of the groups that it was made for."""
    return tuple(
        Asked(group.name, tuple(sorted(set(group.packages))))
        for group in sorted(groups, key=lambda item: item.name)
    )


def check_request(request: Request, lock: Lock) -> None:
    """Checks that a lock was made for what is asked for now.

    Raises:
        SpecError: it was not; names every package that is asked for and not locked, or the other way round.
    """
    problems = [
        f"{request.recipe}: {what} is {wanted}, and the lock is for {found}"
        for what, wanted, found in (
            ("debian.suite", request.suite, lock.suite),
            ("architecture", request.architecture, lock.architecture),
        )
        if wanted != found
    ]
    made_for = {item.group: set(item.packages) for item in lock.request}
    groups = {group.name: group for group in request.groups}
    for name in sorted({*groups, *made_for, *(name for item in lock.packages for name in item.groups)}):
        group = groups.get(name, Group(name, ()))
        place = f"{request.recipe}: {group.place or name}"
        positions = dict(zip(group.packages, group.positions, strict=False))
        for package, text in _group_problems(group, made_for.get(name, set()), lock):
            at = f":{positions[package]}" if package in positions else ""
            problems.append(f"{request.recipe}{at}: {group.place or name}: {package} {text}")
        if name not in groups and name not in made_for:
            problems.append(f"{place}: no package is asked for under this name, and the lock has some")
    if problems:
        raise SpecError("\n".join(f"{problem}; run {request.update}" for problem in problems))


def _group_problems(group: Group, made_for: Collection[str], lock: Lock) -> Iterator[tuple[str, str]]:
    """Each package in which what is asked for differs from what the lock was made for and has, and how."""
    wanted = set(group.packages)
    rows = {package.name for package in lock.group(group.name)}
    for name in sorted(wanted - rows):
        close = difflib.get_close_matches(name, sorted(rows - wanted), n=1, cutoff=_CLOSE)
        yield name, f"is not in the lock{f' (did you mean {close[0]}?)' if close else ''}"
    for name in sorted((wanted & rows) - set(made_for)):
        yield name, "is in the lock only because another package needs it"
    for name in sorted(set(made_for) - wanted):
        yield name, "is in the lock, and is asked for no more"


def check_packages(request: Request, lock: Lock, path_of: Callable[[LockedPackage], Path]) -> None:
    """Checks that packages are what their rows say, and that no group lacks what its packages depend on.

    Args:
        path_of: gives the file of a package; its content is as the lock says.

    Raises:
        SpecError: names every row and what the file says, or every package and what it depends on in vain.
        FormatError: a file is not a package.

    Spec: Debian Policy 7.2 (Depends, Pre-Depends), 7.5 (Provides).
    """
    about: dict[LockedPackage, Paragraph] = {}
    problems: list[str] = []
    for package in lock.packages:
        source = f"{package.name} {package.version} ({path_of(package).name})"
        about[package] = deb.open_deb(path_of(package), source=source).control().paragraph
        problems += _row_problems(package, about[package])
    for group in request.groups if not problems else ():
        members = [(package, about[package]) for package in lock.group(group.name)]
        if group.closure is not Closure.NONE:
            problems += _unmet(group, members)
    if problems:
        what = f"lock of {request.image}"
        raise SpecError("\n".join(f"{what}: {problem}; run {request.update}" for problem in problems))


def _row_problems(package: LockedPackage, about: Paragraph) -> Iterator[str]:
    """How a package differs from its row."""
    source, source_version = control.source_of(about)
    for what, said, found in (
        ("name", package.name, about.get("Package")),
        ("version", package.version, about.get("Version")),
        ("architecture", package.architecture, about.get("Architecture")),
        ("source", package.source, source),
        ("source_version", package.source_version, source_version),
    ):
        if said != found:
            row = f"{package.name} {package.version} {package.architecture}"
            yield f"{row}: {what} is {said}, but the package with this sha256 says {found}"


def _unmet(group: Group, members: Sequence[tuple[LockedPackage, Paragraph]]) -> Iterator[str]:
    """The dependencies of a group's packages that none of its packages meets."""
    names: dict[str, list[Relation]] = {}
    for package, about in members:
        provided = relations(about.get("Provides"), f"package {package.name}: Provides")
        own = Relation(package.name, "=", package.version)
        for item in (own, *(item for alternatives in provided for item in alternatives)):
            names.setdefault(item.name, []).append(item)
    for package, about in members:
        for field in ("Pre-Depends", "Depends"):
            value = about.get(field)
            for alternatives in relations(value, f"package {package.name}: {field}"):
                if group.closure is Closure.KERNEL and not is_kernel(alternatives):
                    continue
                if not any(
                    _meets(item, wanted) for wanted in alternatives for item in names.get(wanted.name, ())
                ):
                    text = " | ".join(map(_text, alternatives))
                    yield f"{package.name} {package.version} needs {text}, which group {group.name} lacks"


def is_kernel(alternatives: Sequence[Relation]) -> bool:
    """Whether a dependency of a metapackage is the kernel that it stands for."""
    return alternatives[0].name.startswith("linux-image-")


def _meets(provided: Relation, wanted: Relation) -> bool:
    """Whether a package or what it provides is what is wanted; a name without version meets no bound."""
    if not wanted.operator:
        return provided.name == wanted.name
    return provided.operator == "=" and wanted.allows(provided.name, provided.version)


def _text(relation: Relation) -> str:
    """A relation as a control file has it."""
    return relation.name + (f" ({relation.operator} {relation.version})" if relation.operator else "")
