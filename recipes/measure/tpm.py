"""TPM 2.0 PCRs: the registers, traces folded into their values, and event logs replayed.

A PCR starts at its reset value and only ever becomes ``H(old value || digest)``.

Spec: TCG TPM 2.0 Library part 1 section 17 "PCR Operations", part 3 section 22 "Integrity Collection (PCR)";
TCG PC Client Platform TPM Profile 1.05 section 4.6 "PCR"; TCG PC Client Platform Firmware Profile (PFP) 1.06.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from ..errors import MeasureError
from ..formats.eventlog import EventLog, EventType, describe
from .trace import HashAlgorithm, Measured, Step, Trace

# PCRs of a PC Client TPM. Spec: PC Client Platform TPM Profile 1.05 section 4.6.
PCR_COUNT = 24
# PCRs that only a dynamic launch resets to zero; until then every bit is set. Spec: same section.
DYNAMIC_PCRS = range(17, 23)

# Spec: TPM 2.0 Library part 2 sections 6.9 (TPM_ST), 6.5.2 (TPM_CC), 7.4 (TPM_RH), 6.3 (TPM_ALG_ID).
_TPM_ST_SESSIONS = 0x8002
_TPM_CC_PCR_EXTEND = 0x00000182
_TPM_RS_PW = 0x40000009
_ALGORITHM_IDS = {
    HashAlgorithm.SHA1: 0x0004,
    HashAlgorithm.SHA256: 0x000B,
    HashAlgorithm.SHA384: 0x000C,
    HashAlgorithm.SHA512: 0x000D,
}


def register(index: int) -> str:
    """What traces call a PCR: ``PCR11``."""
    return f"PCR{index}"


def reset_value(index: int, algorithm: HashAlgorithm) -> bytes:
    """Value of a PCR after TPM2_Startup(CLEAR) from locality 0.

    Spec: PC Client Platform TPM Profile 1.05 section 4.6: 17 to 22 are all ones, the others zero.
    """
    return (b"\xff" if index in DYNAMIC_PCRS else b"\0") * algorithm.size


class PcrBank:
    """The 24 PCRs of one hash algorithm.

    Args:
        algorithm: of the bank.
        startup_locality: locality of TPM2_Startup, 4 for an H-CRTM; it stands in the last byte of PCR 0
            (Spec: PFP 1.06 section 10.4.5.3).
    """

    def __init__(self, algorithm: HashAlgorithm, startup_locality: int = 0) -> None:
        self.algorithm = algorithm
        self._values = [reset_value(index, algorithm) for index in range(PCR_COUNT)]
        self._values[0] = self._values[0][:-1] + bytes([startup_locality])

    def extend(self, index: int, digest: bytes) -> None:
        """Replays TPM2_PCR_Extend: the PCR becomes ``H(old || digest)``.

        Raises:
            MeasureError: the digest has not the size of the bank's algorithm, or there is no such PCR.
        """
        old = self.value(index)
        self._values[index] = _extended(old, digest, self.algorithm, register(index))

    def value(self, index: int) -> bytes:
        """What TPM2_PCR_Read gives now."""
        return self._values[_checked(index)]


def fold(trace: Trace, algorithm: HashAlgorithm, initial: bytes | None = None) -> bytes:
    """Value of a trace's PCR in one bank.

    Args:
        trace: complete from the reset value.
        algorithm: of the bank.
        initial: where the PCR starts; zero when not given.

    Raises:
        MeasureError: a step has no digest in this bank.
    """
    value = bytes(algorithm.size) if initial is None else initial
    for step in trace.steps:
        digest = step.digests.get(algorithm)
        if digest is None:
            what = f"{trace.register}: {step.operation} of {step.source} has no {algorithm.value} digest"
            raise MeasureError(f"{what}; fold one of its banks")
        for _ in range(step.count):
            value = _extended(value, digest, algorithm, trace.register)
    return value


def _extended(value: bytes, digest: bytes, algorithm: HashAlgorithm, where: str) -> bytes:
    if len(digest) != algorithm.size:
        what = f"{algorithm.value} digest of {len(digest)} bytes, expected {algorithm.size}"
        raise MeasureError(f"{where}: {what}; take the digest of the bank that is extended")
    return algorithm.digest(value, digest)


def _checked(index: int) -> int:
    if not 0 <= index < PCR_COUNT:
        raise MeasureError(f"PCR {index}: there is no such register; use 0 to {PCR_COUNT - 1}")
    return index


def event(
    index: int,
    kind: EventType,
    content: Measured,
    *,
    source: str,
    description: str = "",
    spec: str = "",
) -> Step:
    """The step of one event log entry: ``content`` extends PCR ``index``."""
    return Step(
        register=register(index),
        operation=kind.name,
        digests=content.digests,
        size=content.size,
        source=source,
        description=description,
        spec=spec,
    )


def traces(steps: Iterable[Step]) -> tuple[Trace, ...]:
    """One trace per register, ordered by register, with the steps in the order they are given."""
    by_register: dict[str, list[Step]] = {}
    for step in steps:
        by_register.setdefault(step.register, []).append(step)
    order = sorted(by_register, key=lambda name: (len(name), name))
    return tuple(Trace(name, tuple(by_register[name])) for name in order)


def replay(log: EventLog) -> Mapping[tuple[str, int], bytes]:
    """Values of all 24 PCRs, by (algorithm name, index), in every bank of the log that can be computed here.

    The digests are what the log claims; EV_NO_ACTION events extend nothing.

    Raises:
        MeasureError: a digest has the wrong size for its bank.

    Spec: PFP 1.06 section 10.4.1 (EV_NO_ACTION), section 10.4.5.3 (StartupLocality).
    """
    names = {item.name for item in log.algorithms}
    values: dict[tuple[str, int], bytes] = {}
    for algorithm in HashAlgorithm:
        if algorithm.value not in names:
            continue
        bank = PcrBank(algorithm, log.startup_locality)
        for entry in log.events:
            if entry.type != EventType.EV_NO_ACTION:
                bank.extend(entry.pcr, entry.digests.get(algorithm.value, b""))
        values.update(((algorithm.value, index), bank.value(index)) for index in range(PCR_COUNT))
    return values


def event_steps(log: EventLog, source: str = "event log") -> tuple[Step, ...]:
    """The extending events of a log as steps, in log order, to line up with a predicted sequence.

    ``size`` is that of the event's data, which need not be what was hashed.
    """
    known = {algorithm.value: algorithm for algorithm in HashAlgorithm}
    return tuple(
        Step(
            register=register(entry.pcr),
            operation=entry.type_name,
            digests={known[name]: digest for name, digest in entry.digests.items() if name in known},
            size=len(entry.data),
            source=f"{source} offset {entry.offset:#x}",
            description=describe(entry),
            spec="TCG PFP 1.06 section 10.2",
        )
        for entry in log.events
        if entry.type != EventType.EV_NO_ACTION
    )


def pcr_extend_command(index: int, digest: bytes, algorithm: HashAlgorithm) -> bytes:
    """The TPM2_PCR_Extend command that extends one bank, authorised by an empty password.

    Raises:
        MeasureError: there is no such PCR, or the digest has the wrong size.

    Spec: TPM 2.0 Library part 3 section 22.2 (command), part 2 sections 10.3.2 (TPMT_HA) and 10.13.2
    (TPMS_AUTH_COMMAND), part 1 section 19.4 (password authorization: empty nonce and HMAC).
    """
    if len(digest) != algorithm.size:
        what = f"{algorithm.value} digest of {len(digest)} bytes, expected {algorithm.size}"
        raise MeasureError(f"{register(index)}: {what}; take the digest of the bank that is extended")
    session = struct.pack(">IHBH", _TPM_RS_PW, 0, 0, 0)
    digests = struct.pack(">IH", 1, _ALGORITHM_IDS[algorithm]) + digest
    body = struct.pack(">II", _checked(index), len(session)) + session + digests
    return struct.pack(">HII", _TPM_ST_SESSIONS, 10 + len(body), _TPM_CC_PCR_EXTEND) + body
