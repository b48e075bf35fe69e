"""A machine's prediction held against what a TPM really measured: register by register, event by event.

Everything observed comes from the machine that is being judged. An event log is believed only as far as it
replays to the register's own value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import ImageError
from ..measure.sev_pages import LAUNCH_DIGEST
from ..measure.tpm import fold
from ..measure.trace import HashAlgorithm, Step, Trace
from .manifest import GoldenMachine, Policy, Wildcard, has_pcrs
from .wildcards import as_observed

# What attestation reports of SEV-SNP show as MEASUREMENT: the launch digest, and its name with HATs.
LAUNCH_REGISTERS = (LAUNCH_DIGEST, "stage0_measurement")
# At least one of these must be there in full: SHA-1 alone proves nothing any more. Spec: NIST SP 800-131A.
STRONG = frozenset({HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512})


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a machine reported about one boot.

    Attributes:
        values: register values as the TPM gave them, by (register, algorithm).
        steps: the extending events of its log in order, firmware first, then userspace.
    """

    values: Mapping[tuple[str, HashAlgorithm], bytes]
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where prediction and observation part: the first event of a register that differs, if one does.

    Attributes:
        index: place of the step in the register's trace, from 0; None where only the value differs.
        expected: the predicted step, None where the log has more events than predicted.
        observed: the logged event, None where the log ends too early.
    """

    register: str
    message: str
    index: int | None = None
    expected: Step | None = None
    observed: Step | None = None


@dataclass(frozen=True, kw_only=True)
class RegisterResult:
    """The verdict on one register in one bank; ``observed`` is None where the machine did not report it."""

    register: str
    algorithm: HashAlgorithm
    expected: bytes
    observed: bytes | None

    @property
    def equal(self) -> bool:
        """Whether the value is exactly the predicted one."""
        return self.observed == self.expected


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that was compared for one machine.

    Attributes:
        events: how many were compared.
        equal_events: those of registers that do not differ.
        not_compared: events that were taken as they were observed.
    """

    machine: str
    results: tuple[RegisterResult, ...]
    differences: tuple[Difference, ...]
    events: int
    equal_events: int = 0
    not_compared: tuple[Wildcard, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether there was something to compare, and every register and event is exactly as predicted."""
        return bool(self.results) and not self.differences and all(result.equal for result in self.results)

    @property
    def equal_results(self) -> tuple[RegisterResult, ...]:
        """The values that are exactly as predicted, of registers whose events are so too."""
        differing = {item.register for item in self.differences}
        return tuple(item for item in self.results if item.equal and _real(item.register) not in differing)

    def enforced(self, machine: GoldenMachine) -> tuple[Difference, ...]:
        """The differences that the manifest's policy does not merely record."""
        recorded = _recorded(machine)
        return tuple(item for item in self.differences if item.register not in recorded)

    def decides(self, machine: GoldenMachine) -> bool:
        """Whether something that was compared is enforced; without it no difference would count."""
        recorded = _recorded(machine)
        return any(_real(item.register) not in recorded for item in self.results)


def _recorded(machine: GoldenMachine) -> set[str]:
    return {item.register for item in machine.policies if item.policy is Policy.RECORD}


def _real(register: str) -> str:
    """The register itself: ``PCR11`` of ``PCR11:sysinit``."""
    return register.partition(":")[0]


def check_tpm_decides(machine: GoldenMachine) -> None:
    """Returns if a TPM's registers are enforced on a machine, so that its boot can be told from another.

    Raises:
        ImageError: none is.
    """
    recorded = _recorded(machine)
    rows = [row.register for row in machine.registers if row.register.startswith("PCR")]
    if any(_real(name) not in recorded for name in rows):
        return
    if any(row.register in LAUNCH_REGISTERS for row in machine.registers):
        what = "nothing of this machine's TPM is enforced, so any boot would do; give --snp-report"
    elif has_pcrs(machine):
        what = "every register of its TPM is recorded only, so any boot would do; name another machine"
    else:
        what = "no register of a TPM is predicted, so there is nothing to hold it against"
    raise ImageError(f"{machine.name}: {what}")


def of_tpm(machine: GoldenMachine) -> GoldenMachine:
    """The machine without the launch digest of SEV, which no TPM shows; itself where it has none."""
    if machine.trace(LAUNCH_DIGEST) is None:
        return machine
    return replace(
        machine,
        registers=tuple(row for row in machine.registers if row.register != LAUNCH_DIGEST),
        traces=tuple(trace for trace in machine.traces if trace.register != LAUNCH_DIGEST),
    )


def compare(
    machine: GoldenMachine,
    observation: Observation,
    *,
    banks: Collection[HashAlgorithm] = (),
    wildcards: Iterable[Wildcard] = (),
) -> Comparison:
    """Every golden register of ``machine`` against one observed boot, up to the boot phase ``ready``.

    A bank that the machine reports nothing of is left out, because TPMs have different ones; what it reports
    it must report in full, and one bank of SHA-256 or stronger must be there.

    Args:
        banks: those that must be reported.
        wildcards: events that are taken as they were observed.

    A register named ``PCR11:sysinit`` is the value PCR 11 has once that phase is entered; it is computed from
    the log's own events up to there, because a TPM keeps no old values.
    """
    machine, not_compared = as_observed(machine, observation.steps, wildcards)
    banks = {algorithm for _, algorithm in observation.values} | set(banks)
    observed: dict[tuple[str, HashAlgorithm], bytes] = {}
    differences = _nothing_compared(machine, banks)
    events: dict[str, int] = {}
    for register, traces in _by_register(machine.traces).items():
        steps = tuple(step for step in observation.steps if step.register == register)
        taken = sum(item.register == register for item in not_compared)
        events[register] = len(steps) - taken
        final = traces[-1]
        difference = first_difference(final, steps)
        if difference is not None:
            differences.append(difference)
        differences += _log_against_values(register, steps, observation)
        for trace in traces[:-1]:
            observed.update(_value_after(trace.register, steps[: len(trace.steps)], banks))
        for bank in banks:
            if (register, bank) in observation.values:
                observed[final.register, bank] = observation.values[register, bank]
    results = tuple(
        RegisterResult(
            register=row.register,
            algorithm=row.algorithm,
            expected=row.value,
            observed=observed.get((row.register, row.algorithm)),
        )
        for row in machine.registers
        if row.algorithm in banks
    )
    differences += _value_differences(results, {item.register for item in differences})
    differing = {item.register for item in differences}
    return Comparison(
        machine=machine.name,
        results=results,
        differences=tuple(differences),
        events=sum(events.values()),
        equal_events=sum(count for register, count in events.items() if register not in differing),
        not_compared=not_compared,
    )


def _nothing_compared(machine: GoldenMachine, banks: Collection[HashAlgorithm]) -> list[Difference]:
    """What makes a comparison worthless before it has begun."""
    if not machine.registers:
        return [Difference(register="", message="the prediction has no registers; it proves nothing")]
    if not STRONG & set(banks):
        what = "no register of a bank of SHA-256 or stronger is reported; the machine must report its PCRs"
        return [Difference(register="", message=what)]
    return []


def first_difference(trace: Trace, observed: Sequence[Step]) -> Difference | None:
    """The first step at which a logged sequence leaves the predicted one, or None."""
    for index in range(max(len(trace.steps), len(observed))):
        expected = trace.steps[index] if index < len(trace.steps) else None
        found = observed[index] if index < len(observed) else None
        if expected is None or found is None or not _same(expected, found):
            return Difference(
                register=_real(trace.register),
                message=_describe(trace, index, expected, found),
                index=index,
                expected=expected,
                observed=found,
            )
    return None


def _by_register(traces: Iterable[Trace]) -> dict[str, list[Trace]]:
    """The traces of each real register, shortest first: PCR 11 has one more for every boot phase."""
    registers: dict[str, list[Trace]] = {}
    for trace in sorted(traces, key=lambda trace: len(trace.steps)):
        registers.setdefault(_real(trace.register), []).append(trace)
    return registers


def _same(expected: Step, found: Step) -> bool:
    shared = expected.digests.keys() & found.digests.keys()
    return (
        bool(shared)
        and expected.operation == found.operation
        and all(expected.digests[algorithm] == found.digests[algorithm] for algorithm in shared)
    )


def _describe(trace: Trace, index: int, expected: Step | None, found: Step | None) -> str:
    register = _real(trace.register)
    place = f"{register} differs at event {index + 1} of {len(trace.steps)}"
    if expected is None:
        assert found is not None
        return f"{place}: predicted nothing more, observed {found.operation} ({found.description})"
    name = f"{expected.operation} {expected.description}".strip()
    if found is None:
        return f"{place}: predicted {name} (from {expected.source}), the log ends before it"
    if expected.operation != found.operation:
        seen = f"{found.operation} {found.description}".strip()
        return f"{place}: predicted {name} (from {expected.source}), observed {seen}"
    both_have = expected.digests.keys() & found.digests.keys()
    shared = [algorithm for algorithm in HashAlgorithm if algorithm in both_have]
    if not shared:
        return f"{place}: {name}: the log has no bank that was predicted"
    algorithm = next(item for item in shared if expected.digests[item] != found.digests[item])
    both = f"predicted {expected.digests[algorithm].hex()}, observed {found.digests[algorithm].hex()}"
    return f"{place} ({name}; input: {expected.source}): {algorithm.value} {both}"


def _value_after(
    name: str, steps: Sequence[Step], banks: Iterable[HashAlgorithm]
) -> dict[tuple[str, HashAlgorithm], bytes]:
    """The value a register had after these logged events, under the name of the trace that ends there."""
    trace = Trace(_real(name), tuple(steps))
    return {(name, bank): fold(trace, bank) for bank in banks if all(bank in step.digests for step in steps)}


def _log_against_values(register: str, steps: Sequence[Step], observation: Observation) -> list[Difference]:
    """A log that does not replay to the register it speaks of is worth nothing."""
    for (name, bank), value in observation.values.items():
        if name == register and all(bank in step.digests for step in steps):
            replayed = fold(Trace(register, tuple(steps)), bank)
            if replayed != value:
                message = (
                    f"{register}: the log replays to {bank.value} {replayed.hex()}, the TPM has {value.hex()}"
                )
                return [Difference(register=register, message=message)]
    return []


def _value_differences(results: Iterable[RegisterResult], known: set[str]) -> list[Difference]:
    differences = []
    for result in results:
        register = _real(result.register)
        if not result.equal and register not in known:
            known.add(register)
            found = "not reported" if result.observed is None else result.observed.hex()
            both = f"predicted {result.expected.hex()}, observed {found}"
            message = f"{result.register}: {result.algorithm.value} {both}"
            differences.append(Difference(register=register, message=message))
    return differences
