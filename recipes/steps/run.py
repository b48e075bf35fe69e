"""``run:IMAGE``: boots an image on this terminal."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from doit.exceptions import TaskFailed

from ..errors import SpecError, suggestion
from ..machine import Accelerator, QemuMachine, SnpMachine
from ..schema import DiskImage
from . import launch
from .task import OUT, Task


def task(image: DiskImage) -> Task:
    """The doit task: ``doit run:IMAGE``, or ``doit run:IMAGE --machine NAME``."""
    return {
        "basename": "run",
        "name": image.name,
        "doc": f"boot {image.name} on this terminal (Ctrl-a x ends QEMU)",
        "task_dep": [f"disk:{image.name}", f"launch:{image.name}"],
        "params": [{"name": "machine", "long": "machine", "short": "m", "type": str, "default": ""}],
        "actions": [(run, [image])],
        "verbosity": 2,
        "io": {"capture": False},
    }


def run(image: DiskImage, machine: str) -> TaskFailed | None:
    """Runs a machine's launch script in the foreground."""
    try:
        chosen = pick(image, [machine] if machine else [])[0]
    except SpecError as error:
        return TaskFailed(str(error))
    script = launch.script_path(image, chosen)
    status = subprocess.run([str(script)], check=False).returncode
    name = script.relative_to(OUT.parent).as_posix()
    return TaskFailed(f"{name}: exit status {status}") if status else None


def pick(image: DiskImage, names: Sequence[str]) -> tuple[QemuMachine | SnpMachine, ...]:
    """The machines of these names; without names every one that needs no special host (TCG).

    Raises:
        SpecError: a name is not known, or the recipe has no TCG machine.
    """
    known: dict[str, QemuMachine | SnpMachine] = {machine.name: machine for machine in image.machines}
    known |= {machine.name: machine for machine in image.snp}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SpecError(f"{image.name} has no machine {unknown[0]!r}{suggestion(unknown[0], known)}")
    chosen = tuple(known[name] for name in names) or tuple(
        machine for machine in image.machines if machine.accelerator is Accelerator.TCG
    )
    if not chosen:
        raise SpecError(f"{image.name}: no machine runs without KVM; name one with --machine")
    return chosen
