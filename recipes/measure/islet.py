"""What Islet's realms measure after their launch: one REM, extended by every application that is provisioned.

app-manager extends the register that ``extend:`` in its ``config.yml`` names, by the vendor's public key, the
root CA's signature over it, and the digest of the image's configuration. Layers are covered through the
configuration, which lists them; the image's tag, manifest and annotations are not.

Spec: realm-manager 79b74b6, ``realm/app-manager`` (config.yml and the extension after provisioning); RMM
specification 1.0-rel0, B4.3.9 (RSI_MEASUREMENT_EXTEND).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from ..errors import MeasureError
from .rmm import MAX_REM_VALUE, REM_COUNT, Realm
from .trace import HashAlgorithm, Step, Trace

# A P-384 key as SubjectPublicKeyInfo. Spec: RFC 5480 section 2.
PUBLIC_KEY_SIZE = 120
# DER of two integers of P-384's size, from one octet each to 49 each. Spec: RFC 5480 appendix A.
MIN_SIGNATURE_SIZE, MAX_SIGNATURE_SIZE = 8, 104
# SHA-384. Spec: realm-manager 79b74b6, realm/app-manager.
CONFIG_DIGEST_SIZE = 48
# Ours: the warden's order is that of a hash map, so every order is a valid state; 5 would be 120 of them.
MAX_APPLICATIONS = 4
_SPEC = "realm-manager 79b74b6, realm/app-manager; RMM 1.0-rel0 B4.3.9"

RemSet = tuple[bytes, bytes, bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class ProvisionedApplication:
    """An application as the realm measures it.

    Attributes:
        name: for traces; not measured.
        public_key: the vendor's, SubjectPublicKeyInfo in DER, 120 bytes.
        public_key_signature: the root CA's signature over those bytes, DER. It is part of the measurement:
            another valid signature by the same key gives another REM.
        config_digest: SHA-384 of the image's configuration blob.

    Raises:
        MeasureError: a part has a length that it cannot have.
    """

    name: str
    public_key: bytes
    public_key_signature: bytes
    config_digest: bytes

    def __post_init__(self) -> None:
        sizes = (
            ("public key", len(self.public_key), PUBLIC_KEY_SIZE, PUBLIC_KEY_SIZE),
            ("its signature", len(self.public_key_signature), MIN_SIGNATURE_SIZE, MAX_SIGNATURE_SIZE),
            ("config digest", len(self.config_digest), CONFIG_DIGEST_SIZE, CONFIG_DIGEST_SIZE),
        )
        for what, size, least, most in sizes:
            if not least <= size <= most:
                expected = str(most) if least == most else f"{least} to {most}"
                raise MeasureError(f"application {self.name}: {what} of {size} bytes, expected {expected}")

    @classmethod
    def of_config(
        cls, name: str, config: bytes, *, public_key: bytes, public_key_signature: bytes
    ) -> ProvisionedApplication:
        """The application whose image has this configuration blob.

        Raises:
            MeasureError: a part has a length that it cannot have.
        """
        return cls(
            name=name,
            public_key=public_key,
            public_key_signature=public_key_signature,
            config_digest=HashAlgorithm.SHA384.digest(config),
        )

    @property
    def parts(self) -> tuple[tuple[str, bytes], ...]:
        """What is measured, in order, each part with its name."""
        return (
            ("vendor public key", self.public_key),
            ("its signature", self.public_key_signature),
            ("config digest", self.config_digest),
        )


@dataclass(frozen=True)
class RemPrediction:
    """One REM after provisioning: its value, and the steps that lead there."""

    value: bytes
    trace: Trace


def rem_after(
    applications: Sequence[ProvisionedApplication], algorithm: HashAlgorithm, rem: int = 0
) -> RemPrediction:
    """The REM after the applications were provisioned in the order given.

    Args:
        rem: 0 to 3, the number in ``extend: rem0``.

    Raises:
        MeasureError: there is no such REM, or a realm does not measure with the algorithm.
    """
    if not 0 <= rem < REM_COUNT:
        raise MeasureError(f"rem{rem}: there is no such register; use rem0 to rem{REM_COUNT - 1}")
    realm, steps = Realm(algorithm), []
    for application in applications:
        for chunk, source, description in _chunks(application):
            # RSI counts the RIM as register 0. Spec: RMM specification 1.0-rel0, B4.3.9.
            realm.rem_extend(rem + 1, chunk)
            steps.append(
                Step(
                    register=f"REM{rem}",
                    operation="RSI_MEASUREMENT_EXTEND",
                    digests={algorithm: algorithm.digest(chunk)},
                    size=len(chunk),
                    source=source,
                    description=description,
                    spec=_SPEC,
                    after=realm.rems[rem],
                )
            )
    return RemPrediction(realm.rems[rem], Trace(f"REM{rem}", tuple(steps)))


def rem_sets(
    applications: Sequence[ProvisionedApplication], algorithm: HashAlgorithm, rem: int = 0
) -> tuple[RemSet, ...]:
    """Every state of the four REMs that a verifier should accept, without duplicates.

    First all zeros: what a realm shows to the registry while it provisions. Then one set for each order of
    the applications, in lexicographic order of their places in ``applications``.

    Raises:
        MeasureError: more than four applications, no such REM, or a realm does not measure with the
            algorithm.
    """
    if len(applications) > MAX_APPLICATIONS:
        raise MeasureError(
            f"{len(applications)} applications: their order is not fixed and every order is a REM set; "
            f"provision at most {MAX_APPLICATIONS} in one realm"
        )
    values = [rem_after((), algorithm, rem).value]
    values += [rem_after(order, algorithm, rem).value for order in permutations(applications)]
    zero = bytes(algorithm.size)
    # A dictionary keeps the order in which its keys came.
    return tuple(_rem_set(value, rem, zero) for value in dict.fromkeys(values))


def _rem_set(value: bytes, rem: int, zero: bytes) -> RemSet:
    first, second, third, fourth = (value if index == rem else zero for index in range(REM_COUNT))
    return first, second, third, fourth


def _chunks(application: ProvisionedApplication) -> Iterator[tuple[bytes, str, str]]:
    """What each call extends the register by: the bytes, the parts they come from, and where they stand."""
    data = b"".join(content for _, content in application.parts)
    for start in range(0, len(data), MAX_REM_VALUE):
        end = min(start + MAX_REM_VALUE, len(data))
        names, at = [], 0
        for name, content in application.parts:
            if at < end and start < at + len(content):
                names.append(name)
            at += len(content)
        yield data[start:end], f"{application.name}: {', '.join(names)}", f"bytes {start} to {end - 1}"
