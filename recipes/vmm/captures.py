"""ACPI tables captured from a VMM, and the file that keeps them beside a recipe's lock."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from ..document import Fields, read_document
from ..errors import FormatError, MeasureError
from ..machine import QemuMachine
from .words import dump_words, read_words

SCHEMA = 1
MAX_BLOB = 16 << 20
BLOBS = ("table_loader", "rsdp", "tables")
"""What is captured, in the order the firmware reads it."""


@dataclass(frozen=True, kw_only=True)
class AcpiCapture:
    """What one QEMU version shows to one firmware build on one machine.

    Attributes:
        qemu_version: ``7.2.22``.
        identity: the machine, as :meth:`QemuMachine.identity` writes it.
        code_sha256: of the code flash; another build places things elsewhere.
        table_loader: content of ``etc/table-loader``.
        rsdp: content of ``etc/acpi/rsdp``.
        tables: content of ``etc/acpi/tables``, the whole file.
        firmware_words: offsets and values of the words that PEI modules write into their volume on this
            machine; None where the facts of the firmware build have them.
    """

    qemu_version: str
    identity: str
    code_sha256: bytes
    table_loader: bytes
    rsdp: bytes
    tables: bytes
    firmware_words: tuple[tuple[int, bytes], ...] | None = None


def find(
    captures: Iterable[AcpiCapture],
    machine: QemuMachine,
    *,
    code_sha256: bytes,
    qemu_version: str | None = None,
) -> AcpiCapture | None:
    """The capture of ``machine``, or None.

    Args:
        code_sha256: of the code flash the machine starts from; a capture made with another build is stale.
        qemu_version: the version asked for; None takes the only one there is.

    Raises:
        MeasureError: there are captures of several versions and none was asked for.
    """
    wanted = machine.identity(), code_sha256
    found = [
        capture
        for capture in captures
        if (capture.identity, capture.code_sha256) == wanted and qemu_version in {None, capture.qemu_version}
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
        MeasureError: two captures are of the same version, machine and firmware.
    """
    ordered = sorted(captures, key=_key)
    for first, second in pairwise(ordered):
        if _key(first) == _key(second):
            raise MeasureError(f"captures: two of QEMU {first.qemu_version} for the machine {first.identity}")
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
    if len({_key(capture) for capture in captures}) != len(captures):
        what = "two captures are of the same QEMU version, machine and firmware"
        raise FormatError(source, f"{what}; run the update again")
    return captures


def _key(capture: AcpiCapture) -> tuple[str, str, bytes]:
    return capture.identity, capture.qemu_version, capture.code_sha256


def _plain(capture: AcpiCapture) -> dict[str, object]:
    blobs = {name: getattr(capture, name) for name in BLOBS}
    return {
        "qemu": capture.qemu_version,
        "machine": json.loads(capture.identity),
        "firmware": capture.code_sha256.hex(),
        "firmware_words": None if capture.firmware_words is None else dump_words(capture.firmware_words),
        "sha256": {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()},
        **{name: pack_blob(blob) for name, blob in blobs.items()},
    }


def _capture(fields: Fields) -> AcpiCapture:
    digests = fields.fields("sha256")
    blobs = {name: read_blob(fields, name, digests.hexadecimal(name, 32)) for name in BLOBS}
    digests.finish()
    machine = fields.fields("machine")
    capture = AcpiCapture(
        qemu_version=fields.text("qemu"),
        identity=json.dumps(machine.values, sort_keys=True, separators=(",", ":")),
        code_sha256=fields.hexadecimal("firmware", 32),
        table_loader=blobs["table_loader"],
        rsdp=blobs["rsdp"],
        tables=blobs["tables"],
        firmware_words=None if fields.is_null("firmware_words") else read_words(fields, "firmware_words"),
    )
    fields.finish()
    return capture


def pack_blob(data: bytes) -> str:
    """Bytes as they stand in JSON: compressed, in base64."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def read_blob(fields: Fields, name: str, digest: bytes, *, advice: str = "run the update again") -> bytes:
    """The bytes that :func:`pack_blob` wrote.

    Args:
        digest: SHA-256 of them.
        advice: what to do where they are not what was written.

    Raises:
        FormatError: they are no such text, are too many, or do not have the digest.
    """
    inflater = zlib.decompressobj()
    try:
        packed = base64.b64decode(fields.text(name), validate=True)
        data = inflater.decompress(packed, MAX_BLOB)
    except (ValueError, zlib.error) as error:
        raise FormatError(fields.source, f"{name!r} is no base64 of a zlib stream: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise FormatError(fields.source, f"{name!r} is no whole zlib stream of at most {MAX_BLOB} bytes")
    if hashlib.sha256(data).digest() != digest:
        raise FormatError(fields.source, f"{name!r} does not have its digest; {advice}")
    return data
