"""``IMAGE``: builds and measures all of an image, then prints what came out."""

from __future__ import annotations

import sys

from ..schema import DiskImage, RealmImage
from . import golden
from .task import OUT, Task, guarded


def task(image: DiskImage | RealmImage, steps: list[str]) -> Task:
    """The task named like the image. It depends on every step by name, so ``forget`` reaches them all."""
    return {
        "basename": image.name,
        "doc": f"build and measure {image.name}: {len(image.machines)} machines",
        "task_dep": steps,
        "actions": [(guarded, [lambda: show(image)])],
        "verbosity": 2,
    }


def show(image: DiskImage | RealmImage) -> None:
    """Prints the table of artefacts and golden registers."""
    from ..golden import manifest_reader, table

    path = golden.golden_path(image)
    manifest = manifest_reader.load(path.read_text(encoding="utf-8"), path.relative_to(OUT.parent).as_posix())
    sys.stdout.write(table.render(manifest, colour=sys.stdout.isatty()))
