"""A register's value and its steps as JSON: the part of the manifest that a command line needs alone."""

from __future__ import annotations

from ..measure.trace import Established, HashAlgorithm, Step, Trace
from ..record import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any


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


def trace_json(trace: Trace) -> dict[str, Any]:
    """One trace as ``golden.json`` and ``goldsmith measure --json`` print it."""
    return {"register": trace.register, "steps": [_step_json(step) for step in trace.steps]}


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
