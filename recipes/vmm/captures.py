"""ACPI tables captured from a VMM, and the file that keeps them beside a recipe's lock."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from ..errors import FormatError, MeasureError
from ..machine import QemuMachine
from .document import Fields, read_document

SCHEMA = 1
MAX_BLOB = 16 << 20
BLOBS = ("table_loader", "rsdp", "tables")
"""What is captured, in the order the firmware reads it."""


@dataclass(frozen=True, kw_only=True)
class AcpiCapture:
    """The ACPI blobs that one QEMU version gives to the firmware of one machine.

    Attributes:
        qemu_version: ``7.2.22``.
        identity: the machine, as :meth:`QemuMachine.identity` writes it.
        table_loader: content of ``etc/table-loader``.
        rsdp: content of ``etc/acpi/rsdp``.
        tables: content of ``etc/acpi/tables``, the whole file.
    """

    qemu_version: str
    identity: str
    table_loader: bytes
    rsdp: bytes
    tables: bytes


def find(
    captures: Iterable[AcpiCapture], machine: QemuMachine, qemu_version: str | None = None
) -> AcpiCapture | None:
    """The capture of ``machine``, or None.

    Args:
        qemu_version: the version asked for; None takes the only one there is.

    Raises:
        MeasureError: there are captures of several versions and none was asked for.
    """
    identity = machine.identity()
    found = [
        capture
        for capture in captures
        if capture.identity == identity and qemu_version in {None, capture.qemu_version}
    ]
    if len(found) > 1:
        versions = ", ".join(sorted(capture.qemu_version for capture in found))
        raise MeasureError(
            f"{machine.name}: ACPI tables of QEMU {versions} are known; say which version runs"
        )
    return found[0] if found else None


def dump_captures(captures: Iterable[AcpiCapture]) -> str:
    """The captures as JSON text; the same captures give the same text in any order.

    Raises:
        MeasureError: two captures are of the same version and machine.
    """
    ordered = sorted(captures, key=lambda capture: (capture.identity, capture.qemu_version))
    keys = [(capture.identity, capture.qemu_version) for capture in ordered]
    for first, second in pairwise(keys):
        if first == second:
            raise MeasureError(f"captures: two of QEMU {first[1]} for the machine {first[0]}")
    document = {"schema": SCHEMA, "captures": [_plain(capture) for capture in ordered]}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def load_captures(text: str, source: str) -> tuple[AcpiCapture, ...]:
    """The captures in JSON text.

    Raises:
        FormatError: the text is malformed, a digest does not match, or a capture is there twice.
    """
    document = read_document(text, source, SCHEMA)
    captures = tuple(_capture(fields) for fields in document.objects("captures"))
    document.finish()
    keys = [(capture.qemu_version, capture.identity) for capture in captures]
    if len(set(keys)) != len(keys):
        raise FormatError(
            source, "two captures are of the same QEMU version and machine; run the update again"
        )
    return captures


def _plain(capture: AcpiCapture) -> dict[str, object]:
    blobs = {name: getattr(capture, name) for name in BLOBS}
    return {
        "qemu": capture.qemu_version,
        "machine": json.loads(capture.identity),
        "sha256": {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()},
        **{name: base64.b64encode(zlib.compress(blob, 9)).decode() for name, blob in blobs.items()},
    }


def _capture(fields: Fields) -> AcpiCapture:
    digests = fields.fields("sha256")
    blobs = {name: _blob(fields, name, digests.hexadecimal(name, 32)) for name in BLOBS}
    digests.finish()
    machine = fields.fields("machine")
    identity = json.dumps(machine.values, sort_keys=True, separators=(",", ":"))
    capture = AcpiCapture(
        qemu_version=fields.text("qemu"),
        identity=identity,
        table_loader=blobs["table_loader"],
        rsdp=blobs["rsdp"],
        tables=blobs["tables"],
    )
    fields.finish()
    return capture


def _blob(fields: Fields, name: str, digest: bytes) -> bytes:
    try:
        packed = base64.b64decode(fields.text(name), validate=True)
        inflater = zlib.decompressobj()
        data = inflater.decompress(packed, MAX_BLOB)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise FormatError(fields.source, f"{name!r} is no base64 of a zlib stream: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise FormatError(fields.source, f"{name!r} is no whole zlib stream of at most {MAX_BLOB} bytes")
    if hashlib.sha256(data).digest() != digest:
        raise FormatError(fields.source, f"{name!r} does not have its digest; run the update again")
    return data
