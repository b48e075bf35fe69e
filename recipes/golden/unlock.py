"""How encrypted volumes open: what a recipe asks for, and the TPM policy digests that follow from a boot.

``golden.unlock_lint`` says what is wrong with the one, the manifest carries the other. A TPM releases a key
during one phase of a boot, ``enter-initrd``: before it the initramfs does not run, behind it ``leave-initrd``
is in PCR 11 and the policy is met no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ..errors import MeasureError
from ..formats.tpm2_nv import rollback_counter
from ..measure.tpm import register
from ..measure.tpm_policy import Operation, PcrValue, PolicySession, RollbackLimit
from ..measure.trace import HashAlgorithm
from ..measure.userspace import PHASES

# The phase in which volumes are opened. Spec: systemd 257 man/systemd-pcrphase.service.xml.
PHASE = PHASES[0]
# What measures the boot phases, and with them every section of the UKI.
# Spec: UAPI "Linux TPM PCR Registry".
PHASE_REGISTER = 11
# The bank that policies speak of. Spec: systemd 252 src/shared/tpm2-util.c takes it where the TPM has it.
BANK = HashAlgorithm.SHA256


class Sealing(Enum):
    """What a sealed key's policy is: whatever our key approves, or the registers' values themselves."""

    SIGNED = "signed"
    LITERAL = "literal"


class Formatting(Enum):
    """When a new file system is made."""

    NEVER = "never"
    IF_BLANK = "if-blank"
    ALWAYS = "always"


@dataclass(frozen=True)
class Rollback:
    """A release that no longer opens a volume once a later one has booted.

    Attributes:
        counter: handle of the NV counter.
        release: of the image; the counter may not be above it.
    """

    counter: int
    release: int

    def limit(self) -> RollbackLimit:
        """What a policy session compares."""
        name = rollback_counter(self.counter).written().name
        return RollbackLimit(counter_name=name, release=self.release)


@dataclass(frozen=True, kw_only=True)
class TpmPolicy:
    """What a recipe says about provider ``tpm2``.

    Attributes:
        pcrs: the registers of a literal policy; those that a signed one has beside PCR 11.
    """

    sealing: Sealing
    pcrs: tuple[int, ...] = ()
    rollback: Rollback | None = None

    @property
    def registers(self) -> tuple[int, ...]:
        """The registers that the policy is about, ascending."""
        own = {PHASE_REGISTER} if self.sealing is Sealing.SIGNED else set()
        return tuple(sorted(own.union(self.pcrs)))


@dataclass(frozen=True, kw_only=True)
class VolumeProvider:
    """A provider of a volume's key.

    Attributes:
        formats: it can give the key of a new volume.
        registers: those that its answer depends on.
    """

    name: str
    formats: bool
    registers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class UnlockVolume:
    """An encrypted volume of a recipe.

    Attributes:
        key: of the recipe, where the volume is described: ``("data",)``.
        providers: in the order they are asked.
        marker: the TPM remembers that the volume was formatted.
        escrow: the key of a new volume is handed to an operator.
        tpm2: where ``tpm2`` is among the providers.
    """

    name: str
    key: tuple[str | int, ...]
    providers: tuple[VolumeProvider, ...]
    formatting: Formatting
    marker: bool = False
    escrow: bool = False
    tpm2: TpmPolicy | None = None


@dataclass(frozen=True, kw_only=True)
class MachinePolicy:
    """A policy on one machine.

    Attributes:
        digest: of the policy session: what is approved where the policy is signed, and otherwise what the key
            is sealed with. None where it is not known.
        reason: why not.
    """

    machine: str
    digest: bytes | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Who approves policies.

    Attributes:
        fingerprint: of the key, as entries of ``.pcrsig`` name it.
        sealed: digest of the policy that the key of a volume is sealed with; a function of the signing key
            alone, so it stays when images change.
        rollback: None where every release that was ever signed opens the volume.
    """

    fingerprint: bytes
    sealed: bytes
    rollback: Rollback | None = None


@dataclass(frozen=True, kw_only=True)
class UnlockPolicy:
    """What a TPM demands before it gives a volume's key, predicted.

    Attributes:
        approval: of a signed policy; None where it is literal.
    """

    volume: str
    provider: str
    bank: HashAlgorithm
    registers: tuple[int, ...]
    phase: str
    approval: Approval | None
    machines: tuple[MachinePolicy, ...]

    @property
    def sealing(self) -> Sealing:
        """Signed or literal."""
        return Sealing.LITERAL if self.approval is None else Sealing.SIGNED


def register_at_unlock(index: int, phase: str = PHASE) -> str:
    """What a manifest calls the value a register has when volumes are opened: ``PCR11:enter-initrd``."""
    return f"{register(index)}:{phase}" if index == PHASE_REGISTER else register(index)


def boot_digest(
    value: Callable[[str, HashAlgorithm], bytes | None],
    registers: Sequence[int],
    *,
    bank: HashAlgorithm = BANK,
    rollback: Rollback | None = None,
    omitted: Mapping[str, str] | None = None,
) -> bytes:
    """Digest of the policy that a boot meets when volumes are opened.

    Args:
        value: of a register in one bank, by the manifest's name.
        omitted: for registers without a value, why.

    Raises:
        MeasureError: a register has no value.
    """
    values = []
    for index in registers:
        found = value(register_at_unlock(index), bank)
        if found is None:
            reason = (omitted or {}).get(register(index), "no prediction covers it")
            raise MeasureError(f"{register(index)}: {reason}")
        values.append(PcrValue(bank, index, found))
    session = PolicySession()
    if rollback is not None:
        limit = rollback.limit()
        session.policy_nv(limit.counter_name, limit.operand(), Operation.UNSIGNED_LE)
    return session.policy_pcr(values)
