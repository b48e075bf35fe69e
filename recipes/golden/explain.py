"""A prediction for people: each register's steps in order, with what was hashed and where it came from."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import MeasureError
from ..measure.tpm import fold
from ..measure.trace import HashAlgorithm, Trace

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
        what = f"{step.operation} {step.description}".strip()
        lines.append(f"  {number:>3}  {what}")
        lines.append(f"       {algorithm.value} {step.digests[algorithm].hex()} of {step.size} bytes")
        lines.append(f"       input: {step.source}" + (f"  [{step.spec}]" if step.spec else ""))
    base = Trace(trace.register.partition(":")[0], trace.steps)
    lines.append(f"  = {algorithm.value} {fold(base, algorithm).hex()}")
    return "\n".join(lines) + "\n"
