"""One pool for all boots: never more than two machines at a time, and rarely fewer.

A module of boot tests names its boots in ``BOOTS``. The first test that needs one starts the boots of all
modules that were chosen, in the order of the tests, so that no processor is idle while a test waits.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .support import STOP, Boot, Built

AT_ONCE = 2
SECONDS = pytest.StashKey[dict[str, float]]()


@pytest.fixture(scope="session")
def built() -> Built:
    return Built()


@pytest.fixture(scope="session")
def started(request: pytest.FixtureRequest, built: Built) -> Iterator[Mapping[Boot, Future[Any]]]:
    """Every boot of the session, once, also when two modules look at it."""
    modules = dict.fromkeys(
        item.module for item in request.session.items if isinstance(item, pytest.Function)
    )
    ours = [module for module in modules if module.__name__.startswith(f"{__package__}.")]
    named = [item for module in ours for item in getattr(module, "BOOTS", {}).items()]
    wanted: dict[Boot, str] = {boot: name for name, boot in named}
    seconds = request.config.stash.setdefault(SECONDS, {})

    def run(name: str, boot: Boot) -> Any:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="goldsmith-boot.") as folder:
            try:
                return boot(built, Path(folder))
            finally:
                seconds[name] = time.monotonic() - begun

    with ThreadPoolExecutor(AT_ONCE) as executor:
        try:
            yield {boot: executor.submit(run, name, boot) for boot, name in wanted.items()}
        finally:
            STOP.set()
            executor.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def boots(request: pytest.FixtureRequest, started: Mapping[Boot, Future[Any]]) -> Mapping[str, Future[Any]]:
    """The boots of a module by name."""
    return {name: started[boot] for name, boot in request.module.BOOTS.items()}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How long each boot took, for the table in README.md."""
    seconds = config.stash.get(SECONDS, {})
    if seconds:
        terminalreporter.section("boots")
    for name, value in seconds.items():
        terminalreporter.write_line(f"{name:<30} {value:6.1f} s")
