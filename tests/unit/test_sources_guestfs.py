"""The watchdog around libguestfs, with workers that are scripts: none of them starts an appliance."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recipes.errors import ToolError
from recipes.sources.guestfs_appliance import KVM, WORKER, Appliance, Drive, running

# Started instead of a Python: it gets the worker's command line, which it ignores.
HEAD = f"""\
#!{sys.executable}
import json, os, sys, time
def say(**value): print(json.dumps(value), flush=True)
def ask(): return json.loads(sys.stdin.readline())
"""
ANSWERS = """\
say(ready="1.48.6")
log = open(sys.argv[0] + ".log", "w")
while True:
    request = ask()
    print(json.dumps(request), file=log, flush=True)
    if request["call"] == "end":
        break
    {}
    say(value=None)
"""


def script(folder: Path, body: str, name: str = "python") -> str:
    path = folder / name
    path.write_text(HEAD + body)
    path.chmod(0o755)
    return str(path)


@contextmanager
def started(folder: Path, body: str, **limits: float) -> Iterator[Appliance]:
    drives = [Drive(folder / "base", "qcow2"), Drive(folder / "disk", "raw", read_only=False)]
    python = script(folder, body)
    with running(drives, folder / "cache", pythons=[python], **limits) as appliance:
        yield appliance


def test_the_appliance_is_told_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KVM, raising=False)
    with started(
        tmp_path, ANSWERS.format('say(value=["a"]) if request["call"] == "ls" else None')
    ) as appliance:
        assert appliance.call("ls", "/") == ["a"]
    log = (tmp_path / "python.log").read_text()
    for text in (
        '"call": "set_backend", "args": ["direct"]',
        '"call": "set_backend_setting", "args": ["force_tcg", "1"]',
        f'"{tmp_path}/base"], "kwargs": {{"readonly": true, "format": "qcow2"}}',
        f'"{tmp_path}/disk"], "kwargs": {{"readonly": false, "format": "raw"}}',
    ):
        assert text in log
    calls = [line.split('"')[3] for line in log.splitlines()]
    assert calls.index("launch") < calls.index("ls") < calls.index("shutdown") < calls.index("end")


def test_kvm_is_for_those_who_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KVM, "1")
    with started(tmp_path, ANSWERS.format("pass")):
        pass
    assert "force_tcg" not in (tmp_path / "python.log").read_text()


def test_a_launch_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    hang = (
        "if request['call'] == 'launch':\n"
        "        import subprocess\n"
        "        child = subprocess.Popen(['sleep', '600'])\n"
        "        open(sys.argv[0] + '.pid', 'w').write(str(child.pid))\n"
        "        time.sleep(600)"
    )
    before = time.monotonic()
    with pytest.raises(ToolError) as caught, started(tmp_path, ANSWERS.format(hang), launch_timeout=1.0):
        pytest.fail("it was launched")
    assert time.monotonic() - before < 30
    text = str(caught.value)
    assert text.startswith(
        "guestfs: no answer within 1 s, killed; install the binding, its library and a kernel"
    )
    assert "apt-get install python3-guestfs libguestfs0 linux-image-cloud-amd64" in text
    pid = int((tmp_path / "python.pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 10
    # A zombie waits for whoever inherited it.
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "QEMU would still run"
        time.sleep(0.05)


def test_a_call_that_fails_says_which_and_why(tmp_path: Path) -> None:
    fail = (
        "if request['call'] == 'mount':\n"
        "        print('words of the library', file=sys.stderr)\n"
        "        say(error='mount: bad magic')\n"
        "        continue"
    )
    with pytest.raises(ToolError) as caught, started(tmp_path, ANSWERS.format(fail)) as appliance:
        appliance.call("mount", "/dev/sda", "/")
    assert str(caught.value) == (
        "guestfs: failed\n    $ guestfs mount /dev/sda /\n    words of the library\n    mount: bad magic"
    )


def test_contents_of_files_are_in_no_message(tmp_path: Path) -> None:
    fail = "if request['call'] == 'write':\n        say(error='no space')\n        continue"
    with pytest.raises(ToolError) as caught, started(tmp_path, ANSWERS.format(fail)) as appliance:
        appliance.call("write", "/etc/x", b"secret")
    assert "secret" not in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)
    assert "guestfs write /etc/x" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ('print("no json", flush=True)\n', "guestfs: answered b'no json'"),
        ("print([1], flush=True)\n", "guestfs: answered b'[1]'"),
        ("sys.exit(3)\n", "guestfs: ended by itself"),
        ('say(ready="1")\nsys.exit(3)\n', "guestfs: ended by itself"),
    ],
)
def test_a_worker_that_is_none(tmp_path: Path, body: str, what: str) -> None:
    with pytest.raises(ToolError) as caught, started(tmp_path, body):
        pytest.fail("it was launched")
    assert str(caught.value).startswith(what)


def test_the_next_python_is_tried_and_all_reasons_are_told(tmp_path: Path) -> None:
    without = script(tmp_path, 'say(missing="ImportError: no guestfs")\n', "first")
    good = script(tmp_path, ANSWERS.format("pass"), "second")
    absent = str(tmp_path / "absent")
    with running([], tmp_path / "cache", pythons=[absent, without, good]):
        pass
    with pytest.raises(ToolError) as caught, running([], tmp_path, pythons=[absent, without]):
        pytest.fail("it was launched")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("guestfs: not available; install the binding, its library and a kernel")
    assert lines[2:] == [
        f"    {absent}: no such file or directory",
        f"    {without}: ImportError: no guestfs",
    ]


def with_binding(folder: Path) -> list[str]:
    """The command line of the worker with the module ``guestfs`` of a folder."""
    path = f"import sys, runpy; sys.path.insert(0, {str(folder)!r}); "
    return [sys.executable, "-I", "-c", f"{path}runpy.run_path({str(WORKER)!r}, run_name='__main__')"]


def test_the_worker_answers_for_a_binding(tmp_path: Path) -> None:
    """The worker itself, with a module in place of the binding."""
    (tmp_path / "guestfs.py").write_text(
        "class GuestFS:\n"
        "    def __init__(self, python_return_dict): print('noise')\n"
        "    def version(self): return {'major': 1, 'minor': 48, 'release': 6}\n"
        "    def echo(self, *arguments, **options):\n"
        "        if options.get('fail'): raise RuntimeError('failed')\n"
        "        return arguments[0] if options.get('first') else [str(arguments), str(options)]\n"
    )
    requests = (
        '{"call": "echo", "args": [1, {"bytes": "AP8="}], "kwargs": {"x": true}}\n'
        '{"call": "echo", "args": [{"bytes": "AP8="}], "kwargs": {"first": true}}\n'
        '{"call": "echo", "args": [], "kwargs": {"fail": true}}\n'
    )
    argv = with_binding(tmp_path)
    ended = subprocess.run(
        argv, input=requests + '{"call": "end"}\n', capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines() == [
        '{"ready": "1.48.6"}',
        """{"value": ["(1, b'\\\\x00\\\\xff')", "{'x': True}"]}""",
        '{"value": {"bytes": "AP8="}}',
        '{"error": "failed"}',
    ]
    assert ended.stderr == "noise\n"
    # Whoever asked has gone without a word: so does the worker.
    gone = subprocess.run(argv, input="", capture_output=True, text=True, check=False)
    assert gone.returncode == -9


def test_the_worker_says_that_there_is_no_binding(tmp_path: Path) -> None:
    (tmp_path / "guestfs.py").write_text("raise ImportError('made for another Python')\n")
    argv = with_binding(tmp_path)
    ended = subprocess.run(
        argv, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert ended.returncode == 1
    assert ended.stdout == '{"missing": "ImportError: made for another Python"}\n'
