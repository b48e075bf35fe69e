"""What the tests of every room share."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests" / "vectors"


def require_tool(name: str) -> str:
    """Path of a foreign program; without it the test is skipped at home and fails in CI."""
    # Some are Python's, and were installed beside this interpreter.
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(Path(sys.executable).parent)]
    path = shutil.which(name, path=":".join(places))
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed; `python3 dodo.py test` installs the test tools as root")
    pytest.skip(f"{name} is not installed")
