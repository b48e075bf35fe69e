"""``IMAGE``: builds and measures all of an image, then prints what came out."""

from __future__ import annotations

import sys

from ..schema import DiskImage, HatsImage, RealmImage
from . import golden
from .task import OUT, Task, guarded


def task(image: DiskImage | HatsImage | RealmImage, steps: list[str]) -> Task:
    """The task named like the image. It depends on every step by name, so ``forget`` reaches them all."""
    return {
        "basename": image.name,
        "doc": f"build and measure {image.name}: {_machines(image)}",
        "task_dep": steps,
        "actions": [(guarded, [lambda: show(image)])],
        "verbosity": 2,
    }


def _machines(image: DiskImage | HatsImage | RealmImage) -> str:
    """How many machines it is measured for: ``10 machines, 5 of them with SEV-SNP``."""
    snp = () if isinstance(image, HatsImage | RealmImage) else image.snp
    count = len(image.machines) + len(snp)
    return f"{count} machines" + (f", {len(snp)} of them with SEV-SNP" if snp else "")


def show(image: DiskImage | HatsImage | RealmImage) -> None:
    """Prints the table of artefacts and golden registers."""
    from ..golden import manifest_reader, table

    path = golden.golden_path(image)
    manifest = manifest_reader.load(path.read_text(encoding="utf-8"), path.relative_to(OUT.parent).as_posix())
    sys.stdout.write(table.render(manifest, colour=sys.stdout.isatty()))
