"""What moves a realm's RIM: the register over a matrix of machines, and a verdict for each option.

Every value is a replay. What launches have in common is computed once: the pages of their files, and the
register up to the step where they part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import product
from math import prod

from ..errors import MeasureError
from ..machine import KvmtoolMachine, KvmtoolNetwork, VirtioTransport
from ..machine.kvmtool_profiles import find_profile
from ..measure.granules import Blob
from ..measure.kvmtool import replay
from ..measure.realm_launch import Replayer
from ..measure.trace import Established, HashAlgorithm
from .stability_axes import KINDS, Axis, axis_around, find_kind

# Ours: a larger matrix is a mistake, and takes minutes.
MAX_ROWS = 20_000
# Spec: RMM specification 1.0-rel0, RmiRealmParams.s2sz: 52 bits at most, the lower half of them for RAM.
_MAX_RAM_TOP = 1 << 51
_LEGACY = {
    VirtioTransport.PCI: VirtioTransport.PCI_LEGACY,
    VirtioTransport.PCI_LEGACY: VirtioTransport.PCI,
    VirtioTransport.MMIO: VirtioTransport.MMIO_LEGACY,
    VirtioTransport.MMIO_LEGACY: VirtioTransport.MMIO,
}
# What is no part of a machine, because kvmtool makes nothing measured of it.
# Spec: 3rd-kvmtool 3cac6a9, builtin-run.c, disk/core.c, hw/cfi_flash.c.
UNREAD = (
    "-d: names and content of disk images",
    "-F: content of the flash; its size counts",
    "--metadata, --dump-dtb, --name, --debug, --loglevel, --tty, --vcpu-affinity: the host's side",
)


class Verdict(Enum):
    """What an option does to the RIM while every other one stays as it is."""

    CHANGES = "changes the RIM"
    SOMETIMES = "only sometimes"
    NONE = "no influence"
    UNKNOWN = "not compared"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One machine of a matrix.

    Attributes:
        values: one for each axis.
        rim: the register, or empty where the launch is refused.
        refused: why kvmtool does not start it, or why it is not modelled.
    """

    values: tuple[str, ...]
    algorithm: str
    rim: bytes = b""
    established: Established | None = None
    refused: str = ""


@dataclass(frozen=True)
class Pair:
    """Two rows that differ in one option only."""

    first: Row
    second: Row


@dataclass(frozen=True, kw_only=True)
class Influence:
    """What an option does, and the evidence.

    Attributes:
        compared: how many pairs of launches were held against each other.
        different: such a pair with two RIMs, or None.
        equal: such a pair with one RIM, or None.
        refused: why a value could not be compared, where none of its launches is possible.
    """

    axis: Axis
    verdict: Verdict
    compared: int = 0
    different: Pair | None = None
    equal: Pair | None = None
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class StabilityReport:
    """The RIM over a matrix.

    Attributes:
        base: the machine that the matrix was laid around.
        axes: of the matrix, the last one changes fastest.
        rows: of the matrix.
        influences: of each axis.
        others: of options outside the matrix, each changed alone on the base, and on the base with another
            number of vCPUs.
        unmeasured: details that left the RIM as it is when replayed with two values, and what is not read.
        notes: doubts, for people.
    """

    base: KvmtoolMachine
    axes: tuple[Axis, ...]
    rows: tuple[Row, ...]
    influences: tuple[Influence, ...]
    others: tuple[Influence, ...]
    unmeasured: tuple[str, ...]
    notes: tuple[str, ...]


