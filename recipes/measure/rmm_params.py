"""What a host tells the Realm Management Monitor of a realm, as far as the RMM measures it.

Spec: Realm Management Monitor specification 1.0-rel0 (RMM specification below), RmiRealmParams and
RmiRecParams; TF-RMM, lib/smc/include/smc-rmi.h.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import Protocol

from ..errors import MeasureError
from .trace import HashAlgorithm

# Spec: TF-RMM, lib/common/include/utils_def.h: GRANULE_SHIFT is 12. Larger granules, which an RMM 2.0 may
# offer, are not modelled.
GRANULE_SIZE = 4096
# Spec: TF-RMM, lib/smc/include/smc-rmi.h: REC_PARAMS_FLAG_RUNNABLE.
REC_RUNNABLE = 1
# Spec: TF-RMM, lib/s2tt/include/s2tt.h: S2TT_MIN_IPA_BITS, S2TT_MAX_IPA_BITS, S2TT_MAX_IPA_BITS_LPA2.
MIN_IPA_BITS, MAX_IPA_BITS, MAX_IPA_BITS_LPA2 = 32, 48, 52
# What is hashed, field by field: (offset) meaning; `x` is zero.
# Spec: TF-RMM, tag tf-rmm-v0.8.0, lib/smc/include/smc-rmi.h, struct rmi_realm_params.
_REALM_PARAMS = struct.Struct(
    "<Q"  # (0x00) flags
    "B7x"  # (0x08) s2sz
    "B7x"  # (0x10) sve_vl
    "B7x"  # (0x18) num_bps
    "B7x"  # (0x20) num_wps
    "B7x"  # (0x28) pmu_num_ctrs
    "B4047x"  # (0x30) hash_algo
)
# Spec: TF-RMM, tag tf-rmm-v0.8.0, lib/smc/include/smc-rmi.h, struct rmi_rec_params.
_REC_PARAMS = struct.Struct(
    "<Q504x"  # (0x000) flags
    "Q248x"  # (0x200) pc
    "8Q3264x"  # (0x300) gprs
)


class RmmVersion(Enum):
    """The generations of the RMM that measure differently."""

    RMM_1_0 = "rmm-1.0"
    RMM_2_0 = "rmm-2.0"

    @property
    def algorithms(self) -> tuple[HashAlgorithm, ...]:
        """What a realm can be measured with.

        Spec: RMM specification 1.0-rel0, RmiHashAlgorithm; TF-RMM commit bdb07f46 for SHA-384.
        """
        if self is RmmVersion.RMM_1_0:
            return (HashAlgorithm.SHA256, HashAlgorithm.SHA512)
        return (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)

    @property
    def realm_flags(self) -> int:
        """Every bit that the flags of a realm may have.

        Spec: RMM specification 1.0-rel0, RmiRealmFlags; TF-RMM commit 9a7f8ef4 for DA (bit 3) and the MEC
        policy (bits 7 and 8).
        """
        return 0x7 if self is RmmVersion.RMM_1_0 else 0x18F


class RealmFlags(IntFlag):
    """Bits of ``RealmParams.flags``. Spec: RMM specification 1.0-rel0, RmiRealmFlags."""

    LPA2 = 1
    SVE = 2
    PMU = 4


# Spec: RMM specification 1.0-rel0, RmiHashAlgorithm; TF-RMM commit bdb07f46 for SHA-384.
_ALGORITHM_IDS = {HashAlgorithm.SHA256: 0, HashAlgorithm.SHA512: 1, HashAlgorithm.SHA384: 2}


class _Hash(Protocol):
    """The one method of hashlib's objects that is used here."""

    def digest(self) -> bytes:
        """The hash."""
        ...


_HASHES: dict[HashAlgorithm, Callable[[bytes | memoryview], _Hash]] = {
    HashAlgorithm.SHA256: hashlib.sha256,
    HashAlgorithm.SHA384: hashlib.sha384,
    HashAlgorithm.SHA512: hashlib.sha512,
}


