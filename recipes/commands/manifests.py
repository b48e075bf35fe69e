"""Golden manifests that are named on the command line."""

from __future__ import annotations

from pathlib import Path

from ..errors import ImageError, suggestion
from ..golden import manifest_reader
from ..golden.manifest import GoldenMachine, GoldenManifest


def load(path: Path) -> GoldenManifest:
    """The manifest at ``path``.

    Raises:
        FormatError: it is none.
    """
    return manifest_reader.load(path.read_text(encoding="utf-8", errors="replace"), str(path))


def load_on(path: Path, disk: str | None) -> GoldenManifest:
    """The manifest at ``path``, as it is for machines that boot from the disk of a format.

    Args:
        disk: None for the raw disk.

    Raises:
        FormatError: it is none.
        ImageError: it has no disk of that format.
    """
    manifest = load(path)
    return manifest if disk is None else manifest.on_disk(disk)


def machine_of(
    manifest: GoldenManifest, name: str | None, path: Path, *, first: bool = False
) -> GoldenMachine:
    """The machine of a name; without one the only one, or the first where that will do.

    Raises:
        ImageError: there is no such machine, or a name is needed.
    """
    known = [machine.name for machine in manifest.machines]
    if name is None and known and (first or len(known) == 1):
        return manifest.machines[0]
    found = manifest.machine(name) if name else None
    if found is None:
        what = (
            f"no machine {name!r}{suggestion(name, known)}" if name else f"name a machine: {', '.join(known)}"
        )
        raise ImageError(f"{path}: {what}")
    return found
