"""Quotes of a TPM judged: made now, by a key that can only tell the truth, over exactly the expected PCRs.

What is accepted is returned and what is refused is raised, so that forgetting to look is no way in. A refusal
says which field differs and how; where an event log comes along and replays to what was quoted, it says which
registers. A log that does not is worth nothing and is the reason itself.

Who owns the key is another question: the caller has enrolled it, activated a credential for its name, or has
it from a TEE report.

Spec: TCG TPM 2.0 Library part 3 section 18.4 (TPM2_Quote), part 1 section 31 "Attestation"; version 1.59.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..errors import MeasureError, VerifyError
from ..formats.eventlog import EventLog, EventType
from ..formats.tpm2 import HASHES, Alg, PcrSelection, show_selections
from ..formats.tpm2_attest import TPM_GENERATED, Attest, AttestType, QuoteInfo, read_attest
from ..formats.tpm2_public import Attribute, Public
from ..formats.tpm2_signature import Signature, read_signature, verify_signature
from .tpm import PcrBank, register
from .tpm_policy import PcrValue, pcr_digest, pcr_selections
from .trace import HashAlgorithm
from .userspace import MeasureLogRecord

# Ours: a nonce that is shorter could be met twice. The longest is what TPM2_Quote takes as qualifyingData:
# TPM2B_DATA, a TPMT_HA of SHA-512. Spec: part 2 section 10.4.3.
NONCE_SIZES = range(16, 67)
_SIGNING_SCHEMES = (Alg.RSASSA, Alg.RSAPSS, Alg.ECDSA)
# An attestation key was made in this TPM, cannot leave it, and signs nothing but what the TPM itself made.
# Spec: part 1 section 31.2, part 2 section 8.3.3.
_NEEDED = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.RESTRICTED
    | Attribute.SIGN
)


class Reason(Enum):
    """Why a quote is refused."""

    KEY_ATTRIBUTES = "key-attributes"
    KEY_SCHEME = "key-scheme"
    SCHEME = "scheme"
    SIGNATURE = "signature"
    MAGIC = "magic"
    TYPE = "type"
    NONCE = "nonce"
    SELECTION = "selection"
    PCR_DIGEST = "pcr-digest"
    EVENT_LOG = "event-log"
    REGISTER = "register"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One thing that is not as expected.

    Attributes:
        field: its name in TPMS_ATTEST, TPMT_SIGNATURE or TPMT_PUBLIC, or a register: ``PCR11 sha256``.
        expected: digests in hex.
        found: what the evidence has instead.
    """

    reason: Reason
    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.field} is {self.found}, expected {self.expected}"


class QuoteError(VerifyError):
    """A quote that is not accepted; ``refusals`` has every reason, and never none."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__(f"quote: {'; '.join(map(str, self.refusals))}")


@dataclass(frozen=True)
class Expectation:
    """The PCR values of one machine that would be accepted, such as those of a golden manifest's row."""

    machine: str
    values: tuple[PcrValue, ...]


@dataclass(frozen=True)
class Evidence:
    """What a guest sends.

    Attributes:
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        log: its firmware event log, and what userspace extended after that.
    """

    attest: bytes
    signature: bytes
    log: EventLog | None = None
    records: tuple[MeasureLogRecord, ...] = ()


@dataclass(frozen=True)
class VerifiedQuote:
    """A quote that was accepted, and the machine whose values it has."""

    attest: Attest
    machine: str


