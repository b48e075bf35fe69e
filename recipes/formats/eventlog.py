"""TCG event logs: what firmware, boot loader and kernel say they measured. Untrusted until it is replayed.

    TCG_PCClientPCREvent   u32 PCR | u32 type | SHA-1 digest | u32 size | data
    TCG_PCR_EVENT2         u32 PCR | u32 type | u32 count | count x (u16 algorithm | digest) | u32 size | data

A crypto-agile log starts with a TCG_PCClientPCREvent that says "Spec ID Event03" and names the algorithms,
TCG_PCR_EVENT2 follow; a legacy log has TCG_PCClientPCREvent alone.

Spec: TCG PC Client Platform Firmware Profile 1.06 sections 10.2.1, 10.2.2, 10.4.5; TCG EFI Platform 1.22
section 7.2 (legacy). Padding of zeros, or of 0xff as edk2 fills its log area, ends a log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from ..binary import Struct, raw, u8, u16, u32
from ..errors import FormatError
from ..units import MIB
from .event_text import describe_data
from .event_type import EventType, event_type_name

__all__ = [
    "Algorithm",
    "Event",
    "EventLog",
    "EventType",
    "SpecIdEvent",
    "algorithm",
    "describe",
    "event_type_name",
    "is_spec_id",
    "pack",
    "parse",
    "spec_id_event",
    "startup_locality_event",
]

_SPEC = "TCG PFP 1.06 section 10.2"
# Firmware reserves 64 KiB to 1 MiB; the bound keeps hostile input from filling memory with small events.
MAX_SIZE = 4 * MIB
# PCRs of a PC Client TPM. Spec: TCG PC Client Platform TPM Profile 1.05 section 4.6.
PCR_COUNT = 24
_SPEC_ID_SIGNATURE = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
# Localities that TPM2_Startup can come from; 4 stands for an H-CRTM. Spec: TCG PFP 1.06 section 10.4.5.3.
_LOCALITIES = (0, 3, 4)


@dataclass(frozen=True)
class Algorithm:
    """A hash algorithm of a log.

    Attributes:
        id: TPM_ALG_ID.
        name: the usual name, ``sha256``; the id in hex, ``0x00ab``, where it is not known here.
        size: digest length in bytes.
    """

    id: int
    name: str
    size: int


# Spec: TCG Algorithm Registry 1.34 table 3.
_KNOWN = (
    Algorithm(0x0004, "sha1", 20),
    Algorithm(0x000B, "sha256", 32),
    Algorithm(0x000C, "sha384", 48),
    Algorithm(0x000D, "sha512", 64),
    Algorithm(0x0012, "sm3_256", 32),
    Algorithm(0x0027, "sha3_256", 32),
    Algorithm(0x0028, "sha3_384", 48),
    Algorithm(0x0029, "sha3_512", 64),
)
_BY_ID = {item.id: item for item in _KNOWN}
_BY_NAME = {item.name: item for item in _KNOWN}
SHA1 = _BY_NAME["sha1"]


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name.

    Raises:
        FormatError: no TPM algorithm has this name.
    """
    if name not in _BY_NAME:
        raise FormatError("event log", f"unknown algorithm {name!r}; known are {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        pcr: PCR index, 0 to 23; a EV_NO_ACTION event may hold any number.
        type: an ``EventType``, or a number that the specification does not define.
        digests: by algorithm name, in the order of the log. The Spec ID event has a SHA-1 field alone.
        data: says what was measured; hashed itself for some types only.
        offset: where the event starts in the log it was read from.
    """

    pcr: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes
    offset: int = 0

    @property
    def type_name(self) -> str:
        """``EV_IPL`` and so on, or the number in hex."""
        return event_type_name(self.type)


@dataclass(frozen=True)
class EventLog:
    """A whole log.

    Attributes:
        algorithms: in the order of the Spec ID event; SHA-1 alone for a legacy log.
        events: all of them in order, a Spec ID event and other EV_NO_ACTION ones included.
        startup_locality: 0, 3 or 4; PCR 0 starts with this number in its last byte.
    """

    algorithms: tuple[Algorithm, ...]
    events: tuple[Event, ...]
    startup_locality: int = 0


class TcgPcClientPcrEvent(Struct):
    """The legacy event up to its data. Spec: TCG PFP 1.06 section 10.2.1."""

    pcr_index: u32
    event_type: u32
    digest: Annotated[bytes, raw(20)]
    event_data_size: u32


class SpecIdHeader(Struct):
    """TCG_EfiSpecIDEvent up to its algorithms. Spec: TCG PFP 1.06 section 10.4.5.1."""

    signature: Annotated[bytes, raw(16)]
    platform_class: u32
    spec_version_minor: u8
    spec_version_major: u8
    spec_errata: u8
    uintn_size: u8
    number_of_algorithms: u32


class SpecIdAlgorithm(Struct):
    """One TCG_EfiSpecIdEventAlgorithmSize. Spec: TCG PFP 1.06 section 10.4.5.1."""

    algorithm_id: u16
    digest_size: u16


@dataclass(frozen=True)
class SpecIdEvent:
    """The data of the first event of a crypto-agile log: its algorithms and the vendor's bytes."""

    header: SpecIdHeader
    algorithms: tuple[Algorithm, ...]
    vendor_info: bytes

    @classmethod
    def unpack(cls, data: bytes, source: str, offset: int = 0) -> SpecIdEvent:
        """The Spec ID event in ``data``; ``offset`` is where it lies in the log, for messages.

        Raises:
            FormatError: lengths do not fit, or an algorithm comes twice or with a wrong digest size.
        """
        header = SpecIdHeader.unpack(data, source=source)
        count, left = header.number_of_algorithms, len(data) - header.SIZE
        if not 0 < count <= left // SpecIdAlgorithm.SIZE:
            what = f"Spec ID event says {count} algorithms in {left} bytes; the data is truncated"
            raise FormatError(source, what, offset=offset, spec=_SPEC)
        algorithms = []
        for index in range(count):
            at = header.SIZE + index * SpecIdAlgorithm.SIZE
            algorithms.append(_spec_id_algorithm(SpecIdAlgorithm.unpack(data, at), source, offset + at))
        if len({item.id for item in algorithms}) != count:
            raise FormatError(source, f"Spec ID event names one of {count} algorithms twice", offset=offset)
        tail = data[header.SIZE + count * SpecIdAlgorithm.SIZE :]
        if not tail or len(tail) != 1 + tail[0]:
            want = 1 + tail[0] if tail else 1
            what = f"Spec ID event has {len(tail)} bytes behind its algorithms, expected {want}"
            raise FormatError(source, what, offset=offset, spec=_SPEC)
        return cls(header, tuple(algorithms), tail[1:])


def _spec_id_algorithm(entry: SpecIdAlgorithm, source: str, offset: int) -> Algorithm:
    size = entry.digest_size
    found = _BY_ID.get(entry.algorithm_id, Algorithm(entry.algorithm_id, f"{entry.algorithm_id:#06x}", size))
    if found.size != size or size == 0:
        what = f"Spec ID event gives {found.name} digests of {size} bytes, expected {found.size or 'some'}"
        raise FormatError(source, what, offset=offset, spec=_SPEC)
    return found


def parse(data: bytes, source: str) -> EventLog:
    """The events of a log, crypto-agile or legacy by its first event; no bytes or padding give no events.

    Digests and data are what the log claims, nothing is recomputed.

    Raises:
        FormatError: a length, count, PCR or algorithm that does not fit.
    """
    if len(data) > MAX_SIZE:
        raise FormatError(source, f"event log of {len(data)} bytes, at most {MAX_SIZE} are read")
    end = min(len(data.rstrip(b"\0")), len(data.rstrip(b"\xff")))
    if not end:
        return EventLog((SHA1,), ())
    first, offset = _unpack_legacy(data, 0, source)
    if is_spec_id(first):
        algorithms = SpecIdEvent.unpack(first.data, source, TcgPcClientPcrEvent.SIZE).algorithms
        rest = _events2(data, offset, end, algorithms, source)
    else:
        algorithms, rest = (SHA1,), _legacy_events(data, offset, end, source)
    events = (first, *rest)
    return EventLog(algorithms, events, _startup_locality(events, source))


def pack(log: EventLog) -> bytes:
    """The bytes of a log, without padding: crypto-agile where its first event is a Spec ID event.

    Raises:
        FormatError: an event lacks the digest of an algorithm, or has one of another size.
    """
    if not log.events or not is_spec_id(log.events[0]):
        return b"".join(map(_pack_legacy, log.events))
    body = (_pack_event2(event, log.algorithms) for event in log.events[1:])
    return _pack_legacy(log.events[0]) + b"".join(body)


def describe(event: Event) -> str:
    """One line for people: the variable, path, string or address that the event's data holds.

    Never fails: data that does not parse is shown in hex, and what is not printable is escaped.
    """
    return describe_data(event.type, event.data)


def is_spec_id(event: Event) -> bool:
    """Whether this is the first event of a crypto-agile log."""
    return event.type == EventType.EV_NO_ACTION and event.data.startswith(_SPEC_ID_SIGNATURE)


def spec_id_event(algorithms: Sequence[Algorithm]) -> Event:
    """The first event of a crypto-agile log with these algorithms, as 64-bit firmware writes it.

    Spec: TCG PFP 1.06 section 10.4.5.1: platform class 0 (client), version 2.0 errata 0, UINTN of 8 bytes.
    """
    header = SpecIdHeader(
        signature=_SPEC_ID_SIGNATURE,
        platform_class=0,
        spec_version_minor=0,
        spec_version_major=2,
        spec_errata=0,
        uintn_size=2,
        number_of_algorithms=len(algorithms),
    )
    entries = (SpecIdAlgorithm(algorithm_id=item.id, digest_size=item.size) for item in algorithms)
    data = header.pack() + b"".join(entry.pack() for entry in entries) + b"\0"
    return Event(0, EventType.EV_NO_ACTION, {SHA1.name: bytes(SHA1.size)}, data)


def startup_locality_event(locality: int, algorithms: Sequence[Algorithm]) -> Event:
    """The EV_NO_ACTION event that tells from which locality the TPM was started.

    Spec: TCG PFP 1.06 section 10.4.5.3; the digests are zero.
    """
    digests = {item.name: bytes(item.size) for item in algorithms}
    return Event(0, EventType.EV_NO_ACTION, digests, _STARTUP_LOCALITY + bytes([locality]))


def _check_pcr(pcr: int, kind: int, source: str, offset: int) -> None:
    if pcr >= PCR_COUNT and kind != EventType.EV_NO_ACTION:
        what = f"PCR index is {pcr}, expected 0 to {PCR_COUNT - 1}"
        raise FormatError(source, what, offset=offset, spec=_SPEC)


def _event_data(data: bytes, offset: int, size: int, source: str) -> tuple[bytes, int]:
    if size > len(data) - offset:
        what = f"event data of {size} bytes, {len(data) - offset} are left; the log is truncated"
        raise FormatError(source, what, offset=offset, spec=_SPEC)
    return data[offset : offset + size], offset + size


def _unpack_legacy(data: bytes, offset: int, source: str) -> tuple[Event, int]:
    head = TcgPcClientPcrEvent.unpack(data, offset, source=source)
    _check_pcr(head.pcr_index, head.event_type, source, offset)
    body, after = _event_data(data, offset + head.SIZE, head.event_data_size, source)
    return Event(head.pcr_index, head.event_type, {SHA1.name: head.digest}, body, offset), after


def _legacy_events(data: bytes, offset: int, end: int, source: str) -> Iterator[Event]:
    while offset < end:
        event, offset = _unpack_legacy(data, offset, source)
        yield event


class TcgPcrEvent2(Struct):
    """The crypto-agile event up to its digests. Spec: TCG PFP 1.06 section 10.2.2 and TPML_DIGEST_VALUES."""

    pcr_index: u32
    event_type: u32
    digest_count: u32


def _events2(
    data: bytes, offset: int, end: int, algorithms: Sequence[Algorithm], source: str
) -> Iterator[Event]:
    by_id = {item.id: item for item in algorithms}
    while offset < end:
        start = offset
        head = TcgPcrEvent2.unpack(data, start, source=source)
        _check_pcr(head.pcr_index, head.event_type, source, start)
        if head.digest_count != len(by_id):
            what = f"event has {head.digest_count} digests, the Spec ID event announced {len(by_id)}"
            raise FormatError(source, what, offset=start, spec=_SPEC)
        digests, offset = _digests(data, start + head.SIZE, by_id, source)
        size = int.from_bytes(_take(data, offset, 4, source), "little")
        body, offset = _event_data(data, offset + 4, size, source)
        yield Event(head.pcr_index, head.event_type, digests, body, start)


def _digests(
    data: bytes, offset: int, by_id: Mapping[int, Algorithm], source: str
) -> tuple[dict[str, bytes], int]:
    digests: dict[str, bytes] = {}
    for _ in by_id:
        number = int.from_bytes(_take(data, offset, 2, source), "little")
        found = by_id.get(number)
        if found is None or found.name in digests:
            problem = "is not in the Spec ID event" if found is None else "comes twice"
            raise FormatError(source, f"digest algorithm {number:#06x} {problem}", offset=offset, spec=_SPEC)
        digests[found.name] = _take(data, offset + 2, found.size, source)
        offset += 2 + found.size
    return digests, offset


def _take(data: bytes, offset: int, size: int, source: str) -> bytes:
    if size > len(data) - offset:
        what = f"{size} bytes are needed, {max(len(data) - offset, 0)} are left; the log is truncated"
        raise FormatError(source, what, offset=offset, spec=_SPEC)
    return data[offset : offset + size]


def _startup_locality(events: Sequence[Event], source: str) -> int:
    found = [event for event in events if _is_startup_locality(event)]
    if not found:
        return 0
    event = found[0]
    if len(found) > 1:
        what = "the log has two StartupLocality events, a TPM starts once"
        raise FormatError(source, what, offset=found[1].offset, spec=_SPEC)
    value = event.data[len(_STARTUP_LOCALITY) :]
    if len(value) != 1 or value[0] not in _LOCALITIES:
        what = f"startup locality is {value[:4].hex() or 'empty'}, expected 00, 03 or 04"
        raise FormatError(source, what, offset=event.offset, spec="TCG PFP 1.06 section 10.4.5.3")
    return value[0]


def _is_startup_locality(event: Event) -> bool:
    return event.type == EventType.EV_NO_ACTION and event.data.startswith(_STARTUP_LOCALITY)


def _pack_legacy(event: Event) -> bytes:
    head = TcgPcClientPcrEvent(
        pcr_index=event.pcr,
        event_type=event.type,
        digest=_digest(event, SHA1),
        event_data_size=len(event.data),
    )
    return head.pack() + event.data


def _pack_event2(event: Event, algorithms: Sequence[Algorithm]) -> bytes:
    by_name = {item.name: item for item in algorithms}
    if sorted(event.digests) != sorted(by_name):
        what = f"{event.type_name} has digests {sorted(event.digests)}, the log's are {sorted(by_name)}"
        raise FormatError("event log", what)
    head = TcgPcrEvent2(pcr_index=event.pcr, event_type=event.type, digest_count=len(algorithms))
    digests = (struct.pack("<H", by_name[name].id) + _digest(event, by_name[name]) for name in event.digests)
    return head.pack() + b"".join(digests) + struct.pack("<I", len(event.data)) + event.data


def _digest(event: Event, kind: Algorithm) -> bytes:
    value = event.digests.get(kind.name, b"")
    if len(value) != kind.size:
        what = f"{event.type_name} has a {kind.name} digest of {len(value)} bytes, expected {kind.size}"
        raise FormatError("event log", what)
    return value
