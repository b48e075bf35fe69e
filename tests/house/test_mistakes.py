"""What people get wrong, as they see it on the command line: where it is, what it is, and no traceback."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.house.conftest import Small
from tests.house.project import Project


@contextmanager
def edited(path: Path, text: str) -> Iterator[None]:
    """A file with other content; afterwards as it was, or not there."""
    before = path.read_bytes() if path.exists() else None
    path.write_text(text)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def failed(project: Project, *arguments: str, status: int) -> str:
    result: subprocess.CompletedProcess[str] = project.run(*arguments)
    said = result.stdout + result.stderr
    assert "Traceback" not in said
    assert result.returncode == status, said
    return said


RECIPE = "recipes/images/debian-cvm.yaml"


@pytest.mark.parametrize("command", [[], ["list"], ["info", "debian-cvm"], ["rootfs:debian-cvm"]])
def test_every_mistake_of_a_recipe_at_once_with_line_and_column(small: Small, command: list[str]) -> None:
    text = small.project.recipe.read_text()
    recipe = yaml.safe_load(text)
    assert recipe["profile"] == "release"
    lines = text.splitlines()
    profile = next(number for number, line in enumerate(lines) if line.startswith("profile:"))
    suite = next(number for number, line in enumerate(lines) if line.strip().startswith("suite:"))
    column = lines[suite].index("trixie") + 1
    lines[profile] = "profil: release"
    lines[suite] = lines[suite].replace("trixie", "Trixie!")
    with edited(small.project.recipe, "\n".join(lines) + "\n"):
        said = failed(replace(small.project, plain=False), *command, status=3)
    assert said.startswith("ERROR: ")
    found = said.removeprefix("ERROR: ").splitlines()
    assert len(found) == 2, said
    places = {f"{RECIPE}:{profile + 1}:1:": "profile", f"{RECIPE}:{suite + 1}:{column}:": "Trixie!"}
    for line in found:
        place, _, what = line.partition(" ")
        assert places.pop(place) in what, said


def test_a_recipe_that_is_no_yaml(small: Small) -> None:
    with edited(small.project.recipe, "architecture: [x86_64\nversion: {\n"):
        said = failed(small.project, "list", status=3)
    # Where exactly depends on the parser that PyYAML was built with.
    assert re.fullmatch(rf"ERROR: {RECIPE}:[23]:\d+: not YAML: .*\n", said), said


def test_a_name_that_is_taken(small: Small) -> None:
    path = small.project.recipe.with_name("verity.yaml")
    with edited(path, small.project.recipe.read_text()):
        said = failed(small.project, "list", status=3)
    assert said == (
        "ERROR: recipes/images/verity.yaml:1:1: "
        "an image cannot be called 'verity': it is the name of a task; rename the file\n"
    )


def test_an_overlay_with_what_an_editor_left(small: Small) -> None:
    recipe = yaml.safe_load(small.project.recipe.read_text())
    recipe["rootfs"]["overlays"] = ["base"]
    left = small.project.root / "rootfs" / "base" / "etc" / "hosts~"
    with edited(small.project.recipe, yaml.safe_dump(recipe)), edited(left, "old"):
        said = failed(small.project, "rootfs:debian-cvm", status=1)
    assert said == (
        "\nrootfs:debian-cvm failed:\noverlay base: etc/hosts~ is what an editor left behind; remove it\n"
    )


def test_an_overlay_that_takes_a_file_of_a_package(small: Small) -> None:
    recipe = yaml.safe_load(small.project.recipe.read_text())
    recipe["rootfs"]["overlays"] = ["base"]
    path = "usr/share/base-passwd/passwd.master"
    taken = small.project.root / "rootfs" / "base" / path
    taken.parent.mkdir(parents=True)
    with edited(small.project.recipe, yaml.safe_dump(recipe)), edited(taken, "root:*:0:0:::\n"):
        said = failed(small.project, "rootfs:debian-cvm", status=1)
    taken.parent.rmdir()
    assert said == (
        f"\nrootfs:debian-cvm failed:\noverlay base: {path} is in base-passwd as well; "
        "list it in rootfs/base/.replaces to replace it\n"
    )


def test_a_package_that_is_not_in_the_lock(small: Small) -> None:
    """Without this the image would be built, and lack it."""
    recipe = yaml.safe_load(small.project.recipe.read_text())
    recipe["rootfs"]["packages"].append("podman")
    text = yaml.safe_dump(recipe)
    line, column = next(
        (number, row.index("podman") + 1)
        for number, row in enumerate(text.splitlines(), 1)
        if "podman" in row
    )
    with edited(small.project.recipe, text):
        said = failed(small.project, status=1)
    place = f"{RECIPE}:{line}:{column}: rootfs.packages"
    assert said == (
        f"\npackages:debian-cvm failed:\n{place}: podman is not in the lock; "
        "run `python3 dodo.py update:debian-cvm`\n"
    )


def test_a_lock_with_a_mistake(small: Small) -> None:
    path = small.project.recipe.with_suffix(".lock")
    lines = path.read_text().splitlines()
    number = next(number for number, line in enumerate(lines) if line.startswith("- {name:"))
    lines[number] = lines[number].replace("architecture: amd64", "architecture: arm64", 1)
    lines[number] = lines[number].replace("architecture: all", "architecture: arm64", 1)
    with edited(path, "\n".join(lines) + "\n"):
        said = failed(small.project, "packages:debian-cvm", status=1)
    assert said.startswith("\npackages:debian-cvm failed:\n")
    assert f"debian-cvm.lock:{number + 1}:" in said
    assert "arm64" in said


def test_what_depends_on_a_failed_step_says_so(small: Small) -> None:
    """With --continue everything else is made."""
    with edited(small.project.recipe.with_suffix(".lock"), "packages: none\n"):
        said = failed(small.project, "-c", "verity:debian-cvm", status=2)
    assert said.startswith("\npackages:debian-cvm failed:\n")
    assert said.endswith(
        "\nkernel:debian-cvm was not made; it needs packages:debian-cvm\n"
        "\nrootfs:debian-cvm was not made; it needs packages:debian-cvm, kernel:debian-cvm\n"
        "\nverity:debian-cvm was not made; it needs rootfs:debian-cvm\n"
    ), said


def test_an_unknown_machine(small: Small) -> None:
    said = failed(small.project, "run:debian-cvm", "--machine", "q36", status=1)
    assert said.endswith(
        "\nrun:debian-cvm failed:\ndebian-cvm has no machine 'q36'; did you mean 'q35'?\n"
    ), said


@pytest.mark.parametrize("plain", [True, False])
def test_an_unknown_task(small: Small, *, plain: bool) -> None:
    said = failed(replace(small.project, plain=plain), "debian-cmv", status=3)
    assert said.startswith('ERROR: Invalid parameter: "debian-cmv". Must be a command, task, or a target.\n')
    if not plain:
        assert 'Type "doit list" to see available tasks.' in said


def test_the_names_of_the_tasks(small: Small) -> None:
    listed = small.project.build("list", "--all")
    names = {line.split()[0] for line in listed.splitlines()}
    assert {"debian-cvm", "rootfs", "rootfs:debian-cvm", "golden:debian-cvm", "keys", "test"} <= names
    assert all(len(line.split(None, 1)) == 2 for line in listed.splitlines()), "a task without a purpose"
    shown = small.project.run("info", "verity:debian-cvm").stdout
    assert "status     : up-to-date" in shown
