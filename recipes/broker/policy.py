"""What a guest must have booted to get a volume's key, taken from golden manifests.

A key is released at one moment of a boot: inside the initramfs, once the phase ``enter-initrd`` is in PCR 11
and before anything behind it. So a running system, whose PCR 11 has moved on, cannot get the key any more,
nor be made to quote for somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import SpecError, suggestion
from ..formats.tpm2 import show_selections
from ..golden.manifest import GoldenMachine, GoldenManifest, Omitted, Policy
from ..golden.verify import STRONG
from ..measure.quote import Expectation
from ..measure.sev_pages import LAUNCH_DIGEST
from ..measure.tpm_policy import PcrValue, pcr_selections
from ..measure.trace import HashAlgorithm, digests_of
from ..measure.userspace import PHASES, LogDigest, MeasureLogRecord
from .messages import is_volume_name
from .refusal import RefusedError

_PCR = re.compile(r"PCR([0-9]|1[0-9]|2[0-3])")
# Registers without which a quote does not say that the image is what runs, and who would get the key then.
# PCR 11 alone does not say which program it was: everything in it is public, and what a host starts instead
# can extend it likewise. PCR 4 is the one that firmware extends with the program before that runs.
# Spec: TCG PFP 1.06 section 3.3.4 (PCR 4, 7), UAPI "Linux TPM PCR Registry" (PCR 9, 11, 12).
_REQUIRED = {
    "PCR4": "any program would get the key",
    "PCR7": "a guest with another Secure Boot policy would get the key",
    "PCR9": "a guest with another command line or initramfs would get the key",
    "PCR11": "a guest with another UKI, or past its initramfs, would get the key",
    "PCR12": "a guest with a host's command line or credentials would get the key",
}
# Registers of the platform, which not every machine's prediction has, and what hides where one is missing.
# Spec: TCG PFP 1.06 section 3.3.4.
_PLATFORM = {"PCR0": "firmware", "PCR1": "ACPI tables or boot order", "PCR2": "option ROM"}
# Those that cover code, which runs before PCR 4 is extended and could then extend anything.
_PLATFORM_CODE = ("PCR0", "PCR2")


@dataclass(frozen=True, kw_only=True)
class VolumeRule:
    """Who may have the key of one volume.

    Attributes:
        machines: of the golden manifests; any of them where it is empty.
        attestation_keys: enrolled names, or ``ek:`` and the SHA-256 of an endorsement key's certificate, or
            ``snp:`` and the launch measurement of a guest, in hex; any that is trusted where it is empty.
        accept_omitted: whether machines will do whose manifest lacks PCR 0 or 2.
    """

    volume: str
    machines: tuple[str, ...] = ()
    attestation_keys: tuple[str, ...] = ()
    accept_omitted: bool = False


@dataclass(frozen=True)
class Expected:
    """One machine of one manifest as a quote has to show it.

    Attributes:
        omitted: registers of the platform that no quote is held against, and why.
    """

    machine: str
    expectation: Expectation
    omitted: tuple[Omitted, ...] = ()

    @property
    def selection(self) -> str:
        """What to quote, as tpm2-tools write it."""
        return show_selections(pcr_selections(self.expectation.values))


class ReleasePolicy:
    """All rules with the values that they lead to.

    Args:
        manifests: of every image that may have keys: this release, and the next.
        rules: one for each volume.
        bank: of the PCRs that are quoted.
        phase: of the boot at which keys are released.
        accept_omitted: as in a rule, for all of them.

    Attributes:
        warnings: what no quote will show, a line for each machine that has such a thing.

    Raises:
        SpecError: a rule that names nothing, or a machine that no quote can be held against, or none that
            covers the code before the image and its rule does not accept that.
    """

    def __init__(
        self,
        manifests: Sequence[GoldenManifest],
        rules: Sequence[VolumeRule],
        *,
        bank: HashAlgorithm = HashAlgorithm.SHA256,
        phase: str = PHASES[0],
        accept_omitted: bool = False,
    ) -> None:
        if bank not in STRONG:
            raise SpecError(f"bank {bank.value}: it proves nothing any more; use sha256")
        if phase not in PHASES:
            raise SpecError(f"boot phase {phase!r} is unknown{suggestion(phase, PHASES)}")
        self._bank, self._phase = bank, phase
        expected = [
            _expected(manifest, machine, bank, phase)
            for manifest in manifests
            for machine in manifest.machines
            if _is_wanted(machine, rules)
        ]
        self._rules = {rule.volume: rule for rule in rules}
        if len(self._rules) != len(rules):
            raise SpecError("rules: a volume is there twice; give it one rule")
        self._expected = {rule.volume: _matching(rule, expected) for rule in rules}
        for rule in rules:
            if not (accept_omitted or rule.accept_omitted):
                _check_omitted(self._expected[rule.volume])
        self.warnings = tuple(dict.fromkeys(_omission(each) for each in expected if each.omitted))

    def rule(self, volume: str) -> VolumeRule:
        """The rule of a volume.

        Raises:
            RefusedError: there is none; 404.
        """
        if volume not in self._rules:
            raise RefusedError(404, "volume", f"{volume} is not kept here")
        return self._rules[volume]

    def expected(self, volume: str, machine: str) -> tuple[Expected, ...]:
        """What is accepted for a volume; all of it over the same registers.

        Args:
            machine: that the guest says it is, or empty.

        Raises:
            RefusedError: no such volume or machine (404), or the machine has to be said (400).
        """
        self.rule(volume)
        found = [each for each in self._expected[volume] if machine in ("", each.machine)]
        if not found:
            raise RefusedError(404, "machine", f"{machine!r} is none of volume {volume}'s machines")
        if len({each.selection for each in found}) > 1:
            names = ", ".join(sorted({each.machine for each in found}))
            raise RefusedError(400, "machine", f"say which; not all have the same registers: {names}")
        return tuple(found)

    def phase_records(self) -> tuple[MeasureLogRecord, ...]:
        """What userspace extends up to the moment that keys are released at."""
        phases = PHASES[: PHASES.index(self._phase) + 1]
        return tuple(_record(phase) for phase in phases)


def _record(phase: str) -> MeasureLogRecord:
    digests = digests_of(phase.encode("ascii"))
    found = tuple(LogDigest(algorithm.value, digest) for algorithm, digest in digests.items())
    return MeasureLogRecord(11, found, phase, "phase")


def _is_wanted(machine: GoldenMachine, rules: Iterable[VolumeRule]) -> bool:
    """Whether a rule names the machine, or names none; a TPM that a host runs is no machine's proof."""
    provable = machine.trace(LAUNCH_DIGEST) is None
    return any(machine.name in rule.machines or (not rule.machines and provable) for rule in rules)


