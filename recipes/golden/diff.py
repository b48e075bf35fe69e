"""Two predictions side by side: which registers moved, at which step, and through which input."""

from __future__ import annotations

from dataclasses import dataclass

from ..measure.trace import Step, Trace
from .explain import describe
from .manifest import GoldenMachine


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A register whose trace differs between two predictions.

    Attributes:
        index: the first differing step, from 0.
        before: that step in the first prediction, None where it has fewer steps.
        after: the same in the second.
        reason: why there is nothing to compare, where one side has no such register.
    """

    register: str
    index: int = 0
    before: Step | None = None
    after: Step | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"{self.register}: {self.reason}"
        step = self.after or self.before
        assert step is not None
        what = f"first differs at step {self.index + 1}, {describe(step)}; input: {step.source}"
        return f"{self.register}: {what}"


def moved_registers(before: GoldenMachine, after: GoldenMachine) -> tuple[Moved, ...]:
    """Every register that is not the same in both, in the order of the first."""
    names = [trace.register for trace in before.traces]
    names += [trace.register for trace in after.traces if trace.register not in names]
    moved = (first_moved(name, before.trace(name), after.trace(name)) for name in names)
    return tuple(item for item in moved if item is not None)


def first_moved(register: str, before: Trace | None, after: Trace | None) -> Moved | None:
    """The first step in which two traces of a register differ, or None where none does."""
    if before is None or after is None:
        side = "first" if before is None else "second"
        return Moved(register=register, reason=f"the {side} prediction has no value for it")
    for index in range(max(len(before.steps), len(after.steps))):
        old = before.steps[index] if index < len(before.steps) else None
        new = after.steps[index] if index < len(after.steps) else None
        if old is None or new is None or measured(old) != measured(new):
            return Moved(register=register, index=index, before=old, after=new)
    return None


def measured(step: Step) -> tuple[object, ...]:
    """What of a step goes into the register; the value after it also depends on the steps before."""
    return step.operation, step.address, step.size, step.count, step.digests
