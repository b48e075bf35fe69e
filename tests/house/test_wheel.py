"""The lower rooms are a package of their own: they measure where nothing of the build is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

# What a measurement may not need: the build's own packages, and everything above `golden` and `vmm`.
FORBIDDEN = ("doit", "jinja2", "yaml", "recipes.steps", "recipes.schema", "recipes.reader", "recipes.sources")
PROGRAM = f"""
import importlib, importlib.abc, pkgutil, sys

class Forbid(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if f"{{name}}.".startswith(tuple(f"{{item}}." for item in {FORBIDDEN!r})):
            raise ImportError(f"{{name}} must not be needed here")

sys.meta_path.insert(0, Forbid())
sys.path.insert(0, sys.argv[1])
"""
IMPORTS = """
for room in ("formats", "measure", "golden", "vmm"):
    package = importlib.import_module(f"recipes.{room}")
    assert package.__file__.startswith(sys.argv[1]), package.__file__
    for module in pkgutil.iter_modules(package.__path__, f"recipes.{room}."):
        importlib.import_module(module.name)
"""
# A recorded boot, replayed to the PCRs that its TPM held.
REPLAY = """
from tests.vectors.test_pcr import check_pcrs
check_pcrs("q35-512m-1cpu-secureboot")
assert "recipes.measure.boot" in sys.modules
"""


def run(folder: Path, program: str) -> None:
    """Runs a program with the lower rooms alone; the tests and their vectors are lent to it."""
    upper = ("steps", "sources", "images", "kernels", "disks", "schema", "commands")
    others = ("reader.py", "bootstrap.py", "__pycache__")
    shutil.copytree(ROOT / "recipes", folder / "recipes", ignore=shutil.ignore_patterns(*upper, *others))
    (folder / "tests").symlink_to(ROOT / "tests")
    command = [sys.executable, "-P", "-c", PROGRAM + program, str(folder)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    run(tmp_path, IMPORTS)


def test_a_boot_can_be_measured(tmp_path: Path) -> None:
    run(tmp_path, REPLAY)