def _matching(rule: VolumeRule, expected: Sequence[Expected]) -> tuple[Expected, ...]:
    if not is_volume_name(rule.volume):
        raise SpecError(f"volume {rule.volume!r}: not a name; use letters, digits, '.', '_' and '-'")
    known = {each.machine for each in expected}
    for name in rule.machines:
        if name not in known:
            raise SpecError(f"volume {rule.volume}: no golden machine {name!r}{suggestion(name, known)}")
    found = tuple(each for each in expected if not rule.machines or each.machine in rule.machines)
    if not found:
        raise SpecError(f"volume {rule.volume}: the golden manifests have no machine; build and measure one")
    return found


def _check_omitted(expected: Iterable[Expected]) -> None:
    for each in expected:
        if any(item.register in _PLATFORM_CODE for item in each.omitted):
            hint = "accept that with --accept-omitted, or name other machines with --rules"
            raise SpecError(f"{_omission(each)}; {hint}")


def _omission(expected: Expected) -> str:
    """What is not held against a machine's quotes, why, and what that hides."""
    names = [item.register for item in expected.omitted]
    verb = "is" if len(names) == 1 else "are"
    reasons = "; ".join(item.reason for item in expected.omitted)
    hidden = " or ".join(_PLATFORM[name] for name in names)
    what = f"{', '.join(names)} {verb} not in the golden manifest ({reasons})"
    return f"machine {expected.machine}: {what}; a host's {hidden} would not be seen"


def _expected(manifest: GoldenManifest, machine: GoldenMachine, bank: HashAlgorithm, phase: str) -> Expected:
    expectation = _expectation(manifest, machine, bank, phase)
    reasons = {item.register: item.reason for item in machine.omitted}
    quoted = {f"PCR{value.index}" for value in expectation.values}
    omitted = tuple(
        Omitted(register=name, reason=reasons.get(name, f"no value to enforce in the bank {bank.value}"))
        for name in _PLATFORM
        if name not in quoted
    )
    return Expected(machine.name, expectation, omitted)


def _expectation(
    manifest: GoldenManifest, machine: GoldenMachine, bank: HashAlgorithm, phase: str
) -> Expectation:
    """Every register that the manifest does not merely record, at the moment of ``phase``."""
    where = f"{manifest.image}: {machine.name}"
    recorded = {item.register for item in machine.policies if item.policy is Policy.RECORD}
    rows = {row.register: row.value for row in machine.registers if row.algorithm is bank}
    names = dict.fromkeys(name.partition(":")[0] for name in rows)
    values = []
    for name in names:
        if name in recorded:
            continue
        match = _PCR.fullmatch(name)
        if match is None:
            raise SpecError(f"{where}: no TPM quote covers {name}; this broker releases keys to TPM guests")
        phased = [row for row in rows if row.startswith(f"{name}:")]
        wanted = f"{name}:{phase}" if phased else name
        if wanted not in rows:
            raise SpecError(f"{where}: {name} has no value for the phase {phase}; measure the image again")
        values.append(PcrValue(bank, int(match[1]), rows[wanted]))
    missing = [name for name in _REQUIRED if name not in {f"PCR{value.index}" for value in values}]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        what = f"{', '.join(missing)} {verb} not enforced in the bank {bank.value}"
        raise SpecError(f"{where}: {what}; {_REQUIRED[missing[0]]}")
    label = f"{manifest.image} {manifest.version} {machine.name}".replace("  ", " ")
    return Expectation(label, tuple(sorted(values, key=lambda value: value.index)))
