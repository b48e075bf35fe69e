"""The attestation report of an AMD SEV-SNP guest, read strictly.

Reading decides nothing: who signed it and what it has to say is for the key broker. What is not understood is
refused: reserved bytes that are not zero, bits of the guest's policy that have no name here, and versions of
the report or families of the processor that came later. Read on reports of four processors, Milan, Genoa and
Turin, versions 2, 3 and 5; what else the specification says is not.

Spec: AMD 56860, SEV Secure Nested Paging Firmware ABI, revision 1.58 section 7.3 (MSG_REPORT_REQ,
ATTESTATION_REPORT), section 2.2 (TCB_VERSION), section 4.3 (guest policy), chapter 10 (signatures); revision
1.55 for version 2 of the report and 1.56 for version 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Annotated

from ..binary import Struct, raw, u8, u32, u64
from ..errors import FormatError
from ..machine.snp_policy import POLICY_RESERVED
from ..machine.snp_policy import Policy as Policy

SPEC = "AMD 56860 section 7.3"
# What the signature is over: everything in front of it. Spec: ATTESTATION_REPORT, SIGNATURE.
SIGNED_SIZE = 0x2A0
# Spec: 56860 revision 1.55, 1.56 and 1.58, in this order.
VERSIONS = (2, 3, 5)
# ECDSA on P-384 with SHA-384. Spec: 56860 chapter 10, SIGNATURE_ALGO.
_ECDSA_P384_SHA384 = 1
# CPUID Fn0000_0001 EAX, extended family and family together. Spec: AMD 56860, CPUID_FAM_ID.
_ZEN_3_4, _ZEN_5 = 0x19, 0x1A
_FIRST_WITH_CPUID, _FIRST_WITH_MITIGATIONS = 3, 5


class SigningKey(IntEnum):
    """Which key signed, SIGNING_KEY; the numbers between are reserved. Spec: 56860, ATTESTATION_REPORT."""

    VCEK = 0
    VLEK = 1
    NONE = 7


# AUTHOR_KEY_EN, MASK_CHIP_KEY and the three bits of SIGNING_KEY share a word. Spec: as above.
_MASK_CHIP_KEY = 1 << 1
_SIGNING_KEY_SHIFT, _SIGNING_KEY_MASK = 2, 7
_KEY_INFO_RESERVED = 0xFFFFFFFF & ~0x1F


class TcbLayout(Enum):
    """Where the parts of a TCB_VERSION stand. Spec: 56860 section 2.2."""

    MILAN_GENOA = "Milan or Genoa"
    TURIN = "Turin"


@dataclass(frozen=True, kw_only=True)
class Tcb:
    """A TCB_VERSION: security patch levels. Spec: 56860 section 2.2.

    Attributes:
        fmc: of the boot loader's first stage, which Turin has.
    """

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    def __str__(self) -> str:
        first = "" if self.fmc is None else f"fmc={self.fmc},"
        return f"{first}bootloader={self.bootloader},tee={self.tee},snp={self.snp},microcode={self.microcode}"


def read_tcb(data: bytes, layout: TcbLayout, source: str) -> Tcb:
    """The patch levels in a TCB_VERSION of 8 bytes.

    Raises:
        FormatError: it has another size, or a reserved byte that is not zero.
    """
    if len(data) != 8:
        raise FormatError(source, f"{len(data)} bytes, a TCB_VERSION has 8", spec="AMD 56860 section 2.2")
    turin = layout is TcbLayout.TURIN
    reserved = data[4:7] if turin else data[2:6]
    if any(reserved):
        what = f"{data.hex()} has reserved bytes that are not zero, as {layout.value} has it"
        raise FormatError(source, what, spec="AMD 56860 section 2.2")
    if turin:
        return Tcb(fmc=data[0], bootloader=data[1], tee=data[2], snp=data[3], microcode=data[7])
    return Tcb(bootloader=data[0], tee=data[1], snp=data[6], microcode=data[7])


class SnpReport(Struct):
    """ATTESTATION_REPORT, 1184 bytes. Spec: 56860 section 7.3.

    TCB versions are kept as they are stored; ``tcb`` gives their parts.
    """

    version: u32
    guest_svn: u32
    policy: u64
    family_id: Annotated[bytes, raw(16)]
    image_id: Annotated[bytes, raw(16)]
    vmpl: u32
    signature_algorithm: u32
    current_tcb: Annotated[bytes, raw(8)]
    # Bits that no revision names are set on real machines, so none of them is refused.
    platform_info: u64
    key_info: u32
    reserved_0x4c: u32
    report_data: Annotated[bytes, raw(64)]
    measurement: Annotated[bytes, raw(48)]
    host_data: Annotated[bytes, raw(32)]
    id_key_digest: Annotated[bytes, raw(48)]
    author_key_digest: Annotated[bytes, raw(48)]
    report_id: Annotated[bytes, raw(32)]
    report_id_ma: Annotated[bytes, raw(32)]
    reported_tcb: Annotated[bytes, raw(8)]
    # From version 3 on; reserved before.
    cpuid_family: u8
    cpuid_model: u8
    cpuid_stepping: u8
    reserved_0x18b: Annotated[bytes, raw(21)]
    chip_id: Annotated[bytes, raw(64)]
    committed_tcb: Annotated[bytes, raw(8)]
    current_build: u8
    current_minor: u8
    current_major: u8
    reserved_0x1eb: u8
    committed_build: u8
    committed_minor: u8
    committed_major: u8
    reserved_0x1ef: u8
    launch_tcb: Annotated[bytes, raw(8)]
    # From version 5 on; reserved before.
    launch_mitigations: u64
    current_mitigations: u64
    reserved_0x208: Annotated[bytes, raw(152)]
    # Numbers of 72 bytes, the lowest first. Spec: 56860 chapter 10, ECDSA P-384 signature.
    signature_r: Annotated[bytes, raw(72)]
    signature_s: Annotated[bytes, raw(72)]
    reserved_0x330: Annotated[bytes, raw(368)]

    @property
    def flags(self) -> Policy:
        """The bits of the guest's policy."""
        return Policy(self.policy & sum(Policy))

    @property
    def signing_key(self) -> SigningKey:
        """Which key signed."""
        return SigningKey(self.key_info >> _SIGNING_KEY_SHIFT & _SIGNING_KEY_MASK)

    @property
    def is_key_masked(self) -> bool:
        """Whether the host lets no chip key sign, MASK_CHIP_KEY; the signature is zeros then."""
        return bool(self.key_info & _MASK_CHIP_KEY)

    @property
    def layout(self) -> TcbLayout:
        """Where the parts of the TCB versions stand; version 2 of the report is older than Turin."""
        return TcbLayout.TURIN if self.cpuid_family == _ZEN_5 else TcbLayout.MILAN_GENOA

    def tcb(self, field: str) -> Tcb:
        """The patch levels in a field: ``reported_tcb``, ``launch_tcb``, ``current_tcb``, ``committed_tcb``.

        Raises:
            FormatError: a reserved byte is not zero; a report that was read has none.
        """
        return read_tcb(getattr(self, field), self.layout, field.upper())

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        return self.pack()[:SIGNED_SIZE]

    @property
    def signature(self) -> tuple[int, int]:
        """R and S."""
        return int.from_bytes(self.signature_r, "little"), int.from_bytes(self.signature_s, "little")


