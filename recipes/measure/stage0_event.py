"""The event that stage0 appends to its log: a protobuf message whose SHA-256 layer 1's certificate holds.

    Event { 1: "Stage0", 2: Any { 1: type URL, 2: Stage0Measurements } }
    Stage0Measurements { 1: setup data, 2: kernel, 3: RAM disk, 4: memory map, 5: ACPI, 6: command line }

Spec: project-oak/oak stage0_dice/src/lib.rs encode_stage0_event() (c8a4c74b),
proto/attestation/eventlog.proto; Protocol Buffers documentation, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterable

TAG = "Stage0"
TYPE_URL = "type.googleapis.com/oak.attestation.v1.Stage0Measurements"
_LENGTH_DELIMITED = 2


def encode_event(*, digests: Iterable[bytes], cmdline: bytes) -> bytes:
    """The bytes of the event.

    Args:
        digests: of setup data, kernel, RAM disk, memory map and ACPI tables, in this order.
        cmdline: the command line without its NUL, UTF-8.
    """
    values = _message([*digests, cmdline])
    event = _message([TYPE_URL.encode(), values])
    return _message([TAG.encode(), event])


def _message(values: Iterable[bytes]) -> bytes:
    """A message whose fields 1, 2, ... hold these bytes; an empty one is left out, as proto3 does."""
    return b"".join(_field(number, value) for number, value in enumerate(values, 1) if value)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
