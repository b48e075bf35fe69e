"""The scripts of the guest, judged by two shells and by shellcheck."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT, require_tool

pytestmark = pytest.mark.tool


def is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline()
    return first.startswith((b"#!/bin/sh", b"#!/usr/bin/busybox sh", b"# shellcheck shell=sh"))


SCRIPTS = sorted(
    path
    for top in ("initrd", "rootfs")
    for path in (ROOT / top).rglob("*")
    if path.is_file() and is_shell(path)
)
NAMES = [str(path.relative_to(ROOT)) for path in SCRIPTS]


def test_there_are_scripts_to_judge() -> None:
    assert {"initrd/init", "initrd/unlock", "initrd/boot.sh", "initrd/unlock.d/ephemeral"} <= set(NAMES)
    assert "rootfs/boot-report/usr/lib/goldsmith/boot-report" in NAMES


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
@pytest.mark.parametrize("shell", ["dash", "busybox"])
def test_shells_accept_the_syntax(path: Path, shell: str) -> None:
    argv = [require_tool(shell), *(["sh"] if shell == "busybox" else []), "-n", str(path)]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_shellcheck_has_nothing_to_say() -> None:
    argv = [require_tool("shellcheck"), "--external-sources", "--source-path", str(ROOT), *map(str, SCRIPTS)]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_executable_when_it_has_an_interpreter(path: Path) -> None:
    assert path.read_bytes().startswith(b"#!") == bool(path.stat().st_mode & 0o100)
