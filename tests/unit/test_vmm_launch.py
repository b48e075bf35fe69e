from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from recipes.errors import ToolError
from recipes.vmm import launch
from recipes.vmm.launch import Program, Qemu, Swtpm, qemu_version

FAKE_QEMU = """#!{python}
import json, socket, sys, time
if "--version" in sys.argv:
    print({version!r}); sys.exit(0)
print("hello from the program", flush=True)
if "--fail" in sys.argv: sys.exit(3)
if "--silent" in sys.argv: time.sleep(30)
monitor = socket.socket(socket.AF_UNIX)
monitor.connect(sys.argv[sys.argv.index("-qmp") + 1].removeprefix("unix:"))
lines = monitor.makefile("rw")
def say(value):
    lines.write(value if isinstance(value, str) else json.dumps(value)); lines.write("\\n"); lines.flush()
say({{"QMP": {{}}}})
for line in lines:
    command = json.loads(line)
    name, arguments = command["execute"], command["arguments"]
    say({{"event": "SOMETHING"}})
    if name == "pmemsave":
        with open(arguments["filename"], "wb") as file: file.write(bytes(arguments["size"]))
    if name == "garbage": say("no json")
    elif name == "unknown": say({{"error": {{"class": "CommandNotFound"}}}})
    elif name == "hang": time.sleep(30)
    elif name == "die": sys.exit(5)
    else: say({{"return": arguments}})
"""


@pytest.fixture
def qemu(tmp_path: Path) -> str:
    return make(tmp_path, "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)")


def make(folder: Path, version: str) -> str:
    path = folder / "qemu-system-x86_64"
    path.write_text(FAKE_QEMU.format(python=sys.executable, version=version))
    path.chmod(0o755)
    return str(path)


def test_the_version(qemu: str) -> None:
    assert qemu_version(qemu) == "7.2.22"


def test_a_program_without_version(tmp_path: Path) -> None:
    path = make(tmp_path, "something else")
    with pytest.raises(ToolError) as caught:
        qemu_version(path)
    assert str(caught.value) == (
        f"{path}: no version in its output\n    $ {path} --version\n    something else"
    )


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError) as caught:
        qemu_version()
    assert str(caught.value) == (
        "qemu-system-x86_64: not found; install the Debian package qemu-system-x86\n    $ qemu-system-x86_64"
    )
    with pytest.raises(ToolError, match=r"^swtpm: not found; install the Debian package swtpm"), Swtpm():
        pass


def test_commands_and_events(qemu: str) -> None:
    with Qemu([qemu]) as machine:
        assert machine.execute("anything", value=7) == {"value": 7}
        assert machine.property("/machine", "vendor") == {"path": "/machine", "property": "vendor"}
        assert machine.save_memory(0, 5000) == bytes(5000)
        during, folder = machine.running, machine.folder
        assert folder.exists()
    assert (during, machine.running) == (True, False)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("unknown", 'unknown: {"class": "CommandNotFound"}'),
        ("garbage", "the monitor said 'no json', which is no JSON object"),
        ("die", "closed its connection, exit status 5"),
        ("hang", "no answer (timed out)"),
    ],
)
def test_commands_that_fail(qemu: str, command: str, status: str) -> None:
    with Qemu([qemu], timeout=0.5 if command == "hang" else 10) as machine:
        with pytest.raises(ToolError) as caught:
            machine.execute(command)
        assert str(caught.value) == (
            f"{qemu}: {status}\n    $ {' '.join(machine.argv)}\n    hello from the program"
        )


def test_a_program_that_ends_at_once_is_reported_with_its_last_lines(qemu: str) -> None:
    machine = Qemu([qemu, "--fail"])
    with pytest.raises(ToolError) as caught, machine:
        pass
    assert str(caught.value) == (
        f"{qemu}: exit status 3\n    $ {' '.join(machine.argv)}\n    hello from the program"
    )
    assert not machine.folder.exists()


def test_a_program_that_does_not_connect(qemu: str) -> None:
    machine = Qemu([qemu, "--silent"], timeout=0.5)
    with pytest.raises(ToolError, match=r"no connection to qmp after 0\.5 s"), machine:
        pass
    assert not machine.running


def test_waiting_for_the_end() -> None:
    with Program(["sh", "-c", "exit 4"]) as program:
        assert program.wait() == 4
    with Program(["sleep", "30"]) as program, pytest.raises(ToolError, match=r"still running after 0\.2 s"):
        program.wait(0.2)
    assert not program.running


def test_a_program_that_ignores_the_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PATIENCE", 0.3)
    with Program(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]) as program:
        while "ready" not in program.output():
            assert program.running
    assert not program.running


def test_a_folder_too_deep_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", os.fspath(deep))
    with pytest.raises(ToolError, match=r"is too long for a socket; set TMPDIR to a shorter path"):
        Qemu(["qemu-system-x86_64"])
    assert not list(deep.iterdir())
