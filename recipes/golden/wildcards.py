"""Events that a verifier takes as it finds them: what may be declared so, and what is left to compare.

A guest that grows its partition table to the disk it finds itself on changes one event of its next boot. A
wildcard names that event; the register is then compared with the observed digest in that one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ..measure.sev_pages import LAUNCH_DIGEST
from ..measure.tpm import fold
from ..measure.trace import Step, Trace
from .manifest import GoldenMachine, RegisterRow, Wildcard, has_pcrs

# Registers that say which programs run, with which words: with a hole in one, anything could.
# Spec: TCG PFP 1.06 section 3.3.4 (PCR 4, 7), UAPI "Linux TPM PCR Registry" (PCR 9, 11, 12).
DECISIVE = frozenset({"PCR4", "PCR7", "PCR9", "PCR11", "PCR12", "PCR13", "PCR14", "PCR15", "PCR23"})


def problems(wildcards: Sequence[Wildcard], machines: Iterable[GoldenMachine]) -> Iterator[tuple[int, str]]:
    """What is wrong with wildcards: the number of one, from 0, and what to do about it."""
    machines = tuple(machine for machine in machines if _has_tpm(machine))
    for number, item in enumerate(wildcards):
        if item.register in DECISIVE:
            what = f"{item.register} says what runs; without one of its events anything could"
            yield number, f"{what}; leave it out"
            continue
        if (item.register, item.event) in {(each.register, each.event) for each in wildcards[:number]}:
            yield number, f"{item.register} {item.event} is there twice; write it once"
            continue
        for machine in machines:
            trace = machine.trace(item.register)
            count = 0 if trace is None else len(_places(trace, item.event))
            if count != 1:
                events = "no event" if count == 0 else f"{count} events"
                what = f"{item.register} of {machine.name} has {events} {item.event} predicted"
                yield number, f"{what}; a wildcard is for exactly one"
                break


def _has_tpm(machine: GoldenMachine) -> bool:
    """Whether a TPM's registers are predicted, or would be; a launch digest alone is of another kind."""
    return has_pcrs(machine) or (bool(machine.omitted) and machine.trace(LAUNCH_DIGEST) is None)


def as_observed(
    machine: GoldenMachine, steps: Sequence[Step], wildcards: Iterable[Wildcard]
) -> tuple[GoldenMachine, tuple[Wildcard, ...]]:
    """The prediction with the observed digests of wildcards' events, and the wildcards that were used.

    An event is taken only from the place in its register where it is predicted.

    Args:
        steps: every extending event of the observed log, in order.
    """
    used = []
    for item in wildcards:
        seen = [step for step in steps if step.register == item.register]
        traces = tuple(_with(trace, item, seen) for trace in machine.traces)
        if all(new is old for new, old in zip(traces, machine.traces, strict=True)):
            continue
        used.append(item)
        changed = {new.register: new for new in traces if new not in machine.traces}
        rows = tuple(_refolded(row, changed) for row in machine.registers)
        machine = replace(machine, registers=rows, traces=traces)
    return machine, tuple(used)


def _places(trace: Trace, event: str) -> list[int]:
    return [index for index, step in enumerate(trace.steps) if step.operation == event]


def _with(trace: Trace, wildcard: Wildcard, seen: Sequence[Step]) -> Trace:
    """The trace itself, or with the observed digests of the one event that the wildcard is for."""
    places = _places(trace, wildcard.event) if trace.register == wildcard.register else []
    if len(places) != 1 or places[0] >= len(seen) or seen[places[0]].operation != wildcard.event:
        return trace
    steps = list(trace.steps)
    step, digests = steps[places[0]], seen[places[0]].digests
    taken = {algorithm: digests.get(algorithm, digest) for algorithm, digest in step.digests.items()}
    steps[places[0]] = replace(step, digests=taken)
    return replace(trace, steps=tuple(steps))


def _refolded(row: RegisterRow, changed: dict[str, Trace]) -> RegisterRow:
    if row.register not in changed:
        return row
    return replace(row, value=fold(changed[row.register], row.algorithm))
