"""What user space extends once the kernel runs: boot phases, identities, a workload; and systemd's log of it.

Spec: systemd 257 src/pcrextend/pcrextend.c, units/systemd-pcrphase*.service.in,
man/systemd-pcrphase.service.xml; the log: src/shared/tpm2-util.c (tpm2_userspace_log).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import FormatError
from ..formats.eventlog import PCR_COUNT, EventType
from . import tpm
from .trace import HashAlgorithm, Step, Trace, measured

# The phases of a normal boot, in order. Spec: systemd 257 man/systemd-pcrphase.service.xml.
PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready")

# Records of the log are set off by this byte. Spec: RFC 7464 section 2.2.
_RECORD_SEPARATOR = b"\x1e"
# Ours: a boot writes some dozen records of a few hundred bytes; more is refused.
MAX_LOG_SIZE = 4 << 20
MAX_RECORD_SIZE = 64 << 10
_SPEC = "systemd 257 src/shared/tpm2-util.c tpm2_userspace_log"


@dataclass(frozen=True)
class LogDigest:
    """One digest of a record, by the name of its algorithm as the log has it."""

    algorithm: str
    digest: bytes


@dataclass(frozen=True)
class MeasureLogRecord:
    """One record of ``tpm2-measure.log``.

    Attributes:
        string: what was measured, in words; empty where the record has none.
        event_type: ``phase``, ``machine-id`` ...; empty where the record has none.
    """

    pcr: int
    digests: tuple[LogDigest, ...]
    string: str
    event_type: str


def phase_step(phase: str) -> Step:
    """PCR 11: the word of a boot phase, ASCII without a NUL.

    The driver that unlocks disks extends ``enter-initrd`` where no systemd does it.
    """
    return _string_step(11, phase, "systemd-pcrphase")


def phase_traces(boot: Trace) -> tuple[Trace, ...]:
    """PCR 11 after each phase, every trace complete from reset: ``PCR11:enter-initrd`` and so on.

    Args:
        boot: PCR 11 when the kernel starts.
    """
    steps = [phase_step(phase) for phase in PHASES]
    return tuple(
        Trace(f"{boot.register}:{phase}", (*boot.steps, *steps[: count + 1]))
        for count, phase in enumerate(PHASES)
    )


def machine_id_step(machine_id: str) -> Step:
    """PCR 15: the machine id, 32 hexadecimal digits."""
    return _string_step(15, f"machine-id:{machine_id}", "/etc/machine-id")


def file_system_step(path: str, identity: tuple[str, str, str, str, str, str]) -> Step:
    """PCR 15: what a mount point shows.

    Args:
        path: of the mount point.
        identity: type, UUID, label, partition UUID, partition type and partition label; empty where unknown.
    """
    return _string_step(15, ":".join(("file-system", path, *identity)), path)


def workload_step(register: int, name: str, manifest: bytes) -> Step:
    """The workload's register: a word with the name of the workload and the SHA-256 of its manifest.

    Args:
        manifest: the bytes of ``workload.json``.

    Spec: rootfs/workload-podman/usr/lib/goldsmith/workload, which has systemd-pcrextend extend it.
    """
    return _string_step(register, workload_word(name, manifest), "workload.json")


def workload_word(name: str, manifest: bytes) -> str:
    """The word that is measured of a workload before any of it runs."""
    return f"workload:{name}:sha256:{hashlib.sha256(manifest).hexdigest()}"


def workload_trace(step: Step) -> Trace:
    """A workload's register when the system is up: ``PCR14:ready``. Nothing else extends it."""
    return Trace(f"{step.register}:{PHASES[-1]}", (step,))


def _string_step(index: int, text: str, source: str) -> Step:
    return tpm.event(
        index,
        EventType.EV_IPL,
        measured(text.encode("utf-8")),
        source=source,
        description=text,
        spec="systemd 257 src/pcrextend/pcrextend.c",
    )


