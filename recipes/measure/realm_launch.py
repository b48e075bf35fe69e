"""The launch of a realm as a row of operations, and their replay to the Realm Initial Measurement.

What a virtual machine monitor does is one tuple of operations; which ones, and in which order, is its own
module's knowledge. The replay keeps what each register became after each operation, so that launches that
begin alike are replayed from where they part.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import MeasureError
from ..machine import RecPolicy
from ..units import align_up, format_size
from .granules import Blob, GranuleHasher
from .ripas import PAGES, split_blocks
from .rmm import Realm
from .rmm_params import GRANULE_SIZE, RealmParams, RecParams, RmmVersion
from .trace import HashAlgorithm, Step, Trace

RIM = "RIM"
# Which program's reading of each call the replay follows.
_SPEC = "TF-RMM tf-rmm-v0.8.0, rim.c, "


@dataclass(frozen=True, kw_only=True)
class RealmCreate:
    """The realm's parameters; the first operation.

    Attributes:
        source: file name or option that the content comes from, here and in the other operations.
        description: for people, here and in the other operations.
    """

    params: RealmParams
    source: str
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class InitRipas:
    """A range becomes RAM without content. RMM 2.0 does not measure it.

    Attributes:
        base: guest address, a multiple of 4096.
        top: guest address behind the range, likewise.
        blocks: sizes that an RTT entry may have, smallest first: ``ripas.block_sizes(s2sz)``, or ``PAGES``.
    """

    base: int
    top: int
    source: str
    description: str = ""
    blocks: tuple[int, ...] = PAGES


@dataclass(frozen=True, kw_only=True)
class PopulateData:
    """Content that is measured, in whole granules with zeros around it.

    Attributes:
        address: guest address of the blob's first byte, which need not begin a granule.
    """

    address: int
    blob: Blob
    source: str
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class PopulateUnmeasured:
    """Content that is not measured, only its addresses are.

    Attributes:
        address: guest address of the first granule.
        size: bytes, a multiple of 4096.
    """

    address: int
    size: int
    source: str
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class CreateRec:
    """A virtual CPU.

    Attributes:
        policy: whether the RMM measures one that is not runnable.
    """

    rec: RecParams
    source: str
    description: str = ""
    policy: RecPolicy = RecPolicy.RUNNABLE


Operation = RealmCreate | InitRipas | PopulateData | PopulateUnmeasured | CreateRec


@dataclass(frozen=True)
class Replay:
    """What a launch measures.

    Attributes:
        rim: as many bytes as a hash.
        trace: a step for each operation that extends the RIM.
    """

    rim: bytes
    trace: Trace


@dataclass(frozen=True)
class _Extension:
    """One operation, worked out: what identifies it, and what it does to a realm.

    Attributes:
        call: the RMI call's name.
        address: of the first granule, where there is one.
        size: bytes covered.
        count: extends of the RIM.
        content: hash that says whether two operations with the same address extend by the same.
        function: of TF-RMM's, that measures it.
        extend: makes the calls.
    """

    call: str
    address: int | None
    size: int
    count: int
    content: bytes
    function: str
    extend: Callable[[Realm], None]
    detail: str = ""


class Replayer:
    """Replays launches of one RMM in one algorithm, and remembers what they have in common."""

    def __init__(
        self,
        algorithm: HashAlgorithm,
        version: RmmVersion = RmmVersion.RMM_1_0,
        hasher: GranuleHasher | None = None,
    ) -> None:
        """A replayer that has seen nothing.

        Args:
            hasher: shared by replayers in several algorithms, or None for an own one.

        Raises:
            MeasureError: that RMM does not measure with the algorithm.
        """
        Realm(algorithm, version)  # which refuses what this RMM does not do
        self._algorithm = algorithm
        self._version = version
        self._hasher = GranuleHasher() if hasher is None else hasher
        # From a register's value and what extends it, to its value after.
        self._after: dict[tuple[bytes, str, int | None, int, bytes], bytes] = {}

    def replay(self, operations: Sequence[Operation]) -> Replay:
        """The RIM of a launch and the steps to it.

        Raises:
            MeasureError: the RMM would refuse an operation, or a blob changed its length.
        """
        if not operations:
            raise MeasureError("realm: a launch has no operations; begin with the one that creates the realm")
        realm = Realm(self._algorithm, self._version)
        steps = []
        for operation in operations:
            extension = self._extension(operation)
            self._apply(realm, extension)
            if extension.count:
                steps.append(self._step(operation, extension, realm.rim))
        return Replay(realm.rim, Trace(RIM, tuple(steps)))

    def _apply(self, realm: Realm, extension: _Extension) -> None:
        """Extends the realm, from memory if this value was extended by the same before."""
        if extension.call == "REALM_CREATE" or not extension.count:
            # Cheap either way, and the realm keeps what it checks later calls by.
            extension.extend(realm)
            return
        key = (realm.rim, extension.call, extension.address, extension.size, extension.content)
        known = self._after.get(key)
        if known is None:
            extension.extend(realm)
            self._after[key] = realm.rim
        else:
            realm.rim = known

    def _step(self, operation: Operation, extension: _Extension, after: bytes) -> Step:
        parts = (operation.description, extension.detail)
        return Step(
            register=RIM,
            operation=extension.call,
            digests={self._algorithm: extension.content},
            size=extension.size,
            source=operation.source,
            description=": ".join(part for part in parts if part),
            spec=_SPEC + extension.function,
            address=extension.address,
            count=extension.count,
            after=after,
        )

    def _extension(self, operation: Operation) -> _Extension:
        match operation:
            case RealmCreate():
                return self._realm_create(operation.params)
            case InitRipas():
                return self._init_ripas(operation)
            case PopulateData():
                return self._data(operation)
            case PopulateUnmeasured():
                return self._unmeasured(operation)
            case CreateRec():
                return self._rec(operation)

    def _realm_create(self, params: RealmParams) -> _Extension:
        page = params.page(self._algorithm)
        return _Extension(
            call="REALM_CREATE",
            address=None,
            size=len(page),
            count=1,
            content=self._algorithm.digest(page),
            function="measurement_realm_params_measure",
            extend=lambda realm: realm.realm_create(params),
        )

    def _init_ripas(self, operation: InitRipas) -> _Extension:
        base, top = operation.base, operation.top
        runs = split_blocks(base, top, operation.blocks)
        sizes = [number for run in runs for number in (run.block, run.count)]

        def extend(realm: Realm) -> None:
            realm.check_range("rtt_init_ripas", base, top)
            for run in runs:
                realm.rtt_init_ripas_many(run.base, run.top, run.block)

        return _Extension(
            call="RTT_INIT_RIPAS",
            address=base,
            size=top - base,
            count=0 if self._version is RmmVersion.RMM_2_0 else sum(run.count for run in runs),
            content=self._algorithm.digest(_numbers(base, top, *sizes)),
            function="measurement_init_ripas_measure",
            extend=extend,
            detail=", ".join(f"{run.count} x {format_size(run.block)}" for run in runs),
        )

    def _data(self, operation: PopulateData) -> _Extension:
        lead = operation.address % GRANULE_SIZE
        granules = self._hasher.granules(operation.blob, lead, self._algorithm)
        size = align_up(lead + operation.blob.size, GRANULE_SIZE)
        first = operation.address - lead
        return _Extension(
            call="DATA_CREATE",
            address=first,
            size=size,
            count=size // GRANULE_SIZE,
            content=granules.content,
            function="measurement_data_granule_measure",
            extend=lambda realm: realm.data_create_many(first, granules.digests),
        )

    def _unmeasured(self, operation: PopulateUnmeasured) -> _Extension:
        address, size = operation.address, operation.size

        def extend(realm: Realm) -> None:
            realm.check_range("data_create", address, address + size)
            for granule in range(address, address + size, GRANULE_SIZE):
                realm.data_create_unmeasured(granule)

        return _Extension(
            call="DATA_CREATE",
            address=address,
            size=size,
            count=size // GRANULE_SIZE,
            content=self._algorithm.digest(b""),
            function="measurement_data_granule_measure",
            extend=extend,
            detail="content not measured",
        )

    def _rec(self, operation: CreateRec) -> _Extension:
        rec, policy = operation.rec, operation.policy
        page = rec.page()
        return _Extension(
            call="REC_CREATE",
            address=None,
            size=len(page),
            count=1 if rec.runnable or policy is RecPolicy.ALL else 0,
            content=self._algorithm.digest(page),
            function="measurement_rec_params_measure",
            extend=lambda realm: realm.rec_create(rec, policy),
        )


def _numbers(*values: int) -> bytes:
    """Each number in eight bytes, as the RMM's structures hold them."""
    return struct.pack(f"<{len(values)}Q", *values)
