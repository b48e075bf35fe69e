"""Policies that a boot meets on PCR 11 alone, predicted by what a build predicts them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recipes.golden.unlock import BANK, Rollback, boot_digest
from recipes.measure.boot import Prediction
from recipes.measure.tpm import fold
from recipes.measure.tpm_policy import PcrValue, PolicySession
from recipes.measure.trace import HashAlgorithm, Trace
from recipes.measure.userspace import PHASES, phase_step, phase_traces

# Paths of phases that systemd-measure signs when nothing is asked for.
# Spec: systemd 252 man/systemd-measure.xml, --phase=.
PHASE_PATHS = tuple(PHASES[: count + 1] for count in range(len(PHASES)))


@dataclass(frozen=True)
class PhasePolicy:
    """What PCR 11 holds when the phases of a path were entered, and the policy that this meets."""

    value: PcrValue
    digest: bytes


def unlock_digest(boot: Trace, *, bank: HashAlgorithm = BANK, rollback: Rollback | None = None) -> bytes:
    """What a build signs: the policy in ``enter-initrd``, when volumes are opened."""
    prediction = Prediction(traces=phase_traces(boot), omitted=(), sequence=())
    return boot_digest(prediction.value, (11,), bank=bank, rollback=rollback)


def phase_policies(
    boot: Trace, banks: Sequence[HashAlgorithm], paths: Sequence[Sequence[str]] = PHASE_PATHS
) -> list[PhasePolicy]:
    """What systemd-measure signs: bank by bank, in each the paths in the order given."""
    found = []
    for bank in banks:
        for path in paths:
            trace = Trace(boot.register, (*boot.steps, *map(phase_step, path)))
            value = PcrValue(bank, 11, fold(trace, bank))
            found.append(PhasePolicy(value, PolicySession().policy_pcr([value])))
    return found
