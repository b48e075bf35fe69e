"""How often somebody may ask: token buckets, one for each client and one for all of them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from .clock import Clock
from .refusal import RefusedError

# Ours: clients whose buckets are remembered; the one that asked longest ago is forgotten first.
MAX_CLIENTS = 4096
# A customer's site has at least so many bits of an address to itself. Spec: RFC 6177 section 2.
_IPV6_SITE = 64


@dataclass(frozen=True)
class Rate:
    """``per_second`` requests in the long run, ``burst`` of them at once."""

    per_second: float
    burst: int


def client_group(address: str) -> str:
    """Whom requests from an address are counted for: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, _IPV6_SITE), strict=False))


@dataclass
class _Bucket:
    tokens: float
    at: float
    told: bool = False


class RateLimiter:
    """Lets requests through, or not.

    Args:
        per_client: of each group of addresses, see ``client_group``.
        overall: of all of them together.
    """

    def __init__(self, clock: Clock, per_client: Rate, overall: Rate) -> None:
        self._clock, self._per_client, self._overall = clock, per_client, overall
        self._all = _Bucket(overall.burst, clock.monotonic())
        self._clients: dict[str, _Bucket] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def admit(self, client: str) -> Limited | None:
        """None for a request that may go on, which it is counted as."""
        now = self._clock.monotonic()
        bucket = self._clients.pop(client, None) or _Bucket(self._per_client.burst, now)
        while len(self._clients) >= MAX_CLIENTS:
            del self._clients[next(iter(self._clients))]
        self._clients[client] = bucket
        mine, every = _refilled(bucket, self._per_client, now), _refilled(self._all, self._overall, now)
        if mine and every:
            for each in (bucket, self._all):
                each.tokens -= 1
                each.told = False
            return None
        # A client that has no token left takes none from the others.
        emptied = self._all if mine else bucket
        first, emptied.told = not emptied.told, True
        whose = "all clients together ask" if mine else "this client asks"
        rate = self._overall if mine else self._per_client
        what = f"{whose} more than {rate.per_second:g} times a second; wait and try again"
        return Limited(RefusedError(429, "rate", what), first)


@dataclass(frozen=True)
class Limited:
    """A request too many; ``first`` of its row, so that a flood is one line in the log and no flood there."""

    refusal: RefusedError
    first: bool


def _refilled(bucket: _Bucket, rate: Rate, now: float) -> bool:
    """Whether the bucket has a token, after what time has put into it."""
    bucket.tokens = min(rate.burst, bucket.tokens + max(0.0, now - bucket.at) * rate.per_second)
    bucket.at = now
    return bucket.tokens >= 1