def hash_function(algorithm: HashAlgorithm) -> Callable[[bytes | memoryview], _Hash]:
    """The constructor for an algorithm: called directly, the quickest way to hash many short pieces.

    Raises:
        MeasureError: no RMM measures with the algorithm.
    """
    if algorithm not in _HASHES:
        known = ", ".join(item.value for item in _HASHES)
        raise MeasureError(f"realm: no RMM measures with {algorithm.value}; use one of {known}")
    return _HASHES[algorithm]


@dataclass(frozen=True, kw_only=True)
class RealmParams:
    """The measured fields of RmiRealmParams, each as it is encoded in that page.

    Attributes:
        flags: see ``RealmFlags``; RMM 2.0 has more.
        s2sz: width of the realm's IPA space in bits.
        sve_vl: SVE vector length: bits / 128 - 1.
        num_bps: breakpoints, as the RMM's feature register counts them.
        num_wps: watchpoints, likewise.
        pmu_num_ctrs: PMU counters.

    Raises:
        MeasureError: a value does not fit its field, or the IPA width is none that an RMM accepts.
    """

    flags: int = 0
    s2sz: int
    sve_vl: int = 0
    num_bps: int = 0
    num_wps: int = 0
    pmu_num_ctrs: int = 0

    def __post_init__(self) -> None:
        _check_width("realm: flags", self.flags, 64)
        for name in ("s2sz", "sve_vl", "num_bps", "num_wps", "pmu_num_ctrs"):
            _check_width(f"realm: {name}", getattr(self, name), 8)
        widest = MAX_IPA_BITS_LPA2 if self.flags & RealmFlags.LPA2 else MAX_IPA_BITS
        if not MIN_IPA_BITS <= self.s2sz <= widest:
            more = "" if widest == MAX_IPA_BITS_LPA2 else f", or up to {MAX_IPA_BITS_LPA2} with LPA2"
            raise MeasureError(
                f"realm: s2sz {self.s2sz} is no width of an IPA space; use {MIN_IPA_BITS} to {widest}{more}"
            )

    def page(self, algorithm: HashAlgorithm) -> bytes:
        """The 4096 bytes whose hash is the first RIM; what is not measured is zero in it.

        Raises:
            MeasureError: no RMM measures with the algorithm.
        """
        hash_function(algorithm)
        return _REALM_PARAMS.pack(
            self.flags,
            self.s2sz,
            self.sve_vl,
            self.num_bps,
            self.num_wps,
            self.pmu_num_ctrs,
            _ALGORITHM_IDS[algorithm],
        )


@dataclass(frozen=True, kw_only=True)
class RecParams:
    """The measured fields of RmiRecParams: how a virtual CPU starts. Its MPIDR is not measured.

    Attributes:
        flags: ``REC_RUNNABLE`` or 0.
        pc: guest address of its first instruction.
        gprs: x0 to x7.

    Raises:
        MeasureError: a value does not fit its field, or there are not eight registers.
    """

    flags: int = 0
    pc: int = 0
    gprs: tuple[int, ...] = (0,) * 8

    def __post_init__(self) -> None:
        if self.flags not in (0, REC_RUNNABLE):
            raise MeasureError(f"rec: flags {self.flags:#x} are not modelled; use 0, or 1 for runnable")
        _check_width("rec: pc", self.pc, 64)
        if len(self.gprs) != 8:
            raise MeasureError(f"rec: gprs has {len(self.gprs)} values; give 8, x0 to x7")
        for index, value in enumerate(self.gprs):
            _check_width(f"rec: x{index}", value, 64)

    @property
    def runnable(self) -> bool:
        """Whether the virtual CPU runs from the start."""
        return self.flags == REC_RUNNABLE

    def page(self) -> bytes:
        """The 4096 bytes whose hash extends the RIM; what is not measured is zero in it."""
        return _REC_PARAMS.pack(self.flags, self.pc, *self.gprs)


def _check_width(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise MeasureError(f"{name} {value:#x} does not fit {bits} bits")
