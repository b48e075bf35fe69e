"""The scripts of the guest, judged by two shells and by shellcheck."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipes.sources.initramfs import command_line
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
    assert {"initrd/init", "initrd/unlock", "initrd/boot.sh", "initrd/luks.sh", "initrd/note.sh"} <= set(
        NAMES
    )
    assert {"initrd/unlock.d/ephemeral", "initrd/unlock.d/passphrase"} <= set(NAMES)
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


SHELLS = pytest.mark.parametrize("shell", ["dash", "busybox"])
OWN = "console=ttyS0 a='b  c' \\* d=$e"
QUOTED = r"""'console=ttyS0 a='\''b  c'\'' \* d=$e'"""
ROOT_HASH = bytes(range(0xC0, 0xE0))
LINE = command_line(OWN, ROOT_HASH)
FOREIGN = "the kernel command line is not the image's own: "
REFUSED = "; boot the UKI as it was built, without other words"


def judge_line(
    shell: str,
    folder: Path,
    line: bytes,
    *,
    profile: str = "release",
    own: str = QUOTED,
    root: str = "verity",
) -> str:
    """What the boot script says about a command line: ``passed``, or the message it ends with."""
    (folder / "cmdline").write_bytes(line)
    script = (ROOT / "initrd/devices.sh").read_text().replace("/proc/cmdline", str(folder / "cmdline"))
    (folder / "devices.sh").write_text(script)
    lines = [
        "set -u",
        "die() { printf 'die: %s' \"$*\"; exit 1; }",
        "warn() { printf 'warn: %s ' \"$*\"; }",
        "plain() { printf '%s' \"$1\"; }",
        f"PROFILE={profile} CMDLINE={own} ROOT={root}",
        f". {folder}/devices.sh",
        "read_roothash",
        "check_command_line",
        "printf passed",
    ]
    argv = [require_tool(shell), *(["sh"] if shell == "busybox" else []), "-c", "\n".join(lines)]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert result.stderr == ""
    return result.stdout


@SHELLS
def test_the_command_line_of_the_uki_passes(shell: str, tmp_path: Path) -> None:
    assert judge_line(shell, tmp_path, f"{LINE}\n".encode()) == "passed"
    assert judge_line(shell, tmp_path, f"roothash={ROOT_HASH.hex()}\n".encode(), own="''") == "passed"


@SHELLS
def test_an_encrypted_root_has_no_root_hash(shell: str, tmp_path: Path) -> None:
    assert judge_line(shell, tmp_path, f"{OWN}\n".encode(), root="luks2") == "passed"
    assert judge_line(shell, tmp_path, b"\n", root="luks2", own="''") == "passed"
    more = f" roothash={ROOT_HASH.hex()}"
    said = judge_line(shell, tmp_path, f"{OWN}{more}\n".encode(), root="luks2")
    assert said == f"die: {FOREIGN}'{more}'{REFUSED}"


@SHELLS
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (f"{LINE} systemd.debug_shell=ttyS0\n", " systemd.debug_shell=ttyS0"),
        (f"{LINE} \n", " "),
        (f"{LINE}\n\n", "?"),
        (f"{LINE}\nsystemd.debug_shell\n", "?systemd.debug_shell"),
        (f"{LINE} \x1b[2Jä\n", " ?[2J??"),
        (f"{LINE} {'x' * 300}\n", f" {'x' * 199}"),
        (f" {LINE}\n", f" {LINE}"),
        (f"debug {LINE}\n", f"debug {LINE}"),
        (f"{LINE.replace('b  c', 'b c')}\n", LINE.replace("b  c", "b c")),
        (f"{LINE.replace('*', 'x')}\n", LINE.replace("*", "x")),
        (f"roothash={ROOT_HASH.hex()}\n", f"roothash={ROOT_HASH.hex()}"),
        (f"roothash={ROOT_HASH.hex()} {OWN}\n", f"roothash={ROOT_HASH.hex()} {OWN}"),
    ],
)
def test_another_command_line_ends_a_release(shell: str, tmp_path: Path, line: str, shown: str) -> None:
    assert judge_line(shell, tmp_path, line.encode()) == f"die: {FOREIGN}'{shown}'{REFUSED}"


@SHELLS
def test_another_command_line_is_a_warning_in_development(shell: str, tmp_path: Path) -> None:
    said = judge_line(shell, tmp_path, f"{LINE} debug\n".encode(), profile="dev")
    assert said == f"warn: {FOREIGN}' debug'; a release does not boot with it passed"


@SHELLS
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (OWN, "the command line has no roothash=; boot the UKI as it was built"),
        (f"{LINE} roothash=", "the command line has two roothash= words; one UKI has one root"),
        (LINE[:-2], "roothash= has 62 digits and not 64 (SHA-256); boot the UKI as it was built"),
    ],
)
def test_a_root_hash_that_is_none(shell: str, tmp_path: Path, line: str, message: str) -> None:
    assert judge_line(shell, tmp_path, f"{line}\n".encode()) == f"die: {message}"


def test_the_command_line_is_judged_before_a_disk_can_appear() -> None:
    text = (ROOT / "initrd/boot.sh").read_text()
    order = [
        text.index(f"\n{step}\n")
        for step in (
            "measure_phase enter-initrd",
            "read_roothash",
            "check_command_line",
            "load_modules /etc/initramfs/modules",
            "    open_root",
            "network_up",
            '    mount_volume "$volume"',
            "network_down",
            "measure_phase leave-initrd",
            "hand_over",
        )
    ]
    assert order == sorted(order)
