"""A prediction for people: each register's steps in order, with what was hashed and where it came from."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import MeasureError
from ..measure.tpm import fold
from ..measure.trace import HashAlgorithm, Step, Trace
from .unlock import UnlockPolicy

PREFERRED = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512, HashAlgorithm.SHA1)


def explain(traces: Iterable[Trace]) -> str:
    """The steps of each register, a line each, then the value they fold to, in one bank that has them all."""
    return "\n".join(_explain(trace, _bank(trace)) for trace in traces)


def _bank(trace: Trace) -> HashAlgorithm:
    for algorithm in PREFERRED:
        if all(algorithm in step.digests for step in trace.steps):
            return algorithm
    raise MeasureError(f"{trace.register}: no bank has a digest for each of its steps")


def _explain(trace: Trace, algorithm: HashAlgorithm) -> str:
    lines = [trace.register]
    for number, step in enumerate(trace.steps, 1):
        lines.append(f"  {number:>3}  {describe(step)}")
        lines.append(f"       {algorithm.value} {step.digests[algorithm].hex()} of {step.size} bytes")
        if step.after:
            lines.append(f"       after  {step.after.hex()}")
        lines.append(f"       input: {step.source}" + (f"  [{step.spec}]" if step.spec else ""))
    lines.append(f"  = {algorithm.value} {_value(trace, algorithm).hex()}")
    return "\n".join(lines) + "\n"


def explain_unlock(policies: Iterable[UnlockPolicy], machine: str) -> str:
    """What a TPM session does on a machine before it gives a volume's key, a line for each command.

    Spec: TCG TPM 2.0 Library part 3 sections 23.7 (PolicyPCR), 23.9 (PolicyNV) and 23.16 (PolicyAuthorize).
    """
    return "\n".join(_explain_policy(policy, machine) for policy in policies)


def _explain_policy(policy: UnlockPolicy, machine: str) -> str:
    lines = [f"{policy.volume}: provider {policy.provider}, {policy.sealing.value} policy"]
    approval = policy.approval
    if approval is not None and approval.rollback is not None:
        counter = f"counter {approval.rollback.counter:#010x} is at most {approval.rollback.release}"
        lines.append(f"  PolicyNV         {counter}")
    registers = ",".join(map(str, policy.registers))
    lines.append(f"  PolicyPCR        {policy.bank.value}:{registers} at {policy.phase}")
    known = [item for item in policy.machines if item.machine == machine]
    lines += [f"  = {item.digest.hex()}" if item.digest else f"  not known: {item.reason}" for item in known]
    if approval is not None:
        lines.append(f"  PolicyAuthorize  key {approval.fingerprint.hex()} has signed that")
        lines.append(f"  = {approval.sealed.hex()}, which the key is sealed with")
    return "\n".join(lines) + "\n"


def describe(step: Step) -> str:
    """A step in a few words: operation, place and how often, and what for."""
    words = [step.operation]
    if step.address is not None:
        words.append(f"{step.address:#x}")
    if step.count != 1:
        words.append(f"x {step.count}")
    return " ".join([*words, step.description]).strip()


def _value(trace: Trace, algorithm: HashAlgorithm) -> bytes:
    """What the register ends with; one that folds as a PCR does is computed again from its steps."""
    if trace.steps and trace.steps[-1].after:
        return trace.steps[-1].after
    return fold(Trace(trace.register.partition(":")[0], trace.steps), algorithm)
