"""The golden manifest: what an image measures on each machine, with the steps that lead there.

``golden.json`` is public and travels beside the image. Its shape is ``manifest.schema.json`` in this folder;
``manifest_reader`` reads it back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..measure.trace import Established, HashAlgorithm, Step, Trace
from .unlock import MachinePolicy, UnlockPolicy

SCHEMA_VERSION = 1


class Policy(Enum):
    """What a verifier does with a register.

    ``enforce``: must be equal. ``enforce-on-this-machine``: must be equal on exactly this machine, and says
    nothing about another VMM version, size or firmware. ``record``: kept for the log, decides nothing.
    """

    ENFORCE = "enforce"
    MACHINE = "enforce-on-this-machine"
    RECORD = "record"


@dataclass(frozen=True, kw_only=True)
class RegisterRow:
    """A golden value: one register in one bank."""

    register: str
    algorithm: HashAlgorithm
    value: bytes
    established: Established

    def to_json(self) -> dict[str, str]:
        """The row as ``golden.json`` and ``goldsmith measure --json`` print it."""
        return {
            "register": self.register,
            "algorithm": self.algorithm.value,
            "value": self.value.hex(),
            "established": self.established.value,
        }


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
class GoldenMachine:
    """Everything predicted for one machine."""

    name: str
    vmm: str
    identity: str
    launch: str
    registers: tuple[RegisterRow, ...]
    policies: tuple[RegisterPolicy, ...]
    omitted: tuple[Omitted, ...]
    traces: tuple[Trace, ...]

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
class GoldenManifest:
    """The golden values of one image.

    Attributes:
        unmeasured: what no register covers, in words.
        unlock: what TPMs demand before they give the keys of its volumes.
    """

    image: str
    version: str
    artefacts: tuple[Artefact, ...]
    machines: tuple[GoldenMachine, ...]
    unmeasured: tuple[str, ...]
    unlock: tuple[UnlockPolicy, ...] = ()

    def machine(self, name: str) -> GoldenMachine | None:
        """The machine of that name."""
        return next((machine for machine in self.machines if machine.name == name), None)


def dump(manifest: GoldenManifest) -> str:
    """``golden.json``: stable order, one register row or step a line, a newline at the end."""
    return _render(_manifest_json(manifest), 0) + "\n"


def trace_json(trace: Trace) -> dict[str, Any]:
    """One trace as ``golden.json`` and ``goldsmith measure --json`` print it."""
    return {"register": trace.register, "steps": [_step_json(step) for step in trace.steps]}


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
    # Most images have no such policy, and a manifest without one is as it was before there were any.
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
    return {
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


def _step_json(step: Step) -> dict[str, Any]:
    value: dict[str, Any] = {
        "operation": step.operation,
        "description": step.description,
        "source": step.source,
        "size": step.size,
        "digests": {algorithm.value: digest.hex() for algorithm, digest in step.digests.items()},
        "spec": step.spec,
    }
    if step.address is not None:
        value["address"] = step.address
    if step.count != 1:
        value["count"] = step.count
    if step.after:
        value["after"] = step.after.hex()
    return value


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
