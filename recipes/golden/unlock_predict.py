"""From golden machines to the policies under which volumes open, held against what the image approves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ..errors import MeasureError, VerifyError
from ..formats.pcrsig import PcrSignature
from ..measure.tpm_policy import PolicySession
from .manifest import GoldenMachine
from .unlock import BANK, PHASE, Approval, MachinePolicy, TpmPolicy, UnlockPolicy, boot_digest

# What PCR 7 has to do with a signature. Spec: TCG PFP 1.06 section 3.3.4.8.
SECURE_BOOT_REGISTER = 7
# What comes from outside the UKI: command lines, addons, credentials. Spec: UAPI "Linux TPM PCR Registry".
OVERRIDE_REGISTER = 12
PROVIDER = "tpm2"


@dataclass(frozen=True)
class PolicySigner:
    """A key that approves policies, as a TPM and as ``.pcrsig`` name it."""

    name: bytes
    fingerprint: bytes

    @property
    def sealed(self) -> bytes:
        """Digest of the policy that is met by whatever policy this key has approved."""
        return PolicySession().policy_authorize(self.name)


def unlock_policy(
    volume: str,
    policy: TpmPolicy,
    machines: Iterable[GoldenMachine],
    *,
    signer: PolicySigner | None = None,
    insecure: Collection[str] = (),
) -> UnlockPolicy:
    """What provider ``tpm2`` of a volume demands on each machine.

    Args:
        signer: of a signed policy; None for a literal one.
        insecure: machines that boot without Secure Boot.
    """
    approval = None
    if signer is not None:
        approval = Approval(fingerprint=signer.fingerprint, sealed=signer.sealed, rollback=policy.rollback)
    return UnlockPolicy(
        volume=volume,
        provider=PROVIDER,
        bank=BANK,
        registers=policy.registers,
        phase=PHASE,
        approval=approval,
        machines=tuple(_on_machine(machine, policy, approval, insecure) for machine in machines),
    )


def _on_machine(
    machine: GoldenMachine, policy: TpmPolicy, approval: Approval | None, insecure: Collection[str]
) -> MachinePolicy:
    if approval is not None and SECURE_BOOT_REGISTER in policy.registers and machine.name in insecure:
        reason = "it boots without Secure Boot, and such a PCR 7 is never signed"
        return MachinePolicy(machine=machine.name, digest=None, reason=reason)
    omitted = {item.register: item.reason for item in machine.omitted}
    rollback = approval.rollback if approval else None
    try:
        digest = boot_digest(machine.value, policy.registers, rollback=rollback, omitted=omitted)
    except MeasureError as error:
        return MachinePolicy(machine=machine.name, digest=None, reason=str(error))
    return MachinePolicy(machine=machine.name, digest=digest)


def check_approved(policy: UnlockPolicy, entries: Sequence[PcrSignature], source: str) -> None:
    """Returns if an image's signatures are for exactly the boots that are predicted.

    Args:
        entries: of the image's ``.pcrsig``, each verified.
        source: of the entries.

    Raises:
        VerifyError: a machine's boot is not approved, or something else is.
    """
    approval = policy.approval
    if approval is None:
        raise VerifyError(f"{source}: {policy.volume} has a literal policy, which nobody signs")
    # The first machine of several that a digest is for.
    wanted = {item.digest: item.machine for item in reversed(policy.machines) if item.digest is not None}
    for entry in entries:
        subject = (entry.bank, entry.registers, entry.fingerprint)
        if subject != (policy.bank.value, policy.registers, approval.fingerprint):
            what = f"an entry for {entry.bank}:{','.join(map(str, entry.registers))}"
            raise VerifyError(f"{source}: {what} is not what the recipe asks for; build the UKI again")
        if entry.policy not in wanted:
            what = f"policy {entry.policy.hex()} is approved, to which no predicted boot leads"
            raise VerifyError(f"{source}: {what}; build the UKI again")
    approved = {entry.policy for entry in entries}
    for digest, machine in wanted.items():
        if digest not in approved:
            what = f"policy {digest.hex()} of machine {machine} is not approved"
            raise VerifyError(f"{source}: {what}; build the UKI again")
