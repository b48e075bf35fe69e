"""``kernel:IMAGE``: the kernel as its package ships it, and what it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..schema import DiskImage, HatsImage, SharedKernel
from . import packages
from .packages import resolved_lock
from .task import OUT, Step

if TYPE_CHECKING:
    from ..formats.kmod import ModuleDirectory


def vmlinuz(image: DiskImage | HatsImage | SharedKernel) -> Path:
    """Path of the kernel."""
    return OUT / image.folder / "vmlinuz"


def kernel_facts(image: DiskImage | HatsImage | SharedKernel) -> Path:
    """Path of ``kernel.json``: release (``uname -r``), package and version."""
    return OUT / image.folder / "kernel.json"


def package_files(image: DiskImage | HatsImage | SharedKernel) -> Path:
    """Path of the kernel package's files as one plain tar archive: what modules are taken from."""
    return OUT / image.folder / "kernel.tar"


def step(image: DiskImage | HatsImage | SharedKernel) -> Step:
    """The step that unpacks the kernel."""
    return Step(
        basename="kernel",
        image=image,
        products=(vmlinuz(image), package_files(image), kernel_facts(image)),
        inputs=(resolved_lock(image),),
        build=build,
        arguments={"lock": resolved_lock(image)},
        doc="take the kernel and its modules out of their package",
    )


def build(kernel: Path, files: Path, facts: Path, *, lock: Path) -> None:
    """Writes the kernel, its package's files and its facts."""
    from ..formats import deb
    from ..sources import lock as locks
    from ..sources.debs import read_spool

    names = []
    for path in packages.package_files(locks.load(lock), "kernel"):
        package = deb.open_deb(path)
        about = package.control().paragraph
        names.append(about.get("Package"))
        with files.open("wb") as spool:
            package.unpack(spool, files, owner=names[-1])
        tree = read_spool(files, names[-1])
        found = next((name for name in tree.nodes if name.startswith("boot/vmlinuz-")), None)
        if found is not None:
            kernel.write_bytes(tree[found].read())
            value = {
                "release": found.removeprefix("boot/vmlinuz-"),
                "package": names[-1],
                "version": about.get("Version"),
            }
            facts.write_text(json.dumps(value, indent=1) + "\n")
            return
    raise SpecError(f"kernel.package: no boot/vmlinuz-* in {', '.join(names)}; name a kernel package")


def module_directory(files: Path, facts: Path) -> ModuleDirectory:
    """The kernel's modules, from the products of this step."""
    from ..formats.kmod import ModuleDirectory
    from ..sources.debs import read_spool

    value = json.loads(facts.read_text())
    return ModuleDirectory(read_spool(files, value["package"]), value["release"])


def release_of(facts: Path) -> str:
    """The kernel's release, from ``kernel.json``."""
    return str(json.loads(facts.read_text())["release"])
