"""What a recipe says about an encrypted volume: who gives its key, and when it may be formatted."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

from ..errors import suggestion
from ..reader import Marks, Place, Text
from ..record import dataclass
from .common import Word

# Hosts in URLs are names or addresses; what comes behind the port is the protocol's, not the recipe's.
Url = Annotated[
    str, Text(r"https://([A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?/?", "https://broker.example:8443")
]
# Files that a person brings; relative to the project.
FilePath = Annotated[
    str, Text(r"([A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*", "keys/broker-ca.pem")
]
ProgramPath = Annotated[str, Text(r"usr/[A-Za-z0-9_./-]+", "usr/bin/site-key")]
VolumeName = Annotated[str, Text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "data")]
MachineName = Annotated[str, Text(r"[!-~]{1,128}", "q35-1cpu-512m-tis")]

# What a signature in the UKI speaks of. PCR 4 cannot be among it: it holds the UKI and with it the
# signature. PCR 12 has command lines from outside: with it no `rdinit=` that a host adds gets the key.
SIGNED_REGISTERS = (7, 11, 12)
# What the helper raises a counter by at once (initrd/helpers/tpm2_nv.c).
MAX_RELEASE = 1000
# The same for machines without Secure Boot; nothing keeps other programs out there.
INSECURE_REGISTERS = (11, 12)


class FormatPolicy(Enum):
    """When the initramfs may make a new file system."""

    NEVER = "never"
    IF_BLANK = "if-blank"
    ALWAYS = "always"


class VolumeHeader(Enum):
    """What stands in front of the encrypted data: a LUKS2 header, or nothing that a host could write."""

    LUKS2 = "luks2"
    NONE = "none"


class VolumeIntegrity(Enum):
    """What authenticates the encrypted data."""

    NONE = "none"
    HMAC_SHA256 = "hmac-sha256"


class TpmSealing(Enum):
    """What a TPM's policy speaks of: whatever our key signed for PCR 11, or the registers' own values."""

    SIGNED = "signed"
    LITERAL = "literal"


class SnpField(Enum):
    """What an SEV-SNP derived key is mixed with. Spec: SEV-SNP ABI 1.55, MSG_KEY_REQ GUEST_FIELD_SELECT."""

    POLICY = "policy"
    IMAGE_ID = "image-id"
    FAMILY_ID = "family-id"
    MEASUREMENT = "measurement"


# No field covers the key that signs an ID block, so a host can make its own; and a guest that may be debugged
# has the same measurement.
SNP_NEEDED = (SnpField.MEASUREMENT, SnpField.POLICY)


class SnpRoot(Enum):
    """Which key of the processor a derived key comes from. Spec: the same, ROOT_KEY_SELECT."""

    VCEK = "vcek"
    VMRK = "vmrk"


@dataclass(frozen=True, kw_only=True)
class Tpm2Spec:
    """Options of provider ``tpm2``.

    Attributes:
        pcrs: registers of the policy. Signed ones are 7, 11 and 12: what PCR 11 holds is public and any
            program can extend it likewise, so only with PCR 7 and Secure Boot it means this image, and only
            with PCR 12 it means its own command line.
        release: with a signed policy, the number of this release; an older one than was ever booted well is
            refused. 0 lets every signed release open the volume.
    """

    policy: TpmSealing = TpmSealing.SIGNED
    pcrs: tuple[int, ...] | None = None
    release: int = 0

    @property
    def registers(self) -> tuple[int, ...]:
        """The policy's registers, ascending."""
        given = self.pcrs
        if given is None:
            given = SIGNED_REGISTERS if self.policy is TpmSealing.SIGNED else ()
        return tuple(sorted(given))


class TeeReport(Enum):
    """Whose report vouches for a TPM's attestation key: nobody's, or that of AMD SEV-SNP."""

    NONE = "none"
    SNP = "snp"


@dataclass(frozen=True, kw_only=True)
class KbsSpec:
    """Options of provider ``kbs``: the broker, the one CA that may certify it, the volume's name there.

    Attributes:
        machine: of the golden manifest; any that the broker's rule allows where it is empty.
        activate: prove the attestation key by the endorsement certificate; otherwise the broker knows it.
        tee: prove it by the report of a TEE, instead. Spec-only.
    """

    url: Url
    ca: FilePath
    volume: VolumeName = "data"
    machine: MachineName | None = None
    activate: bool = False
    tee: TeeReport = TeeReport.NONE


