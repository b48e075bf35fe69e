"""``launch:IMAGE``: a launch script for every machine, from the same value that is measured."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..machine import QemuMachine
from ..schema import DiskImage
from . import disk
from .digests import ROOT
from .firmware import code_path, variables_path
from .task import OUT, Step
from .templates import render

TEMPLATE = ROOT / "templates" / "run-qemu.sh.j2"


def script_path(image: DiskImage, machine: QemuMachine) -> Path:
    """Path of a machine's launch script."""
    return OUT / image.name / f"run-{machine.name}.sh"


def step(image: DiskImage) -> Step:
    """The step that renders the launch scripts."""
    folder = OUT / image.name
    captures = (image.captures_path,) if image.captures_path.exists() else ()
    return Step(
        basename="launch",
        image=image,
        products=tuple(script_path(image, machine) for machine in image.machines),
        inputs=(
            TEMPLATE,
            *captures,
            *dict.fromkeys(code_path(image, item.firmware) for item in image.machines),
        ),
        build=build,
        arguments={
            "image": image.name,
            "machines": image.machines,
            "folder": folder,
            "codes": [code_path(image, item.firmware).relative_to(folder) for item in image.machines],
            "stores": [variables_path(image, item.firmware).relative_to(folder) for item in image.machines],
            "disk": disk.raw_disk(image).relative_to(folder),
            "captures": captures,
        },
        doc="render a launch script for every machine",
    )


def build(
    *targets: Path,
    image: str,
    machines: tuple[QemuMachine, ...],
    folder: Path,
    codes: list[Path],
    stores: list[Path],
    disk: Path,
    captures: tuple[Path, ...],
) -> None:
    """Writes the launch scripts; the paths in them are relative to their folder."""
    from ..vmm import captures as stored
    from ..vmm.script import launch_script
    from .models import read_captures

    known = read_captures(captures)
    for target, machine, code, store in zip(targets, machines, codes, stores, strict=True):
        digest = hashlib.sha256((folder / code).read_bytes()).digest()
        capture = stored.find(known, machine, code_sha256=digest)
        script = launch_script(
            machine,
            code=code.as_posix(),
            vars_template=store.as_posix(),
            disks=(disk.as_posix(),),
            qemu_version=capture.qemu_version if capture else "",
        )
        target.write_text(render(TEMPLATE, script=script, image=image), encoding="utf-8")
        target.chmod(0o755)
