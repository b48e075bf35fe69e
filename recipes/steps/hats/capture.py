"""``capture:IMAGE``: the ACPI tables of every VM of a recipe, from a QEMU that is installed here.

The file is committed beside the recipe. Captures of other versions of QEMU stay in it.
"""

from __future__ import annotations

from pathlib import Path

from ...schema.hats import HatsImage
from ..task import Task, guarded, say
from .golden import facts
from .machines import stage0_machine


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
    from ..capture import capture_machine, store

    recipe, path = image.recipe, image.captures_path
    machines = [stage0_machine(shape, recipe.stage0.generation, facts(image)) for shape in image.machines]
    named = recipe.launcher.vmm_binary
    binary = named if Path(named).is_file() else PROGRAM
    distinct = {machine.acpi_identity(): machine for machine in machines}
    captured = [capture_machine(machine, binary=binary) for machine in distinct.values()]
    for item in captured:
        say(f"  {item.capture}: acpi_table_sha256 {item.acpi_table_sha256.hex()}")
    for text in dict.fromkeys(text for item in captured for text in item.capture.stand_ins):
        say(f"  note: {text}")
    say(f"{path.name}: {len(store(path, captured))} captures")
    versions = sorted({item.capture.qemu_version for item in captured})
    if versions != [recipe.host.qemu]:
        what = f"policies are made of captures of QEMU {recipe.host.qemu}, as host.qemu of the recipe says"
        say(f"  WARNING: these are of QEMU {', '.join(versions)}; {what}")