def parse_measure_log(text: bytes, source: str) -> tuple[MeasureLogRecord, ...]:
    """The records of ``/run/log/systemd/tpm2-measure.log``, in order.

    What they say is a claim: only a quote over the PCRs that they replay to makes it true.

    Raises:
        FormatError: not a JSON text sequence, too large, or a record without a PCR or digests.

    Spec: RFC 7464; systemd 257 src/shared/tpm2-util.c tpm2_userspace_log.
    """
    if len(text) > MAX_LOG_SIZE:
        raise FormatError(source, f"measurement log of {len(text)} bytes, at most {MAX_LOG_SIZE} are read")
    if not text:
        return ()
    if not text.startswith(_RECORD_SEPARATOR):
        what = f"starts with {text[:1].hex()}, expected 1e; this is not a JSON text sequence"
        raise FormatError(source, what, offset=0, spec="RFC 7464 section 2.2")
    return tuple(_parse_record(line, offset, source) for offset, line in _records(text))


def _records(text: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 1
    for record in text[1:].split(_RECORD_SEPARATOR):
        yield offset, record
        offset += len(record) + 1


def _parse_record(record: bytes, offset: int, source: str) -> MeasureLogRecord:
    value = _load(record, offset, source)
    pcr, digests, content = value.get("pcr"), value.get("digests"), value.get("content", {})
    if not isinstance(pcr, int) or isinstance(pcr, bool) or not 0 <= pcr < PCR_COUNT:
        what = f"record has pcr {_shown(pcr)}, expected 0 to {PCR_COUNT - 1}"
        raise FormatError(source, what, offset=offset, spec=_SPEC)
    if not isinstance(digests, list) or not digests:
        raise FormatError(source, "record has no list of digests", offset=offset, spec=_SPEC)
    if not isinstance(content, dict):
        raise FormatError(
            source, f"content is {_shown(content)}, expected an object", offset=offset, spec=_SPEC
        )
    return MeasureLogRecord(
        pcr=pcr,
        digests=tuple(_digest(item, offset, source) for item in digests),
        string=_string(content.get("string", ""), "string", offset, source),
        event_type=_string(content.get("eventType", ""), "eventType", offset, source),
    )


def _load(record: bytes, offset: int, source: str) -> dict[str, object]:
    if len(record) > MAX_RECORD_SIZE:
        what = f"record of {len(record)} bytes, at most {MAX_RECORD_SIZE} are read"
        raise FormatError(source, what, offset=offset)
    try:
        value = json.loads(record.decode("utf-8"))
    except UnicodeDecodeError:
        raise FormatError(source, "record is not UTF-8", offset=offset, spec="RFC 8259 section 8.1") from None
    except RecursionError:
        raise FormatError(source, "record is nested too deeply", offset=offset) from None
    except ValueError:
        raise FormatError(source, "record is not JSON", offset=offset, spec="RFC 7464 section 2.2") from None
    if not isinstance(value, dict):
        raise FormatError(source, f"record is {_shown(value)}, expected an object", offset=offset, spec=_SPEC)
    return value


def _digest(item: object, offset: int, source: str) -> LogDigest:
    name = item.get("hashAlg") if isinstance(item, dict) else None
    text = item.get("digest") if isinstance(item, dict) else None
    if not isinstance(name, str) or not isinstance(text, str):
        what = f"digest is {_shown(item)}, expected hashAlg and digest"
        raise FormatError(source, what, offset=offset, spec=_SPEC)
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", text):
        raise FormatError(source, f"{_shown(name)} digest {_shown(text)} is not hexadecimal", offset=offset)
    digest = bytes.fromhex(text)
    known = {algorithm.value: algorithm.size for algorithm in HashAlgorithm}
    if len(digest) != known.get(name, len(digest)):
        what = f"{name} digest of {len(digest)} bytes, expected {known[name]}"
        raise FormatError(source, what, offset=offset)
    return LogDigest(name, digest)


def _string(value: object, name: str, offset: int, source: str) -> str:
    if not isinstance(value, str):
        what = f"{name} is {_shown(value)}, expected a string"
        raise FormatError(source, what, offset=offset, spec=_SPEC)
    return value


def _shown(value: object) -> str:
    """A value in a message: short, and without anything that could steer a terminal."""
    return ascii(value)[:40] if isinstance(value, (str, int, float, type(None))) else type(value).__name__