@dataclass(frozen=True, kw_only=True)
class ExecSpec:
    """Options of provider ``exec``: the program of a site, from a package of the initramfs."""

    program: ProgramPath


@dataclass(frozen=True, kw_only=True)
class SnpSpec:
    """Options of provider ``snp-derived-key``.

    Attributes:
        guest_svn: mixed in as well, and no more than the SVN of the launch's ID block.
        tcb_version: mixed in as well, and no more than the processor's own; the 64 bits of TCB_VERSION.
    """

    fields: tuple[SnpField, ...] = SNP_NEEDED
    guest_svn: int | None = None
    tcb_version: int | None = None
    root: SnpRoot = SnpRoot.VCEK
    vmpl: int = 0


class CcaField(Enum):
    """What a sealing key of Islet is mixed with. Spec: Islet, sealing key of the RSI, flags."""

    KEY = "key"
    RIM = "rim"
    REALM_ID = "realm-id"


@dataclass(frozen=True, kw_only=True)
class CcaSpec:
    """Options of provider ``cca-sealing-key``.

    Attributes:
        svn: mixed in as well, and no more than that of the realm's metadata.
    """

    fields: tuple[CcaField, ...] = (CcaField.REALM_ID,)
    svn: int | None = None


@dataclass(frozen=True, kw_only=True)
class UnlockSpec:
    """How an encrypted volume is opened.

    Attributes:
        unlock: providers in the order they are asked.
        header: ``luks2`` where a provider's key is a passphrase, ``none`` for a volume key; where it is not
            said, what the providers can give decides.
        timeout: seconds until the volume must be open; ``provider_timeout`` those of one run of a provider.
        escrow: public key, PEM; the key of a new volume is shown on the console encrypted to it.
    """

    unlock: tuple[Word, ...]
    header: VolumeHeader | None = None
    timeout: int = 60
    provider_timeout: int = 30
    tpm2: Tpm2Spec | None = None
    kbs: KbsSpec | None = None
    exec: ExecSpec | None = None
    snp: SnpSpec | None = None
    cca: CcaSpec | None = None
    escrow: FilePath | None = None


# The key of a volume that has options for a provider, and that provider.
OPTIONS = {
    "tpm2": "tpm2",
    "kbs": "kbs",
    "exec": "exec",
    "snp": "snp-derived-key",
    "cca": "cca-sealing-key",
}
_NEEDED = ("kbs", "exec")


def check_unlock(marks: Marks, place: Place, spec: UnlockSpec, root: Path) -> None:
    """Notes providers that are not there, and options that do not fit the providers."""
    known = [path.name for path in (root / "initrd" / "unlock.d").iterdir() if path.is_file()]
    if not spec.unlock:
        marks.add((*place, "unlock"), f"{_dotted(place)}.unlock: the list is empty; name a provider")
    for index, name in enumerate(spec.unlock):
        if name not in known:
            what = f"there is no provider initrd/unlock.d/{name}{suggestion(name, known)}"
            marks.add((*place, "unlock", index), what)
        elif name in spec.unlock[:index]:
            marks.add((*place, "unlock", index), f"provider {name} is listed twice")
    for key, name in OPTIONS.items():
        given = getattr(spec, key) is not None
        if given and name not in spec.unlock:
            what = f"{_dotted(place)}.{key} is for provider {name}, which is not in unlock; add it there"
            marks.add((*place, key), what)
        elif not given and key in _NEEDED and name in spec.unlock:
            marks.add((*place, "unlock"), f"provider {name} needs {_dotted(place)}.{key}")
    _check_options(marks, place, spec)
    _check_times(marks, place, spec)


