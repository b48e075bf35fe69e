"""One pool for all boots: never more than two machines at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .support import STOP, Built, find_built

AT_ONCE = 2


@pytest.fixture(scope="session")
def built() -> Built:
    return find_built()


@pytest.fixture(scope="session")
def pool(built: Built) -> Iterator[ThreadPoolExecutor]:
    """Where boots are started; a module starts all of its own before it waits for the first."""
    with ThreadPoolExecutor(AT_ONCE) as executor:
        try:
            yield executor
        finally:
            STOP.set()
            executor.shutdown(cancel_futures=True)
