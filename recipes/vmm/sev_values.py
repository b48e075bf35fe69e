"""What a launch with SEV is parsed into, and the values that both ways of writing one share."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import MeasureError, suggestion
from ..machine.sev import (
    DEFAULT_POLICY,
    DEFAULT_SNP_POLICY,
    MAX_POLICY,
    POLICY_ES,
    SEV_FEATURES,
    SNP_POLICY_KNOWN,
    SNP_POLICY_ONE,
    SevMachine,
    SevMode,
)
from ..machine.sev_cpus import CPU_MODELS, CpuSignature
from ..record import dataclass
from . import sev_options as table
from .qemu_options import OptionValue

# Keys of `--host`, and of a machine that is described.
_HOST_KEYS = ("sev-features", "family", "model", "stepping")
_DECIMAL = frozenset("0123456789")
_HEXADECIMAL = _DECIMAL | frozenset("abcdefABCDEF")


@dataclass(frozen=True, kw_only=True)
class SevHost:
    """What only the host knows (``--host KEY=VALUE``).

    Attributes:
        features: SEV_FEATURES of the guest's virtual CPUs; None: SNPActive alone, or none with SEV-ES.
        family: of the CPU, with the next two; None where a CPU model says it.
    """

    features: int | None = None
    family: int | None = None
    model: int | None = None
    stepping: int | None = None


@dataclass(frozen=True, kw_only=True)
class SevFiles:
    """Paths of what a launch reads, as written.

    Attributes:
        firmware: empty where there is an IGVM file.
        igvm: an IGVM file, which holds the firmware and the first state of virtual CPUs.
        rom: the firmware is given by ``-bios``.
        flash: every unit of flash, in order.
        raw: those of ``flash`` whose format is stated; QEMU looks into the others for a disk image.
    """

    firmware: str = ""
    kernel: str | None = None
    initrd: str | None = None
    svsm: str | None = None
    igvm: str | None = None
    rom: bool = False
    flash: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ParsedSev:
    """A launch with SEV, and the files it names.

    Attributes:
        ignored: options that the digest does not depend on, as they were written.
        notes: what was assumed, for people.
        stated_policy: the policy was written, not taken by default.
        stated_features: SEV_FEATURES were.
    """

    machine: SevMachine
    files: SevFiles
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stated_policy: bool = False
    stated_features: bool = False


def parse_host(items: Iterable[str]) -> SevHost:
    """The facts of ``--host KEY=VALUE``.

    Raises:
        MeasureError: an unknown key, one given twice, or no number.
    """
    values: dict[str, int] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if key not in _HOST_KEYS:
            raise MeasureError(f"--host {item}: no such fact of a host with SEV{suggestion(key, _HOST_KEYS)}")
        if not equals or key in values:
            what = "given twice; write it once" if equals else f"write {key}=NUMBER"
            raise MeasureError(f"--host {item}: {what}")
        values[key] = number(f"--host {item}", text)
    return SevHost(
        features=values.get("sev-features"),
        family=values.get("family"),
        model=values.get("model"),
        stepping=values.get("stepping"),
    )


def parse_cpu(text: str, where: str) -> CpuSignature:
    """A CPU by its QEMU model, or as family/model/stepping.

    Raises:
        MeasureError: neither.
    """
    if text in CPU_MODELS:
        return CPU_MODELS[text]
    numbers = text.split("/")
    if len(numbers) != 3:
        known = suggestion(text, CPU_MODELS) or "; write a model such as EPYC-Milan"
        raise MeasureError(f"{where}: no such model of a CPU with SEV{known}, or family/model/stepping")
    return signature(where, *(number(where, item) for item in numbers))


def default_policy(mode: SevMode) -> int:
    """The policy of a guest that none is given for."""
    plain = DEFAULT_POLICY | (POLICY_ES if mode is SevMode.SEV_ES else 0)
    return DEFAULT_SNP_POLICY if mode is SevMode.SEV_SNP else plain


def check_policy(where: str, mode: SevMode, policy: int) -> int:
    """The policy, if a guest can be launched with it.

    Raises:
        MeasureError: it has bits that there are not, or lacks one that has to be there.
    """
    if mode is not SevMode.SEV_SNP:
        if policy > MAX_POLICY:
            raise MeasureError(f"{where}: policy {policy:#x} has more than 32 bits; QEMU does not start so")
        return policy
    if not policy & SNP_POLICY_ONE:
        what = f"policy {policy:#x} lacks bit 17, which every SEV-SNP guest has"
        raise MeasureError(f"{where}: {what}; write policy={policy | SNP_POLICY_ONE:#x}")
    if policy & ~SNP_POLICY_KNOWN:
        what = f"policy {policy:#x} has bits {policy & ~SNP_POLICY_KNOWN:#x}, which KVM refuses"
        raise MeasureError(f"{where}: {what}; write policy={policy & SNP_POLICY_KNOWN:#x}")
    return policy


def features_of(mode: SevMode, guest: OptionValue, host: SevHost) -> tuple[int, tuple[str, ...]]:
    """SEV_FEATURES, and what was assumed.

    Args:
        guest: the guest object, or what stands for it; settings that turn bits on are taken out of it.

    Raises:
        MeasureError: it turns on what the host does not, or plain SEV is given what it does not measure.
    """
    if mode is SevMode.SEV:
        if host.features is not None:
            what = "plain SEV measures no vCPU, so nothing depends on it; leave it out"
            raise MeasureError(f"--host sev-features={host.features:#x}: {what}")
        return 0, ()
    asked = sum(bit for key, bit in table.FEATURE_SETTINGS.items() if guest.switch(key))
    base = SEV_FEATURES["SNPActive"] if mode is SevMode.SEV_SNP else 0
    if host.features is None:
        features = base | asked
        debug = features | SEV_FEATURES["DebugSwap"]
        how = "=N where KVM does" if debug == features else f"={debug:#x} where KVM has debug_swap on"
        text = (
            f"SEV_FEATURES {features:#x} assumed; a host that turns more on measures another value: "
            f"give --host sev-features{how}"
        )
        return features, (text,)
    if asked & ~host.features:
        what = f"it turns on {asked:#x}, --host sev-features={host.features:#x} lacks it"
        raise MeasureError(f"{guest.option} {guest.text}: {what}; add the bit")
    return host.features, ()


def igvm_features(mode: SevMode, guest: OptionValue, host: SevHost) -> tuple[int, tuple[str, ...]]:
    """SEV_FEATURES of a guest from an IGVM file, as far as they are stated; the file has the last word.

    There is nothing to say of what was assumed before the file is read.

    Raises:
        MeasureError: the guest is not one with SEV-SNP, or its object turns bits on, which QEMU refuses.
    """
    if mode is not SevMode.SEV_SNP:
        what = f"{mode.value} from an IGVM file is not modelled"
        raise MeasureError(f"{guest.option} {guest.text}: {what}; use sev-snp, or give the firmware itself")
    for key in sorted(set(guest.settings) & set(table.FEATURE_SETTINGS)):
        if guest.switch(key):
            what = f"{key}=on: QEMU takes SEV_FEATURES from the VMSA of the IGVM file"
            raise MeasureError(f"{guest.option} {guest.text}: {what}; leave it out")
    return SEV_FEATURES["SNPActive"] if host.features is None else host.features, ()


def refuse_cpu(host: SevHost, name: str) -> None:
    """Stops where the host's facts name a CPU that is not measured.

    Args:
        name: what to call the kind of machine.

    Raises:
        MeasureError: naming the fact.
    """
    for key in ("family", "model", "stepping"):
        fact = getattr(host, key)
        if fact is not None:
            raise MeasureError(f"--host {key}={fact}: {name} measures no CPU signature; leave it out")


def signature(where: str, family: int = 0, model: int = 0, stepping: int = 0) -> CpuSignature:
    """A CPU by its numbers.

    Raises:
        MeasureError: no signature has room for them.
    """
    try:
        return CpuSignature(family, model, stepping)
    except ValueError as error:
        raise MeasureError(f"{where}: {error}; no CPU has such a signature") from None


def number(where: str, text: str) -> int:
    """A number in decimal, or in hexadecimal behind 0x; at most 64 bits.

    Raises:
        MeasureError: it is none.
    """
    # No expressions here and below, which every measurement would compile.
    hexadecimal = text.startswith(("0x", "0X"))
    digits = text[2:] if hexadecimal else text
    known, most = (_HEXADECIMAL, 16) if hexadecimal else (_DECIMAL, 20)
    well_formed = 0 < len(digits) <= most and known.issuperset(digits)
    value = int(digits, 16 if hexadecimal else 10) if well_formed else -1
    if not 0 <= value < 1 << 64:
        what = "has more than 64 bits" if well_formed else "is no number"
        raise MeasureError(f"{where}: {text!r} {what}; write for example 33 or 0x21")
    return value


def vcpu_count(where: str, text: str) -> int:
    """A number of virtual CPUs.

    Raises:
        MeasureError: it is none.
    """
    if not (0 < len(text) <= 6 and _DECIMAL.issuperset(text)) or text.startswith("0"):
        raise MeasureError(f"{where}: {text!r} is no number of vCPUs; give one from 1")
    return int(text)
