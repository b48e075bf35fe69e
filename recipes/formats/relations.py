"""Relations between Debian packages (``libc6 (>= 2.38), awk | mawk``) and the order of their versions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

from ..errors import FormatError

# Spec: Debian Policy 7.1 (relations), 5.6.7 (names), 5.6.12 (versions).
_RELATION = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?::[a-z0-9-]+)?"
    r"(?:\s*\(\s*(?P<operator><<|<=|=|>=|>>)\s*(?P<version>[^\s()]+)\s*\))?"
)
_VERSION = re.compile(
    r"(?:(?P<epoch>[0-9]{1,10}):)?(?P<upstream>[0-9A-Za-z.+~-]+?)(?:-(?P<revision>[0-9A-Za-z.+~]+))?"
)


@dataclass(frozen=True)
class Relation:
    """A package that is named, with a bound on its version where there is an operator."""

    name: str
    operator: str = ""
    version: str = ""

    def allows(self, name: str, version: str) -> bool:
        """Whether a package of that name and version is meant."""
        if name != self.name:
            return False
        if not self.operator:
            return True
        order = compare_versions(version, self.version)
        return {"<<": order < 0, "<=": order <= 0, "=": order == 0, ">=": order >= 0, ">>": order > 0}[
            self.operator
        ]


def relations(value: str, source: str) -> tuple[tuple[Relation, ...], ...]:
    """A relation field: one tuple for each comma-separated part, holding its alternatives.

    Architecture qualifiers are dropped: an image has one architecture.

    Raises:
        FormatError: a part is not ``name``, ``name (>= version)`` or alternatives of these.

    Spec: Debian Policy 7.1.
    """
    parts = (part.strip() for part in value.split(","))
    return tuple(tuple(_relation(item.strip(), source) for item in part.split("|")) for part in parts if part)


def _relation(text: str, source: str) -> Relation:
    match = _RELATION.fullmatch(text)
    if match is None:
        raise FormatError(
            source, f"{text[:64]!r} is no package relation; expected `name` or `name (>= version)`"
        )
    return Relation(match["name"], match["operator"] or "", match["version"] or "")


def compare_versions(left: str, right: str) -> int:
    """Negative, zero or positive as ``left`` sorts before, with or after ``right``.

    Raises:
        FormatError: one of them is not a version.

    Spec: deb-version(7), "Sorting algorithm".
    """
    ours, theirs = _split(left), _split(right)
    return ours[0] - theirs[0] or _order(ours[1], theirs[1]) or _order(ours[2], theirs[2])


def _order(left: str, right: str) -> int:
    """The order of two upstream versions or two revisions: runs of non-digits and of digits in turn."""
    for (ours, our_digits), (theirs, their_digits) in zip_longest(
        _runs(left), _runs(right), fillvalue=("", "")
    ):
        for our, their in zip_longest(ours, theirs, fillvalue=""):
            if our != their:
                return _weight(our) - _weight(their)
        if int(our_digits or "0") != int(their_digits or "0"):
            return int(our_digits or "0") - int(their_digits or "0")
    return 0


def _runs(text: str) -> list[tuple[str, str]]:
    """Pairs of a run of non-digits, which may be empty, and the run of digits behind it."""
    return re.findall(r"([^0-9]*)([0-9]*)", text)


def _weight(character: str) -> int:
    """A tilde sorts before the end of a part, which is empty; letters sort before everything else."""
    if character in ("", "~"):
        return -len(character)
    return ord(character) if character.isalpha() else ord(character) + 256


def _split(version: str) -> tuple[int, str, str]:
    """Epoch, upstream version and revision."""
    match = _VERSION.fullmatch(version)
    if match is None or len(version) > 1024:
        raise FormatError(f"version {version[:64]!r}", "expected [epoch:]upstream[-revision]")
    return int(match["epoch"] or "0"), match["upstream"], match["revision"] or "0"
