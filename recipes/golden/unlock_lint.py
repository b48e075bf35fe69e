"""What is wrong with how a volume opens, held against what the manifest predicts.

An error is a volume that opens for nobody, or for more than the image; a warning is one that an update or the
host can do harm to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ..measure.tpm import DYNAMIC_PCRS, register
from .manifest import GoldenMachine
from .unlock import (
    BANK,
    PHASE_REGISTER,
    Formatting,
    Sealing,
    TpmPolicy,
    UnlockVolume,
    VolumeProvider,
    register_at_unlock,
)
from .unlock_predict import OVERRIDE_REGISTER, PROVIDER, SECURE_BOOT_REGISTER

# TPM2_PCR_Reset works on these at locality 0. Spec: PC Client Platform TPM Profile 1.05 section 4.6.
_RESETTABLE = (16, 23)
# Firmware and its configuration. Spec: TCG PFP 1.06 section 3.3.4.
_FIRMWARE = frozenset({0, 1, 2, 3, 6})
# Firmware measures the program into it that it is about to start, so that program cannot choose its value;
# the registers above 7 are extended by what was started. Spec: the same.
_PROGRAM_REGISTER = 4
# Registers that hold something of the image: UKI, partition table, initramfs, sections of the UKI.
_IMAGE = (_PROGRAM_REGISTER, 5, 9, PHASE_REGISTER)
# Registers that only the platform's owner moves.
_PLATFORM = (0, 1, 2, 3)
# Providers that ask one kind of processor; no machine has two kinds, and each makes a volume of its own.
_DERIVED = frozenset({"snp-derived-key", "cca-sealing-key"})
# Providers whose key is made inside the guest, so that they have their own and no other.
_INSIDE = _DERIVED | {PROVIDER}
# Providers that may get a key from people in ways that a recipe does not tell.
_FROM_PEOPLE = frozenset({"passphrase", "exec"})

# Registers that show words which a host adds to the command line: `rdinit=` comes before any script of ours.
_COMMAND_LINES = frozenset({9, OVERRIDE_REGISTER})
_ADDED_WORDS = "a host that adds rdinit= to the command line gets a shell that can have the key"

Key = tuple[str | int, ...]


class Severity(Enum):
    """Whether the image is refused."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong.

    Attributes:
        key: of the recipe, that it is about.
        message: ``what; how to fix``.
    """

    severity: Severity
    key: Key
    message: str


def lint(
    volumes: Iterable[UnlockVolume], machines: Sequence[GoldenMachine], *, insecure: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Everything that is wrong with the volumes, in their order.

    Args:
        machines: of the image, with their predictions.
        insecure: those that boot without Secure Boot, by name.
    """
    names = [machine.name for machine in machines if machine.name in insecure]
    return tuple(finding for volume in volumes for finding in _lint_volume(volume, machines, names))


def _lint_volume(
    volume: UnlockVolume, machines: Sequence[GoldenMachine], insecure: list[str]
) -> Iterator[Finding]:
    for index, provider in enumerate(volume.providers):
        key: Key = (*volume.key, "unlock", index)
        if provider.name == PROVIDER and volume.tpm2 is not None:
            key = (*volume.key, PROVIDER, *(["pcrs"] if volume.tpm2.pcrs else []))
            if volume.tpm2.sealing is Sealing.SIGNED:
                yield from _signed(volume.tpm2, key, insecure)
            else:
                yield from _literal(volume.tpm2, key, insecure, escrow=volume.escrow)
            yield from _registers(provider.name, volume.tpm2.registers, key, machines)
        else:
            yield from _registers(provider.name, provider.registers, key, machines)
    yield from _keys(volume)
    if volume.formatting is Formatting.IF_BLANK and not volume.marker:
        what = "a host that wipes the disk gets a new, empty volume, and nothing in the guest can tell"
        fix = f"use provider {PROVIDER}, which marks the TPM, or format never once the volume is made"
        yield _warning((*volume.key, "format"), f"{what}; {fix}")


def _registers(
    provider: str, registers: Sequence[int], key: Key, machines: Sequence[GoldenMachine]
) -> Iterator[Finding]:
    """Whatever depends on a register needs one that is predicted, and that software cannot set at will."""
    for index in registers:
        who = f"provider {provider} depends on PCR {index}"
        if index in _RESETTABLE:
            yield _error(key, f"{who}, which software can reset; leave it out")
        elif index in DYNAMIC_PCRS:
            what = "which only a dynamic launch or another locality extends"
            yield _error(key, f"{who}, {what}; leave it out")
        else:
            yield from _unpredicted(who, index, key, machines)


def _unpredicted(who: str, index: int, key: Key, machines: Sequence[GoldenMachine]) -> Iterator[Finding]:
    lacking = [machine for machine in machines if machine.value(register_at_unlock(index), BANK) is None]
    if not lacking:
        return
    first = lacking[0]
    reasons = [item.reason for item in first.omitted if item.register == register(index)]
    reason = reasons[0].partition(";")[0] if reasons else "no prediction covers it"
    where = _machines([machine.name for machine in lacking])
    yield _error(key, f"{who}, which is not predicted on {where} ({reason}); leave it out, or the machine")


