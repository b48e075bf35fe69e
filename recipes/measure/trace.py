"""Steps and traces: a measurement is a fold over its steps.

A step says what was hashed, why, and where those bytes came from. Explain prints steps, diff finds the first
that differs, verify lines them up with a real event log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from enum import Enum

from ..record import dataclass


class HashAlgorithm(Enum):
    """Hash algorithms of measurement registers, by their usual names."""

    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def size(self) -> int:
        """Digest length in bytes."""
        return hashlib.new(self.value).digest_size

    def digest(self, *parts: bytes | memoryview) -> bytes:
        """Hash of the parts, one after the other."""
        state = hashlib.new(self.value)
        for part in parts:
            state.update(part)
        return state.digest()


ALL_ALGORITHMS = tuple(HashAlgorithm)
# Ours: from here on a thread costs less than it saves.
_PARALLEL_SIZE = 1 << 20


class Established(Enum):
    """How the replay behind a value was established for that firmware and VMM; strongest first."""

    BOOTED = "booted"
    ORACLE = "oracle"
    LEARNT = "learnt"
    SPEC_ONLY = "spec-only"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation on one register.

    Attributes:
        register: ``PCR4``, ``RIM`` ...
        operation: the field's own name: ``EV_SEPARATOR``, ``DATA_CREATE`` ...
        digests: what was extended, per algorithm.
        size: how many bytes were hashed.
        source: the artefact or input the bytes came from, such as ``debian-cvm.efi .linux`` or ``-m``.
        description: for people: ``Boot0001``, ``enter-initrd``.
        spec: document and section, or source file and commit, of the rule.
        address: guest address, where the operation has one.
        count: how many equal operations this step stands for.
        after: the register's value after the step, where a register does not fold as a PCR does (RIM).
    """

    register: str
    operation: str
    digests: Mapping[HashAlgorithm, bytes]
    size: int
    source: str
    description: str = ""
    spec: str = ""
    address: int | None = None
    count: int = 1
    after: bytes = b""


def digests_of(*parts: bytes | memoryview) -> dict[HashAlgorithm, bytes]:
    """Digest of the parts, one after the other, in every algorithm."""
    return in_every_algorithm(lambda algorithm: algorithm.digest(*parts), sum(len(part) for part in parts))


def in_every_algorithm(digest: Callable[[HashAlgorithm], bytes], size: int) -> dict[HashAlgorithm, bytes]:
    """What ``digest`` gives for each algorithm; for a ``size`` of many bytes they run side by side."""
    if size < _PARALLEL_SIZE:
        return {algorithm: digest(algorithm) for algorithm in ALL_ALGORITHMS}
    from concurrent.futures import ThreadPoolExecutor

    # hashlib lets go of the interpreter while it hashes; UKIs are large and four banks are four passes.
    with ThreadPoolExecutor(len(ALL_ALGORITHMS)) as pool:
        return dict(zip(ALL_ALGORITHMS, pool.map(digest, ALL_ALGORITHMS), strict=True))


@dataclass(frozen=True)
class Measured:
    """Bytes as a register sees them, so that a replay needs the bytes only once, or not at all.

    Attributes:
        digests: of the same bytes, per algorithm.
        size: how many bytes were hashed.
    """

    digests: Mapping[HashAlgorithm, bytes]
    size: int


def measured(*parts: bytes | memoryview) -> Measured:
    """The parts, one after the other, as a register sees them."""
    return Measured(digests_of(*parts), sum(len(part) for part in parts))


@dataclass(frozen=True)
class Trace:
    """The steps of one register, in order, from its reset value."""

    register: str
    steps: tuple[Step, ...]
