from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT

# A build that forks a task, which forks a worker to hash for it; all three wait.
BUILD = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from recipes.steps import signals
signals.PATIENCE = {patience}
signals.raise_when_stopped()
signals.bind_workers()
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # whole, whoever else writes
def up(name):
    say(name, os.getpid())
    while True:
        time.sleep(60)
task = os.fork()
if task:
    try:
        up("build")
    except KeyboardInterrupt as stopped:
        say(type(stopped).__name__, stopped.number)
        os.kill(task, signal.SIGTERM)  # as doit does
        os.wait()
        time.sleep({linger})
else:
    signals.clean_up_when_stopped()
    try:
        up("worker" if os.fork() == 0 else "task")
    finally:
        say("cleaned up")
"""
KEPT = "what was finished is kept, the same command goes on from there"


def start(
    *prefix: str, linger: float = 0, patience: float = 30
) -> tuple[subprocess.Popen[str], dict[str, int]]:
    program = BUILD.format(root=str(ROOT), linger=linger, patience=patience)
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", program],
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
def test_the_build_says_it_the_task_cleans_up_the_worker_is_silent(number: signal.Signals) -> None:
    process, _ = start()
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=20)
    assert sorted(stdout.splitlines()) == [f"Stopped {number.value}", "cleaned up"]
    assert stderr == f"\ndodo.py: {str(signal.strsignal(number)).lower()}; {KEPT}\n"


def test_no_process_outlives_a_killed_build() -> None:
    process, pids = start()
    os.kill(pids["build"], signal.SIGKILL)
    # The end of the pipes is the end of all who hold them.
    assert process.communicate(timeout=20) == ("", "")


def test_a_key_at_the_terminal_is_not_for_workers() -> None:
    process, pids = start()
    os.kill(pids["worker"], signal.SIGINT)
    os.kill(pids["worker"], signal.SIGHUP)
    time.sleep(0.3)
    assert all(Path(f"/proc/{pid}").exists() for pid in pids.values())
    os.kill(pids["build"], signal.SIGINT)
    stdout, _ = process.communicate(timeout=20)
    assert sorted(stdout.splitlines()) == ["Stopped 2", "cleaned up"]


def test_a_task_that_is_told_twice_cleans_up_once() -> None:
    process, pids = start()
    for _ in range(5):
        os.kill(pids["task"], signal.SIGINT)
        os.kill(pids["task"], signal.SIGTERM)
    time.sleep(0.2)
    os.kill(pids["build"], signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=20)
    assert sorted(stdout.splitlines()) == ["Stopped 15", "cleaned up"]
    assert "Traceback" not in stderr


def test_told_twice_the_build_ends_at_once() -> None:
    process, _ = start(linger=60)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "Stopped 2\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_a_build_that_cannot_clean_up_ends_all_the_same() -> None:
    process, _ = start(linger=60, patience=0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_what_is_ignored_stays_ignored() -> None:
    """A build under nohup goes on when the terminal is closed."""
    process, pids = start("nohup")
    os.killpg(process.pid, signal.SIGHUP)
    time.sleep(0.3)
    assert all(Path(f"/proc/{pid}").exists() for pid in pids.values())
    os.killpg(process.pid, signal.SIGTERM)
    assert "Stopped 15" in process.communicate(timeout=20)[0]


EARLY = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from recipes.steps import signals
signals.raise_when_stopped()
# What is registered first comes first in the child.
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.{name}))
signals.bind_workers()
worker = os.fork()
if worker == 0:
    time.sleep(0.3)
    os._exit(7)
status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
print(status, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", 7), ("SIGHUP", 7)])
def test_a_signal_to_a_worker_that_is_not_ready_yet(name: str, status: int) -> None:
    program = EARLY.format(root=str(ROOT), name=name)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{status} []\n", "")
