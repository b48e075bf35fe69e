"""The broker without its network: a request's bytes in, an answer's bytes out, and a line in the log.

Every check is made in the order of what it costs and of how much it has to believe: the session and the
attestation key before the quote, the quote's signature before the event log is even parsed.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import FormatError, ImageError, SpecError
from ..formats import eventlog
from ..formats.tpm2_public import Public, read_sized_public
from ..measure.quote import Evidence, QuoteError, Reason, Refusal, VerifiedQuote, verify_quote
from ..measure.userspace import parse_measure_log
from . import messages
from .audit import AuditError, AuditLog, Facts, Outcome
from .clock import Clock
from .config import BrokerConfig
from .keystore import KeyStore
from .limits import RateLimiter, client_group
from .policy import Expected, ReleasePolicy, VolumeRule
from .refusal import RefusedError
from .release import binding, read_point, wrap
from .sessions import Session, Sessions
from .trust import Proof

_log = logging.getLogger(__name__)
_CHALLENGE, _ACTIVATE, _ATTEST = "/v1/challenge", "/v1/activate", "/v1/attest"
# The field of a refusal by why the quote was refused; a register is a field itself.
_FIELDS = {
    Reason.KEY_ATTRIBUTES: "ak_public",
    Reason.KEY_SCHEME: "ak_public",
    Reason.SCHEME: "signature",
    Reason.SIGNATURE: "signature",
    Reason.MAGIC: "quote",
    Reason.TYPE: "quote",
    Reason.NONCE: "nonce",
    Reason.SELECTION: "selection",
    Reason.PCR_DIGEST: "quote",
    Reason.EVENT_LOG: "event_log",
}


@dataclass(frozen=True)
class Reply:
    """An answer: an HTTP status and a body of JSON."""

    status: int
    body: bytes


class Broker:
    """Answers requests.

    Args:
        audit: where lines go.
        clock: says what time it is.
        entropy: gives so many random bytes, for sessions and nonces.

    Raises:
        SpecError: the configuration does not fit together, or says too little.
        KeyFileError: a key is missing, or others can read it.
    """

    def __init__(
        self,
        config: BrokerConfig,
        audit: AuditLog,
        *,
        clock: Clock | None = None,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        config.check()
        self._clock = clock or Clock()
        self._audit, self._trust, self._keys = audit, config.trust, KeyStore(config.keys)
        rules = config.rules or _only_rule(config.keys, self._keys.volumes())
        for rule in rules:
            with self._keys.key(rule.volume):
                pass
        self._policy = ReleasePolicy(
            config.golden,
            rules,
            bank=config.bank,
            phase=config.phase,
            accept_omitted=config.accept_omitted,
        )
        for warning in self._policy.warnings:
            _log.warning("%s", warning)
        self._limiter = RateLimiter(self._clock, config.rate_per_client, config.rate)
        self._lifetime = int(config.nonce_lifetime)
        self._sessions = Sessions(
            self._clock,
            lifetime=config.nonce_lifetime,
            limit=config.sessions,
            per_client=config.sessions_per_client,
            entropy=entropy,
        )

    def admit(self, client: str) -> Reply | None:
        """None if an address may ask something now; asked before a request's body is read."""
        limited = self._limiter.admit(client_group(client))
        if limited is None:
            return None
        if limited.first:
            return self._answer(Facts("", client), lambda _: _raise(limited.refusal))
        return _refusal(limited.refusal)

    def refuse(self, client: str, refusal: RefusedError) -> Reply:
        """The answer to a request that never became one: too large, or not HTTP as the protocol has it."""
        return self._answer(Facts("", client), lambda _: _raise(refusal))

    def handle(self, method: str, path: str, body: bytes, client: str) -> Reply:
        """The answer to a request."""
        work = {_CHALLENGE: self._challenge, _ACTIVATE: self._activate, _ATTEST: self._attest}.get(path)
        if work is None:
            return self.refuse(client, RefusedError(404, "path", "unknown; use /v1/challenge"))
        if method != "POST":
            return self.refuse(client, RefusedError(400, "method", "not known here; use POST"))
        return self._answer(Facts(path.rpartition("/")[2], client), lambda facts: work(body, facts))

    def _answer(self, facts: Facts, work: Callable[[Facts], tuple[str, bytes]]) -> Reply:
        try:
            result, body = work(facts)
            outcome, reply = Outcome(result, 200), Reply(200, body)
        except RefusedError as refusal:
            outcome = Outcome("refused", refusal.status, refusal.field, refusal.reason)
            reply = _refusal(refusal)
        except ImageError as error:
            outcome, reply = Outcome("failed", 500, "", str(error)), FAILED
        try:
            self._audit.write(self._clock.now(), facts, outcome)
        except AuditError as error:
            _log.error("%s", error)
            return FAILED
        return reply

    def _challenge(self, body: bytes, facts: Facts) -> tuple[str, bytes]:
        request = messages.read_challenge(body)
        facts.volume, facts.machine = request.volume, request.machine
        expected = self._policy.expected(request.volume, request.machine)
        session = self._sessions.begin(request.volume, request.machine, client_group(facts.client))
        facts.session = session.id
        answer = messages.challenge_answer(session.id, session.nonce, self._lifetime, expected[0].selection)
        return "challenged", answer

    def _activate(self, body: bytes, facts: Facts) -> tuple[str, bytes]:
        request = messages.read_activate(body)
        facts.session = request.session
        key = _read_key(request.ak_public)
        activation = self._sessions.activate(
            request.session, lambda: self._trust.activate(key, request.ek_certificates, self._clock.now())
        )
        facts.ak = activation.identity
        return "activated", messages.activate_answer(activation.credential)

    def _attest(self, body: bytes, facts: Facts) -> tuple[str, bytes]:
        request = messages.read_attest(body)
        facts.session, facts.quote = request.session, hashlib.sha256(request.quote).hexdigest()
        session = self._sessions.take(request.session)
        facts.volume, facts.machine = session.volume, session.machine
        guest = read_point(request.ephemeral)
        key = _read_key(request.ak_public)
        proof = Proof(session.activation, request.activation, request.report, request.report_certificates)
        facts.ak = self._trust.admit(key, proof, self._clock.now())
        self._check_rule(session, facts.ak)
        expected = self._policy.expected(session.volume, session.machine)
        facts.machine = self._verify(request, session, key, expected).machine
        with self._keys.key(session.volume) as found:
            wrapped = wrap(
                found.data, guest=guest, session=session.id, volume=session.volume, nonce=session.nonce
            )
        return "released", messages.attest_answer(wrapped.ephemeral, wrapped.data)

    def _check_rule(self, session: Session, owner: str) -> None:
        allowed = self._policy.rule(session.volume).attestation_keys
        if allowed and owner not in allowed:
            raise RefusedError(403, "volume", f"{session.volume} is not for the attestation key {owner}")

    def _verify(
        self, request: messages.AttestRequest, session: Session, key: Public, expected: Sequence[Expected]
    ) -> VerifiedQuote:
        """The quote, with a log that leads to it."""
        nonce = binding(session.nonce, request.ephemeral, session.volume)
        expectations = [each.expectation for each in expected]
        evidence = Evidence(request.quote, request.signature)
        try:
            try:
                verify_quote(evidence, key, nonce, expectations)
            except QuoteError as error:
                if any(each.reason is not Reason.PCR_DIGEST for each in error.refusals):
                    raise
            # From here on it is a fresh quote by a trusted key; only the log can say which register differs.
            return verify_quote(self._with_log(evidence, request), key, nonce, expectations)
        except QuoteError as error:
            raise _quote_refusal(error) from None
        except FormatError as error:
            field = "signature" if error.source == "TPMT_SIGNATURE" else "quote"
            raise RefusedError(400, field, str(error)) from None

    def _with_log(self, evidence: Evidence, request: messages.AttestRequest) -> Evidence:
        records = self._policy.phase_records()
        try:
            log = eventlog.parse(request.event_log, "event log")
        except FormatError as error:
            raise RefusedError(400, "event_log", str(error)) from None
        if request.measure_log is not None:
            try:
                records = parse_measure_log(request.measure_log, "measurement log")
            except FormatError as error:
                raise RefusedError(400, "measure_log", str(error)) from None
        return replace(evidence, log=log, records=records)


