"""``kernel:IMAGE``: the kernel as its package ships it, and what it is called."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import SpecError
from ..schema import Image
from .packages import resolved_lock
from .task import OUT, Step
from .unpack import unpacked


def vmlinuz(image: Image) -> Path:
    """Path of the kernel."""
    return OUT / image.name / "vmlinuz"


def kernel_facts(image: Image) -> Path:
    """Path of ``kernel.json``: release (``uname -r``), package and version."""
    return OUT / image.name / "kernel.json"


def step(image: Image) -> Step:
    """The step that unpacks the kernel."""
    return Step(
        basename="kernel",
        image=image,
        products=(vmlinuz(image), kernel_facts(image)),
        inputs=(resolved_lock(image),),
        build=build,
        arguments={"lock": resolved_lock(image)},
        doc="take the kernel out of its package",
    )


def build(kernel: Path, facts: Path, *, lock: Path) -> None:
    """Writes the kernel and its facts."""
    with unpacked(lock, "kernel", kernel) as (tree, packages):
        found = [path for path in tree.nodes if path.startswith("boot/vmlinuz-")]
        if len(found) != 1:
            names = ", ".join(package.name for package in packages)
            raise SpecError(f"kernel.package: expected one boot/vmlinuz-* in {names}, found {len(found)}")
        node = tree[found[0]]
        assert node.payload is not None
        with kernel.open("wb") as out:
            out.writelines(node.payload.chunks())
        release = found[0].removeprefix("boot/vmlinuz-")
        package = next(item for item in packages if item.name == node.source)
    facts.write_text(
        json.dumps({"release": release, "package": package.name, "version": package.version}, indent=1) + "\n"
    )


def release_of(facts: Path) -> str:
    """The kernel's release, from ``kernel.json``."""
    return str(json.loads(facts.read_text())["release"])
