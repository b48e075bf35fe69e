"""What other programs make for the clouds passes the checks that our own disks have to pass."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from recipes.clouds import tar_file, vhd_file
from recipes.units import GIB, MIB
from tests.support import require_tool

pytestmark = pytest.mark.tool


def disk(path: Path, size: int) -> Path:
    """A raw disk with a few pieces of content."""
    with path.open("wb") as file:
        file.truncate(size)
        for place in range(0, size, size // 7):
            file.seek(place)
            file.write(b"content"[: size - place])
    return path


def run(*argv: str | Path, folder: Path) -> None:
    command = [require_tool(str(argv[0])), *map(str, argv[1:])]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"})


def test_the_command_that_google_documents(tmp_path: Path) -> None:
    disk(tmp_path / "disk.raw", 2 * GIB)
    run("tar", "--format=oldgnu", "-Sczf", "made.tar.gz", "disk.raw", folder=tmp_path)
    with (tmp_path / "made.tar.gz").open("rb") as file:
        assert tar_file.findings(file, 2 * GIB) == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format=posix", "-Sczf", "made.tar.gz", "disk.raw"), "not oldgnu"),
        (("--format=oldgnu", "-Sczf", "made.tar.gz", "./disk.raw"), "called './disk.raw'"),
        (("--format=oldgnu", "-Sczf", "made.tar.gz", "disk.raw", "other"), "something else is in it"),
    ],
)
def test_other_archives(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    disk(tmp_path / "disk.raw", GIB)
    (tmp_path / "other").write_bytes(bytes(10240))
    run("tar", *arguments, folder=tmp_path)
    with (tmp_path / "made.tar.gz").open("rb") as file:
        assert any(message in str(finding) for finding in tar_file.findings(file, GIB))


@pytest.mark.parametrize(("kind", "good"), [("fixed", True), ("dynamic", False)])
def test_what_qemu_makes_for_azure(tmp_path: Path, kind: str, good: bool) -> None:
    disk(tmp_path / "disk.raw", 30 * MIB)
    options = f"subformat={kind},force_size"
    run(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        options,
        "disk.raw",
        "made.vhd",
        folder=tmp_path,
    )
    with (tmp_path / "made.vhd").open("rb") as file:
        found = [str(finding) for finding in vhd_file.findings(file, 30 * MIB)]
    assert bool(found) != good
    assert good or any("the disk is a dynamic one" in message for message in found)
