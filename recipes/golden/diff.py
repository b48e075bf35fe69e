"""Two predictions side by side: which registers moved, at which step, and through which input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..measure.trace import Step, Trace
from .explain import describe
from .manifest import GoldenMachine
from .verify_snp import guest_policy, launch_row


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A register whose trace differs between two predictions.

    Attributes:
        index: the first differing step, from 0.
        before: that step in the first prediction, None where it has fewer steps.
        after: the same in the second.
        reason: what differs, where it is no step: one side has no such register, or both have words for it.
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
        # Descriptions hold what the digest of a step is over, such as the entries of a table.
        if self.before is not None and self.before.description != step.description:
            what = f"{what}; before: {self.before.description}"
        return f"{self.register}: {what}"


def moved_registers(before: GoldenMachine, after: GoldenMachine) -> tuple[Moved, ...]:
    """Every register that is not the same in both, in the order of the first.

    A register without a value counts where the words about it differ: those of a command line are what
    verifiers judge it by. So does the guest policy, which verifiers hold beside a launch digest.
    """
    names = [trace.register for trace in before.traces]
    names += [trace.register for trace in after.traces if trace.register not in names]
    moved = [first_moved(name, before.trace(name), after.trace(name)) for name in names]
    moved += _moved_words(before, after, known=names)
    if launch_row(before) is not None and launch_row(after) is not None:
        moved.append(_moved_policy(guest_policy(before), guest_policy(after)))
    return tuple(item for item in moved if item is not None)


def _moved_words(before: GoldenMachine, after: GoldenMachine, *, known: Sequence[str]) -> Iterator[Moved]:
    """Registers that neither side has a value for, and that both do not say the same of."""
    old = {item.register: item.reason for item in before.omitted}
    new = {item.register: item.reason for item in after.omitted}
    for name in dict.fromkeys([*old, *new]):
        if name in known or old.get(name) == new.get(name):
            continue
        if name in old and name in new:
            both = f"{old[name]!r} and {new[name]!r}"
            yield Moved(register=name, reason=f"no value in either, and they say of it {both}")
        else:
            side, said = ("first", old[name]) if name in old else ("second", new[name])
            yield Moved(register=name, reason=f"the {side} prediction alone speaks of it: {said!r}")


def _moved_policy(before: int | None, after: int | None) -> Moved | None:
    if before == after:
        return None
    old, new = ("none" if value is None else f"{value:#x}" for value in (before, after))
    what = f"{old} and {new}; reports show it beside the launch digest"
    return Moved(register="guest policy", reason=what)


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