def _check_options(marks: Marks, place: Place, spec: UnlockSpec) -> None:
    if spec.tpm2 is not None:
        _check_tpm2(marks, (*place, "tpm2"), spec.tpm2)
    if spec.snp is not None:
        _check_snp(marks, (*place, "snp"), spec.snp)
    if spec.cca is not None:
        _check_fields(marks, (*place, "cca"), spec.cca.fields)
        _check_number(marks, (*place, "cca", "svn"), spec.cca.svn, 64)
    if spec.kbs is not None and spec.kbs.activate and spec.kbs.tee is not TeeReport.NONE:
        what = "activate and tee exclude each other, because a broker trusts one kind of proof; remove one"
        marks.add((*place, "kbs", "tee"), f"{_dotted(place)}.kbs: {what}")
    if spec.kbs is not None and isinstance(spec.kbs.url, str):
        port = spec.kbs.url.rstrip("/").rpartition(":")[2]
        if port.isdigit() and int(port) > 65535:
            marks.add((*place, "kbs", "url"), f"port {port} is not 1 to 65535")


def _check_times(marks: Marks, place: Place, spec: UnlockSpec) -> None:
    for key in ("timeout", "provider_timeout"):
        check_seconds(marks, (*place, key), getattr(spec, key))
    if spec.provider_timeout > spec.timeout:
        what = f"provider_timeout {spec.provider_timeout} is more than timeout {spec.timeout}"
        marks.add((*place, "provider_timeout"), f"{what}, which is for all; write less")


def check_format(marks: Marks, place: Place, spec: UnlockSpec, policy: FormatPolicy) -> None:
    """Notes a provider that cannot open what the policy leaves it."""
    if "tpm2" in spec.unlock and policy is not FormatPolicy.IF_BLANK:
        what = f"format {policy.value}: a TPM knows the volumes that it formatted, and no others"
        marks.add((*place, "format"), f"{what}; use format if-blank with tpm2, or another provider")


def check_seconds(marks: Marks, place: Place, value: int) -> None:
    """Notes a number of seconds that no boot should wait."""
    if not 1 <= value <= 3600:
        marks.add(place, f"{_dotted(place)}: {value} is not 1 to 3600 seconds")


def _check_snp(marks: Marks, place: Place, spec: SnpSpec) -> None:
    if not 0 <= spec.vmpl <= 3:
        marks.add((*place, "vmpl"), f"vmpl {spec.vmpl} is not 0 to 3")
    _check_fields(marks, place, spec.fields)
    _check_number(marks, (*place, "guest_svn"), spec.guest_svn, 32)
    _check_number(marks, (*place, "tcb_version"), spec.tcb_version, 64)
    missing = [field.value for field in SNP_NEEDED if field not in spec.fields]
    if missing:
        what = f"without {missing[0]} a host gets the same key with a guest of its own; add it"
        marks.add((*place, "fields"), what)


def _check_fields(marks: Marks, place: Place, fields: tuple[SnpField, ...] | tuple[CcaField, ...]) -> None:
    for index, field in enumerate(fields):
        if field in fields[:index]:
            marks.add((*place, "fields", index), f"{field.value} is listed twice")


def _check_number(marks: Marks, place: Place, value: int | None, bits: int) -> None:
    if value is not None and not 1 <= value < 1 << bits:
        marks.add(place, f"{place[-1]} {value} is not 1 to 2**{bits}-1")


def _check_tpm2(marks: Marks, place: Place, spec: Tpm2Spec) -> None:
    given = spec.pcrs or ()
    for index, register in enumerate(given):
        if register > 23:
            marks.add((*place, "pcrs", index), f"PCR {register}: a TPM has 0 to 23")
        elif register in given[:index]:
            marks.add((*place, "pcrs", index), f"PCR {register} is listed twice")
    if spec.policy is TpmSealing.SIGNED and spec.registers not in (SIGNED_REGISTERS, INSECURE_REGISTERS):
        what = (
            "a signature in the UKI speaks of PCR 7, 11 and 12; [11, 12] is for machines without Secure Boot"
        )
        marks.add((*place, "pcrs"), what)
    if spec.policy is TpmSealing.LITERAL and not given:
        marks.add(place, f"{_dotted(place)}: policy literal needs pcrs, such as [4, 7, 11]")
    if spec.release > MAX_RELEASE:
        what = f"release {spec.release} is above {MAX_RELEASE}; the TPM's counter is raised one by one"
        marks.add((*place, "release"), what)
    if spec.policy is TpmSealing.LITERAL and spec.release:
        marks.add((*place, "release"), "release is for policy signed; a literal policy knows one boot only")


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place)
