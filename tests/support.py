"""What the tests of every room share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests" / "vectors"


def require_tool(name: str) -> str:
    """Path of a foreign program; without it the test is skipped at home and fails in CI."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed; `python3 dodo.py test` installs the test tools as root")
    pytest.skip(f"{name} is not installed")
