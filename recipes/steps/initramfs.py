"""``initramfs:IMAGE``: init, the unlock driver and what they need, as a zstd-compressed cpio archive."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from uuid import UUID

from ..schema import DataSpec, Image, InitramfsSpec, Profile
from . import kernel
from .archive import write_archive
from .digests import ROOT
from .packages import resolved_lock
from .seeds import data_partition
from .task import OUT, Step, source_files, tree_fingerprint
from .unpack import unpacked

SCRIPTS = ROOT / "initrd"
PROVIDERS = SCRIPTS / "unlock.d"


def archive(image: Image) -> Path:
    """Path of the initramfs."""
    return OUT / image.name / "initramfs.cpio.zst"


def scripts() -> tuple[Path, ...]:
    """The boot scripts; folders beside them are for others, such as realms."""
    return tuple(sorted(path for path in SCRIPTS.iterdir() if path.is_file()))


def kernel_cmdline(image: Image) -> str:
    """The recipe's command line as it comes to the kernel, before the build adds the root hash.

    The UKI carries it and the initramfs compares with it, so both take it from here.
    """
    return image.recipe.kernel.cmdline.strip()


def step(image: Image) -> Step:
    """The step that makes the initramfs."""
    return Step(
        basename="initramfs",
        image=image,
        products=(archive(image),),
        inputs=(
            resolved_lock(image),
            kernel.package_files(image),
            kernel.kernel_facts(image),
            *scripts(),
            *source_files(PROVIDERS),
        ),
        build=build,
        arguments={
            "lock": resolved_lock(image),
            "kernel_files": kernel.package_files(image),
            "facts": kernel.kernel_facts(image),
            "architecture": image.recipe.architecture.value,
            "cmdline": kernel_cmdline(image),
            "profile": image.recipe.profile,
            "spec": image.recipe.initramfs,
            "data": image.recipe.data,
            "partition": str(data_partition(image)),
        },
        fingerprint=tree_fingerprint(*scripts(), PROVIDERS),
        doc="assemble the initramfs: init, unlock driver, programs, libraries, kernel modules",
    )


def build(
    target: Path,
    *,
    lock: Path,
    kernel_files: Path,
    facts: Path,
    architecture: str,
    cmdline: str,
    profile: Profile,
    spec: InitramfsSpec,
    data: DataSpec,
    partition: str,
) -> None:
    """Writes the initramfs."""
    from ..formats import zstd
    from ..sources import initramfs
    from ..sources import lock as locks
    from ..sources.debs import read_spool
    from ..sources.providers import read_provider

    providers = tuple(read_provider(name, (PROVIDERS / name).read_bytes()) for name in data.unlock)
    volume = initramfs.VolumeSpec(
        name="data",
        partition_uuid=UUID(partition),
        providers=providers,
        filesystem=data.filesystem.value,
        format_policy=data.format.value,
        total_timeout=data.timeout,
        provider_timeout=min(20, data.timeout),
    )
    wanted = initramfs.InitramfsSpec(
        architecture=architecture,
        kernel_release=kernel.release_of(facts),
        modules=spec.modules,
        volumes=(volume,),
        cmdline=cmdline,
        profile=profile.value,
        on_failure=spec.on_failure.value,
        tpm=spec.tpm.value,
        device_timeout=spec.device_timeout,
    )
    compress = partial(zstd.compress_zstd, level=spec.compression_level)
    with unpacked(lock, "initramfs", target) as (tree, _):
        texts = {path.name: path.read_bytes() for path in scripts()}
        result = initramfs.assemble(tree, read_spool(kernel_files, "kernel"), wanted, texts, phase_commands())
        write_archive(result, target, epoch=locks.load(lock).epoch, compress=compress)


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
