"""The register of a workload in the golden manifest: one word, extended before any of it runs."""

from __future__ import annotations

from dataclasses import replace

from ..measure.tpm import fold
from ..measure.trace import ALL_ALGORITHMS, Step
from ..measure.userspace import PHASES, workload_trace
from .manifest import GoldenMachine, Policy, RegisterPolicy, RegisterRow

COVERS = "the workload: its containers' command lines, images and configuration; nothing but this word"

_UNVERIFIED = (
    "bytes of the workload's partition: Linux mounts it as it is; what runs is a copy, checked file by file"
)
_SECRETS = (
    "contents of the workload's secrets: names alone are measured, and the host can read and replace them"
)


def unmeasured(*, verified: bool, secrets: bool) -> tuple[str, ...]:
    """What no register covers of a workload, in words.

    Args:
        verified: its partition has a root hash in the initramfs.
        secrets: it has secrets.
    """
    return (*(() if verified else (_UNVERIFIED,)), *((_SECRETS,) if secrets else ()))


def with_workload(machine: GoldenMachine, step: Step) -> GoldenMachine:
    """The machine's entry with the workload's register as it is once the system is up.

    The value depends on no machine, as with the boot phases, so it is as well established as those are.
    """
    trace = workload_trace(step)
    phase = f"PCR11:{PHASES[-1]}"
    labels = [row.established for row in machine.registers if row.register == phase]
    rows = tuple(
        RegisterRow(
            register=trace.register,
            algorithm=algorithm,
            value=fold(trace, algorithm),
            established=labels[0],
        )
        for algorithm in ALL_ALGORITHMS
    )
    policy = RegisterPolicy(register=step.register, policy=Policy.ENFORCE, covers=COVERS)
    return replace(
        machine,
        registers=(*machine.registers, *rows),
        policies=(*machine.policies, policy),
        traces=(*machine.traces, trace),
    )
