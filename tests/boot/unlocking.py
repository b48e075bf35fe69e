"""What a boot says about its encrypted volume."""

from __future__ import annotations

import re

from recipes.golden.report import BootReport, is_complete, parse_report

from .support import Run

_FATAL = b"goldsmith: FATAL: "
_STOPPED = b"Kernel panic"


def is_over(console: bytes) -> bool:
    """Whether the boot has come to its report, or to its end."""
    return is_complete(console) or (_FATAL in console and _STOPPED in console)


def report(run: Run) -> BootReport:
    """The report of a boot that came up."""
    return parse_report(run.console, "console")


def opened(run: Run) -> tuple[str, str, str]:
    """Who gave the key, what was made of it, and how many boots the volume remembers."""
    found = report(run)
    (volume,) = found.volumes
    return volume.provider, volume.result, found.facts["boots"]


def failure(run: Run) -> str:
    """Why a boot ended."""
    found = re.findall("goldsmith: FATAL: (.*)", run.text)
    assert len(found) == 1, run.text[-3000:]
    return str(found[0])
