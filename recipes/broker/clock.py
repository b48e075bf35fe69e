"""Time as the broker takes it, so that a test can say what time it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Clock:
    """Two clocks.

    Attributes:
        wall: seconds since 1970, for the log and the validity of certificates.
        monotonic: seconds that only grow, for lifetimes and rates.
    """

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def now(self) -> datetime:
        """The date and time, in UTC."""
        return datetime.fromtimestamp(self.wall(), UTC)