def examine(
    base: KvmtoolMachine,
    kernel: Blob,
    initrd: Blob | None,
    axes: Sequence[Axis],
    *,
    alone: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> StabilityReport:
    """The report on a launch.

    Args:
        kernel: the file that ``-k`` names.
        initrd: the file that ``-i`` names.
        axes: of the matrix, each with its values.
        alone: whether options outside the matrix are tried too.
        progress: called with the number of rows that are done, and of all.

    Raises:
        MeasureError: the matrix is too large, no machine of it can be launched, or the profile's device tree
            is not modelled.
        FormatError: the kernel is none.
    """
    rows = _size(axes)
    if not find_profile(base.profile).device_tree:
        raise MeasureError(
            f"{base.profile}: the device tree of this kvmtool is not modelled, and a captured one holds for "
            "one command line; capture each, and measure it with --dtb FILE"
        )
    laboratory = _Laboratory(kernel, initrd)
    found = []
    for number, values in enumerate(product(*(axis.values for axis in axes)), 1):
        found.append(laboratory.row(base, axes, values))
        if progress is not None:
            progress(number, rows)
    if all(row.refused for row in found):
        raise MeasureError(f"stability: no machine of the matrix can be launched: {found[0].refused}")
    matrix, notes = tuple(found), tuple(laboratory.notes)
    return StabilityReport(
        base=base,
        axes=tuple(axes),
        rows=matrix,
        influences=tuple(_influence(axis, _lines(axes, index, matrix)) for index, axis in enumerate(axes)),
        others=tuple(_others(laboratory, base, axes)) if alone else (),
        unmeasured=(*_unmeasured(laboratory, base), *UNREAD) if alone else (),
        notes=notes,
    )


def _size(axes: Sequence[Axis]) -> int:
    rows = prod(len(axis.values) for axis in axes)
    if rows > MAX_ROWS:
        sizes = " x ".join(f"{len(axis.values)} {axis.name}" for axis in axes)
        raise MeasureError(
            f"stability: {sizes} are {rows} machines, up to {MAX_ROWS} are computed; give fewer values"
        )
    return rows


class _Laboratory:
    """Replays machines over the same files; what they share is computed once for each algorithm."""

    def __init__(self, kernel: Blob, initrd: Blob | None) -> None:
        self._kernel, self._initrd = kernel, initrd
        self._replayers: dict[str, Replayer] = {}
        self.notes: dict[str, None] = {}

    def row(self, base: KvmtoolMachine, axes: Sequence[Axis], values: tuple[str, ...]) -> Row:
        """The base with a value of each axis."""
        machine = base
        try:
            for axis, value in zip(axes, values, strict=True):
                machine = axis.kind.apply(machine, value)
            return self._replay(machine, values)
        except MeasureError as error:
            return Row(values=values, algorithm=machine.algorithm, refused=str(error))

    def rim(self, machine: KvmtoolMachine) -> bytes:
        """The RIM of a machine, or empty where it cannot be launched."""
        try:
            return self._replay(machine, ()).rim
        except MeasureError:
            return b""

    def _replay(self, machine: KvmtoolMachine, values: tuple[str, ...]) -> Row:
        top = machine.ram_base + machine.memory
        if top > _MAX_RAM_TOP:
            what = f"RAM ends at {top:#x}, and a realm's ends at {_MAX_RAM_TOP:#x} or below"
            raise MeasureError(f"-m: {what}; give it less")
        replayer = self._replayers.get(machine.algorithm)
        if replayer is None:
            replayer = self._replayers[machine.algorithm] = Replayer(HashAlgorithm(machine.algorithm))
        prediction = replay(machine, self._kernel, self._initrd, replayer=replayer)
        self.notes.update(dict.fromkeys(prediction.notes))
        return Row(
            values=values,
            algorithm=machine.algorithm,
            rim=prediction.rim,
            established=prediction.established,
        )


def _lines(axes: Sequence[Axis], index: int, rows: tuple[Row, ...]) -> Iterator[tuple[Row, ...]]:
    """For each combination of the other axes, the rows along one of them."""
    length = len(axes[index].values)
    stride = prod(len(axis.values) for axis in axes[index + 1 :])
    for block in range(0, len(rows), stride * length):
        for offset in range(block, block + stride):
            yield rows[offset : offset + stride * length : stride]


def _influence(axis: Axis, lines: Iterator[tuple[Row, ...]]) -> Influence:
    compared = 0
    different: Pair | None = None
    equal: Pair | None = None
    refused = ""
    for line in lines:
        valid = [row for row in line if not row.refused]
        if valid and not refused:
            # The other value's own fault, not that of what it is combined with.
            refused = next((row.refused for row in line if row.refused), "")
        compared += len(valid) * (len(valid) - 1) // 2
        first: dict[bytes, Row] = {}
        for row in valid:
            if equal is None and row.rim in first:
                equal = Pair(first[row.rim], row)
            first.setdefault(row.rim, row)
        if different is None and len(first) > 1:
            one, other = list(first.values())[:2]
            different = Pair(one, other)
    verdict = (
        (Verdict.SOMETIMES if equal else Verdict.CHANGES)
        if different
        else (Verdict.NONE if equal else Verdict.UNKNOWN)
    )
    return Influence(
        axis=axis,
        verdict=verdict,
        compared=compared,
        different=different,
        equal=equal,
        refused=refused if verdict is Verdict.UNKNOWN else "",
    )


def _others(laboratory: _Laboratory, base: KvmtoolMachine, axes: Sequence[Axis]) -> Iterator[Influence]:
    """What each option does that is in no axis.

    Some matter to more than one vCPU only, so each is tried with two numbers of them.
    """
    own = {axis.name for axis in axes}
    vcpus = find_kind("vcpus")
    number = vcpus.value(base)
    fixed = Axis(kind=vcpus, values=(number, "2" if number == "1" else "1"))
    for kind in KINDS:
        axis = axis_around(kind, base)
        if kind.name in own or not kind.alone or len(axis.values) == 1:
            continue
        both = (fixed, axis)
        rows = tuple(laboratory.row(base, both, values) for values in product(fixed.values, axis.values))
        yield _influence(axis, _lines(both, 1, rows))


def _unmeasured(laboratory: _Laboratory, base: KvmtoolMachine) -> Iterator[str]:
    """The details that leave the RIM of the base as it is, each replayed with two values."""
    for text, first, second in _details(base):
        rim = laboratory.rim(first)
        if rim and rim == laboratory.rim(second):
            yield text


def _details(base: KvmtoolMachine) -> Iterator[tuple[str, KvmtoolMachine, KvmtoolMachine]]:
    networks = base.networks or (KvmtoolNetwork(),)

    def named(tap: str, mac: str) -> KvmtoolMachine:
        options = f"tapif={tap},guest_mac={mac}"
        return replace(base, networks=tuple(replace(item, options=options) for item in networks))

    yield (
        "-n: tap device, MAC address and addresses of the host",
        named("tap0", "52:54:00:00:00:01"),
        named("tap100", "02:15:15:15:15:15"),
    )
    yield "--vsock: which CID", replace(base, vsock=3), replace(base, vsock=12344)
    yield "--9p: folders and tags", _shared(base, "/a,a"), _shared(base, "/other,tag")
    yield (
        "--virtio-transport: legacy or not",
        base,
        replace(base, transport=_LEGACY[base.transport]),
    )
    yield (
        "--realm-pv: the personalization value",
        base,
        replace(base, personalization="another" if base.personalization == "one" else "one"),
    )
    if not base.sve_vl:
        yield "--disable-sve", replace(base, disable_sve=False), replace(base, disable_sve=True)


def _shared(base: KvmtoolMachine, share: str) -> KvmtoolMachine:
    return replace(base, shares=(share,) * max(1, len(base.shares)))
