"""Who has a connection to the attestation service, who gives way, and who may have a quote."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass

from journal import log

# Each has a thread, of which the unit's TasksMax allows twice as many.
MAX_CONNECTIONS = 16
MAX_PER_CLIENT = 4
# Quotes, which make the TPM work: so many at once, and one more in so many seconds, for each client.
BURST, REFILL = 10, 2.0
MAX_CLIENTS = 256
# For the thread of a connection that makes room to end; its socket is shut down, so nothing holds it up.
ROOM_TIME = 3.0


@dataclass(eq=False)
class Place:
    """Of a connection, from when it is taken until its thread ends.

    Attributes:
        busy: a request is there and not answered yet, so nobody else gets the place.
        lost: somebody else gets it.
    """

    client: str
    plain: socket.socket
    busy: bool = False
    lost: bool = False


class Clients:
    """Which connections there are, and when each client last asked for a quote."""

    def __init__(self) -> None:
        # Sockets of places are shut down and closed under it, so none is shut down that is closed.
        self._lock = threading.Condition()
        self._places: list[Place] = []
        self._buckets: dict[str, tuple[float, float]] = {}

    def enter(self, client: str, plain: socket.socket) -> Place | None:
        """A place for one more connection; where all are taken, that of one which is not busy.

        Waits until the thread of that one is done, so there are never more of them than places.
        """
        with self._lock:
            if sum(place.client == client for place in self._places) >= MAX_PER_CLIENT:
                return None
            if len(self._places) >= MAX_CONNECTIONS:
                if not self._displace(client):
                    return None
                if not self._lock.wait_for(lambda: len(self._places) < MAX_CONNECTIONS, ROOM_TIME):
                    return None
            place = Place(client, plain)
            self._places.append(place)
            return place

    def _displace(self, newcomer: str) -> bool:
        """Ends the oldest connection that is not busy, of the client that has most; whether there is one.

        Who has fewer than the newcomer keeps them.
        """
        held = Counter(place.client for place in self._places)
        idle = [place for place in self._places if not (place.busy or place.lost)]
        found = max(idle, key=lambda place: held[place.client], default=None)
        if found is None or held[found.client] < held[newcomer]:
            return False
        found.lost = True
        log(found.client, 0, f"makes room for {newcomer}")
        # Whoever reads or writes it finds it ended; where the other side has done so already, this fails.
        with contextlib.suppress(OSError):
            found.plain.shutdown(socket.SHUT_RDWR)
        return True

    def begin(self, place: Place) -> None:
        """Notes that a request is there.

        Raises:
            ConnectionAbortedError: too late.
        """
        with self._lock:
            if place.lost:
                raise ConnectionAbortedError("somebody else has its place")
            place.busy = True

    def end(self, place: Place) -> None:
        """Notes that it is answered; the other side may take its time to say good-bye."""
        with self._lock:
            place.busy = False

    def leave(self, place: Place) -> None:
        """Closes and forgets a connection."""
        with self._lock:
            self._places.remove(place)
            self._lock.notify()
            place.plain.close()

    def may_ask(self, client: str) -> bool:
        """Whether a client may have a quote now."""
        now = time.monotonic()
        with self._lock:
            tokens, at = self._buckets.pop(client, (float(BURST), now))
            tokens = min(float(BURST), tokens + (now - at) / REFILL)
            allowed = tokens >= 1
            self._buckets[client] = (tokens - 1 if allowed else tokens, now)
            while len(self._buckets) > MAX_CLIENTS:
                del self._buckets[next(iter(self._buckets))]
            return allowed


def group(address: str) -> str:
    """Whom an address is counted for: an IPv4 address, or the 64 bits of an IPv6 network (RFC 6177)."""
    packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]) if ":" in address else b""
    if packed[:12] == bytes(10) + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return f"{socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8))}/64" if packed else address
