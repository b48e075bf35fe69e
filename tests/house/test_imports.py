"""Looking at the task graph loads nothing heavy: ``doit list`` stays instant."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT

# What only a build or a measurement needs; it is imported inside the functions that do.
HEAVY = ("jinja2", "cryptography", "elftools", "zstandard", "guestfs", "recipes.formats", "recipes.measure")
HEAVY_ROOMS = ("recipes.golden", "recipes.sources", "recipes.vmm", "recipes.disks")


def loaded(statement: str) -> set[str]:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statement}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def below(names: set[str], roots: tuple[str, ...]) -> list[str]:
    return sorted(
        name for name in names if any(name == root or name.startswith(f"{root}.") for root in roots)
    )


# What the disk formats that an image ships in are looked up among, with what they compress with.
DISKS = ("recipes.disks", "recipes.formats")


@pytest.mark.parametrize(
    ("statement", "needed"), [("import dodo", ()), ("import dodo; list(dodo.task__images())", DISKS)]
)
def test_the_task_graph_needs_none_of_the_heavy_packages(statement: str, needed: tuple[str, ...]) -> None:
    # Making tasks is what `doit list` does; it takes no lock when it is asked to list.
    names = loaded(f"sys.argv = ['doit', 'list']; {statement}")
    assert "recipes.steps.graph" in names
    assert below(names, tuple(name for name in HEAVY + HEAVY_ROOMS if name not in needed)) == []
    assert len(below(names, ("recipes.formats",))) <= 4


def test_preparing_the_environment_needs_the_standard_library_only() -> None:
    names = loaded("import recipes.bootstrap")
    assert below(names, ("doit", "yaml", *HEAVY, *HEAVY_ROOMS, "recipes.steps", "recipes.schema")) == []


def test_asking_for_help_loads_no_measurement() -> None:
    names = loaded("import recipes.__main__")
    assert below(names, ("doit", "jinja2", "cryptography", "zstandard", "recipes.steps")) == []
