"""What a TPM says about itself under its signature: TPMS_ATTEST, and the part of it that is a quote.

Reading decides nothing: whether the structure is a quote, fresh and signed by the right key is for
``measure.quote``.

Spec: TCG TPM 2.0 Library part 2 sections 6.2 (TPM_GENERATED), 6.9 (TPM_ST), 10.11.1 (TPMS_CLOCK_INFO),
10.12.4 (TPMS_QUOTE_INFO) and 10.12.12 (TPMS_ATTEST).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ..binary import Struct, u8, u32, u64
from .tpm2 import PcrSelection, Reader, pack_selections, read_selections, sized

# TPM_GENERATED_VALUE: 0xff and "TCG". A restricted key signs no bytes from outside that start with it.
# Spec: part 2 section 6.2, part 3 section 20.2 (TPM2_Sign).
TPM_GENERATED = 0xFF544347
# Longest TPM2B_NAME (nameAlg and SHA-512) and TPM2B_DATA (as large as a TPMT_HA). Spec: part 2 sections
# 10.4.3 and 10.5.3.
_MAX_NAME = _MAX_DATA = 2 + 64
# Ours: a quote over every bank is under 100 bytes, a certification under 300.
MAX_ATTEST = 4096


class AttestType(IntEnum):
    """TPM_ST of the structures that are attested. Spec: part 2 section 6.9."""

    NV = 0x8014
    COMMAND_AUDIT = 0x8015
    SESSION_AUDIT = 0x8016
    CERTIFY = 0x8017
    QUOTE = 0x8018
    TIME = 0x8019
    CREATION = 0x801A
    NV_DIGEST = 0x801C


class ClockInfo(Struct, endian=">"):
    """TPMS_CLOCK_INFO: milliseconds, and how often the TPM was reset or resumed. Spec: part 2 10.11.1."""

    clock: u64
    reset_count: u32
    restart_count: u32
    safe: u8


_NO_CLOCK = ClockInfo(clock=0, reset_count=0, restart_count=0, safe=1)


@dataclass(frozen=True)
class QuoteInfo:
    """TPMS_QUOTE_INFO.

    Attributes:
        selections: which PCRs.
        digest: hash of their values, in the order of the selections, by the hash of the signature.
    """

    selections: tuple[PcrSelection, ...]
    digest: bytes

    def pack(self) -> bytes:
        """The bytes of this structure."""
        return pack_selections(self.selections) + sized(self.digest)


@dataclass(frozen=True, kw_only=True)
class Attest:
    """TPMS_ATTEST.

    Attributes:
        magic: ``TPM_GENERATED`` if a TPM made it and the key is a restricted one.
        type: an ``AttestType``, or a number that is none.
        qualified_signer: qualified name of the key that signed.
        extra_data: what the caller gave to be signed too; of a quote, the nonce.
        body: the bytes of ``attested``, a union selected by ``type``.
    """

    type: int
    extra_data: bytes
    body: bytes
    magic: int = TPM_GENERATED
    qualified_signer: bytes = b""
    clock: ClockInfo = _NO_CLOCK
    firmware_version: int = 0

    def quote(self, source: str = "TPMS_ATTEST") -> QuoteInfo:
        """``attested`` of a quote.

        Raises:
            FormatError: it is not exactly one TPMS_QUOTE_INFO.
        """
        reader = Reader(self.body, f"{source} attested")
        selections = read_selections(reader)
        info = QuoteInfo(selections, reader.sized("pcrDigest", 64))
        reader.finish()
        return info

    def pack(self) -> bytes:
        """The bytes of this structure.

        Raises:
            FormatError: a part is longer than a TPM2B holds.
        """
        head = self.magic.to_bytes(4, "big") + self.type.to_bytes(2, "big")
        names = sized(self.qualified_signer) + sized(self.extra_data)
        return head + names + self.clock.pack() + self.firmware_version.to_bytes(8, "big") + self.body


def read_attest(data: bytes, source: str) -> Attest:
    """The structure in ``data``; ``body`` is not looked at.

    Raises:
        FormatError: too long, cut short, or a TPMI_YES_NO that is neither.
    """
    reader = Reader(data, source)
    if len(data) > MAX_ATTEST:
        raise reader.error(f"TPMS_ATTEST of {len(data)} bytes, at most {MAX_ATTEST} are read")
    magic = reader.number(4, "magic")
    kind = reader.number(2, "type")
    signer = reader.sized("qualifiedSigner", _MAX_NAME)
    extra_data = reader.sized("extraData", _MAX_DATA)
    start = reader.offset
    clock = ClockInfo.unpack(reader.take(ClockInfo.SIZE, "clockInfo"), source=source)
    if clock.safe not in (0, 1):
        raise reader.error(f"clockInfo safe is {clock.safe}, expected 0 or 1", start + ClockInfo.SIZE - 1)
    return Attest(
        magic=magic,
        type=kind,
        qualified_signer=signer,
        extra_data=extra_data,
        clock=clock,
        firmware_version=reader.number(8, "firmwareVersion"),
        body=reader.take(reader.left, "attested"),
    )
