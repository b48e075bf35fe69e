"""The golden manifest: what an image measures on each machine, with the steps that lead there.

``golden.json`` is public and travels beside the image. Its shape is ``manifest.schema.json`` in this folder;
``manifest_reader`` reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ..errors import ImageError, suggestion
from ..measure.trace import HashAlgorithm, Trace
from .rows import RegisterRow as RegisterRow
from .rows import trace_json as trace_json
from .unlock import MachinePolicy, UnlockPolicy, boot_digest

SCHEMA_VERSION = 1
# The disk that every image has; machines' registers are those of a boot from it.
RAW = "raw"


class Policy(Enum):
    """What a verifier does with a register.

    ``enforce``: must be equal. ``enforce-on-this-machine``: must be equal on exactly this machine, and says
    nothing about another VMM version, size or firmware. ``record``: kept for the log, decides nothing.
    """

    ENFORCE = "enforce"
    MACHINE = "enforce-on-this-machine"
    RECORD = "record"


@dataclass(frozen=True, kw_only=True)
class RegisterPolicy:
    """How a verifier treats a register, and what the register covers."""

    register: str
    policy: Policy
    covers: str


@dataclass(frozen=True, kw_only=True)
class Omitted:
    """A register that this manifest has no value for, and why."""

    register: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DiskRegisters:
    """What a machine measures otherwise when it boots from a disk of another size: its partition table.

    Attributes:
        size: bytes of the disk.
        formats: whose disks have that size.
        registers: those that differ from the raw disk's, in every bank.
        traces: of these registers.
    """

    size: int
    formats: tuple[str, ...]
    registers: tuple[RegisterRow, ...]
    traces: tuple[Trace, ...]


@dataclass(frozen=True, kw_only=True)
class GoldenMachine:
    """Everything predicted for one machine.

    Attributes:
        registers: of a boot from the raw disk, as ``traces`` are.
        disks: what is otherwise on disks of other sizes.
    """

    name: str
    vmm: str
    identity: str
    launch: str
    registers: tuple[RegisterRow, ...]
    policies: tuple[RegisterPolicy, ...]
    omitted: tuple[Omitted, ...]
    traces: tuple[Trace, ...]
    disks: tuple[DiskRegisters, ...] = ()

    def on_disk(self, disk_format: str) -> GoldenMachine:
        """The machine when it boots from the disk of a format; one that is not in ``disks`` is as raw."""
        found = next((disk for disk in self.disks if disk_format in disk.formats), None)
        if found is None:
            return replace(self, disks=())
        rows = {(row.register, row.algorithm): row for row in found.registers}
        traces = {trace.register: trace for trace in found.traces}
        return replace(
            self,
            registers=tuple(rows.get((row.register, row.algorithm), row) for row in self.registers),
            traces=tuple(traces.get(trace.register, trace) for trace in self.traces),
            disks=(),
        )

    def value(self, register: str, algorithm: HashAlgorithm) -> bytes | None:
        """The golden value, or None where the register is omitted."""
        for row in self.registers:
            if row.register == register and row.algorithm is algorithm:
                return row.value
        return None

    def trace(self, register: str) -> Trace | None:
        """The steps of a register, or None where it is omitted."""
        return next((trace for trace in self.traces if trace.register == register), None)


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A product that the measurements speak of."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShippedDisk:
    """A disk as it ships.

    Attributes:
        file: its name among the artefacts.
        size: bytes of the disk that a machine sees.
    """

    format: str
    file: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Wildcard:
    """An event that a verifier takes as it is observed, and why; all others have to be as predicted.

    Attributes:
        event: type of the only predicted event of the register that has it.
    """

    register: str
    event: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class GoldenManifest:
    """The golden values of one image.

    Attributes:
        unmeasured: what no register covers, in words.
        unlock: what TPMs demand before they give the keys of its volumes.
        disks: every format of its disk; empty where there is the raw one alone.
        wildcards: events that verifiers do not compare.
    """

    image: str
    version: str
    artefacts: tuple[Artefact, ...]
    machines: tuple[GoldenMachine, ...]
    unmeasured: tuple[str, ...]
    unlock: tuple[UnlockPolicy, ...] = ()
    disks: tuple[ShippedDisk, ...] = ()
    wildcards: tuple[Wildcard, ...] = ()

    @property
    def disk_formats(self) -> tuple[str, ...]:
        """Names of the formats of its disk."""
        return tuple(disk.format for disk in self.disks) or (RAW,)

    def on_disk(self, disk_format: str) -> GoldenManifest:
        """The manifest with the registers of machines that boot from the disk of a format.

        Raises:
            ImageError: it has none of that format.
        """
        if disk_format not in self.disk_formats:
            what = f"no disk of format {disk_format!r}{suggestion(disk_format, self.disk_formats)}"
            raise ImageError(f"{self.image}: {what}")
        machines = tuple(machine.on_disk(disk_format) for machine in self.machines)
        return replace(
            self, machines=machines, unlock=tuple(_policy_on(policy, machines) for policy in self.unlock)
        )

    def machine(self, name: str) -> GoldenMachine | None:
        """The machine of that name."""
        return next((machine for machine in self.machines if machine.name == name), None)


def has_pcrs(machine: GoldenMachine) -> bool:
    """Whether a TPM's registers are predicted for a machine, with or without others."""
    return any(row.register.startswith("PCR") for row in machine.registers)


