"""What if: two launches with stage0 side by side, down to the memory range and the ACPI table that moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from ..measure.stage0 import MEMORY_MAP, Stage0Launch, Stage0Prediction
from ..measure.stage0_acpi import ACPI_TABLE, LOADER
from ..measure.trace import HashAlgorithm, Step, Trace
from .diff import Moved, first_moved
from .explain import describe

# Which option each field of a machine follows. How its SEV differs is said field by field.
_OPTIONS = {
    "type": "-machine",
    "accelerator": "-accel",
    "vcpus": "-smp",
    "max_vcpus": "-smp maxcpus",
    "memory": "-m",
    "amd": "CPU of AMD",
    "phys_bits": "phys-bits",
    "devices": "-device",
    "settings": "-machine settings",
    "cmdline": "-append",
    "generation": "--stage0",
}
_SEV_OPTIONS = {"cpu": "-cpu", "features": "--host sev-features", "policy": "policy (not measured)"}


@dataclass(frozen=True, kw_only=True)
class Stage0Change:
    """A field of the policy that is not the same in both launches.

    Attributes:
        first: the first step that differs.
        parts: what of it moved, a few words each: ranges of memory, ACPI tables.
    """

    field: str
    before: str
    after: str
    first: Moved | None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stage0Difference:
    """Two launches held against each other; ``str()`` is the whole text for people.

    Attributes:
        unknown: fields that have a value on one side alone, or on none.
        causes: inputs that are not the same, a few words each.
    """

    changes: tuple[Stage0Change, ...]
    same: tuple[str, ...]
    unknown: tuple[str, ...]
    causes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether stage0 measures the same in both."""
        return not self.changes

    def __str__(self) -> str:
        return "\n".join(_text(self)) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Everything the text says, for programs."""
        return {
            "equal": self.equal,
            "fields": [
                {
                    "field": item.field,
                    "before": item.before,
                    "after": item.after,
                    "first_step": _step_json(item.first),
                    "parts": list(item.parts),
                }
                for item in self.changes
            ],
            "same": list(self.same),
            "unknown": list(self.unknown),
            "inputs": list(self.causes),
        }


def compare(
    launches: tuple[Stage0Launch, Stage0Launch], predictions: tuple[Stage0Prediction, Stage0Prediction]
) -> Stage0Difference:
    """What differs between two launches."""
    before, after = ({trace.register: trace for trace in item.traces} for item in predictions)
    changes, same, unknown = [], [], []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old is None and new is None:
            continue
        if old is not None and new is not None and _value(old) == _value(new):
            same.append(name)
            continue
        changes.append(
            Stage0Change(
                field=name,
                before=_shown(old),
                after=_shown(new),
                first=first_moved(name, old, new),
                parts=tuple(_parts(name, old, new)) if old and new else (),
            )
        )
    if ACPI_TABLE not in before and ACPI_TABLE not in after:
        unknown.append(ACPI_TABLE)
    return Stage0Difference(
        changes=tuple(changes), same=tuple(same), unknown=tuple(unknown), causes=tuple(_causes(*launches))
    )


def _value(trace: Trace) -> bytes:
    return trace.steps[-1].after


def _shown(trace: Trace | None) -> str:
    return "none" if trace is None else _value(trace).hex()


def _parts(name: str, before: Trace, after: Trace) -> Iterator[str]:
    if name == MEMORY_MAP:
        yield from _ranges(before, after)
    elif name == ACPI_TABLE:
        yield from _tables(before, after)


def _ranges(before: Trace, after: Trace) -> Iterator[str]:
    """Ranges of one memory map that the other does not have, in order of addresses."""
    old, new = ({_range(step): step for step in trace.steps} for trace in (before, after))
    moved = [(step.address or 0, "-", text) for text, step in old.items() if text not in new]
    moved += [(step.address or 0, "+", text) for text, step in new.items() if text not in old]
    for _, sign, text in sorted(moved, key=lambda item: (item[0], item[1] == "+")):
        yield f"{sign} {text}"


def _range(step: Step) -> str:
    return f"{describe(step)} ({step.source})"


def _tables(before: Trace, after: Trace) -> Iterator[str]:
    """ACPI tables, and commands of the loader, that are not the same."""
    old, new = _named(before), _named(after)
    for name in dict.fromkeys((*old, *new)):
        one, other = old.get(name), new.get(name)
        if one is None:
            yield f"{name}: only in the second"
        elif other is None:
            yield f"{name}: only in the first"
        elif one.size != other.size:
            yield f"{name}: {one.size} bytes, then {other.size}"
        elif _digest(one) != _digest(other):
            yield f"{name}: other content, {one.size} bytes"
    commands = sum(a != b for a, b in zip(_commands(before), _commands(after), strict=False))
    if commands or len(_commands(before)) != len(_commands(after)):
        yield f"{LOADER}: {commands or 'more'} commands differ, as they name places in the tables"


def _named(trace: Trace) -> dict[str, Step]:
    """The tables by what they are called; one of a name that is there already gets its number."""
    found: dict[str, Step] = {}
    for step in trace.steps:
        if step.source == LOADER or step.description.startswith("padding"):
            continue
        name, number = f"{step.description.partition(' at ')[0]} in {step.source}", 1
        while (name if number == 1 else f"{name}, number {number}") in found:
            number += 1
        found[name if number == 1 else f"{name}, number {number}"] = step
    return found


def _commands(trace: Trace) -> list[bytes]:
    return [_digest(step) for step in trace.steps if step.source == LOADER]


def _digest(step: Step) -> bytes:
    return step.digests[HashAlgorithm.SHA256]


def _causes(before: Stage0Launch, after: Stage0Launch) -> Iterator[str]:
    for item in fields(before.machine):
        old, new = getattr(before.machine, item.name), getattr(after.machine, item.name)
        if item.name in _OPTIONS and old != new:
            yield f"{_OPTIONS[item.name]}: {_plain(old)} -> {_plain(new)}"
    yield from _sev_causes(before, after)
    old_file, new_file = before.firmware, after.firmware
    if (old_file and old_file.page_digests) != (new_file and new_file.page_digests):
        yield f"-bios: {old_file.name if old_file else 'none'} -> {new_file.name if new_file else 'none'}"
    if (before.kernel.setup, before.kernel.sha256) != (after.kernel.setup, after.kernel.sha256):
        yield f"-kernel: {before.kernel.name} -> {after.kernel.name}"
    old_initrd, new_initrd = before.initrd, after.initrd
    if (old_initrd and old_initrd.sha256) != (new_initrd and new_initrd.sha256):
        old_name, new_name = (file.name if file else "none" for file in (old_initrd, new_initrd))
        yield f"-initrd: {old_name} -> {new_name}"
    if before.acpi != after.acpi:
        yield "ACPI tables: another capture"


def _sev_causes(before: Stage0Launch, after: Stage0Launch) -> Iterator[str]:
    old, new = before.machine.sev, after.machine.sev
    if old is None or new is None:
        if old != new:
            yield f"SEV-SNP: {'on' if old else 'off'} -> {'on' if new else 'off'}"
        return
    for key, option in _SEV_OPTIONS.items():
        one, other = getattr(old, key), getattr(new, key)
        if one != other:
            yield f"{option}: {_plain(one)} -> {_plain(other)}"


def _plain(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        items = ["=".join(item) if isinstance(item, tuple) else str(item) for item in value]
        return " ".join(items) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else repr(value) if isinstance(value, str) else str(value)


def _step_json(moved: Moved | None) -> dict[str, Any] | None:
    step = (moved.after or moved.before) if moved else None
    return None if moved is None or step is None else {"index": moved.index, "step": describe(step)}


def _text(difference: Stage0Difference) -> Iterator[str]:
    for change in difference.changes:
        yield change.field
        yield f"  before  {change.before}"
        yield f"  after   {change.after}"
        if change.first is not None and not change.parts:
            yield f"  {str(change.first).partition(': ')[2]}"
        yield from (f"  {part}" for part in change.parts)
        yield ""
    if difference.same:
        yield f"the same: {', '.join(difference.same)}"
    for name in difference.unknown:
        yield f"not known: {name}; capture the tables of both machines, and give --acpi and --qemu-version"
    if difference.causes:
        yield "what differs"
        yield from (f"  {cause}" for cause in difference.causes)