def verify_quote(
    evidence: Evidence, key: Public, nonce: bytes, expectations: Sequence[Expectation]
) -> VerifiedQuote:
    """The quote, if it is one that ``key`` made for ``nonce`` over the values of one of the expectations.

    Args:
        nonce: what was sent to the guest for this one quote, 16 to 66 bytes.
        expectations: all over the same registers; any one of them is accepted.

    Raises:
        QuoteError: it is not. Nothing in it is believed before the signature is; then every field that
            differs is named.
        FormatError: the bytes of the quote or of the key are none.
        MeasureError: the expectations or the nonce are not fit to be compared with.
    """
    selections = _check_expectations(nonce, expectations)
    check_attestation_key(key)
    signature = read_signature(evidence.signature, "TPMT_SIGNATURE")
    _check_signature(signature, evidence.attest, key)
    attest = read_attest(evidence.attest, "TPMS_ATTEST")
    _check_kind(attest)
    quote = attest.quote()
    algorithm = HashAlgorithm(HASHES[signature.hash])
    refusals = _fresh_and_complete(attest, quote, nonce, selections)
    if refusals:
        raise QuoteError(refusals)
    if evidence.log is not None:
        return VerifiedQuote(attest, _judge_log(evidence, quote, algorithm, expectations))
    for each in expectations:
        if pcr_digest(each.values, algorithm) == quote.digest:
            return VerifiedQuote(attest, each.machine)
    raise QuoteError([_digest_refusal(quote, pcr_digest(expectations[0].values, algorithm))])


def check_attestation_key(key: Public) -> None:
    """Returns if a quote by this key can be believed, once it is known whose key it is.

    A signing key that is not restricted signs a quote that its owner made up.

    Raises:
        QuoteError: the key's attributes or scheme do not say so.
    """
    missing = _NEEDED & ~key.attributes
    if missing or key.attributes & Attribute.DECRYPT:
        wanted = f"{_flags(_NEEDED)} and not {_flags(Attribute.DECRYPT)}"
        raise _refused(Reason.KEY_ATTRIBUTES, "objectAttributes", wanted, _flags(key.attributes))
    if key.scheme.algorithm not in _SIGNING_SCHEMES or key.scheme.hash in (Alg.NULL, Alg.SHA1):
        wanted = "RSASSA, RSAPSS or ECDSA with SHA-256 or longer"
        raise _refused(Reason.KEY_SCHEME, "scheme", wanted, _scheme(key.scheme.algorithm, key.scheme.hash))


def replay_values(
    log: EventLog, records: Sequence[MeasureLogRecord], selections: Sequence[PcrSelection]
) -> tuple[PcrValue, ...]:
    """Values that a firmware log, and then userspace's records, lead to; of the selected registers only.

    Raises:
        QuoteError: a log has no digest for a bank that is selected.
    """
    found: list[PcrValue] = []
    for selection in selections:
        algorithm = HashAlgorithm(HASHES[selection.bank])
        bank = PcrBank(algorithm, log.startup_locality)
        chosen = frozenset(selection.registers)
        for event in log.events:
            if event.pcr in chosen and event.type != EventType.EV_NO_ACTION:
                bank.extend(event.pcr, _logged(dict(event.digests), algorithm, event.pcr))
        for record in records:
            if record.pcr in chosen:
                digests = {each.algorithm: each.digest for each in record.digests}
                bank.extend(record.pcr, _logged(digests, algorithm, record.pcr))
        found += (PcrValue(algorithm, index, bank.value(index)) for index in selection.registers)
    return tuple(found)


def _logged(digests: dict[str, bytes], algorithm: HashAlgorithm, index: int) -> bytes:
    digest = digests.get(algorithm.value, b"")
    if len(digest) != algorithm.size:
        field = f"event log {register(index)}"
        raise _refused(Reason.EVENT_LOG, field, f"a {algorithm.value} digest for every event", "without one")
    return digest


def _check_expectations(nonce: bytes, expectations: Sequence[Expectation]) -> tuple[PcrSelection, ...]:
    """The one selection that all expectations share."""
    if len(nonce) not in NONCE_SIZES:
        what = f"nonce of {len(nonce)} bytes, expected {NONCE_SIZES[0]} to {NONCE_SIZES[-1]}"
        raise MeasureError(f"quote: {what}; take random bytes or a SHA-256 of what the quote is to bind")
    if not expectations:
        raise MeasureError("quote: there is nothing to expect, so nothing is accepted; name a machine")
    for each in expectations:
        if any(value.algorithm is HashAlgorithm.SHA1 for value in each.values):
            raise MeasureError(f"quote: {each.machine}: SHA-1 PCRs prove nothing; take the SHA-256 bank")
    found = [pcr_selections(each.values) for each in expectations]
    for each, selections in zip(expectations, found, strict=True):
        if selections != found[0]:
            what = f"{each.machine} has {show_selections(selections)}, {expectations[0].machine} "
            what += f"has {show_selections(found[0])}"
            raise MeasureError(f"quote: {what}; expect the same registers of every machine")
    return found[0]


