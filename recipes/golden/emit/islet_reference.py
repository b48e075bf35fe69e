"""``reference.json``: the measurements that Islet's image registry accepts (``ir-server -j``).

A token passes when its RIM and hash algorithm are equal and its four REMs are those of any one set. Only
``realm.reference-values`` is read by the verifier; the rest is for people.

Spec: realm-verifier 567e908 ``src/parser/json.rs`` and ``tests/realm.json``; ratls bce64f0
``tools/ratls-serve/ratls/example.json``.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import FormatError
from ...measure.trace import HashAlgorithm

# Spec: realm-verifier 567e908 tests/realm.json, the only version there is.
REFERENCE_VERSION = "0.1"
ATTESTATION_PROTOCOL = "HTTPS/RA-TLSv1.0"
DEFAULT_PORT = 8088
REM_COUNT = 4
# Spec: realm-verifier 567e908 src/hash.rs.
_ALGORITHMS = {HashAlgorithm.SHA256: "sha-256", HashAlgorithm.SHA512: "sha-512"}
# The last second that RFC 3339 can write: 9999-12-31T23:59:59Z.
_LAST_SECOND = 253402300799
_NAME = "reference.json"


@dataclass(frozen=True, kw_only=True)
class RealmReference:
    """What ``reference.json`` says.

    Attributes:
        issuer_name: who vouches for the values.
        issuer_url: where to find them.
        realm_uuid: see :func:`derive_uuid`.
        name: of the realm, for people.
        version: of the realm, ``1.0.0``.
        release_time: seconds since 1970-01-01 UTC, of the build's input, never of the build.
        rim: as long as the algorithm makes it.
        rem_sets: at least one set of four registers, each as long as the RIM.
        algorithm: SHA-256 or SHA-512.
        port: where the realm attests.

    Raises:
        FormatError: a value that the verifier refuses or the document cannot hold.
    """

    issuer_name: str
    issuer_url: str
    realm_uuid: uuid.UUID
    name: str
    version: str
    release_time: int
    rim: bytes
    rem_sets: Sequence[Sequence[bytes]]
    algorithm: HashAlgorithm
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if self.algorithm not in _ALGORITHMS:
            what = f"hash-algo {self.algorithm.value}, the verifier knows sha-256 and sha-512"
            raise FormatError(_NAME, what)
        size = self.algorithm.size
        if len(self.rim) != size:
            what = f"rim of {len(self.rim)} bytes, {_ALGORITHMS[self.algorithm]} has {size}"
            raise FormatError(_NAME, what)
        if not self.rem_sets:
            raise FormatError(_NAME, "no REM set; give at least the one of zeros")
        for number, rems in enumerate(self.rem_sets, 1):
            sizes = [len(rem) for rem in rems]
            if sizes != [size] * REM_COUNT:
                what = f"REM set {number} has values of {sizes} bytes, expected {REM_COUNT} of {size}"
                raise FormatError(_NAME, what)
        if not 0 <= self.release_time <= _LAST_SECOND:
            what = f"release time {self.release_time}, expected seconds from 0 to {_LAST_SECOND}"
            raise FormatError(_NAME, what)
        if not 1 <= self.port <= 65535:
            raise FormatError(_NAME, f"port {self.port}, expected 1 to 65535")


def derive_uuid(realm_id: str, rim: bytes) -> uuid.UUID:
    """A UUID that is the same for the same realm and RIM. Spec: RFC 9562 section 5.5 (version 5)."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"urn:goldsmith:islet-realm:{rim.hex()}:{realm_id}")


def dump(reference: RealmReference) -> str:
    """The text of ``reference.json``, with a newline at the end; a function of its argument alone."""
    released = dt.datetime.fromtimestamp(reference.release_time, tz=dt.UTC)
    document = {
        "version": REFERENCE_VERSION,
        "issuer": {"name": reference.issuer_name, "url": reference.issuer_url},
        "realm": {
            "uuid": str(reference.realm_uuid),
            "name": reference.name,
            "version": reference.version,
            "release-timestamp": released.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "attestation-protocol": ATTESTATION_PROTOCOL,
            "port": reference.port,
            "reference-values": {
                "rim": reference.rim.hex(),
                "rems": [[rem.hex() for rem in rems] for rems in reference.rem_sets],
                "hash-algo": _ALGORITHMS[reference.algorithm],
            },
        },
    }
    return json.dumps(document, indent=4) + "\n"
