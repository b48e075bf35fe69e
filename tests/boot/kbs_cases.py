"""What brokers do wrong, one thing to a volume, and what the unlock driver makes of it.

Every volume has a URL of its own. Behind it stands a broker that is attacked, and then is as it should be;
what differs between two tries is the one thing that the case names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from recipes.broker.config import BrokerConfig
from recipes.broker.limits import Rate
from recipes.broker.policy import VolumeRule

from . import kbs_attacks as attacks
from .kbs_attacks import Attack
from .kbs_host import GATEWAY, Lab

# A real broker with one thing wrong; None where it does not even run.
Spoil = Callable[[Lab, str, BrokerConfig], BrokerConfig | None]

# What differs from boot to boot in what somebody says.
PARTS = {"<digest>": "[0-9a-f]{64}", "<port>": "[0-9]+", "<base64>": "[A-Za-z0-9+/]+=*"}
# Seconds of a guest that asks again: after 1, 2 and 4 of them, so four times in all. And of one that waits,
# longer than its provider has for one try, so that this one says itself what it waited for.
AGAIN, LONG = 15, 22
DENIED = (20, "denied", "denied by kbs(20); this machine or image is not the one the key is for")
WELL = "see whether the broker and the network are well"
USED = "the broker answers 401: session: unknown or used already; begin with a new challenge"
TWICE = "the broker forgot the session twice; see whether two brokers answer at the URL"
UNKNOWN = "the broker answers 403: ak: not enrolled (its name is 000b<digest>) attestation key: <base64>"
NONCE = "the broker answers 403: nonce: expected <digest>, got <digest>"
PLAIN = "is not as the protocol has it: it is not one line of JSON with schema 1; is the URL a broker's?"


class Lane(Enum):
    """When a case is tried: the pauses of one lane are time for another.

    The cases of a lane come one after the other, but those that wait for an answer all wait at once.
    """

    ROW = "row"
    AGAIN = "again"
    ALSO = "also"
    WAITS = "waits"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A broker that is attacked, and what a guest says then.

    Attributes:
        words: what provider kbs says, with names of :data:`PARTS`; its lines are joined by blanks, each of
            them once.
        attack: what a server with the broker's own certificate does in its place.
        spoil: what is wrong with the broker itself.
        first: the volume is opened once before the attack, which needs what was said then.
        outcome: exit code of the driver, result in its record, and reason.
    """

    words: str
    attack: Attack | None = None
    spoil: Spoil | None = None
    first: bool = False
    outcome: tuple[int, str, str] = DENIED
    lane: Lane = Lane.ROW
    format: str = "never"
    total_timeout: int = 60


def _later(
    words: str,
    lane: Lane = Lane.AGAIN,
    *,
    attack: Attack | None = None,
    spoil: Spoil | None = None,
    first: bool = False,
) -> Case:
    """A case that a guest waits for: the next try may be better, until there is no time left."""
    seconds = LONG if lane is Lane.WAITS else AGAIN
    return Case(
        words=words,
        attack=attack,
        spoil=spoil,
        first=first,
        outcome=(10, "temporary", f"no key within {seconds} s, still not now: kbs; see the kernel log"),
        lane=lane,
        total_timeout=seconds,
    )


def _other_ca(lab: Lab, name: str, config: BrokerConfig) -> BrokerConfig:
    """A CA with the same name, and another key."""
    certificate, key = lab.stranger.server(GATEWAY, file=name)
    return replace(config, certificate=certificate, private_key=key)


def _other_host(lab: Lab, name: str, config: BrokerConfig) -> BrokerConfig:
    certificate, key = lab.authority.server("10.0.2.22", "broker.example", file=name)
    return replace(config, certificate=certificate, private_key=key)


def _nobody(lab: Lab, name: str, config: BrokerConfig) -> None:
    """Nobody listens at the port."""


def _other_keys(lab: Lab, name: str, config: BrokerConfig) -> BrokerConfig:
    """The attestation key of another machine is enrolled, which has the same registers."""
    return replace(config, trust=lab.strangers)


