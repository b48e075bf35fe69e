"""Signed PCR policies of a UKI, its ``.pcrsig`` section: written as systemd-measure does, read strictly.

The text is a JSON object with a list for each PCR bank; an entry says for which registers it is, which key
signed, the digest of the TPM policy and the signature over that digest. The digest is always SHA-256, which
is what systemd's policy sessions use; the bank only says where the PCR values came from.

Spec: UAPI Unified Kernel Image specification, "PE sections" (.pcrsig); systemd 252 src/boot/measure.c
verb_sign; TCG TPM 2.0 Library part 3 section 23.16 (TPM2_PolicyAuthorize: the signature covers
``H(approvedPolicy || policyRef)``, and policyRef is empty here).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..document import Fields, parse_json
from ..errors import FormatError, VerifyError
from .tpm2 import HASHES, PCR_COUNT

# Banks in the order that systemd-measure writes them.
BANKS = tuple(HASHES.values())
_POLICY_SIZE = _FINGERPRINT_SIZE = hashlib.sha256().digest_size
# Ours: four banks of as many phases as anybody signs take some 10 KiB.
MAX_SIZE = 256 << 10
_MIN_BITS = 2048


@dataclass(frozen=True, kw_only=True)
class PcrSignature:
    """One entry: a policy that a key approved.

    Attributes:
        bank: of the PCR values behind the policy, such as ``sha256``.
        registers: PCR indexes, ascending.
        fingerprint: of the key, see ``fingerprint``.
        policy: digest of the policy, from PolicyPCR.
        signature: RSASSA-PKCS1-v1_5 with SHA-256 over ``policy``.
    """

    bank: str
    registers: tuple[int, ...]
    fingerprint: bytes
    policy: bytes
    signature: bytes


def fingerprint(key: rsa.RSAPublicKey) -> bytes:
    """How entries name a key: SHA-256 of its RSAPublicKey in DER, not of a SubjectPublicKeyInfo.

    Spec: systemd 252 src/shared/openssl-util.c pubkey_fingerprint (i2d_PublicKey); RFC 8017 appendix A.1.1.
    """
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.PKCS1)).digest()


def sign(key: rsa.RSAPrivateKey, bank: str, registers: Iterable[int], policy: bytes) -> PcrSignature:
    """An entry that approves ``policy``; the same key and policy always give the same bytes.

    Raises:
        FormatError: the bank, a register, the digest's size or the key's size is not one that entries have.
    """
    if key.key_size < _MIN_BITS:
        raise FormatError("PCR signature", f"key of {key.key_size} bits, at least {_MIN_BITS} are needed")
    entry = PcrSignature(
        bank=bank,
        registers=tuple(registers),
        fingerprint=fingerprint(key.public_key()),
        policy=policy,
        signature=key.sign(policy, padding.PKCS1v15(), hashes.SHA256()),
    )
    _check(entry, "PCR signature")
    return entry


def verify(entry: PcrSignature, key: rsa.RSAPublicKey, source: str = "PCR signature") -> None:
    """Returns if ``key`` approved the entry's policy.

    Raises:
        VerifyError: the entry names another key, or the signature is not over this policy.
    """
    found = fingerprint(key)
    if not hmac.compare_digest(found, entry.fingerprint):
        what = f"pkfp is {entry.fingerprint.hex()}, the key's is {found.hex()}; take the key that signed"
        raise VerifyError(f"{source}: {what}")
    try:
        key.verify(entry.signature, entry.policy, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        policy = entry.policy.hex()
        raise VerifyError(f"{source}: the signature is not the key's over policy {policy}") from None


def render(entries: Sequence[PcrSignature]) -> bytes:
    """The section: one line of JSON, banks in a fixed order, entries of a bank in the order given.

    Raises:
        FormatError: an entry is not one that ``parse`` would read, or is there twice.
    """
    document: dict[str, list[dict[str, object]]] = {}
    for entry in entries:
        _check(entry, "PCR signature")
    _check_unique(entries, "PCR signature")
    for bank in BANKS:
        rows = [_row(entry) for entry in entries if entry.bank == bank]
        if rows:
            document[bank] = rows
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def parse(data: bytes, source: str) -> tuple[PcrSignature, ...]:
    """The entries of a section, bank by bank as they stand there; nothing is verified yet.

    Raises:
        FormatError: not JSON of exactly this shape, or the same policy twice for a bank and key.
    """
    if len(data) > MAX_SIZE:
        raise FormatError(source, f"{len(data)} bytes, at most {MAX_SIZE} are read")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise FormatError(source, "it is not ASCII") from None
    top = Fields.of(parse_json(text, source), source)
    found: list[PcrSignature] = []
    for bank in tuple(top.values):
        if bank not in BANKS:
            raise FormatError(source, f"bank {ascii(bank)[:40]} is not one of {', '.join(BANKS)}")
        found += [_entry(bank, item) for item in top.objects(bank)]
    _check_unique(found, source)
    return tuple(found)


def _row(entry: PcrSignature) -> dict[str, object]:
    return {
        "pcrs": list(entry.registers),
        "pkfp": entry.fingerprint.hex(),
        "pol": entry.policy.hex(),
        "sig": base64.b64encode(entry.signature).decode("ascii"),
    }


def _entry(bank: str, fields: Fields) -> PcrSignature:
    registers = fields.items("pcrs")
    entry = PcrSignature(
        bank=bank,
        registers=tuple(each for each in registers if isinstance(each, int) and not isinstance(each, bool)),
        fingerprint=fields.hexadecimal("pkfp", _FINGERPRINT_SIZE),
        policy=fields.hexadecimal("pol", _POLICY_SIZE),
        signature=_base64(fields.text("sig"), fields.source),
    )
    fields.finish()
    if len(entry.registers) != len(registers):
        raise FormatError(fields.source, "'pcrs' holds something that is no number")
    _check(entry, fields.source)
    return entry


def _base64(text: str, source: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    # The decoder lets bits through that no encoder sets; one signature has one spelling here.
    if not data or base64.b64encode(data).decode("ascii") != text:
        raise FormatError(source, "'sig' is not base64 in its usual alphabet, padded")
    return data


def _check(entry: PcrSignature, source: str) -> None:
    registers = entry.registers
    if entry.bank not in BANKS:
        raise FormatError(source, f"bank {entry.bank!r} is not one of {', '.join(BANKS)}")
    if (
        not registers
        or list(registers) != sorted(set(registers))
        or not set(registers) <= set(range(PCR_COUNT))
    ):
        what = f"PCRs {ascii(registers)[:80]}, expected some of 0 to {PCR_COUNT - 1}, ascending, each once"
        raise FormatError(source, what)
    for name, value, size in (
        ("policy", entry.policy, _POLICY_SIZE),
        ("fingerprint", entry.fingerprint, _FINGERPRINT_SIZE),
    ):
        if len(value) != size:
            raise FormatError(source, f"{name} of {len(value)} bytes, expected {size}")
    if not _MIN_BITS // 8 <= len(entry.signature) <= 512:
        what = f"signature of {len(entry.signature)} bytes, expected {_MIN_BITS // 8} to 512"
        raise FormatError(source, what)


def _check_unique(entries: Sequence[PcrSignature], source: str) -> None:
    seen = {(entry.bank, entry.registers, entry.fingerprint, entry.policy) for entry in entries}
    if len(seen) != len(entries):
        raise FormatError(source, "a policy is there twice for the same bank, registers and key")