def _check_signature(signature: Signature, message: bytes, key: Public) -> None:
    if (signature.scheme, signature.hash) != (key.scheme.algorithm, key.scheme.hash):
        wanted = _scheme(key.scheme.algorithm, key.scheme.hash)
        raise _refused(Reason.SCHEME, "sigAlg", wanted, _scheme(signature.scheme, signature.hash))
    try:
        verify_signature(signature, key.public_key(), message, "quote")
    except VerifyError:
        wanted = f"one by the key {key.name.hex()}"
        raise _refused(Reason.SIGNATURE, "signature", wanted, "not by it or not over these bytes") from None


def _check_kind(attest: Attest) -> None:
    if attest.magic != TPM_GENERATED:
        raise _refused(Reason.MAGIC, "magic", f"{TPM_GENERATED:#010x}", f"{attest.magic:#010x}")
    if attest.type != AttestType.QUOTE:
        raise _refused(Reason.TYPE, "type", _type_name(AttestType.QUOTE), _type_name(attest.type))


def _fresh_and_complete(
    attest: Attest, quote: QuoteInfo, nonce: bytes, selections: Sequence[PcrSelection]
) -> list[Refusal]:
    refusals = []
    if not hmac.compare_digest(attest.extra_data, nonce):
        found = attest.extra_data.hex() or "empty"
        refusals.append(Refusal(reason=Reason.NONCE, field="extraData", expected=nonce.hex(), found=found))
    if quote.selections != tuple(selections):
        refusals.append(
            Refusal(
                reason=Reason.SELECTION,
                field="pcrSelect",
                expected=show_selections(selections),
                found=show_selections(quote.selections) or "empty",
            )
        )
    return refusals


def _judge_log(
    evidence: Evidence, quote: QuoteInfo, algorithm: HashAlgorithm, expectations: Sequence[Expectation]
) -> str:
    """The machine whose values the log replays to; only a log that the quote confirms is asked."""
    assert evidence.log is not None
    replayed = replay_values(evidence.log, evidence.records, quote.selections)
    digest = pcr_digest(replayed, algorithm)
    if digest != quote.digest:
        raise _refused(
            Reason.EVENT_LOG, "event log", f"one that replays to {quote.digest.hex()}", digest.hex()
        )
    nearest: list[Refusal] = []
    for each in expectations:
        differing = _registers(each.values, replayed)
        if not differing:
            return each.machine
        if not nearest or len(differing) < len(nearest):
            nearest = differing
    raise QuoteError(nearest)


def _registers(expected: Sequence[PcrValue], replayed: Sequence[PcrValue]) -> list[Refusal]:
    found = {(each.algorithm, each.index): each.value for each in replayed}
    return [
        Refusal(
            reason=Reason.REGISTER,
            field=str(each),
            expected=each.value.hex(),
            found=found[each.algorithm, each.index].hex(),
        )
        for each in expected
        if found[each.algorithm, each.index] != each.value
    ]


def _digest_refusal(quote: QuoteInfo, expected: bytes) -> Refusal:
    return Refusal(
        reason=Reason.PCR_DIGEST, field="pcrDigest", expected=expected.hex(), found=quote.digest.hex()
    )


def _refused(reason: Reason, field: str, expected: str, found: str) -> QuoteError:
    return QuoteError([Refusal(reason=reason, field=field, expected=expected, found=found)])


def _flags(attributes: Attribute) -> str:
    names = (str(each.name).lower().replace("_", "") for each in Attribute if each in attributes)
    return "|".join(names) or "none"


def _scheme(algorithm: Alg, hash_algorithm: Alg) -> str:
    return algorithm.name if hash_algorithm is Alg.NULL else f"{algorithm.name} with {hash_algorithm.name}"


def _type_name(kind: int) -> str:
    known = next((each for each in AttestType if each == kind), None)
    return f"{kind:#06x}" if known is None else f"{kind:#06x} ({known.name})"
