"""``launch:IMAGE``: a launch script for every machine, from the same value that is measured."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..machine import QemuMachine, SnpBoot, SnpMachine
from ..record import dataclass
from ..schema import DiskImage
from . import disk, initramfs, kernel, uki, verity
from .digests import ROOT
from .firmware import code_path, variables_path
from .task import OUT, Step
from .templates import render

if TYPE_CHECKING:
    from ..vmm.script import LaunchScript

TEMPLATE = ROOT / "templates" / "run-qemu.sh.j2"


@dataclass(frozen=True, kw_only=True)
class SnpLaunch:
    """What a machine with SEV-SNP is launched from.

    Attributes:
        kernel: what is hashed; None where the firmware boots the disk.
        initrd: of a kernel that is no UKI.
        cmdline: of such a kernel, before the build adds the root hash of ``root``.
    """

    machine: SnpMachine
    firmware: Path
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str | None = None
    root: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is hashed, and what the command line is made of."""
        return tuple(item for item in (self.firmware, self.kernel, self.initrd, *self.root) if item)

    def command_line(self) -> str | None:
        """The value of ``-append``, the same as in the UKI; None where there is none."""
        from ..sources.initramfs import command_line

        if self.cmdline is None:
            return None
        return command_line(self.cmdline, *(verity.read_facts(path).root_hash for path in self.root))


def snp_launches(image: DiskImage) -> tuple[SnpLaunch, ...]:
    """The machines with SEV-SNP, each with its files."""
    return tuple(_snp_launch(image, machine) for machine in image.snp)


def _snp_launch(image: DiskImage, machine: SnpMachine) -> SnpLaunch:
    firmware = code_path(image, machine.firmware)
    if machine.boot is SnpBoot.DISK:
        return SnpLaunch(machine=machine, firmware=firmware)
    if machine.boot is SnpBoot.UKI:
        return SnpLaunch(machine=machine, firmware=firmware, kernel=uki.uki_path(image))
    return SnpLaunch(
        machine=machine,
        firmware=firmware,
        kernel=kernel.vmlinuz(image),
        initrd=initramfs.archive(image),
        cmdline=initramfs.kernel_cmdline(image),
        root=uki.facts_of_root(image),
    )


def script_path(image: DiskImage, machine: QemuMachine | SnpMachine) -> Path:
    """Path of a machine's launch script."""
    return OUT / image.name / f"run-{machine.name}.sh"


def step(image: DiskImage) -> Step:
    """The step that renders the launch scripts."""
    folder = OUT / image.name
    captures = (image.captures_path,) if image.captures_path.exists() else ()
    return Step(
        basename="launch",
        image=image,
        products=(
            *(script_path(image, machine) for machine in image.machines),
            *(script_path(image, machine) for machine in image.snp),
        ),
        inputs=(
            TEMPLATE,
            *captures,
            *dict.fromkeys(code_path(image, item.firmware) for item in image.machines),
            *dict.fromkeys(path for item in snp_launches(image) for path in item.root),
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
            "snp": snp_launches(image),
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
    snp: tuple[SnpLaunch, ...] = (),
) -> None:
    """Writes the launch scripts; the paths in them are relative to their folder."""
    from ..vmm import captures as stored
    from ..vmm.script import launch_script, snp_script
    from .models import read_captures

    def beside(path: Path | None) -> str:
        return "" if path is None else path.relative_to(folder).as_posix()

    known = read_captures(captures)
    for target, machine, code, store in zip(targets[: len(machines)], machines, codes, stores, strict=True):
        digest = hashlib.sha256((folder / code).read_bytes()).digest()
        capture = stored.find(known, machine, code_sha256=digest)
        script = launch_script(
            machine,
            code=code.as_posix(),
            vars_template=store.as_posix(),
            disks=(disk.as_posix(),),
            qemu_version=capture.qemu_version if capture else "",
        )
        _write(target, script, image)
    for target, item in zip(targets[len(machines) :], snp, strict=True):
        script = snp_script(
            item.machine,
            firmware=beside(item.firmware),
            disk=disk.as_posix(),
            kernel=beside(item.kernel),
            initrd=beside(item.initrd),
            cmdline=item.command_line() or "",
        )
        _write(target, script, image)


def _write(target: Path, script: LaunchScript, image: str) -> None:
    target.write_text(render(TEMPLATE, script=script, image=image), encoding="utf-8")
    target.chmod(0o755)
