"""What an archive has: the ``Packages`` indices that apt-get fetched."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import FormatError, SpecError
from ..formats import control
from ..formats.control import Paragraph
from .aptget import Key
from .lock import LockedPackage


def _stanzas(indices: Iterable[Path]) -> Iterator[tuple[str, str, int, bytes]]:
    """Package name, index file, offset and bytes of every paragraph."""
    for path in indices:
        with path.open("rb") as file:
            for offset, stanza in control.stanzas(file, path.name):
                yield control.package_name(stanza), path.name, offset, stanza


def listed(indices: Sequence[Path], names: Collection[str]) -> dict[Key, Paragraph]:
    """The packages of these names that the archives have, in all versions.

    Raises:
        FormatError: an index is damaged.
    """
    found: dict[Key, Paragraph] = {}
    for name, index, offset, stanza in _stanzas(indices):
        if name in names:
            paragraph = control.parse(stanza, index, offset=offset)
            found.setdefault((name, paragraph.get("Version"), paragraph.get("Architecture")), paragraph)
    return found


def check_known(wanted: Collection[str], suite: str, indices: Sequence[Path]) -> None:
    """Checks that the archives have every package that is asked for.

    Raises:
        SpecError: they do not; names all that are missing, with what may have been meant.
    """
    known = {name for name, *_ in _stanzas(indices)}
    problems: list[str] = []
    for name in sorted(set(wanted) - known):
        close = difflib.get_close_matches(name, sorted(known), n=3)
        advice = (
            f"did you mean {' or '.join(close)}?"
            if close
            else "look for its name on a machine with that release"
        )
        problems.append(f"package {name}: {suite} has no such package; {advice}")
    if problems:
        raise SpecError("\n".join(problems))


def locked_package(key: Key, index: Mapping[Key, Paragraph]) -> LockedPackage:
    """A package as the archives list it, in no group yet.

    Raises:
        FormatError: the index does not have what a lock needs.

    Spec: Debian repository format, "Packages Indices" (Filename, Size, SHA256).
    """
    where = f"index: package {key[0]} {key[1]}"
    if key not in index:
        raise FormatError(where, "apt-get chose it, but no index lists it; update the lists again")
    paragraph = index[key]
    digest, size = paragraph.get("SHA256"), paragraph.get("Size")
    if re.fullmatch(r"[0-9a-f]{64}", digest) is None or re.fullmatch(r"[0-9]{1,15}", size) is None:
        raise FormatError(where, f"sha256 is {digest!r} and size is {size!r}; use another mirror")
    source, source_version = control.source_of(paragraph)
    return LockedPackage(
        name=key[0],
        version=key[1],
        architecture=key[2],
        sha256=bytes.fromhex(digest),
        size=int(size),
        source=source,
        source_version=source_version,
        groups=(),
        filename=paragraph.get("Filename"),
    )
