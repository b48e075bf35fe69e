"""``python -m recipes.steps`` that is interrupted early, or whose output nobody reads to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

DODO = """
import sys, time
from pathlib import Path
from recipes.steps.reporter import Reporter
from recipes.steps.signals import bind_workers
bind_workers()
DOIT_CONFIG = {{"default_tasks": ["talk", "wait"], "num_process": {processes}, "reporter": Reporter}}
def say():
    {say}
    Path("went on").touch()
def wait():
    time.sleep({wait})
def task_talk():
    return {{"actions": [(say,)], "verbosity": 2}}
def task_wait():
    return {{"actions": [(wait,)] if {processes} else [], "verbosity": 2}}
"""
SAYS = {
    "a line at once": ("print('x', flush=True)", 600),
    "more than is held back": ("print('x' * 1_000_000)", 600),
    # It is told when the others have ended.
    "a failure": ("raise ValueError('of the task')", 0),
}


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A build whose output goes to a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-m", "recipes.steps", *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("say", SAYS)
def test_a_build_that_nobody_reads_ends_without_a_word(tmp_path: Path, say: str, processes: int) -> None:
    what, wait = SAYS[say]
    (tmp_path / "dodo.py").write_text(DODO.format(say=what, wait=wait, processes=processes))
    ended = start(tmp_path)
    assert ended.stderr == ""
    # As the shell says it of a program that wrote to a closed pipe.
    assert ended.returncode == 128 + signal.SIGPIPE
    assert not (tmp_path / "went on").exists()


def test_a_list_that_nobody_reads_ends_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "dodo.py").write_text(DODO.format(say="pass", wait=0, processes=0))
    ended = start(tmp_path, "list")
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


def test_an_interrupt_that_waits_since_before_the_start_is_one_line(tmp_path: Path) -> None:
    """So it comes from ``dodo.py``, which holds it back while one Python becomes another."""
    (tmp_path / "dodo.py").write_text(DODO.format(say="pass", wait=0, processes=0))

    def interrupt() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever runs this may ignore it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        os.kill(os.getpid(), signal.SIGINT)

    ended = subprocess.run(
        [sys.executable, "-m", "recipes.steps", "list"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=interrupt,
        timeout=60,
        check=False,
    )
    kept = "what was finished is kept, the same command goes on from there"
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == f"\ndodo.py: interrupt; {kept}\n"
