"""``stability:REALM``: which options of a realm's command line move its RIM."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MeasureError, SpecError
from ...schema import RealmImage
from ...schema.realm import StabilitySpec
from ..blobs import FileBlob
from ..digests import ROOT
from ..task import OUT, Task, guarded, say, write_text
from . import initramfs, kernel

if TYPE_CHECKING:
    from ...golden.stability_axes import Axis


def report_path(realm: RealmImage) -> Path:
    """Path of the report for programs."""
    return OUT / realm.folder / "stability.json"


def task(realm: RealmImage) -> Task:
    """The doit task; it always runs."""
    return {
        "basename": "stability",
        "name": realm.name,
        "doc": f"say which options of its command line change the RIM of {realm.name}",
        "task_dep": [f"kernel:{realm.name}", f"initramfs:{realm.name}"],
        "actions": [(guarded, [lambda: stability(realm)])],
        "clean": [(guarded, [lambda: report_path(realm).unlink(missing_ok=True)])],
        "verbosity": 2,
    }


def stability(realm: RealmImage) -> None:
    """Prints the report on the recipe's first machine and writes it for programs.

    Raises:
        ImageError: a value of the recipe's is none, or none of the machines can be launched.
    """
    from ...golden.stability import examine
    from ...golden.stability_report import render, to_json

    base = realm.provisioned
    blobs = FileBlob.of(kernel.image_path(realm)), FileBlob.of(initramfs.archive(realm))
    report = examine(base, *blobs, _axes(realm))
    for note in report.notes:
        say(f"note: {note}")
    say(f"{realm.name} around its machine {base.name}\n")
    say(render(report))
    write_text(report_path(realm), json.dumps(to_json(report), indent=1) + "\n")
    say(f"  {report_path(realm).relative_to(OUT).as_posix()}: every machine of the matrix")


def _axes(realm: RealmImage) -> tuple[Axis, ...]:
    """The matrix that the recipe declares; what it does not say is varied around the first machine.

    Raises:
        SpecError: a value that the recipe's reader let pass, with its place.
    """
    from ...golden.stability_axes import axis, matrix

    written = {item.name: getattr(realm.recipe.stability, item.name) for item in fields(StabilitySpec)}
    declared = {name: text for name, text in written.items() if text}
    for name, text in declared.items():
        try:
            axis(name, text)
        except MeasureError as error:
            what = str(error).removeprefix("--")
            raise SpecError(f"{_place(realm, name)}: stability.{what}") from None
    return matrix(realm.provisioned, declared)


def _place(realm: RealmImage, name: str) -> str:
    """Where the values of an option stand."""
    path = realm.path.relative_to(ROOT) if realm.path.is_relative_to(ROOT) else realm.path
    return ":".join([path.as_posix(), *realm.positions("stability", name)[:1]])
