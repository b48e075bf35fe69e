"""Open sessions: each has one nonce that is good for one try, and for a while."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from .clock import Clock
from .protocol import NONCE_SIZE
from .refusal import RefusedError
from .trust import Activation

_ID_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Session:
    """One guest's request for one volume's key.

    Attributes:
        machine: that the guest says it is, or empty.
        client: the group of addresses it came from.
        expires: on the monotonic clock.
        activation: what ``/v1/activate`` left, if it was called.
    """

    id: str
    volume: str
    machine: str
    nonce: bytes
    client: str
    expires: float
    activation: Activation | None = None


class Sessions:
    """The sessions that are open: a bounded number, in all and for each client.

    Args:
        lifetime: seconds from a challenge to the quote.
        limit: sessions in all.
        per_client: sessions of one client.
        entropy: gives so many random bytes.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        lifetime: float,
        limit: int,
        per_client: int,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._clock, self._lifetime, self._entropy = clock, lifetime, entropy
        self._limit, self._per_client = limit, per_client
        # In the order they were opened and so, all living equally long, in which they expire.
        self._open: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, volume: str, machine: str, client: str) -> Session:
        """A new session.

        Raises:
            RefusedError: too many are open; 429.
        """
        self._forget_expired()
        if len(self._open) >= self._limit:
            raise RefusedError(429, "session", f"{self._limit} are open; try again later")
        if sum(each.client == client for each in self._open.values()) >= self._per_client:
            raise RefusedError(429, "session", f"{self._per_client} of yours are open; use them or wait")
        session = Session(
            id=self._entropy(_ID_SIZE).hex(),
            volume=volume,
            machine=machine,
            nonce=self._entropy(NONCE_SIZE),
            client=client,
            expires=self._clock.monotonic() + self._lifetime,
        )
        self._open[session.id] = session
        return session

    def activate(self, name: str, make: Callable[[], Activation]) -> Activation:
        """What ``make`` gives, kept in the session.

        Raises:
            RefusedError: there is no such session (401), or it has an activation already (403).
        """
        session = self._found(self._open.get(name))
        if session.activation is not None:
            raise RefusedError(403, "session", "has its credential already; begin with a new challenge")
        activation = make()
        self._open[name] = replace(session, activation=activation)
        return activation

    def take(self, name: str) -> Session:
        """The session, which is not open any more.

        Raises:
            RefusedError: there is no such session; 401.
        """
        return self._found(self._open.pop(name, None))

    def _found(self, session: Session | None) -> Session:
        if session is None:
            raise RefusedError(401, "session", "unknown or used already; begin with a new challenge")
        if self._clock.monotonic() >= session.expires:
            what = f"expired, it lives {self._lifetime:g} s; begin with a new challenge"
            raise RefusedError(401, "session", what)
        return session

    def _forget_expired(self) -> None:
        now = self._clock.monotonic()
        for name in [each.id for each in self._open.values() if now >= each.expires]:
            del self._open[name]
