"""The boot report: what a guest prints about its own boot, read back as what it is, untrusted text.

The format is documented at the top of ``rootfs/boot-report/usr/lib/goldsmith/boot-report``. Nothing in a
report is believed for being in it: its event log must replay to its register values, and those be golden.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import FormatError
from ..formats.devicepath import escape
from ..formats.eventlog import parse
from ..measure.tpm import event_steps
from ..measure.trace import HashAlgorithm, Step
from ..measure.userspace import MeasureLogRecord, parse_measure_log, phase_step
from .verify import Observation

MARK = b"GOLDSMITH-REPORT "
MAX_LINES = 100_000
ITEMS = frozenset({"facts", "failed-units", "os-release", "pcrs", "event-log", "measure-log", "unlock"})
_LINE = re.compile(rb"([1-9][0-9]{0,5}) ([a-z0-9-]{1,32}) ([A-Za-z0-9+/]{2,96}={0,2}|-)")
_END = re.compile(rb"END ([0-9]{1,6}) ([0-9a-f]{64})")
_PCR = re.compile(r"(sha1|sha256|sha384|sha512) ([0-9]{1,2}) ([0-9A-Fa-f]{40,128})")

_VOLUME = re.compile(
    r'\{"volume":"([a-z0-9_-]{1,32})","provider":"([a-z0-9-]{0,64})","result":"([a-z-]{1,32})","ms":([0-9]{1,9})\}'
)


@dataclass(frozen=True)
class OpenedVolume:
    """What the unlock driver wrote down: who gave the key, ``opened`` or ``formatted``, how long it took."""

    volume: str
    provider: str
    result: str
    milliseconds: int


@dataclass(frozen=True, kw_only=True)
class BootReport:
    """A whole report whose checksum is right.

    Attributes:
        facts: ``key=value`` lines by key.
        failed_units: names of systemd units that failed.
        observation: register values and logged events.
        volumes: encrypted volumes, in the order of their names.
    """

    facts: Mapping[str, str]
    failed_units: tuple[str, ...]
    observation: Observation
    volumes: tuple[OpenedVolume, ...] = ()


def is_complete(console: bytes) -> bool:
    """Whether the console has shown the end of a report: nothing is checked yet."""
    return any(_END.match(line.removeprefix(MARK)) for line in _marked(console))


def parse_report(console: bytes, source: str) -> BootReport:
    """The only report in a console log; lines of others may stand around and between its lines.

    Raises:
        FormatError: there is no report or more than one, a line is lost or damaged, the checksum or an item
            is wrong.
    """
    items = _items(_lines(console, source), source)
    lines = (escape(line) for line in _text(items.get("facts", b""), "facts", source).split("\n"))
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    units = _text(items.get("failed-units", b""), "failed-units", source).split()
    steps: list[Step] = []
    if "event-log" in items:
        steps += event_steps(parse(items["event-log"], f"{source}: event log"), "event log")
    if "measure-log" in items:
        records = parse_measure_log(items["measure-log"], f"{source}: measure log")
        steps += userspace_steps(records)
    return BootReport(
        facts=facts,
        failed_units=tuple(escape(unit) for unit in units),
        observation=Observation(values=_values(items.get("pcrs", b""), source), steps=tuple(steps)),
        volumes=tuple(_volumes(items.get("unlock", b""), source)),
    )


def _marked(console: bytes) -> Iterator[bytes]:
    for line in console.split(b"\n"):
        stripped = line.rstrip(b"\r")
        if stripped.startswith(MARK):
            yield stripped


def _lines(console: bytes, source: str) -> list[tuple[str, str]]:
    """Item and base64 of each line between BEGIN and END, after number, count and checksum are checked."""
    lines = [line.removeprefix(MARK) for line in _marked(console)]
    begins = [index for index, line in enumerate(lines) if line == b"BEGIN 1"]
    if len(begins) != 1:
        what = f"{len(begins)} boot reports of version 1 in it, expected one; was the boot interrupted?"
        raise FormatError(source, what)
    body = lines[begins[0] + 1 :]
    end = next((index for index, line in enumerate(body) if line.startswith(b"END ")), None)
    if end is None:
        raise FormatError(source, "the boot report has no end; was the boot interrupted?")
    match = _END.fullmatch(body[end])
    body = body[:end]
    if match is None or int(match[1]) != len(body) or len(body) > MAX_LINES:
        raise FormatError(
            source, f"the boot report has {len(body)} lines and ends with other counts; a line is lost"
        )
    digest = hashlib.sha256(b"".join(line + b"\n" for line in body)).hexdigest()
    if digest != match[2].decode():
        raise FormatError(source, f"the boot report's checksum is {digest}, it claims {match[2].decode()}")
    found = []
    for number, line in enumerate(body, 1):
        parts = _LINE.fullmatch(line)
        if parts is None or int(parts[1]) != number:
            raise FormatError(source, f"line {number} of the boot report is {line[:60]!r}")
        found.append((parts[2].decode(), parts[3].decode()))
    return found


def _items(lines: list[tuple[str, str]], source: str) -> dict[str, bytes]:
    items: dict[str, bytearray] = {}
    last = ""
    for name, text in lines:
        if name not in ITEMS:
            raise FormatError(source, f"the boot report has an unknown item {name!r}")
        if name != last and name in items:
            raise FormatError(source, f"item {name!r} of the boot report is in two places")
        try:
            data = b"" if text == "-" else base64.b64decode(text, validate=True)
        except binascii.Error:
            raise FormatError(source, f"item {name!r} of the boot report is not base64") from None
        items.setdefault(name, bytearray()).extend(data)
        last = name
    return {name: bytes(data) for name, data in items.items()}


def userspace_steps(records: Iterable[MeasureLogRecord]) -> tuple[Step, ...]:
    """What user space extended, to line up with predicted words."""
    return tuple(_userspace_step(record) for record in records)


def _userspace_step(record: MeasureLogRecord) -> Step:
    """A record of systemd's log under the operation that a predicted boot phase has."""
    known = {algorithm.value: algorithm for algorithm in HashAlgorithm}
    return Step(
        register=f"PCR{record.pcr}",
        operation=phase_step("ready").operation,
        digests={known[item.algorithm]: item.digest for item in record.digests if item.algorithm in known},
        size=len(record.string),
        source="measure log",
        description=escape(record.string),
    )


def _values(data: bytes, source: str) -> dict[tuple[str, HashAlgorithm], bytes]:
    values: dict[tuple[str, HashAlgorithm], bytes] = {}
    for line in _text(data, "pcrs", source).splitlines():
        match = _PCR.fullmatch(line)
        algorithm = HashAlgorithm(match[1]) if match else None
        if match is None or algorithm is None or len(match[3]) != 2 * algorithm.size:
            raise FormatError(source, f"item 'pcrs' of the boot report has the line {line[:60]!r}")
        key = (f"PCR{int(match[2])}", algorithm)
        if key in values:
            raise FormatError(source, f"item 'pcrs' of the boot report has {key[0]} twice")
        values[key] = bytes.fromhex(match[3])
    return values


def _volumes(data: bytes, source: str) -> Iterator[OpenedVolume]:
    for line in _text(data, "unlock", source).splitlines():
        match = _VOLUME.fullmatch(line)
        if match is None:
            raise FormatError(source, f"item 'unlock' of the boot report has the line {line[:60]!r}")
        yield OpenedVolume(match[1], match[2], match[3], int(match[4]))


def _text(data: bytes, item: str, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(source, f"item {item!r} of the boot report is not text") from None