def _raise(refusal: RefusedError) -> tuple[str, bytes]:
    raise refusal


def _refusal(refusal: RefusedError) -> Reply:
    return Reply(refusal.status, messages.refusal_answer(refusal))


def _read_key(data: bytes) -> Public:
    try:
        key = read_sized_public(data, "ak_public")
        key.public_key()
    except FormatError as error:
        raise RefusedError(400, "ak_public", error.what) from None
    return key


def _quote_refusal(error: QuoteError) -> RefusedError:
    """All that differs, under the name of the first of it."""
    first = error.refusals[0]
    rest = "; ".join(f"{each.field}: {_difference(each)}" for each in error.refusals[1:])
    what = _difference(first) + (f"; {rest}" if rest else "")
    return RefusedError(403, _field(first), what)


def _field(refusal: Refusal) -> str:
    return _FIELDS.get(refusal.reason) or refusal.field.partition(" ")[0]


def _difference(refusal: Refusal) -> str:
    return f"expected {refusal.expected}, got {refusal.found}"


def _only_rule(keys: Path, volumes: Sequence[str]) -> tuple[VolumeRule, ...]:
    """Without rules every golden machine may have the key, which is meant only where there is one key."""
    if len(volumes) > 1:
        what = f"{keys} has {len(volumes)} volumes"
        raise SpecError(f"{what}; say with --rules which machines may have which")
    return tuple(VolumeRule(volume=name) for name in volumes)


# What went wrong may be anything, the name of a file included; the log has it.
FAILED = _refusal(RefusedError(500, "broker", "something is wrong here; its log says what"))