def _other_machine(lab: Lab, name: str, config: BrokerConfig) -> BrokerConfig:
    return replace(config, rules=(VolumeRule(volume=name, attestation_keys=("somebody",)),))


def _other_volume(lab: Lab, name: str, config: BrokerConfig) -> BrokerConfig:
    return replace(config, rules=(VolumeRule(volume=GOOD),))


def _one_request(lab: Lab, name: str, config: BrokerConfig) -> BrokerConfig:
    return replace(config, rate_per_client=Rate(0.001, 1))


def _no_log(lab: Lab, name: str, config: BrokerConfig) -> BrokerConfig:
    """Its disk is full, and no key is released that the log does not have."""
    return replace(config, audit=lab.full)


GOOD = "good"
CASES: Mapping[str, Case] = {
    # The broker itself, with one thing wrong.
    "other-ca": Case(
        spoil=_other_ca,
        words=f"the certificate of {GATEWAY} is not from the pinned CA: certificate signature failure",
    ),
    "other-host": Case(
        spoil=_other_host,
        words=f"the certificate of {GATEWAY} is for another name; "
        "give the broker one for the host of the URL",
    ),
    "unknown-key": Case(
        spoil=_other_keys,
        words=UNKNOWN,
    ),
    "status-403": Case(
        spoil=_other_machine,
        words="the broker answers 403: volume: status-403 is not for the attestation key machine",
    ),
    "status-404": Case(
        spoil=_other_volume, words="the broker answers 404: volume: status-404 is not kept here"
    ),
    "blank": Case(
        spoil=_other_machine,
        words="the broker answers 403: volume: blank is not for the attestation key machine",
        format="if-blank",
    ),
    "refused": _later(
        f"no connection to {GATEWAY} port <port>: Connection refused; "
        "see whether the broker runs and the network reaches it",
        spoil=_nobody,
    ),
    "status-429": _later(
        "the broker answers 429: rate: this client asks more than 0.001 times a second; wait and try again",
        Lane.ALSO,
        spoil=_one_request,
    ),
    "status-500": _later(
        "the broker answers 500: broker: something is wrong here; its log says what", Lane.ALSO, spoil=_no_log
    ),
    # Who has the broker's certificate, and stands between it and the guest.
    "status-401": _later(f"{USED} {TWICE}", attack=attacks.spent_session),
    "old-challenge": _later(f"{USED} {TWICE}", attack=attacks.old_challenge, first=True),
    "truncated": _later(
        f"the answer of {GATEWAY} failed: unexpected eof while reading; see the broker's log",
        Lane.ALSO,
        attack=attacks.truncated,
    ),
    "no-handshake": _later(
        f"the TLS handshake with {GATEWAY} took too long; {WELL}", Lane.WAITS, attack=attacks.no_handshake
    ),
    "no-answer": _later(
        f"the answer of {GATEWAY} took too long; {WELL}", Lane.WAITS, attack=attacks.no_answer
    ),
    "slow": _later(f"the answer of {GATEWAY} took too long; {WELL}", Lane.WAITS, attack=attacks.slow),
    "no-http": Case(
        attack=attacks.no_http,
        words="the answer is not HTTP as the protocol has it: no status line; is the URL a broker's?",
    ),
    "malformed": Case(attack=attacks.malformed, words=f"the answer to /v1/attest {PLAIN}"),
    "oversized": Case(
        attack=attacks.oversized,
        words="the answer is not HTTP as the protocol has it: it is too long; is the URL a broker's?",
    ),
    "replayed-quote": Case(
        attack=attacks.replayed_quote,
        first=True,
        words=NONCE,
    ),
    "stale-nonce": Case(
        attack=attacks.stale_nonce,
        first=True,
        words=NONCE,
    ),
    "own-key": Case(
        attack=attacks.own_key,
        words=NONCE,
    ),
    "old-answer": Case(
        attack=attacks.old_answer,
        first=True,
        words="the answer to /v1/attest is not as the protocol has it: the key is not encrypted for this "
        "request; is the URL a broker's?",
    ),
    "other-tpm": Case(
        attack=attacks.other_tpm,
        words=UNKNOWN,
    ),
}
