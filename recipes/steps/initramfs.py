"""``initramfs:IMAGE``: init, the unlock driver and what they need, as a zstd-compressed cpio archive."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..schema import DiskImage, InitramfsSpec, Profile
from . import helpers, kernel, verity, workload, workload_system
from .archive import write_archive
from .digests import ROOT
from .packages import resolved_lock
from .task import OUT, Step, tree_fingerprint
from .unpack import unpacked
from .volumes import Volume, input_files, read_volume, volumes

if TYPE_CHECKING:
    from ..sources import initramfs as sources
    from ..sources.initramfs import VerifiedPartitions

SCRIPTS = ROOT / "initrd"


def archive(image: DiskImage) -> Path:
    """Path of the initramfs."""
    return OUT / image.name / "initramfs.cpio.zst"


def sizes(image: DiskImage) -> Path:
    """Path of the table that says what takes how much of it."""
    return OUT / image.name / "initramfs.sizes.txt"


def scripts() -> tuple[Path, ...]:
    """The boot scripts; folders beside them are for others, such as realms."""
    return tuple(sorted(path for path in SCRIPTS.iterdir() if path.is_file()))


def kernel_cmdline(image: DiskImage) -> str:
    """The recipe's command line as it comes to the kernel, before the build adds the root hash.

    The UKI carries it and the initramfs compares with it, so both take it from here.
    """
    return image.recipe.kernel.cmdline.strip()


def _is_made(path: Path) -> bool:
    """Whether another task makes the file, so that it may be missing yet."""
    return path.is_relative_to(ROOT / "keys") or path.is_relative_to(OUT)


def step(image: DiskImage) -> Step:
    """The step that makes the initramfs."""
    opened = volumes(image)
    files = tuple(dict.fromkeys(path for volume in opened for path in input_files(volume)))
    return Step(
        basename="initramfs",
        image=image,
        products=(archive(image), sizes(image)),
        inputs=(
            resolved_lock(image),
            kernel.package_files(image),
            kernel.kernel_facts(image),
            helpers.helpers_path(image),
            *scripts(),
            # Without a file that a person brings the step itself says what is missing.
            *(path for path in files if _is_made(path) or path.exists()),
            *workload.verified(image),
        ),
        build=build,
        arguments={
            "lock": resolved_lock(image),
            "kernel_files": kernel.package_files(image),
            "facts": kernel.kernel_facts(image),
            "programs": helpers.helpers_path(image),
            "architecture": image.recipe.architecture.value,
            "cmdline": kernel_cmdline(image),
            "profile": image.recipe.profile,
            "spec": image.recipe.initramfs,
            "opened": opened,
            "workload_facts": workload.verified(image),
            "workload_partitions": (
                workload_system.partition(image),
                workload_system.hash_partition(image),
            ),
        },
        fingerprint=tree_fingerprint(*scripts()),
        doc="assemble the initramfs: init, unlock driver, programs, libraries, kernel modules",
    )


def build(
    target: Path,
    table: Path,
    *,
    lock: Path,
    kernel_files: Path,
    facts: Path,
    programs: Path,
    architecture: str,
    cmdline: str,
    profile: Profile,
    spec: InitramfsSpec,
    opened: Sequence[Volume],
    workload_facts: Sequence[Path] = (),
    workload_partitions: tuple[str, str] = ("", ""),
) -> None:
    """Writes the initramfs, and what it is made of."""
    from ..formats import zstd
    from ..sources import initramfs
    from ..sources import lock as locks
    from ..sources.contributors import breakdown, render
    from ..sources.debs import read_spool

    wanted = initramfs.InitramfsSpec(
        architecture=architecture,
        kernel_release=kernel.release_of(facts),
        modules=spec.modules,
        volumes=tuple(read_volume(volume) for volume in opened),
        cmdline=cmdline,
        profile=profile.value,
        on_failure=spec.on_failure.value,
        tpm=spec.tpm.value,
        device_timeout=spec.device_timeout,
        root="luks2" if any(volume.name == "root" for volume in opened) else "verity",
        network=spec.network,
        workload=_verified(workload_facts, workload_partitions),
    )
    compress = partial(zstd.compress_zstd, level=spec.compression_level)
    with unpacked(lock, "initramfs", target) as (tree, _):
        result = initramfs.assemble(
            tree,
            read_spool(kernel_files, "kernel"),
            wanted,
            {path.name: path.read_bytes() for path in scripts()},
            phase_commands(),
            compiled(programs, wanted),
        )
        epoch, allowed = locks.load(lock).epoch, initramfs.secret_paths(wanted)
        write_archive(result, target, epoch=epoch, compress=compress, secret=allowed)
        table.write_text(render(breakdown(result, compress, epoch=epoch)), encoding="utf-8")


def _verified(facts: Sequence[Path], partitions: tuple[str, str]) -> VerifiedPartitions | None:
    """The workload's partitions, where the initramfs opens them by a root hash."""
    from ..sources.initramfs import VerifiedPartitions

    for path in facts:
        return VerifiedPartitions(*partitions, root_hash=verity.read_facts(path).root_hash)
    return None


def compiled(programs: Path, spec: sources.InitramfsSpec) -> dict[str, bytes]:
    """The helpers that an initramfs needs, out of the product of the helpers step."""
    from ..sources.initramfs import helpers_needed

    found = helpers.read_helpers(programs)
    return {name: found[name] for name in helpers_needed(spec)}


def phase_commands() -> dict[str, bytes]:
    """The TPM commands that extend the initramfs' boot phases into PCR 11, one for each phase and bank."""
    from ..measure.tpm import pcr_extend_command
    from ..measure.trace import ALL_ALGORITHMS
    from ..sources.initramfs import PHASES

    return {
        f"{phase}.{algorithm.value}": pcr_extend_command(11, algorithm.digest(phase.encode()), algorithm)
        for phase in PHASES
        for algorithm in ALL_ALGORITHMS
    }
