"""Builds that several tests look at."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.house.project import Project, checkout, make_small


@dataclass(frozen=True)
class Small:
    """A small image that was built without a disturbance, and what came out."""

    project: Project
    products: dict[str, str]
    seconds: float


@pytest.fixture(scope="session")
def workshop() -> Iterator[Path]:
    """A folder that any user may enter, gone after the tests: builds are large."""
    with tempfile.TemporaryDirectory(prefix="goldsmith-house.") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@dataclass(frozen=True)
class Full:
    """The whole image; ``sources`` are the digests of the copy's files before it was built."""

    project: Project
    sources: dict[str, str]


@pytest.fixture(scope="session")
def full(workshop: Path) -> Full:
    """The image as its users build it: `python3 dodo.py`, and keys that are made on the way."""
    project = replace(checkout(workshop / "a"), plain=False)
    found = Full(project, project.sources())
    project.build("-n", "0")
    return found


@pytest.fixture(scope="session")
def small_build(workshop: Path) -> Small:
    """A small image for tests that build often."""
    project = checkout(workshop / "small")
    make_small(project)
    project.build("keys")
    started = time.monotonic()
    project.build()
    return Small(project, project.products(), time.monotonic() - started)


@pytest.fixture
def small(small_build: Small) -> Small:
    """The small image, whole again whatever the test before did."""
    if small_build.project.products() != small_build.products:
        small_build.project.build()
    assert small_build.project.products() == small_build.products
    return small_build
