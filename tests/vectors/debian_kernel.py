"""The Debian package with the kernel of two recorded launches, by a lock of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recipes.errors import SpecError, ToolError
from recipes.sources import apt, lock
from recipes.sources.request import Closure, Group, Request
from recipes.steps.packages import APT_WORK, PACKAGES

LOCK = Path(__file__).parent / "kvmtool" / "debian-kernel.lock"


def debian_kernel() -> Path:
    """Path of the package in the cache; it is downloaded once.

    Where the archive no longer has it or cannot be reached, the test is skipped: nothing of ours is wrong.
    """
    wanted = lock.load(LOCK)
    (group,) = wanted.request
    request = Request(
        image="kvmtool vectors",
        recipe=LOCK.name,
        suite=wanted.suite,
        architecture=wanted.architecture,
        groups=(Group(group.group, group.packages, Closure.NONE),),
    )
    try:
        used = apt.fetch(
            wanted,
            PACKAGES,
            APT_WORK / f"vectors.{os.getpid()}",
            request=request,
            locked_only=True,
            notify=lambda text: None,
            progress=lambda done, total: None,
        )
    except (SpecError, ToolError) as error:
        pytest.skip(f"the kernel of this launch cannot be had: {error}")
    return apt.cached_path(PACKAGES, used.packages[0])
