"""``update:IMAGE``: resolves the lock again and captures what only a running VMM knows.

The only task that writes beside recipes; what it writes is committed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ..errors import MeasureError, ToolError
from ..machine import Accelerator, QemuMachine
from ..schema import Buildable, DiskImage
from . import firmware, packages
from .packages import APT_WORK, debian, request
from .task import Step, Task, guarded, say, write_text

if TYPE_CHECKING:
    from ..vmm.captures import AcpiCapture


def task(image: Buildable) -> Task:
    """The doit task; it always runs."""
    captures = ", capture ACPI tables, learn unknown firmware" if isinstance(image, DiskImage) else ""
    return {
        "basename": "update",
        "name": image.name,
        "doc": f"resolve the lock of {image.name} again{captures}",
        "actions": [(guarded, [lambda: update(image)])],
        "verbosity": 2,
    }


def update(image: Buildable) -> None:
    """Writes the lock and, for what boots under QEMU, the captures where QEMU and swtpm are installed."""
    update_lock(image)
    if not isinstance(image, DiskImage):
        return
    try:
        update_captures(image)
    except ToolError as error:
        say(f"the lock is new, the captures are as they were: {error}")
        raise


def update_lock(image: Buildable) -> None:
    """Resolves the recipe's packages and writes the lock beside it."""
    from ..sources import apt
    from ..sources import lock as locks

    wanted = request(image)
    say(f"resolving {sum(len(group.packages) for group in wanted.groups)} packages and what they depend on")
    lock = apt.resolve(*debian(image), wanted.groups, APT_WORK)
    text = locks.dump(lock, image=image.name)
    changed = not image.lock_path.exists() or image.lock_path.read_text(encoding="utf-8") != text
    write_text(image.lock_path, text)
    say(f"{image.lock_path.name}: {len(lock.packages)} packages, {'changed' if changed else 'as before'}")


def capture_steps(image: DiskImage) -> tuple[Step, ...]:
    """What has to be made before machines are captured, in order: the firmware that they start from."""
    owners: tuple[Buildable, ...] = (image, *firmware.shared_firmware(image))
    return (*(packages.step(owner) for owner in owners), *firmware.steps(image)[:1])


def update_captures(image: DiskImage) -> None:
    """Captures every machine that runs here: ACPI tables, and what firmware writes before it is measured.

    A machine whose firmware build is not known is left out, and so are its PCR 0 and 1.

    Raises:
        ToolError: QEMU or swtpm is missing or fails.
    """
    from ..vmm.captures import dump_captures

    for step in capture_steps(image):
        step.run()
    # What other devices do to the tables is not modelled, so a capture of them would serve nobody.
    machines = [
        machine
        for machine in image.machines
        if machine.accelerator is Accelerator.TCG and not machine.devices
    ]
    captures = []
    for machine in machines:
        try:
            captures.append(_capture(image, machine))
            say(f"  {machine.name}: captured")
        except MeasureError as error:
            say(f"  {machine.name}: not captured: {error}")
    if captures:
        write_text(image.captures_path, dump_captures(captures))
        say(f"{image.captures_path.name}: {len(captures)} machines")


def _capture(image: DiskImage, machine: QemuMachine) -> AcpiCapture:
    """The capture of one machine, from the firmware that the lock names."""
    from ..vmm.bench import Flash
    from ..vmm.firmware_learn import capture_machine
    from ..vmm.models import find_firmware, known_firmware

    code = firmware.code_path(image, machine.firmware)
    facts = find_firmware(known_firmware(), hashlib.sha256(code.read_bytes()).digest())
    if facts is None:
        what = (
            f"{code.name}: nothing is known of this firmware build; describe it in recipes/vmm/firmware.json"
        )
        raise MeasureError(what)
    return capture_machine(machine, Flash(code, code.with_name(machine.firmware.vars)), facts)
