"""``capture:IMAGE``: the ACPI tables of every VM of a recipe, from a QEMU that is installed here.

The file is committed beside the recipe. Captures of other versions of QEMU stay in it.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ...errors import MeasureError
from ...machine.stage0 import Stage0Machine
from ...schema.hats import HatsImage
from ..task import Task, guarded, say
from .golden import facts
from .machines import stage0_machine

if TYPE_CHECKING:
    from ..capture import Captured


def task(image: HatsImage) -> Task:
    """The doit task; it always runs."""
    return {
        "basename": "capture",
        "name": image.name,
        "doc": f"capture the ACPI tables of the VMs of {image.name} from the QEMU that is installed",
        "actions": [(guarded, [lambda: capture(image)])],
        "verbosity": 2,
    }


def capture(image: HatsImage) -> None:
    """Captures every VM, those with the same tables once, and writes the file.

    Raises:
        ToolError: QEMU is missing, or does not start such a machine.
    """
    from ...vmm.qemu import PROGRAM
    from ..capture import store

    recipe, path = image.recipe, image.captures_path
    machines = [stage0_machine(shape, recipe.stage0.generation, facts(image)) for shape in image.machines]
    named = recipe.launcher.vmm_binary
    binary = shutil.which(named)
    if binary is None:
        binary = shutil.which(PROGRAM) or PROGRAM
        say(f"  note: {named}, launcher.vmm_binary of the recipe, is not installed here; {binary} is asked")
    distinct = {machine.acpi_identity(): machine for machine in machines}
    captured = [_captured(machine, binary) for machine in distinct.values()]
    for version, package in sorted({(item.capture.qemu_version, item.capture.package) for item in captured}):
        say(f"  captured from {binary}: QEMU {version}" + (f" ({package})" if package else ""))
    for item in captured:
        say(f"  {item.capture}: acpi_table_sha256 {item.acpi_table_sha256.hex()}")
    for text in dict.fromkeys(text for item in captured for text in item.capture.stand_ins):
        say(f"  note: {text}")
    say(f"{path.name}: {len(store(path, captured))} captures")
    versions = sorted({item.capture.qemu_version for item in captured})
    if versions != [recipe.host.qemu]:
        what = f"policies are made of captures of QEMU {recipe.host.qemu}, as host.qemu of the recipe says"
        say(f"  WARNING: these are of QEMU {', '.join(versions)}; {what}")


def _captured(machine: Stage0Machine, binary: str) -> Captured:
    from ..capture import capture_machine

    try:
        return capture_machine(machine, binary=binary)
    except MeasureError as error:
        if str(error).startswith(machine.name):
            raise
        raise MeasureError(f"{machine.name}: {error}") from None
