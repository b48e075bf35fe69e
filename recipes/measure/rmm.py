"""A realm's measurement registers: what each call to the Realm Management Monitor makes of them.

The Realm Initial Measurement (RIM) grows while the host builds the realm, by RMI calls; the four Realm
Extensible Measurements (REM) grow while it runs, by RSI calls.

Spec: TF-RMM, tag rmm-spec-v1.0-rel0: lib/measurement/src/rim.c and measurement.c; tag tf-rmm-v0.8.0 and
commit 9a7f8ef4: app/attestation/rmm_stub/src/rim.c and measurement.c.
"""

from __future__ import annotations

import struct

from ..errors import MeasureError
from ..machine import RecPolicy
from .rmm_params import (
    GRANULE_SIZE,
    REC_RUNNABLE,
    RealmFlags,
    RealmParams,
    RecParams,
    RmmVersion,
    hash_function,
)
from .trace import HashAlgorithm

__all__ = [
    "GRANULE_SIZE",
    "MAX_REM_VALUE",
    "REC_RUNNABLE",
    "REM_COUNT",
    "Realm",
    "RealmFlags",
    "RealmParams",
    "RecParams",
    "RmmVersion",
]

# Spec: TF-RMM, lib/smc/include/smc-rmi.h: RMI_MEASURE_CONTENT.
_MEASURE_CONTENT = 1
# Spec: RMM specification 1.0-rel0, RSI_MEASUREMENT_EXTEND: REM 1 to 4, by at most 64 bytes.
REM_COUNT = 4
MAX_REM_VALUE = 64

# What is hashed, field by field: (offset) meaning. `x` is zero, and `s` fills a short value with zeros.
# Plain codecs, because one is packed for each granule of an image.
# Spec: TF-RMM, tag rmm-spec-v1.0-rel0, lib/measurement/src/measurement_descs.h, for this and the next two.
_DATA = struct.Struct(
    "<B7xQ"  # (0x00) type, (0x08) length
    "64s"  # (0x10) RIM
    "QQ"  # (0x50) IPA, (0x58) flags
    "64s96x"  # (0x60) digest of the granule
)
_REC = struct.Struct(
    "<B7xQ"  # (0x00) type, (0x08) length
    "64s"  # (0x10) RIM
    "64s112x"  # (0x50) digest of the parameters
)
_RIPAS = struct.Struct(
    "<B7xQ"  # (0x00) type, (0x08) length
    "64s"  # (0x10) RIM
    "QQ160x"  # (0x50) base, (0x58) top
)
_TYPE_DATA, _TYPE_REC, _TYPE_RIPAS = 0, 1, 2