# Fields by the offset that their names end in, and those that are reserved up to a version.
_RESERVED = {
    name: int(name.partition("_")[2], 16) for name in SnpReport.__annotations__ if "reserved" in name
}
_RESERVED_BEFORE = {
    _FIRST_WITH_CPUID: {"cpuid_family": 0x188, "cpuid_model": 0x189, "cpuid_stepping": 0x18A},
    _FIRST_WITH_MITIGATIONS: {"launch_mitigations": 0x1F8, "current_mitigations": 0x200},
}
_TCBS = {"current_tcb": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0}


def read_report(data: bytes, source: str) -> SnpReport:
    """The report that ``data`` holds.

    Raises:
        FormatError: it is not exactly one, or says something that is not understood here.
    """
    if len(data) != SnpReport.SIZE:
        raise FormatError(source, f"{len(data)} bytes, a report has {SnpReport.SIZE}", spec=SPEC)
    report = SnpReport.unpack(data, source=source)
    if report.version not in VERSIONS:
        known = ", ".join(map(str, VERSIONS))
        raise _error(source, f"version {report.version} is not known here, only {known}", 0)
    if report.signature_algorithm != _ECDSA_P384_SHA384:
        what = f"SIGNATURE_ALGO is {report.signature_algorithm}, expected {_ECDSA_P384_SHA384} (ECDSA P-384)"
        raise _error(source, what, 0x34)
    _check_reserved(report, source)
    _check_bits(report, source)
    if report.version >= _FIRST_WITH_CPUID and report.cpuid_family not in (_ZEN_3_4, _ZEN_5):
        what = f"family {report.cpuid_family:#04x} of the processor is not known here, only 0x19 and 0x1a"
        raise _error(source, what, 0x188)
    for name, offset in _TCBS.items():
        try:
            report.tcb(name)
        except FormatError as error:
            raise _error(source, f"{name.upper()} {error.what}", offset) from None
    return report


def _check_reserved(report: SnpReport, source: str) -> None:
    fields = dict(_RESERVED)
    for version, names in _RESERVED_BEFORE.items():
        fields |= names if report.version < version else {}
    for name, offset in fields.items():
        value = getattr(report, name)
        if any(value) if isinstance(value, bytes) else value:
            what = f"reserved bytes are not zero, in version {report.version} of the report"
            raise _error(source, what, offset)


def _check_bits(report: SnpReport, source: str) -> None:
    if report.policy & POLICY_RESERVED:
        what = f"POLICY {report.policy:#x} has reserved bits {report.policy & POLICY_RESERVED:#x}"
        raise _error(source, what, 0x08)
    if not report.policy & Policy.RESERVED_ONE:
        raise _error(source, f"POLICY {report.policy:#x} lacks bit 17, which is always one", 0x08)
    if report.key_info & _KEY_INFO_RESERVED:
        raise _error(source, f"key bits {report.key_info:#x} have reserved ones", 0x48)
    number = report.key_info >> _SIGNING_KEY_SHIFT & _SIGNING_KEY_MASK
    if number not in tuple(SigningKey):
        raise _error(source, f"SIGNING_KEY {number} is reserved", 0x48)


def _error(source: str, what: str, offset: int) -> FormatError:
    return FormatError(source, what, offset=offset, spec=SPEC)
