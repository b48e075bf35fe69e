"""What ``python3 dodo.py`` does before anything is installed; every program it starts is a fake."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recipes import bootstrap
from recipes.bootstrap import BootstrapError, ensure_environment, ensure_test_programs, main

PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
{script}
"""
# What `python3 -m venv` does that matters here: it makes the folder and a python that is a fake again.
VENV = """mkdir -p "$3/bin"; echo home = / > "$3/pyvenv.cfg"; cp "{pip}" "$3/bin/python" """
NO_ENSUREPIP = """echo "The environment was not created because ensurepip is not available."; exit 1"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in (bootstrap.RUNTIME, bootstrap.TESTING):
        (folder / name).write_text(f"{name}==1\n")
    program(tmp_path / "pip", "exit 0", tmp_path / "log")
    python(tmp_path, monkeypatch, VENV.format(pip=tmp_path / "pip"))
    return folder


def program(path: Path, script: str, log: Path) -> Path:
    path.write_text(PYTHON.format(script=script, log=log))
    path.chmod(0o755)
    return path


def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(sys, "executable", str(program(tmp_path / "python3", script, tmp_path / "log")))


def log(tmp_path: Path) -> list[str]:
    path = tmp_path / "log"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def install(root: Path, name: str) -> str:
    options = "-m pip install --quiet --no-deps --disable-pip-version-check --require-hashes -r"
    return f"{options} {root / name}"


def test_an_environment_is_made_once(root: Path, tmp_path: Path) -> None:
    python = ensure_environment(root, testing=False)
    assert python == root / ".venv" / "bin" / "python"
    assert log(tmp_path) == [f"-m venv {root / '.venv'}", install(root, bootstrap.RUNTIME)]
    ensure_environment(root, testing=False)
    assert log(tmp_path) == []


def test_test_requirements_come_on_top(root: Path, tmp_path: Path) -> None:
    ensure_environment(root, testing=False)
    log(tmp_path)
    ensure_environment(root, testing=True)
    assert log(tmp_path) == [install(root, bootstrap.TESTING)]
    ensure_environment(root, testing=True)
    assert log(tmp_path) == []


def test_other_requirements_make_another_environment(root: Path, tmp_path: Path) -> None:
    ensure_environment(root, testing=True)
    log(tmp_path)
    (root / ".venv" / "old").touch()
    (root / bootstrap.RUNTIME).write_text("another==2\n")
    ensure_environment(root, testing=False)
    assert log(tmp_path) == [f"-m venv {root / '.venv'}", install(root, bootstrap.RUNTIME)]
    assert not (root / ".venv" / "old").exists()


def test_a_python_that_is_gone_makes_another_environment(root: Path, tmp_path: Path) -> None:
    python = ensure_environment(root, testing=False)
    log(tmp_path)
    python.unlink()
    python.symlink_to("/nonexistent/python")
    ensure_environment(root, testing=False)
    assert len(log(tmp_path)) == 2


def test_an_interrupted_environment_is_made_again(root: Path, tmp_path: Path) -> None:
    """Whenever it was interrupted: the folder is empty, has our mark, or has everything but the stamp."""
    (root / ".venv").mkdir()
    ensure_environment(root, testing=False)
    assert len(log(tmp_path)) == 2
    (root / ".venv" / f".{bootstrap.RUNTIME}.stamp").unlink()
    ensure_environment(root, testing=False)
    assert len(log(tmp_path)) == 2
    for path in ("pyvenv.cfg", f".{bootstrap.RUNTIME}.stamp"):
        (root / ".venv" / path).unlink()
    ensure_environment(root, testing=False)
    assert len(log(tmp_path)) == 2


def test_a_folder_of_somebody_else_is_left_alone(root: Path, tmp_path: Path) -> None:
    (root / ".venv").mkdir()
    (root / ".venv" / "thesis.txt").touch()
    with pytest.raises(BootstrapError) as caught:
        ensure_environment(root, testing=False)
    assert str(caught.value) == f"{root}/.venv is not a virtual environment; move it away"
    assert (root / ".venv" / "thesis.txt").exists()
    (root / ".venv").rename(root / "elsewhere")
    (root / ".venv").symlink_to("elsewhere")
    with pytest.raises(BootstrapError, match="is not a virtual environment"):
        ensure_environment(root, testing=False)


def test_a_failing_pip_is_quoted(root: Path, tmp_path: Path) -> None:
    program(
        tmp_path / "pip", "seq 1 30; echo 'ERROR: no matching distribution' >&2; exit 1", tmp_path / "log"
    )
    with pytest.raises(BootstrapError) as caught:
        ensure_environment(root, testing=False)
    assert str(caught.value) == (
        "pip could not install requirements.lock; check the network and pip's index settings\n"
        "ERROR: no matching distribution"
    )
    program(tmp_path / "pip", "exit 0", tmp_path / "log")
    log(tmp_path)
    ensure_environment(root, testing=False)
    assert len(log(tmp_path)) == 2


@pytest.mark.parametrize("euid", [0, 1000])
def test_without_python3_venv(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    euid: int,
) -> None:
    """Root gets it installed, and everybody else the line that does."""
    made = VENV.format(pip=tmp_path / "pip")
    python(tmp_path, monkeypatch, f'if [ -e "{tmp_path}/installed" ]; then {made}; else {NO_ENSUREPIP}; fi')
    apt = f'case "$1" in install) touch "{tmp_path}/installed";; esac'
    fake_path(tmp_path, monkeypatch, {"apt-get": apt})
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    line = "apt-get install -y --no-install-recommends python3-venv"
    reason = "python3 -m venv does not work here"
    if euid == 0:
        assert ensure_environment(root, testing=False).exists()
        assert f"{reason}; running: {line}" in capsys.readouterr().err
    else:
        with pytest.raises(BootstrapError) as caught:
            ensure_environment(root, testing=False)
        assert str(caught.value) == f"{reason}; as root, run:\n    apt-get update && {line}"


def test_an_environment_that_cannot_be_made_is_quoted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(tmp_path, monkeypatch, "echo 'Error: no room' >&2; exit 1")
    with pytest.raises(BootstrapError) as caught:
        ensure_environment(root, testing=False)
    assert str(caught.value) == f"cannot make {root}/.venv: Error: no room"


def test_an_old_python_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    monkeypatch.setattr(sys, "version", "3.10.12 (main)")
    with pytest.raises(BootstrapError) as caught:
        ensure_environment(root, testing=False)
    assert str(caught.value) == "Python 3.10.12 is too old; install Python 3.11 or newer"


def fake_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: dict[str, str]) -> Path:
    """A folder of fakes that is searched first, and the only one that ``shutil.which`` searches."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name, script in programs.items():
        program(folder / name, script, tmp_path / "log")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(shutil, "which", lambda name, path=None: (folder / name).exists() or None)
    return folder


