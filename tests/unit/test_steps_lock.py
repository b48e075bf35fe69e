from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.errors import ImageError
from recipes.steps.lock import hold_build_lock
from recipes.steps.state import state_file
from tests.support import ROOT

HOLDER = """
import os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from recipes.steps.lock import hold_build_lock
hold_build_lock(Path({out!r}), {arguments!r})
{then}
"""


def program(out: Path, *arguments: str, then: str = "print('held', flush=True); time.sleep(60)") -> list[str]:
    text = HOLDER.format(root=str(ROOT), out=str(out), arguments=list(arguments), then=then)
    return [sys.executable, "-c", text]


def start(out: Path, *arguments: str, then: str | None = None) -> subprocess.Popen[str]:
    command = program(out, *arguments) if then is None else program(out, *arguments, then=then)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> str:
    process.kill()
    return process.communicate()[1]


def test_the_second_waits_says_for_whom_and_goes_on(tmp_path: Path) -> None:
    first = start(tmp_path / "out", "-n", "2", "rootfs")
    assert line(first) == "held"
    second = start(tmp_path / "out", then="print('mine')")
    assert second.stderr is not None
    waiting = second.stderr.readline()
    assert waiting == f"waiting for process {first.pid} (doit -n 2 rootfs), which is building here\n"
    end(first)
    assert second.communicate(timeout=20) == ("mine\n", "")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "null"])
def test_a_holder_that_has_not_said_who_it_is_is_another_process(tmp_path: Path, text: str) -> None:
    first = start(tmp_path)
    assert line(first) == "held"
    (tmp_path / ".lock").write_text(text)
    second = start(tmp_path, then="pass")
    assert second.stderr is not None
    assert second.stderr.readline() == "waiting for another process, which is building here\n"
    end(first)
    second.communicate(timeout=20)


@pytest.mark.parametrize("command", ["list", "info", "help", "--version", "tabcompletion", "dumpdb"])
def test_looking_takes_no_lock(tmp_path: Path, command: str) -> None:
    hold_build_lock(tmp_path / "out", [command, "x"])
    assert not (tmp_path / "out").exists()


def test_the_lock_goes_with_the_process_and_its_workers(tmp_path: Path) -> None:
    """A worker inherits the lock; alone it must not keep it."""
    then = "pid = os.fork()\nos.write(1, b'up\\n')\ntime.sleep(60)"
    first = start(tmp_path, then=then)
    assert (line(first), line(first)) == ("up", "up")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=20)  # to the end of what both can write
    assert start(tmp_path, then="print('mine')").communicate(timeout=20) == ("mine\n", "")


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    left = ["image/.disk.raw.tmp", "image/firmware/.x.tmp", "cache/.digests.json.7.tmp"]
    left += ["image/.spool.abc/1/data", "image/firmware/.spool.x/data", "cache/apt/download-x/a.deb"]
    kept = ["image/disk.raw", "image/firmware/x", "cache/packages/a.deb", "cache/mypy/.gitignore", ".doit.db"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert start(tmp_path, then="print('mine')").communicate(timeout=20) == ("mine\n", "")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {*kept, ".lock"}
    assert not list(tmp_path.rglob(".spool.*"))


def test_a_build_folder_that_cannot_be_one_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ImageError) as caught:
        hold_build_lock(tmp_path / "out", [])
    assert str(caught.value) == f"{tmp_path}/out: file exists; the build writes there, make that possible"


def test_the_lock_says_who_holds_it(tmp_path: Path) -> None:
    process = start(tmp_path, "-a", "uki")
    assert line(process) == "held"
    assert json.loads((tmp_path / ".lock").read_text()) == {"pid": process.pid, "command": "doit -a uki"}
    assert end(process) == ""


def test_the_state_is_made_with_its_folder(tmp_path: Path) -> None:
    assert state_file(tmp_path / "out") == str(tmp_path / "out" / ".doit.db")
    assert (tmp_path / "out" / ".doit.db").read_bytes().startswith(b"SQLite format 3\0")
    before = (tmp_path / "out" / ".doit.db").read_bytes()
    assert state_file(tmp_path / "out") == str(tmp_path / "out" / ".doit.db")
    assert (tmp_path / "out" / ".doit.db").read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all" * 50, b"SQLite format 3\0" + bytes(84)])
def test_a_damaged_state_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".doit.db").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        state_file(tmp_path)
    expected = "file is not a database; remove it, every step then runs again"
    assert str(caught.value) == f"{tmp_path}/.doit.db: {expected}"


def test_where_nothing_can_be_written_the_state_is_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert state_file(tmp_path) == ":memory:"

    def refuse(self: Path, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert state_file(tmp_path / "out") == ":memory:"
