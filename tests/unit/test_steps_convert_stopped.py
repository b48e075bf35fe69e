"""A conversion that is interrupted: one line, and neither a process nor a file of it is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import ROOT

# In the place of the Python with the binding: an appliance that never comes up, with a QEMU that is none.
WORKER = f"""\
#!{sys.executable}
import json, os, pathlib, socket, subprocess, sys, tempfile, time
def say(**value): print(json.dumps(value), flush=True)
say(ready="1.48.6")
for line in sys.stdin:
    if json.loads(line)["call"] == "launch":
        break
    say(value=None)
machine = subprocess.Popen(["sleep", "600"])
scratch = os.environ["LIBGUESTFS_TMPDIR"]
pathlib.Path(scratch, "overlay1.qcow2").touch()
# Where root runs it the library takes no notice of the environment for this one.
folder = tempfile.mkdtemp(prefix="libguestfs", dir="/tmp")
listening = socket.socket(socket.AF_UNIX)
listening.bind(folder + "/guestfsd.sock")
listening.listen()
report = {{"pids": [os.getpid(), machine.pid], "folders": [scratch, folder]}}
pathlib.Path("report.tmp").write_text(json.dumps(report))
os.rename("report.tmp", "report")
time.sleep(600)
"""
DODO = """
from functools import partial
from pathlib import Path
from recipes.sources import disk_image
from recipes.sources.converted_root import RootPlan
from recipes.steps.convert import root
from recipes.steps.reporter import Reporter
from recipes.steps.signals import bind_workers, clean_up_when_stopped
bind_workers()
DOIT_CONFIG = {{"num_process": {processes}, "reporter": Reporter}}
disk_image.running = partial(disk_image.running, pythons=[str(Path("worker").resolve())])
def convert():
    plan = RootPlan(size=1 << 20)
    root._make(Path("cache/converted/entry").resolve(), Path("base.raw"), plan, with_kernel=False)
def task_convert():
    return {{"actions": [(clean_up_when_stopped,), (convert,)], "verbosity": 2}}
"""


@dataclass(frozen=True)
class Appliance:
    """What the worker said of itself."""

    pids: tuple[int, ...]
    folders: tuple[Path, ...]


def runs(pid: int) -> bool:
    """Whether a process runs; one that nobody has asked about yet is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def appliance(path: Path, process: subprocess.Popen[str]) -> Appliance:
    """The appliance, once it is being launched."""
    deadline = time.monotonic() + 60
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(str(process.communicate()))
        time.sleep(0.02)
    report = json.loads(path.read_text())
    return Appliance(tuple(report["pids"]), tuple(map(Path, report["folders"])))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [0, 2])
def test_an_interrupted_conversion(tmp_path: Path, processes: int, number: signal.Signals) -> None:
    (tmp_path / "dodo.py").write_text(DODO.format(processes=processes))
    (tmp_path / "worker").write_text(WORKER)
    (tmp_path / "worker").chmod(0o755)
    (tmp_path / "base.raw").write_bytes(bytes(512))
    process = subprocess.Popen(
        [sys.executable, "-m", "recipes.steps"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        # The terminal's ^C is for the whole group, which the appliance is no part of.
        start_new_session=True,
    )
    report = appliance(tmp_path / "report", process)
    assert all(runs(pid) for pid in report.pids)
    assert all(folder.is_dir() for folder in report.folders)
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    kept = "what was finished is kept, the same command goes on from there"
    what = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminated"}[number]
    assert (process.returncode, stdout) == (128 + number, "")
    assert stderr == f"\ndodo.py: {what}; {kept}\n"
    deadline = time.monotonic() + 10
    while any(runs(pid) for pid in report.pids):
        assert time.monotonic() < deadline, "QEMU would still run"
        time.sleep(0.02)
    assert not [folder for folder in report.folders if folder.exists()]
    assert list((tmp_path / "cache" / "converted").iterdir()) == []
