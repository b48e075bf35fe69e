from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT

# A build that forks a step, which forks a worker to hash for it; all three wait.
BUILD = """
import os, sys, time
sys.path.insert(0, {root!r})
from recipes.steps.signals import bind_workers, clean_up_when_stopped, raise_when_stopped
raise_when_stopped()
bind_workers()
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # whole, whoever else writes
def up(name):
    say(name, os.getpid())
    time.sleep(60)
if os.fork():
    try:
        up("build")
    except KeyboardInterrupt as stopped:
        say(type(stopped).__name__, stopped.number)
        os.wait()
else:
    clean_up_when_stopped()
    try:
        up("worker" if os.fork() == 0 else "step")
    finally:
        say("cleaned up")
"""


def start(*prefix: str) -> tuple[subprocess.Popen[str], dict[str, int]]:
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", BUILD.format(root=str(ROOT))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    found = {}
    for _ in range(3):
        name, pid = process.stdout.readline().split()
        found[name] = int(pid)
    return process, found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_build_says_it_the_step_cleans_up_the_worker_is_silent(number: signal.Signals) -> None:
    process, _ = start()
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=20)
    assert sorted(stdout.splitlines()) == [f"Stopped {number.value}", "cleaned up"]
    assert stderr == ""


def test_no_process_outlives_a_killed_build() -> None:
    process, pids = start()
    os.kill(pids["build"], signal.SIGKILL)
    # The end of the pipes is the end of all who hold them.
    assert process.communicate(timeout=20) == ("", "")


def test_a_step_that_is_told_twice_cleans_up_once() -> None:
    """doit tells its processes to end when the terminal has told them already."""
    process, pids = start()
    for _ in range(3):
        os.kill(pids["step"], signal.SIGINT)
        os.kill(pids["step"], signal.SIGTERM)
    time.sleep(0.2)
    os.kill(pids["build"], signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=20)
    assert sorted(stdout.splitlines()) == ["Stopped 15", "cleaned up"]
    assert stderr == ""


def test_what_is_ignored_stays_ignored() -> None:
    """A build under nohup goes on when the terminal is closed."""
    process, pids = start("nohup")
    os.killpg(process.pid, signal.SIGHUP)
    time.sleep(0.3)
    assert all(Path(f"/proc/{pid}").exists() for pid in pids.values())
    os.killpg(process.pid, signal.SIGTERM)
    assert "Stopped 15" in process.communicate(timeout=20)[0]
