"""The machines with SEV-SNP in ``golden.json``: launch digest, and what the TPM beside it would measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..record import dataclass
from ..schema import DiskImage
from . import firmware, launch
from .disk_formats import other_sizes

if TYPE_CHECKING:
    from ..golden.manifest import GoldenMachine, ShippedDisk
    from ..golden.predict import DiskPrediction
    from ..machine import SnpMachine
    from ..measure.boot import Prediction
    from ..measure.sev import SevLaunch


@dataclass(frozen=True, kw_only=True)
class SnpFiles:
    """What one machine is launched from.

    Attributes:
        lock: that the firmware comes from.
        script: name of the launch script.
    """

    launch: launch.SnpLaunch
    lock: Path
    script: str


def snp_files(image: DiskImage) -> tuple[SnpFiles, ...]:
    """The files of each machine with SEV-SNP."""
    return tuple(
        SnpFiles(
            launch=item,
            lock=firmware.firmware_lock(image, item.machine.firmware),
            script=launch.script_path(image, item.machine).name,
        )
        for item in launch.snp_launches(image)
    )


def inputs(files: Sequence[SnpFiles]) -> tuple[Path, ...]:
    """Every file that is read, once."""
    return tuple(dict.fromkeys(path for item in files for path in (item.lock, *item.launch.files)))


def predict(
    files: Sequence[SnpFiles], raw_disk: Path, shipped: Sequence[ShippedDisk] = ()
) -> tuple[GoldenMachine, ...]:
    """The golden entry of each machine.

    Args:
        shipped: disks as they ship, for TPMs of machines that boot from them.

    Raises:
        ImageError: a file cannot be read, or the firmware is none for such a machine.
    """
    return tuple(_predict(item, raw_disk, shipped) for item in files)


def _predict(item: SnpFiles, raw_disk: Path, shipped: Sequence[ShippedDisk]) -> GoldenMachine:
    from ..golden.sev import SnpEvidence, golden_snp
    from ..measure.sev import replay
    from ..sources import lock as locks

    machine = item.launch.machine
    opened = _opened(item.launch)
    package = machine.firmware.package
    version = next(entry.version for entry in locks.load(item.lock).packages if entry.name == package)
    boots = _tpm_boots(machine, raw_disk, shipped) if machine.tpm and not machine.kernel_hashes else None
    return golden_snp(
        machine,
        SnpEvidence(launch=opened, prediction=replay(opened), boot=boots[0] if boots else None),
        firmware_version=version,
        launch=item.script,
        disks=boots[1] if boots else (),
    )


def _opened(item: launch.SnpLaunch) -> SevLaunch:
    from ..vmm.sev_values import SevFiles
    from .measure_sev import read_launch

    cmdline = item.command_line() if item.kernel is None or item.cmdline is not None else ""
    files = SevFiles(
        firmware=str(item.firmware),
        kernel=str(item.kernel) if item.kernel else None,
        initrd=str(item.initrd) if item.initrd else None,
    )
    return read_launch(item.machine.measured(cmdline), files)


def _tpm_boots(
    machine: SnpMachine, raw_disk: Path, shipped: Sequence[ShippedDisk]
) -> tuple[Prediction, tuple[DiskPrediction, ...]]:
    """What a TPM measures of a boot from the raw disk, and from disks of other sizes."""
    from ..golden.predict import DiskPrediction
    from ..measure.boot import replay_boot, with_disk
    from .boot_inputs import read_unknown_boot

    booted = machine.measured_boot()
    boot = read_unknown_boot(machine.firmware.file, raw_disk)
    others = (
        DiskPrediction(
            other.size,
            other.formats,
            replay_boot(booted, with_disk(boot, other.gpt_event, other.source)),
        )
        for other in other_sizes(raw_disk, shipped)
    )
    return replay_boot(booted, boot), tuple(others)
