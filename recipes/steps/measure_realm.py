"""``goldsmith measure -- lkvm run ...``: a kvmtool command line, replayed from the files it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import MeasureError
from ..machine import HostFeatures, KvmtoolMachine
from ..machine.kvmtool_profiles import find_profile
from ..measure.kvmtool import RealmPrediction, replay
from ..measure.kvmtool_params import realm_params
from ..measure.realm_launch import Replayer
from ..record import dataclass, replace
from ..vmm.kvmtool_options import EAC5
from ..vmm.kvmtool_parse import parse
from .blobs import FileBlob

# The region that kvmtool gives the device tree; nothing larger can be a captured one.
MAX_DTB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class OpenedRealm:
    """A kvmtool command line with the files it names.

    Attributes:
        dtb: a device tree that is taken instead of the generated one.
        ignored: options without influence on the RIM, each with the reason.
        notes: what was assumed because the command line leaves it open, for people.
    """

    machine: KvmtoolMachine
    kernel: FileBlob
    initrd: FileBlob | None
    dtb: bytes | None
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RealmMeasurement:
    """What a kvmtool command line measures, and which of its options have no part in it."""

    machine: KvmtoolMachine
    prediction: RealmPrediction
    ignored: tuple[str, ...]


def measure_realm(
    argv: Sequence[str],
    *,
    profile: str | None = None,
    host: HostFeatures | None = None,
    dtb: Path | None = None,
    replayer: Replayer | None = None,
) -> RealmMeasurement:
    """The RIM of the realm that ``argv`` starts, with everything that leads to it.

    Args:
        profile: name of the stack it runs on; None for what the command line suggests.
        host: what the hardware decides.
        dtb: a captured device tree that is taken instead of the generated one.
        replayer: shared by several measurements of the same files.

    Raises:
        ImageError: the command line is not modelled, or a file it names cannot be read.
    """
    realm = open_realm(argv, profile=profile, host=host, dtb=dtb)
    prediction = replay(realm.machine, realm.kernel, realm.initrd, dtb=realm.dtb, replayer=replayer)
    prediction = replace(prediction, notes=(*prediction.notes, *realm.notes))
    return RealmMeasurement(machine=realm.machine, prediction=prediction, ignored=realm.ignored)


def open_realm(
    argv: Sequence[str],
    *,
    profile: str | None = None,
    host: HostFeatures | None = None,
    dtb: Path | None = None,
) -> OpenedRealm:
    """The realm that ``argv`` starts, ready to be replayed; the arguments are those of ``measure_realm``.

    Raises:
        ImageError: the command line is not modelled, or a file it names is not there.
    """
    launch = parse(argv, profile=profile, host=host or HostFeatures(), flash_size=_size)
    for path in launch.files.disks:
        _check_disk(path)
    if launch.files.metadata is not None:
        _check_metadata(launch.files.metadata)
    return OpenedRealm(
        machine=launch.machine,
        kernel=FileBlob.of(Path(launch.files.kernel)),
        initrd=FileBlob.of(Path(launch.files.initrd)) if launch.files.initrd is not None else None,
        dtb=_device_tree(dtb, launch.files.dtb),
        ignored=launch.ignored,
        notes=() if profile is not None else _assumptions(launch.machine),
    )


def _assumptions(machine: KvmtoolMachine) -> tuple[str, ...]:
    """What is taken for granted where nobody names the stack that the realm runs on."""
    profile = find_profile(machine.profile)
    stated = machine.islet or None not in (machine.host.num_bps, machine.host.num_wps)
    if profile.options != EAC5 or stated:
        return ()
    params = realm_params(machine, profile)
    text = (
        f"no --islet: the value is for an RMM that gives realms {params.num_bps} breakpoints and "
        f"{params.num_wps} watchpoints; for Islet's RMM add --islet (the lines that warden writes do not "
        "carry it)"
    )
    return (text,)


def _size(path: str) -> int:
    """The size of a flash, of which the content is not measured."""
    return FileBlob.of(Path(path)).size


def _check_metadata(path: str) -> None:
    """The metadata is read at the launch, though it is not measured."""
    if not Path(path).is_file():
        what = "is no regular file" if Path(path).exists() else "there is no such file"
        raise MeasureError(
            f"--metadata {path}: {what}, and kvmtool would not start; leave it out while there is none, the "
            "RIM does not depend on it"
        )


def _check_disk(path: str) -> None:
    """A disk is opened at the launch, though its content is not measured."""
    if not Path(path).exists():
        raise MeasureError(f"-d {path}: there is no such disk image; kvmtool would not start")
    if Path(path).is_dir():
        raise MeasureError(f"-d {path}: a folder would be shared by 9p as the root; give a disk image")


def _device_tree(captured: Path | None, supplied: str | None) -> bytes | None:
    """The tree that is not generated: one that was captured, or that the command line hands over."""
    if captured is not None and supplied is not None:
        what = "the command line has a device tree of its own; leave one of them out"
        raise MeasureError(f"--dtb {captured}: {what}")
    path = captured if captured is not None else Path(supplied) if supplied is not None else None
    if path is None:
        return None
    with path.open("rb") as file:
        data = file.read(MAX_DTB + 1)
    if len(data) > MAX_DTB:
        raise MeasureError(f"--dtb {path}: larger than {MAX_DTB} bytes; give what --dump-dtb wrote")
    return data
