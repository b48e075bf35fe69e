"""How a recipe's volumes open, as the linter and the manifest take it; and the signatures in the UKI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError, VerifyError
from ..machine import QemuMachine
from ..record import dataclass
from ..schema import DiskImage
from ..schema.volumes import FormatPolicy, UnlockSpec
from . import firmware
from .volumes import PROVIDERS, TPM2, Volume, is_signed, read_providers, sealing, volumes

if TYPE_CHECKING:
    from ..formats.pcrsig import PcrSignature
    from ..golden.unlock import TpmPolicy, UnlockVolume
    from ..measure.boot import Prediction
    from ..measure.ukifile import MeasuredUki


# The register of Secure Boot's state and keys. Spec: TCG PFP 1.06 section 3.3.4.
_SECURE_BOOT = 7


@dataclass(frozen=True)
class SecureMachine:
    """A machine that enforces Secure Boot, and the variable store it is launched with."""

    machine: QemuMachine
    variables: Path


def tpm_policy(spec: UnlockSpec) -> TpmPolicy | None:
    """What provider ``tpm2`` demands for a volume; None where it is not asked."""
    from ..formats.tpm2_nv import ROLLBACK_COUNTER
    from ..golden.unlock import Rollback, Sealing, TpmPolicy

    if TPM2 not in spec.unlock:
        return None
    options = sealing(spec)
    return TpmPolicy(
        sealing=Sealing(options.policy.value),
        pcrs=options.registers,
        rollback=Rollback(ROLLBACK_COUNTER, options.release) if options.release else None,
    )


def is_any_signed(opened: Sequence[Volume]) -> bool:
    """Whether the UKI carries signatures; asked while tasks are made, so nothing heavy is loaded for it."""
    return any(is_signed(volume.unlock) for volume in opened)


def signed_policy(opened: Sequence[Volume]) -> TpmPolicy | None:
    """The policy that our key approves in the UKI; None where no volume opens by one."""
    found = (tpm_policy(volume.unlock) for volume in opened if is_signed(volume.unlock))
    return next(found, None)


def judged(volume: Volume) -> UnlockVolume:
    """A volume as the linter takes it.

    Raises:
        SpecError: a provider's header is wrong.
    """
    from ..golden.unlock import Formatting, UnlockVolume, VolumeProvider
    from ..sources.providers import OPTION_REGISTERS

    spec, policy = volume.unlock, tpm_policy(volume.unlock)
    options = policy.registers if policy else ()
    providers = []
    for provider in read_providers(spec):
        fixed = {int(item.partition(":")[2]) for item in provider.registers if item != OPTION_REGISTERS}
        chosen = options if OPTION_REGISTERS in provider.registers else ()
        registers = tuple(sorted(fixed.union(chosen)))
        providers.append(VolumeProvider(name=provider.name, formats=provider.formats, registers=registers))
    return UnlockVolume(
        name=volume.name,
        key=volume.key,
        providers=tuple(providers),
        formatting=Formatting(volume.format.value),
        marker=TPM2 in spec.unlock and volume.format is FormatPolicy.IF_BLANK,
        escrow=spec.escrow is not None,
        tpm2=policy,
    )


def provider_files(opened: Sequence[Volume]) -> tuple[Path, ...]:
    """The scripts whose headers ``judged`` reads."""
    return tuple(dict.fromkeys(PROVIDERS / name for volume in opened for name in volume.unlock.unlock))


def secure_machines(image: DiskImage) -> tuple[SecureMachine, ...]:
    """The machines for which PCR 7 may be signed; none where no policy speaks of it."""
    signed = [volume.unlock for volume in volumes(image) if is_signed(volume.unlock)]
    if not any(_SECURE_BOOT in sealing(spec).registers for spec in signed):
        return ()
    return tuple(
        SecureMachine(machine, firmware.variables_path(image, machine.firmware))
        for machine in image.machines
        if machine.firmware.secure_boot
    )


def sign_policies(
    uki: bytes, name: str, policy: TpmPolicy, machines: Sequence[SecureMachine]
) -> tuple[PcrSignature, ...]:
    """The approvals of a UKI's boots by our key, each policy once.

    Args:
        uki: signed, with all that is measured: everything but ``.pcrsig``.
        name: of the UKI, for messages.
        machines: from ``secure_machines``.

    Raises:
        SpecError: the policy is one that no UKI can carry.
        ImageError: the key cannot sign.
    """
    from ..formats import pcrsig
    from ..golden.unlock import BANK
    from .unlock_keys import private_key

    key = private_key()
    digests = dict.fromkeys(_boot_digests(uki, name, policy, machines))
    return tuple(pcrsig.sign(key, BANK.value, policy.registers, digest) for digest in digests)


def _boot_digests(uki: bytes, name: str, policy: TpmPolicy, machines: Sequence[SecureMachine]) -> list[bytes]:
    from ..golden.unlock import PHASE_REGISTER, boot_digest
    from ..golden.unlock_predict import OVERRIDE_REGISTER, SECURE_BOOT_REGISTER
    from ..measure import boot, stub, tpm, userspace
    from ..measure.trace import Trace
    from ..measure.ukifile import read_uki

    if set(policy.registers) - {SECURE_BOOT_REGISTER, PHASE_REGISTER, OVERRIDE_REGISTER}:
        what = f"a signed policy on PCR {', '.join(map(str, policy.registers))} cannot stand in the UKI"
        raise SpecError(f"data.tpm2: {what}; use PCR 7, 11 and 12")
    if SECURE_BOOT_REGISTER not in policy.registers:
        (trace,) = tpm.traces(stub.section_steps(read_uki(uki, name)))
        # Nothing comes from outside the UKI, so nothing is measured for it.
        traces = (*userspace.phase_traces(trace), Trace(tpm.register(OVERRIDE_REGISTER), ()))
        prediction = boot.Prediction(traces=traces, omitted=(), sequence=())
        return [boot_digest(prediction.value, policy.registers, rollback=policy.rollback)]
    if not machines:
        what = "PCR 7 is to be signed, and no machine has Secure Boot"
        raise SpecError(f"data.tpm2: {what}; add a machine with such firmware, or leave PCR 7 out")
    return [
        boot_digest(_secure_boot(uki, name, item).value, policy.registers, rollback=policy.rollback)
        for item in machines
    ]


def _secure_boot(uki: bytes, name: str, item: SecureMachine) -> Prediction:
    """PCR 7, 11 and 12 of a machine: none depends on the firmware's code or on the partition table."""
    from ..formats import varstore
    from ..measure.boot import BootInputs, prepare, replay_boot
    from ..measure.stub import StubInputs

    inputs = BootInputs(
        firmware_code=b"",
        firmware_model=None,
        variables=varstore.read(item.variables.read_bytes(), item.variables.name),
        gpt_event=b"",
        stub=StubInputs(name=name, uki=uki),
    )
    return replay_boot(item.machine, prepare(inputs))


def signatures_of(uki: MeasuredUki, public: bytes) -> tuple[PcrSignature, ...]:
    """The approvals in a finished UKI, each verified.

    Args:
        public: our public key, PEM.

    Raises:
        FormatError: ``.pcrsig`` is damaged.
        VerifyError: it is missing, the UKI has another public key, or a signature is wrong.
    """
    from ..formats import pcrsig
    from .unlock_keys import PUBLIC, load_public

    data, key = uki.data(".pcrsig"), uki.data(".pcrpkey")
    if data is None or key != public:
        what = "has no .pcrsig" if data is None else f"has another .pcrpkey than keys/{PUBLIC.name}"
        raise VerifyError(f"{uki.name}: {what}; build the UKI again")
    where = f"{uki.name} .pcrsig"
    entries = pcrsig.parse(data, where)
    for entry in entries:
        pcrsig.verify(entry, load_public(public, f"keys/{PUBLIC.name}"), where)
    return entries