def _policy_on(policy: UnlockPolicy, machines: Sequence[GoldenMachine]) -> UnlockPolicy:
    """A policy with the digests that these machines' registers lead to, where it has digests."""
    rollback = policy.approval.rollback if policy.approval else None
    found = tuple(
        item
        if item.digest is None
        else replace(
            item, digest=boot_digest(machine.value, policy.registers, bank=policy.bank, rollback=rollback)
        )
        for item, machine in zip(policy.machines, machines, strict=True)
    )
    return replace(policy, machines=found)


def dump(manifest: GoldenManifest) -> str:
    """``golden.json``: stable order, one register row or step a line, a newline at the end."""
    return _render(_manifest_json(manifest), 0) + "\n"


def _manifest_json(manifest: GoldenManifest) -> dict[str, Any]:
    value: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "image": manifest.image,
        "version": manifest.version,
        "artefacts": [
            {"name": artefact.name, "size": artefact.size, "sha256": artefact.sha256}
            for artefact in manifest.artefacts
        ],
        "unmeasured": list(manifest.unmeasured),
    }
    # Most images have none of these, and a manifest without them is as it was before there were any.
    if manifest.disks:
        value["disks"] = [
            {"format": disk.format, "file": disk.file, "size": disk.size} for disk in manifest.disks
        ]
    if manifest.wildcards:
        value["wildcards"] = [
            {"register": item.register, "event": item.event, "reason": item.reason}
            for item in manifest.wildcards
        ]
    if manifest.unlock:
        value["unlock"] = [_unlock_json(policy) for policy in manifest.unlock]
    value["machines"] = [_machine_json(machine) for machine in manifest.machines]
    return value


def _unlock_json(policy: UnlockPolicy) -> dict[str, Any]:
    value: dict[str, Any] = {
        "volume": policy.volume,
        "provider": policy.provider,
        "kind": policy.sealing.value,
        "bank": policy.bank.value,
        "registers": list(policy.registers),
        "phase": policy.phase,
    }
    approval = policy.approval
    if approval is not None:
        value |= {"key": approval.fingerprint.hex(), "sealed": approval.sealed.hex()}
        if approval.rollback is not None:
            value["rollback"] = {"counter": approval.rollback.counter, "release": approval.rollback.release}
    value["machines"] = [_machine_policy_json(item) for item in policy.machines]
    return value


def _machine_policy_json(item: MachinePolicy) -> dict[str, str]:
    if item.digest is None:
        return {"machine": item.machine, "reason": item.reason}
    return {"machine": item.machine, "digest": item.digest.hex()}


def _machine_json(machine: GoldenMachine) -> dict[str, Any]:
    value: dict[str, Any] = {
        "name": machine.name,
        "vmm": machine.vmm,
        "identity": json.loads(machine.identity),
        "launch": machine.launch,
        "registers": [row.to_json() for row in machine.registers],
        "policies": [
            {"register": item.register, "policy": item.policy.value, "covers": item.covers}
            for item in machine.policies
        ],
        "omitted": [{"register": item.register, "reason": item.reason} for item in machine.omitted],
        "traces": [trace_json(trace) for trace in machine.traces],
    }
    if machine.disks:
        value["disks"] = [_disk_json(disk) for disk in machine.disks]
    return value


def _disk_json(disk: DiskRegisters) -> dict[str, Any]:
    return {
        "size": disk.size,
        "formats": list(disk.formats),
        "registers": [row.to_json() for row in disk.registers],
        "traces": [trace_json(trace) for trace in disk.traces],
    }


def _render(value: object, depth: int) -> str:
    """JSON with a line for each leaf object: readable in a diff, and not a line for every digest."""
    if isinstance(value, dict) and any(isinstance(item, list) for item in value.values()):
        inner = [
            f"{'  ' * (depth + 1)}{json.dumps(key)}: {_render(item, depth + 1)}"
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(inner) + "\n" + "  " * depth + "}"
    if isinstance(value, list) and not all(isinstance(item, int) for item in value):
        lines = [f"{'  ' * (depth + 1)}{_render(item, depth + 1)}" for item in value]
        return "[\n" + ",\n".join(lines) + "\n" + "  " * depth + "]"
    return json.dumps(value)