def test_missing_test_programs_are_one_line_for_those_who_cannot_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = {name: "" for name in bootstrap.TEST_PROGRAMS if name not in ("swtpm", "cpio")}
    fake_path(tmp_path, monkeypatch, {**present, "apt-get": ""})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BootstrapError) as caught:
        ensure_test_programs()
    packages = " ".join(bootstrap.TEST_PACKAGES)
    assert str(caught.value) == (
        "the tests need swtpm, cpio; as root, run:\n"
        f"    apt-get update && apt-get install -y --no-install-recommends {packages}"
    )
    assert log(tmp_path) == []


def test_root_gets_the_test_programs_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_path(tmp_path, monkeypatch, {"apt-get": ""})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ensure_test_programs()
    packages = " ".join(bootstrap.TEST_PACKAGES)
    assert log(tmp_path) == ["update", f"install -y --no-install-recommends {packages}"]


def test_a_failing_apt_get_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_path(tmp_path, monkeypatch, {"apt-get": "echo 'E: no such package' >&2; exit 100"})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(BootstrapError, match=r"^apt-get install .* failed\nE: no such package$"):
        ensure_test_programs()


def test_without_apt_get_the_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_path(tmp_path, monkeypatch, {})
    with pytest.raises(
        BootstrapError, match="there is no apt-get here, install the likes of: qemu-system-x86 "
    ):
        ensure_test_programs()


def test_nothing_is_missing_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_path(tmp_path, monkeypatch, dict.fromkeys(bootstrap.TEST_PROGRAMS, ""))
    ensure_test_programs()
    assert log(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "expected", "locked"),
    [
        (["list"], "-m recipes.steps list", ""),
        (["--locked", "rootfs"], "-m recipes.steps rootfs", "1"),
        (["rootfs", "--locked", "-n", "2"], "-m recipes.steps rootfs -n 2", "1"),
    ],
)
def test_the_environment_becomes_doit(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
    locked: str,
) -> None:
    ensure_environment(root, testing=False)
    started: list[tuple[Path, list[str], str]] = []

    def execve(path: Path, argv: list[str], environment: dict[str, str]) -> None:
        # doit's Python lets an interrupt in once it has words for it.
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        started.append((path, argv, environment.get("GOLDSMITH_LOCKED", "")))

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.delenv("GOLDSMITH_LOCKED", raising=False)
    monkeypatch.chdir(tmp_path)
    main(arguments, root)
    python = root / ".venv" / "bin" / "python"
    assert started == [(python, [str(python), *expected.split()], locked)]
    assert Path.cwd() == root


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BootstrapError("say so"), 2, "dodo.py: say so\n"),
        (
            OSError(28, "No space left on device", "/x"),
            2,
            "dodo.py: [Errno 28] No space left on device: '/x'\n",
        ),
        (KeyboardInterrupt(), 130, "\ndodo.py: interrupted; the same command begins again\n"),
    ],
)
def test_what_goes_wrong_is_one_line(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    said: str,
) -> None:
    def fail(root: Path, *, testing: bool) -> Path:
        raise error

    monkeypatch.setattr(bootstrap, "ensure_environment", fail)
    with pytest.raises(SystemExit) as caught:
        main([], root)
    assert caught.value.code == status
    assert capsys.readouterr().err == said


def test_the_command_works_from_a_folder_with_blanks_and_traps(root: Path, tmp_path: Path) -> None:
    """``.venv/bin/goldsmith`` imports the project, and nothing from where it is called."""
    (root / "recipes").mkdir()
    (root / "recipes" / "__init__.py").touch()
    text = "import argparse, sys\n\n\ndef main() -> int:\n    print(sys.argv[1:])\n    return 3\n"
    (root / "recipes" / "__main__.py").write_text(text)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(os.path.realpath("/proc/self/exe"))
    bootstrap._write_command(root)
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "argparse.py").write_text("raise SystemExit('trapped')\n")
    command = [str(root / ".venv" / "bin" / "goldsmith"), "a b", "--", "$c"]
    result = subprocess.run(command, cwd=trap, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (3, "['a b', '--', '$c']\n", "")
