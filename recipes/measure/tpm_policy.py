"""Policies of a TPM, predicted: the digest that a policy session has after each command.

A sealed object holds the digest of its policy; it opens in a session whose commands led to the same digest.
So the policy for a boot is known as soon as its PCR values are, without any TPM.

Spec: TCG TPM 2.0 Library part 3 section 23 "Enhanced Authorization Commands", part 1 section 19.7; command
codes are those of part 2 section 6.5.2; version 1.59.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ..errors import MeasureError
from ..formats.tpm2 import Alg, PcrSelection, pack_selections
from .tpm import PCR_COUNT, register
from .trace import HashAlgorithm

_TPM_CC_POLICY_NV = 0x00000149
_TPM_CC_POLICY_SECRET = 0x00000151
_TPM_CC_POLICY_AUTHORIZE = 0x0000016A
_TPM_CC_POLICY_AUTH_VALUE = 0x0000016B
_TPM_CC_POLICY_COMMAND_CODE = 0x0000016C
_TPM_CC_POLICY_OR = 0x00000171
_TPM_CC_POLICY_PCR = 0x0000017F
# Branches that PolicyOR takes. Spec: part 2 section 10.9.5 (TPML_DIGEST).
_OR_BRANCHES = range(2, 9)

# Name of the endorsement hierarchy: its handle. Spec: part 2 section 7.4, part 1 section 16.
RH_ENDORSEMENT = (0x4000000B).to_bytes(4, "big")


class Operation(IntEnum):
    """TPM_EO: how PolicyNV compares what is in NV with its operand. Spec: part 2 section 6.8."""

    EQ = 0x0000
    NEQ = 0x0001
    SIGNED_GT = 0x0002
    UNSIGNED_GT = 0x0003
    SIGNED_LT = 0x0004
    UNSIGNED_LT = 0x0005
    SIGNED_GE = 0x0006
    UNSIGNED_GE = 0x0007
    SIGNED_LE = 0x0008
    UNSIGNED_LE = 0x0009
    BITSET = 0x000A
    BITCLEAR = 0x000B


@dataclass(frozen=True, order=True)
class PcrValue:
    """What one PCR of one bank holds."""

    algorithm: HashAlgorithm
    index: int
    value: bytes

    def __str__(self) -> str:
        return f"{register(self.index)} {self.algorithm.value}"


def pcr_selections(values: Sequence[PcrValue]) -> tuple[PcrSelection, ...]:
    """Which PCRs these are: banks in the order they first appear, registers ascending.

    Raises:
        MeasureError: there are none, one is there twice or does not exist, or a value has the wrong size.
    """
    if not values:
        raise MeasureError("PCR values: there are none, so they bind nothing; name at least one register")
    banks: dict[HashAlgorithm, list[int]] = {}
    for each in values:
        if not 0 <= each.index < PCR_COUNT:
            what = f"PCR {each.index}: there is no such register; use 0 to {PCR_COUNT - 1}"
            raise MeasureError(what)
        if len(each.value) != each.algorithm.size:
            what = f"value of {len(each.value)} bytes, expected {each.algorithm.size}; take it from that bank"
            raise MeasureError(f"{each}: {what}")
        indexes = banks.setdefault(each.algorithm, [])
        if each.index in indexes:
            raise MeasureError(f"{each}: there twice; give one value for it")
        indexes.append(each.index)
    return tuple(PcrSelection(Alg[bank.name], tuple(sorted(indexes))) for bank, indexes in banks.items())


def pcr_digest(values: Sequence[PcrValue], algorithm: HashAlgorithm) -> bytes:
    """Hash of the values as a TPM takes them: bank by bank, registers ascending.

    Spec: part 1 section 17.5 "Selecting Multiple PCR".

    Raises:
        MeasureError: as ``pcr_selections``.
    """
    chosen = {(Alg[each.algorithm.name], each.index): each.value for each in values}
    selections = pcr_selections(values)
    return algorithm.digest(*(chosen[bank.bank, index] for bank in selections for index in bank.registers))


class PolicySession:
    """A policy session: one method for each command, ``digest`` is what TPM2_PolicyGetDigest gives.

    Args:
        algorithm: of the session, not of PCR banks. systemd's sessions and tokens know SHA-256 alone.
        digest: where the session stands; a new one starts with zeros.
    """

    def __init__(self, algorithm: HashAlgorithm = HashAlgorithm.SHA256, digest: bytes | None = None) -> None:
        self.algorithm = algorithm
        self.digest = bytes(algorithm.size) if digest is None else digest
        if len(self.digest) != algorithm.size:
            what = f"digest of {len(self.digest)} bytes, expected {algorithm.size}"
            raise MeasureError(f"policy session: {what}; take that of a {algorithm.value} session")

    def policy_pcr(self, values: Sequence[PcrValue]) -> bytes:
        """Digest once these PCRs must have these values. Spec: part 3 section 23.7.

        Raises:
            MeasureError: as ``pcr_selections``.
        """
        selections = pack_selections(pcr_selections(values))
        return self._extend(_TPM_CC_POLICY_PCR, selections, pcr_digest(values, self.algorithm))

    def policy_authorize(self, key_name: bytes, policy_ref: bytes = b"") -> bytes:
        """Digest once a key must have approved the policy so far, whatever that policy was.

        Spec: part 3 section 23.16: the digest starts again from zeros.
        """
        self.digest = bytes(self.algorithm.size)
        return self._update(_TPM_CC_POLICY_AUTHORIZE, key_name, policy_ref)

    def policy_nv(self, nv_name: bytes, operand: bytes, operation: Operation, offset: int = 0) -> bytes:
        """Digest once NV data must compare with ``operand`` in this way. Spec: part 3 section 23.9.

        Args:
            nv_name: of the index as it is when the policy is used, so usually of the written one.
            operand: big endian, as NV counters are.

        Raises:
            MeasureError: there is no operand, or the offset is not a 16-bit number.
        """
        if not operand or not 0 <= offset <= 0xFFFF:
            what = f"operand of {len(operand)} bytes at offset {offset}"
            raise MeasureError(f"PolicyNV: {what}; compare at least one byte, at 0 to 65535")
        arguments = self.algorithm.digest(operand, struct.pack(">HH", offset, operation))
        return self._extend(_TPM_CC_POLICY_NV, arguments, nv_name)

    def policy_or(self, branches: Sequence[bytes]) -> bytes:
        """Digest once one of these policies must have been met. Spec: part 3 section 23.6.

        Raises:
            MeasureError: not 2 to 8 digests of this session's algorithm, or this session is in none of them.
        """
        if len(branches) not in _OR_BRANCHES or any(len(each) != self.algorithm.size for each in branches):
            sizes = ", ".join(str(len(each)) for each in branches) or "none"
            what = f"branches of {sizes} bytes, expected 2 to 8 of {self.algorithm.size}"
            raise MeasureError(f"PolicyOR: {what}; join more of them by a PolicyOR of PolicyORs")
        if self.digest not in branches and any(self.digest):
            what = f"the session stands at {self.digest.hex()}, which is no branch"
            raise MeasureError(f"PolicyOR: {what}; start a new session, or list it")
        self.digest = bytes(self.algorithm.size)
        return self._extend(_TPM_CC_POLICY_OR, *branches)

    def policy_secret(self, entity_name: bytes, policy_ref: bytes = b"") -> bytes:
        """Digest once the authorization of another entity must be known. Spec: part 3 section 23.4."""
        return self._update(_TPM_CC_POLICY_SECRET, entity_name, policy_ref)

    def policy_auth_value(self) -> bytes:
        """Digest once the object's own authorization value, a PIN, is needed. Spec: part 3 section 23.17."""
        return self._extend(_TPM_CC_POLICY_AUTH_VALUE)

    def policy_command_code(self, code: int) -> bytes:
        """Digest once the session serves one command only. Spec: part 3 section 23.11."""
        return self._extend(_TPM_CC_POLICY_COMMAND_CODE, struct.pack(">I", code))

    def _extend(self, code: int, *parts: bytes) -> bytes:
        self.digest = self.algorithm.digest(self.digest, struct.pack(">I", code), *parts)
        return self.digest

    def _update(self, code: int, name: bytes, policy_ref: bytes) -> bytes:
        """PolicyUpdate: the reference is hashed even where it is empty. Spec: part 3 section 23.2.3."""
        self._extend(code, name)
        self.digest = self.algorithm.digest(self.digest, policy_ref)
        return self.digest


@dataclass(frozen=True, kw_only=True)
class RollbackLimit:
    """The highest release that a counter may show for an image still to open what is sealed.

    Attributes:
        counter_name: name of the NV counter once it is written.
        release: of the image; after its first good boot the counter is raised to it.
    """

    counter_name: bytes
    release: int

    def operand(self) -> bytes:
        """``release`` as PolicyNV compares it: 64 bits, big endian.

        Raises:
            MeasureError: no counter reaches it.
        """
        if not 0 < self.release < 1 << 64:
            raise MeasureError(f"release {self.release}: no NV counter shows it; use 1 to 2**64-1")
        return self.release.to_bytes(8, "big")
