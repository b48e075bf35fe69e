"""``packages:IMAGE`` where the lock beside the recipe is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from recipes.schema import load_project
from recipes.steps import packages
from tests.support import ROOT


def test_a_lock_that_is_there_is_watched() -> None:
    (shared,) = load_project(ROOT).kernels
    assert packages.step(shared).task()["file_dep"] == [str(shared.lock_path)]


# The step as it is, but nothing is downloaded.
DODO = """
from pathlib import Path
from recipes.schema import load_project
from recipes.sources import lock
from recipes.steps import packages
from recipes.steps.digests import Sha256Checker
from recipes.steps.reporter import Reporter
def build(target, *, image):
    lock.load(image.lock_path)
    target.write_text("used")
packages.build = build
packages._cache_is_whole = lambda image: lambda task, values: True
DOIT_CONFIG = {"reporter": Reporter, "check_file_uptodate": Sha256Checker}
def task__kernels():
    for kernel in load_project(Path(__file__).parent).kernels:
        yield packages.step(kernel).task()
"""


def test_a_missing_lock_is_said_with_the_command_that_makes_it(tmp_path: Path) -> None:
    """Also after the step has run: then doit has words of its own for a missing file that it watches."""
    for name in ("recipes", "rootfs", "initrd"):
        shutil.copytree(
            ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copyfile(ROOT / "requirements.lock", tmp_path / "requirements.lock")
    (tmp_path / "dodo.py").write_text(DODO)

    def run() -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, "-m", "recipes.steps"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=120,
            check=False,
        )
        return ended.returncode, ended.stdout

    status, said = run()
    assert (status, said.split()[0]) == (0, "kernels/debian-arm64/resolved.lock")
    assert run() == (0, "")
    lock = tmp_path / "recipes" / "kernels" / "debian-arm64.lock"
    lock.unlink()
    hint = f"{lock}: there is no lock; run `python3 dodo.py update:debian-arm64`, which makes it"
    assert run() == (1, f"\npackages:debian-arm64 failed:\n{hint}\n")
