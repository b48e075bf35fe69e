"""``launch:IMAGE``: a launch script for every machine, from the same value that is measured."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..machine import Accelerator, QemuMachine
from ..schema import Image
from .digests import ROOT
from .firmware import variables_path
from .task import OUT, Step

TEMPLATE = ROOT / "templates" / "run-qemu.sh.j2"


def script_path(image: Image, machine: QemuMachine) -> Path:
    """Path of a machine's launch script."""
    return OUT / image.name / f"run-{machine.name}.sh"


def step(image: Image) -> Step:
    """The step that renders the launch scripts."""
    return Step(
        basename="launch",
        image=image,
        products=tuple(script_path(image, machine) for machine in image.machines),
        inputs=(TEMPLATE,),
        build=build,
        arguments={
            "machines": image.machines,
            "variables": [variables_path(image, machine.firmware).name for machine in image.machines],
            "image": image.name,
        },
        doc="render a launch script for every machine",
    )


def build(*targets: Path, machines: tuple[QemuMachine, ...], variables: list[str], image: str) -> None:
    """Writes the launch scripts."""
    for target, machine, store in zip(targets, machines, variables, strict=True):
        target.write_text(render(machine, store, image), encoding="utf-8")
        target.chmod(0o755)


def render(machine: QemuMachine, store: str, image: str) -> str:
    """The launch script of one machine."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - shell, not HTML
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        image=image, machine=machine, store=store, kvm=machine.accelerator is Accelerator.KVM
    )


_ = shlex
