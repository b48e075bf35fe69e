"""Observations that do not come from a boot report: a firmware event log on its own."""

from __future__ import annotations

from dataclasses import replace

from ..formats.eventlog import parse
from ..measure.tpm import event_steps, replay
from ..measure.trace import HashAlgorithm
from .manifest import GoldenMachine
from .verify import Observation


def observe_event_log(machine: GoldenMachine, data: bytes, source: str) -> tuple[GoldenMachine, Observation]:
    """What a firmware event log claims, and the part of the prediction that such a log can speak about.

    The values are the log's own, replayed: they are as good as the quote that the caller has checked them
    against. Boot phases are not in this log; they are userspace's.

    Raises:
        FormatError: the log does not parse.
    """
    log = parse(data, source)
    known = {algorithm.value: algorithm for algorithm in HashAlgorithm}
    values = {
        (f"PCR{index}", known[name]): value for (name, index), value in replay(log).items() if name in known
    }
    firmware_only = replace(
        machine,
        registers=tuple(row for row in machine.registers if ":" not in row.register),
        traces=tuple(trace for trace in machine.traces if ":" not in trace.register),
    )
    return firmware_only, Observation(values=values, steps=event_steps(log, source))