class Realm:
    """The registers of one realm; each method is one call to the RMM, in the order a host makes them.

    Attributes:
        rim: the Realm Initial Measurement, as many bytes as a hash; zero before ``realm_create``.
        rems: the four Realm Extensible Measurements, likewise.
    """

    def __init__(self, algorithm: HashAlgorithm, version: RmmVersion = RmmVersion.RMM_1_0) -> None:
        """An empty realm.

        Raises:
            MeasureError: that RMM does not measure with the algorithm.
        """
        self._hash = hash_function(algorithm)
        if algorithm not in version.algorithms:
            known = ", ".join(item.value for item in version.algorithms)
            raise MeasureError(
                f"realm: {version.value} does not measure with {algorithm.value}; use one of {known}"
            )
        self.algorithm = algorithm
        self.version = version
        self.rim = bytes(algorithm.size)
        self.rems: tuple[bytes, ...] = (bytes(algorithm.size),) * REM_COUNT
        self._params: RealmParams | None = None

    def realm_create(self, params: RealmParams) -> None:
        """RMI_REALM_CREATE: the RIM is the hash of the parameters. Comes first, and once.

        Raises:
            MeasureError: the realm exists, or this RMM has no such flag.
        """
        if self._params is not None:
            raise MeasureError("realm: exists already; realm_create comes first, and once")
        unknown = params.flags & ~self.version.realm_flags
        if unknown:
            raise MeasureError(f"realm: flags {unknown:#x} are none of {self.version.value}; clear them")
        self.rim = self._hash(params.page(self.algorithm)).digest()
        self._params = params

    def rtt_init_ripas(self, base: int, top: int) -> None:
        """RMI_RTT_INIT_RIPAS as far as it is measured: one RTT entry, from ``base`` to ``top``.

        RMM 2.0 does not measure it.

        Raises:
            MeasureError: no such range of protected granules.
        """
        self.rtt_init_ripas_many(base, top, max(top - base, GRANULE_SIZE))

    def rtt_init_ripas_many(self, base: int, top: int, block: int) -> None:
        """``rtt_init_ripas`` for each RTT entry of ``block`` bytes from ``base`` to ``top``.

        Raises:
            MeasureError: no such range of protected granules, or it is not made of such blocks.
        """
        self.check_range("rtt_init_ripas", base, top)
        if block <= 0 or block % GRANULE_SIZE or (top - base) % block:
            raise MeasureError(f"rtt_init_ripas: {base:#x}..{top:#x} is no row of blocks of {block:#x} bytes")
        if self.version is RmmVersion.RMM_2_0:  # Spec: TF-RMM commit bdb07f46
            return
        new, pack, rim = self._hash, _RIPAS.pack, self.rim
        for start in range(base, top, block):
            rim = new(pack(_TYPE_RIPAS, _RIPAS.size, rim, start, start + block)).digest()
        self.rim = rim

    def data_create(self, ipa: int, granule: bytes | memoryview) -> None:
        """RMI_DATA_CREATE with its content measured.

        Args:
            ipa: guest address of the granule.
            granule: its 4096 bytes.

        Raises:
            MeasureError: not a whole granule at the address of a protected one.
        """
        if len(granule) != GRANULE_SIZE:
            raise MeasureError(f"data_create: a granule has {GRANULE_SIZE} bytes, this has {len(granule)}")
        self.data_create_many(ipa, self._hash(granule).digest())

    def data_create_many(self, ipa: int, digests: bytes) -> None:
        """``data_create`` of consecutive granules, given what they hash to.

        Args:
            ipa: guest address of the first granule.
            digests: the hashes of the granules' contents, one behind the other.

        Raises:
            MeasureError: not whole hashes, or not protected granules.
        """
        size = self.algorithm.size
        if not digests or len(digests) % size:
            raise MeasureError(f"data_create: {len(digests)} bytes are not hashes of {size} bytes each")
        top = ipa + len(digests) // size * GRANULE_SIZE
        self.check_range("data_create", ipa, top)
        new, pack, rim = self._hash, _DATA.pack, self.rim
        addresses = range(ipa, top, GRANULE_SIZE)
        for address, (digest,) in zip(addresses, struct.iter_unpack(f"{size}s", digests), strict=True):
            rim = new(pack(_TYPE_DATA, _DATA.size, rim, address, _MEASURE_CONTENT, digest)).digest()
        self.rim = rim

    def data_create_unmeasured(self, ipa: int) -> None:
        """RMI_DATA_CREATE without its content: the address alone extends the RIM.

        Raises:
            MeasureError: not the address of a protected granule.
        """
        self.check_range("data_create", ipa, ipa + GRANULE_SIZE)
        self.rim = self._hash(_DATA.pack(_TYPE_DATA, _DATA.size, self.rim, ipa, 0, b"")).digest()

    def rec_create(self, rec: RecParams, policy: RecPolicy = RecPolicy.RUNNABLE) -> None:
        """RMI_REC_CREATE: a REC that is runnable extends the RIM.

        Args:
            rec: how the virtual CPU starts.
            policy: ``ALL`` for Islet's RMM, which measures the others too.

        Raises:
            MeasureError: there is no realm yet.
        """
        self._created("rec_create")
        if rec.runnable or policy is RecPolicy.ALL:
            content = self._hash(rec.page()).digest()
            self.rim = self._hash(_REC.pack(_TYPE_REC, _REC.size, self.rim, content)).digest()

    def rem_extend(self, index: int, value: bytes) -> None:
        """RSI_MEASUREMENT_EXTEND of one REM.

        Args:
            index: 1 to 4; 0 is the RIM, which a realm cannot extend.
            value: at most 64 bytes, hashed as they are, without filling.

        Raises:
            MeasureError: no such register, or too long a value.
        """
        if not 1 <= index <= REM_COUNT:
            raise MeasureError(f"rem_extend: there is no REM {index} to extend; use 1 to {REM_COUNT}")
        if len(value) > MAX_REM_VALUE:
            raise MeasureError(f"rem_extend: a value has at most {MAX_REM_VALUE} bytes, not {len(value)}")
        new = self._hash(self.rems[index - 1] + value).digest()
        self.rems = (*self.rems[: index - 1], new, *self.rems[index:])

    def check_range(self, call: str, base: int, top: int) -> None:
        """Checks that whole granules of the protected half of the IPA space are meant.

        Args:
            call: what complaints begin with.
            base: guest address.
            top: guest address behind the range.

        Raises:
            MeasureError: they are not.

        Spec: TF-RMM, tag tf-rmm-v0.8.0, runtime/include/realm.h: realm_par_size is half of the IPA space.
        """
        params = self._created(call)
        for address in (base, top):
            if address % GRANULE_SIZE:
                raise MeasureError(f"{call}: address {address:#x} is not a multiple of {GRANULE_SIZE}")
        if base >= top:
            raise MeasureError(f"{call}: the range {base:#x}..{top:#x} is empty")
        end = 1 << (params.s2sz - 1)
        if base < 0 or top > end:
            raise MeasureError(
                f"{call}: {base:#x}..{top:#x} is not inside the protected half of the IPA space, "
                f"which ends at {end:#x} with s2sz {params.s2sz}; give the realm less memory or more IPA bits"
            )

    def _created(self, call: str) -> RealmParams:
        if self._params is None:
            raise MeasureError(f"{call}: there is no realm yet; call realm_create first")
        return self._params
