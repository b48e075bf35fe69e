"""Golden manifests read back, strictly: a verifier decides by what stands in one."""

from __future__ import annotations

import json
from enum import Enum
from typing import TypeVar

from ..document import Fields, read_document
from ..errors import FormatError
from ..measure.trace import Established, HashAlgorithm, Step, Trace
from .manifest import (
    SCHEMA_VERSION,
    Artefact,
    GoldenMachine,
    GoldenManifest,
    Omitted,
    Policy,
    RegisterPolicy,
    RegisterRow,
)

E = TypeVar("E", bound=Enum)
# Ours: equal operations that one step may stand for; folding them takes a second.
MAX_COUNT = 1 << 20


def load(text: str, source: str) -> GoldenManifest:
    """The manifest in ``text``.

    Raises:
        FormatError: not JSON, another schema version, a key missing, unknown or of the wrong type.
    """
    document = read_document(text, source, SCHEMA_VERSION)
    manifest = GoldenManifest(
        image=document.text("image"),
        version=document.text("version"),
        artefacts=tuple(_artefact(fields) for fields in document.objects("artefacts")),
        unmeasured=_texts(document, "unmeasured"),
        machines=tuple(_machine(fields) for fields in document.objects("machines")),
    )
    document.finish()
    names = [machine.name for machine in manifest.machines]
    if len(set(names)) != len(names):
        raise FormatError(source, "two machines have the same name")
    return manifest


def _artefact(fields: Fields) -> Artefact:
    artefact = Artefact(
        name=fields.text("name"), size=fields.number("size"), sha256=fields.hexadecimal("sha256", 32).hex()
    )
    fields.finish()
    return artefact


def _machine(fields: Fields) -> GoldenMachine:
    machine = GoldenMachine(
        name=fields.text("name"),
        vmm=fields.text("vmm"),
        identity=json.dumps(fields.fields("identity").values, sort_keys=True, separators=(",", ":")),
        launch=fields.text("launch"),
        registers=tuple(_row(item) for item in fields.objects("registers")),
        policies=tuple(_policy(item) for item in fields.objects("policies")),
        omitted=tuple(_omitted(item) for item in fields.objects("omitted")),
        traces=tuple(_trace(item) for item in fields.objects("traces")),
    )
    fields.finish()
    _check_rows(machine, fields.source)
    return machine


def _check_rows(machine: GoldenMachine, source: str) -> None:
    """Every register must be there once in each bank, and have a trace with a digest for each."""
    if len({(row.register, row.algorithm) for row in machine.registers}) != len(machine.registers):
        raise FormatError(source, "a register is there twice in one bank")
    traces = {trace.register: trace for trace in machine.traces}
    if len(traces) != len(machine.traces) or traces.keys() != {row.register for row in machine.registers}:
        raise FormatError(source, "registers and traces do not belong together")
    for row in machine.registers:
        if any(row.algorithm not in step.digests for step in traces[row.register].steps):
            raise FormatError(source, f"{row.register}: a step has no {row.algorithm.value} digest")
        ends = [step.after for step in traces[row.register].steps[-1:] if step.after]
        if ends and ends != [row.value]:
            raise FormatError(source, f"{row.register}: its last step ends with another value")


def _row(fields: Fields) -> RegisterRow:
    algorithm = _choice(fields, "algorithm", HashAlgorithm)
    row = RegisterRow(
        register=fields.text("register"),
        algorithm=algorithm,
        value=fields.hexadecimal("value", algorithm.size),
        established=_choice(fields, "established", Established),
    )
    fields.finish()
    return row


def _policy(fields: Fields) -> RegisterPolicy:
    policy = RegisterPolicy(
        register=fields.text("register"),
        policy=_choice(fields, "policy", Policy),
        covers=fields.text("covers"),
    )
    fields.finish()
    return policy


def _omitted(fields: Fields) -> Omitted:
    omitted = Omitted(register=fields.text("register"), reason=fields.text("reason"))
    fields.finish()
    return omitted


def _trace(fields: Fields) -> Trace:
    register = fields.text("register")
    trace = Trace(register, tuple(_step(item, register) for item in fields.objects("steps")))
    fields.finish()
    return trace


def _step(fields: Fields, register: str) -> Step:
    digests = fields.fields("digests")
    banks = [algorithm for algorithm in HashAlgorithm if algorithm.value in digests.values]
    step = Step(
        register=register.partition(":")[0],
        operation=fields.text("operation"),
        description=fields.text("description"),
        source=fields.text("source"),
        size=fields.number("size"),
        digests={algorithm: digests.hexadecimal(algorithm.value, algorithm.size) for algorithm in banks},
        spec=fields.text("spec"),
        address=fields.number("address") if "address" in fields.values else None,
        count=fields.number("count") if "count" in fields.values else 1,
        after=_after(fields, banks),
    )
    if not 1 <= step.count <= MAX_COUNT:
        raise FormatError(fields.source, f"'count' is {step.count}; at most {MAX_COUNT} are read")
    digests.finish()
    fields.finish()
    return step


def _after(fields: Fields, banks: list[HashAlgorithm]) -> bytes:
    """The register's value after a step, which only a register with one bank has."""
    if "after" not in fields.values:
        return b""
    if len(banks) != 1:
        raise FormatError(fields.source, f"'after' stands beside {len(banks)} digests; it goes with one")
    return fields.hexadecimal("after", banks[0].size)


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    items = fields.items(key)
    if not all(isinstance(item, str) for item in items):
        raise FormatError(fields.source, f"{key!r} holds something that is no string")
    return tuple(str(item) for item in items)


def _choice(fields: Fields, key: str, kind: type[E]) -> E:
    value = fields.text(key)
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(item.value) for item in kind)
        raise FormatError(fields.source, f"{key!r} is {value!r}; use one of {known}") from None
