"""Captured ACPI files of machines with stage0, and the file that keeps them.

A capture holds for one version of QEMU, one versioned machine type and the whole machine; for any other there
is none, and what is there is said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from ..document import Fields, read_document
from ..errors import FormatError, MeasureError
from ..machine.stage0 import Stage0Machine
from .captures import pack_blob, read_blob

SCHEMA = 1
LOADER, RSDP, TABLES = "etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables"
"""Files of fw_cfg that every capture has. Spec: QEMU 10.0 include/hw/acpi/aml-build.h."""

_HOW = "goldsmith capture acpi -o FILE -- qemu-system-x86_64 ..."
# Of captures that do not fit, so many are named.
_MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Stage0Capture:
    """What one QEMU gives to stage0 on one machine.

    Attributes:
        qemu_version: ``9.2.0``.
        package: what QEMU's packager calls it; empty for one that nobody packaged.
        aliases: further names that this QEMU has for the machine type, such as ``q35``.
        identity: the machine, as :meth:`Stage0Machine.acpi_identity` writes it, its type versioned.
        stand_ins: what took the place of something that did not run, a sentence each.
        table_loader: ``etc/table-loader``.
        rsdp: ``etc/acpi/rsdp``.
        tables: ``etc/acpi/tables``, the whole file.
        further: other files that the loader allocates, by name.
    """

    qemu_version: str
    package: str = ""
    aliases: tuple[str, ...] = ()
    identity: str
    stand_ins: tuple[str, ...] = ()
    table_loader: bytes
    rsdp: bytes
    tables: bytes
    further: tuple[tuple[str, bytes], ...] = ()

    @property
    def machine(self) -> dict[str, object]:
        """The machine, key by key."""
        value: dict[str, object] = json.loads(self.identity)
        return value

    @property
    def files(self) -> tuple[tuple[str, bytes], ...]:
        """Every file, by name."""
        return ((LOADER, self.table_loader), (RSDP, self.rsdp), (TABLES, self.tables), *self.further)

    def __str__(self) -> str:
        machine = self.machine
        memory = machine["memory"]
        size = f"{memory // 1024} KiB" if isinstance(memory, int) else f"{memory!r}"
        accelerator = machine.get("accelerator")
        vcpus = "1 vCPU" if machine.get("vcpus") == 1 else f"{machine.get('vcpus')} vCPUs"
        return f"QEMU {self.qemu_version}, {machine.get('type')}, {accelerator}, {vcpus}, {size}"


def find(captures: Iterable[Stage0Capture], machine: Stage0Machine, *, qemu_version: str) -> Stage0Capture:
    """The capture of ``machine``.

    Args:
        qemu_version: that runs it.

    Raises:
        MeasureError: there is none, or none of that version.
    """
    known = sorted(captures, key=_key)
    found = [item for item in known if not _differences(item, machine)]
    if not found:
        raise MeasureError(_no_machine(machine, known))
    chosen = [item for item in found if item.qemu_version == qemu_version]
    if not chosen:
        versions = ", ".join(dict.fromkeys(item.qemu_version for item in found))
        what = f"its ACPI tables are captured of QEMU {versions}, not of {qemu_version}"
        raise MeasureError(f"{machine.name}: {what}; capture with that QEMU: {_HOW}")
    return chosen[0]


def merge(captures: Iterable[Stage0Capture], new: Iterable[Stage0Capture]) -> tuple[Stage0Capture, ...]:
    """The captures with ``new`` ones added; one of the same QEMU and machine is replaced."""
    merged = {_key(item): item for item in (*captures, *new)}
    return tuple(merged[key] for key in sorted(merged))


def dump_captures(captures: Iterable[Stage0Capture]) -> str:
    """The captures as JSON text; the same captures give the same text in any order.

    Raises:
        MeasureError: two captures are of the same version and machine.
    """
    ordered = sorted(captures, key=_key)
    for first, second in pairwise(ordered):
        if _key(first) == _key(second):
            raise MeasureError(f"captures: two of {first}; keep one")
    document = {"schema": SCHEMA, "stage0": [_plain(capture) for capture in ordered]}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def load_captures(text: str, source: str) -> tuple[Stage0Capture, ...]:
    """The captures in JSON text.

    Raises:
        FormatError: the text is malformed, a digest does not match, or a capture is there twice.
    """
    try:
        return _load(text, source)
    except FormatError as error:
        advice = "" if ";" in error.what else f"; give a file that was written by {_HOW}"
        raise FormatError(error.source, error.what + advice, offset=error.offset) from None


def _load(text: str, source: str) -> tuple[Stage0Capture, ...]:
    document = read_document(text, source, SCHEMA)
    if "captures" in document.values:
        what = "captures for UEFI firmware, which sets the chipset up before it reads the tables"
        raise FormatError(source, f"{what}; capture for stage0: {_HOW}")
    captures = tuple(_capture(fields) for fields in document.objects("stage0"))
    document.finish()
    if len({_key(capture) for capture in captures}) != len(captures):
        raise FormatError(source, "two captures are of the same QEMU and machine; capture again")
    return captures


def _key(capture: Stage0Capture) -> tuple[str, str]:
    return capture.identity, capture.qemu_version


def _differences(capture: Stage0Capture, machine: Stage0Machine) -> list[str]:
    """What is not the same on the captured machine, a few words each."""
    wanted, there = json.loads(machine.acpi_identity()), capture.machine
    if wanted["type"] in capture.aliases:
        wanted["type"] = there.get("type")
    return [
        f"{key} {_words(there.get(key))}, not {_words(wanted.get(key))}"
        for key in sorted({*wanted, *there})
        if wanted.get(key) != there.get(key)
    ]


def _words(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list):
        return str(value)
    items = ["=".join(map(str, item)) if isinstance(item, list) else str(item) for item in value]
    return " ".join(items) or "none"


def _no_machine(machine: Stage0Machine, known: list[Stage0Capture]) -> str:
    lines = [f"{machine.name}: no ACPI tables of this machine are captured; capture them: {_HOW}"]
    ranked = sorted(((_differences(item, machine), item) for item in known), key=lambda pair: len(pair[0]))
    lines += [f"    there: {item}: {'; '.join(differences)}" for differences, item in ranked[:_MOST_NAMED]]
    if len(ranked) > _MOST_NAMED:
        lines.append(f"    and {len(ranked) - _MOST_NAMED} more")
    return "\n".join(lines)


def _plain(capture: Stage0Capture) -> dict[str, object]:
    return {
        "qemu": capture.qemu_version,
        "package": capture.package,
        "aliases": list(capture.aliases),
        "machine": capture.machine,
        "stand_ins": list(capture.stand_ins),
        "files": [
            {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "content": pack_blob(data)}
            for name, data in capture.files
        ],
    }


def _capture(fields: Fields) -> Stage0Capture:
    version, package = fields.text("qemu"), fields.text("package")
    machine = _machine(fields.fields("machine"))
    files = [_file(item) for item in fields.objects("files")]
    if [name for name, _ in files[:3]] != [LOADER, RSDP, TABLES] or len(dict(files)) != len(files):
        what = f"'files' starts with {LOADER}, {RSDP} and {TABLES}, and has each name once"
        raise FormatError(fields.source, f"{what}; capture again")
    capture = Stage0Capture(
        qemu_version=version,
        package=package,
        aliases=_texts(fields, "aliases"),
        identity=json.dumps(machine, sort_keys=True, separators=(",", ":")),
        stand_ins=_texts(fields, "stand_ins"),
        table_loader=files[0][1],
        rsdp=files[1][1],
        tables=files[2][1],
        further=tuple(files[3:]),
    )
    fields.finish()
    return capture


def _file(fields: Fields) -> tuple[str, bytes]:
    name = fields.text("name")
    data = read_blob(fields, "content", fields.hexadecimal("sha256", 32), advice="capture again")
    fields.finish()
    return name, data


def _machine(fields: Fields) -> dict[str, object]:
    """A machine as :meth:`Stage0Machine.acpi_identity` writes it."""
    for key in _MACHINE:
        if key not in fields.values:
            raise FormatError(fields.source, f"{key!r} is missing; capture again")
    for key, value in fields.values.items():
        if key not in _MACHINE:
            raise FormatError(fields.source, f"{key!r} is unknown; remove it or use a newer version")
        if not _MACHINE[key](value):
            raise FormatError(fields.source, f"{key!r} is no such value of a machine; capture again")
    return fields.values


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 64


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_MACHINE: dict[str, Callable[[object], bool]] = {
    "accelerator": _is_text,
    "amd": _is_flag,
    "devices": _are_texts,
    "max_vcpus": _is_count,
    "memory": _is_count,
    "phys_bits": lambda value: value is None or _is_count(value),
    "settings": lambda value: isinstance(value, list) and all(map(_is_pair, value)),
    "type": _is_text,
    "vcpus": _is_count,
}
"""What a capture holds of a machine, and what its values are."""


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _are_texts(value)


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    items = fields.items(key)
    texts = tuple(item for item in items if isinstance(item, str) and item.isprintable())
    if len(texts) != len(items):
        raise FormatError(fields.source, f"{key!r} holds something that is no printable text")
    return texts
