"""Golden manifests read back, strictly: a verifier decides by what stands in one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

from ..document import Fields, read_document
from ..errors import FormatError, MeasureError
from ..measure.tpm import PCR_COUNT
from ..measure.trace import Established, HashAlgorithm, Step, Trace
from . import wildcards
from .manifest import (
    RAW,
    SCHEMA_VERSION,
    Artefact,
    DiskRegisters,
    GoldenMachine,
    GoldenManifest,
    Omitted,
    Policy,
    RegisterPolicy,
    RegisterRow,
    ShippedDisk,
    Wildcard,
    has_pcrs,
)
from .unlock import PHASE, Approval, MachinePolicy, Rollback, Sealing, UnlockPolicy, boot_digest

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
        unlock=tuple(_unlock_policy(fields) for fields in _if_there(document, "unlock")),
        disks=tuple(_shipped_disk(fields) for fields in _if_there(document, "disks")),
        wildcards=tuple(_wildcard(fields) for fields in _if_there(document, "wildcards")),
        machines=tuple(_machine(fields) for fields in document.objects("machines")),
    )
    document.finish()
    names = [machine.name for machine in manifest.machines]
    if len(set(names)) != len(names):
        raise FormatError(source, "two machines have the same name")
    _check_disks(manifest, source)
    for index, what in wildcards.problems(manifest.wildcards, manifest.machines):
        raise FormatError(f"{source}: wildcard {index + 1}", what)
    for number, policy in enumerate(manifest.unlock, 1):
        _check_unlock(policy, manifest.machines, f"{source}: unlock {number}")
    return manifest


def _if_there(fields: Fields, key: str) -> list[Fields]:
    """The objects of a list that a manifest without any does not have."""
    return fields.objects(key) if key in fields.values else []


def _shipped_disk(fields: Fields) -> ShippedDisk:
    disk = ShippedDisk(format=fields.text("format"), file=fields.text("file"), size=fields.number("size"))
    fields.finish()
    return disk


def _wildcard(fields: Fields) -> Wildcard:
    wildcard = Wildcard(
        register=fields.text("register"), event=fields.text("event"), reason=fields.text("reason")
    )
    fields.finish()
    return wildcard


def _check_disks(manifest: GoldenManifest, source: str) -> None:
    """Each disk of another size than the raw one has registers of its own on every machine with PCRs."""
    sizes = {disk.format: disk.size for disk in manifest.disks}
    if len(sizes) != len(manifest.disks):
        raise FormatError(source, "two disks have the same format")
    if sizes and RAW not in sizes:
        raise FormatError(source, f"there is no {RAW} disk, which every image has")
    wanted = {name: size for name, size in sizes.items() if size != sizes[RAW]}
    for machine in manifest.machines:
        if not machine.disks and not has_pcrs(machine):
            continue
        found = [(name, disk.size) for disk in machine.disks for name in disk.formats]
        if dict(found) != wanted or len(found) != len(wanted):
            what = f"{machine.name} has registers for the disks {_sizes(found)}"
            raise FormatError(source, f"{what}, expected {_sizes(wanted.items())}")


def _sizes(disks: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({size} bytes)" for name, size in disks) or "none"


def _unlock_policy(fields: Fields) -> UnlockPolicy:
    sealing = _choice(fields, "kind", Sealing)
    policy = UnlockPolicy(
        volume=fields.text("volume"),
        provider=fields.text("provider"),
        bank=_choice(fields, "bank", HashAlgorithm),
        registers=_registers(fields),
        phase=fields.text("phase"),
        approval=_approval(fields) if sealing is Sealing.SIGNED else None,
        machines=tuple(_machine_policy(item) for item in fields.objects("machines")),
    )
    fields.finish()
    if policy.phase != PHASE:
        raise FormatError(fields.source, f"'phase' is {policy.phase!r}; volumes are opened in {PHASE!r}")
    return policy


def _approval(fields: Fields) -> Approval:
    return Approval(
        fingerprint=fields.hexadecimal("key", HashAlgorithm.SHA256.size),
        sealed=fields.hexadecimal("sealed", HashAlgorithm.SHA256.size),
        rollback=_rollback(fields.fields("rollback")) if "rollback" in fields.values else None,
    )


def _rollback(fields: Fields) -> Rollback:
    rollback = Rollback(counter=fields.number("counter"), release=fields.number("release"))
    fields.finish()
    # Handles of NV indexes begin with this octet. Spec: TPM 2.0 Library part 2 section 7.2.
    if rollback.counter >> 24 != 1:
        what = f"'counter' is {rollback.counter:#x}, expected 0x01000000 to 0x01ffffff"
        raise FormatError(fields.source, what)
    if not rollback.release:
        raise FormatError(fields.source, "'release' is 0, which no counter is above")
    return rollback


def _registers(fields: Fields) -> tuple[int, ...]:
    items = fields.items("registers")
    found = tuple(item for item in items if isinstance(item, int) and not isinstance(item, bool))
    if not items or list(found) != items or list(found) != sorted(set(found) & set(range(PCR_COUNT))):
        what = f"'registers' is not a list of numbers from 0 to {PCR_COUNT - 1}, ascending, each once"
        raise FormatError(fields.source, what)
    return found


def _machine_policy(fields: Fields) -> MachinePolicy:
    name = fields.text("machine")
    if "digest" in fields.values:
        digest = fields.hexadecimal("digest", HashAlgorithm.SHA256.size)
        policy = MachinePolicy(machine=name, digest=digest)
    else:
        policy = MachinePolicy(machine=name, digest=None, reason=fields.text("reason"))
    fields.finish()
    return policy


def _check_unlock(policy: UnlockPolicy, machines: tuple[GoldenMachine, ...], source: str) -> None:
    """Every machine must be there, in order, and a digest must follow from the machine's registers."""
    names = [machine.name for machine in machines]
    if [item.machine for item in policy.machines] != names:
        raise FormatError(source, "its machines are not those of the manifest")
    rollback = policy.approval.rollback if policy.approval else None
    for item, machine in zip(policy.machines, machines, strict=True):
        if item.digest is None:
            continue
        try:
            digest = boot_digest(machine.value, policy.registers, bank=policy.bank, rollback=rollback)
        except MeasureError as error:
            raise FormatError(source, f"{item.machine} has a digest, but {error}") from None
        if digest != item.digest:
            what = f"digest of {item.machine} is {item.digest.hex()}, its registers lead to {digest.hex()}"
            raise FormatError(source, what)


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
        disks=tuple(_disk(item) for item in _if_there(fields, "disks")),
    )
    fields.finish()
    _check_rows(machine.registers, machine.traces, fields.source)
    known = {(row.register, row.algorithm) for row in machine.registers}
    for disk in machine.disks:
        replaced = {trace.register for trace in disk.traces}
        if {(row.register, row.algorithm) for row in disk.registers} != {
            key for key in known if key[0] in replaced
        }:
            what = f"the registers for a disk of {disk.size} bytes are not the machine's in every bank"
            raise FormatError(fields.source, what)
    return machine


def _disk(fields: Fields) -> DiskRegisters:
    disk = DiskRegisters(
        size=fields.number("size"),
        formats=_texts(fields, "formats"),
        registers=tuple(_row(item) for item in fields.objects("registers")),
        traces=tuple(_trace(item) for item in fields.objects("traces")),
    )
    fields.finish()
    _check_rows(disk.registers, disk.traces, fields.source)
    return disk


def _check_rows(rows: tuple[RegisterRow, ...], found: tuple[Trace, ...], source: str) -> None:
    """Every register must be there once in each bank, and have a trace with a digest for each."""
    if len({(row.register, row.algorithm) for row in rows}) != len(rows):
        raise FormatError(source, "a register is there twice in one bank")
    traces = {trace.register: trace for trace in found}
    if len(traces) != len(found) or traces.keys() != {row.register for row in rows}:
        raise FormatError(source, "registers and traces do not belong together")
    for row in rows:
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