def _signed(policy: TpmPolicy, key: Key, insecure: list[str]) -> Iterator[Finding]:
    others = sorted(set(policy.pcrs) - {PHASE_REGISTER, SECURE_BOOT_REGISTER, OVERRIDE_REGISTER})
    if others:
        what = f"the signature stands in the UKI and cannot speak of {_pcrs(others)}"
        yield _error(key, f"{what}; sign for PCR 7, 11 and 12")
    if OVERRIDE_REGISTER not in policy.registers:
        yield _error(key, f"{_ADDED_WORDS}; add PCR {OVERRIDE_REGISTER}")
    if SECURE_BOOT_REGISTER not in policy.registers:
        # Everything that PCR 11 holds is public: the sections of the UKI and the words of the phases.
        what = "whatever program the host starts instead can extend PCR 11 as this image does and get the key"
        fix = f"add PCR {SECURE_BOOT_REGISTER} and Secure Boot, or use policy literal with PCR 4"
        yield _warning(key, f"{what}; {fix}")
    elif insecure:
        what = f"{_machines(insecure)} boots without Secure Boot, so nothing is signed for it"
        yield _warning(key, f"{what} and the volume does not open there; use firmware with Secure Boot")


def _literal(policy: TpmPolicy, key: Key, insecure: list[str], *, escrow: bool) -> Iterator[Finding]:
    registers = policy.registers
    if not registers:
        yield _error(key, "a literal policy without registers opens for everything; write pcrs: [4, 11, 12]")
        return
    if _FIRMWARE.issuperset(registers):
        yield _error(key, f"{_pcrs(registers)} cover firmware and not the image; add PCR 4, 11 and 12")
    elif PHASE_REGISTER not in registers:
        what = f"without PCR {PHASE_REGISTER} the key can still be had once the initramfs is left"
        yield _error(key, f"{what}; add it")
    elif _PROGRAM_REGISTER not in registers and SECURE_BOOT_REGISTER not in registers:
        what = f"{_pcrs(registers)}: whatever program the host starts instead can extend PCR 11 likewise"
        yield _error(key, f"{what}; add PCR {_PROGRAM_REGISTER}, which holds the program")
    elif not _COMMAND_LINES.intersection(registers):
        yield _error(key, f"{_ADDED_WORDS}; add PCR {OVERRIDE_REGISTER}")
    elif _PROGRAM_REGISTER not in registers and insecure:
        what = f"{_machines(insecure)} boots without Secure Boot, where PCR 7 keeps no program out"
        yield _warning(key, f"{what}; add PCR {_PROGRAM_REGISTER}, which holds the program")
    if escrow:
        return
    moved, platform = [[each for each in registers if each in group] for group in (_IMAGE, _PLATFORM)]
    if moved:
        what = f"an update of the image changes {_pcrs(moved)} and locks the data out"
        yield _warning(key, f"{what}; use policy signed, or escrow")
    if platform:
        what = f"a roll-out of firmware changes {_pcrs(platform)} and locks the data out"
        yield _warning(key, f"{what}; leave them out, or use escrow")


def _keys(volume: UnlockVolume) -> Iterator[Finding]:
    """A volume has one key: whoever does not make it must be able to know it."""
    maker = _maker(volume)
    if maker is None:
        return
    for index, provider in enumerate(volume.providers):
        key: Key = (*volume.key, "unlock", index)
        if provider == maker or {provider.name, maker.name} <= _DERIVED:
            continue
        if provider.name in _INSIDE:
            what = f"provider {provider.name} knows no key but its own, and {maker.name} makes this one"
            yield _error(key, f"{what}; leave one of them out")
        elif maker.name in _INSIDE and not volume.escrow:
            finding = _warning if provider.name in _FROM_PEOPLE else _error
            what = f"nobody outside the guest has the key that {maker.name} makes, so {provider.name}"
            yield finding(key, f"{what} cannot give it; add escrow, or leave {provider.name} out")


def _maker(volume: UnlockVolume) -> VolumeProvider | None:
    """The provider that gives the key of a new volume; None where no key outlives a boot."""
    if volume.formatting is Formatting.ALWAYS:
        return None
    return next((provider for provider in volume.providers if provider.formats), None)


def _pcrs(registers: Iterable[int]) -> str:
    return f"PCR {', '.join(map(str, registers))}"


def _machines(names: Sequence[str]) -> str:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"machine {names[0]}{more}"


def _error(key: Key, message: str) -> Finding:
    return Finding(severity=Severity.ERROR, key=key, message=message)


def _warning(key: Key, message: str) -> Finding:
    return Finding(severity=Severity.WARNING, key=key, message=message)
