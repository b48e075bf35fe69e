"""The rendered launch script: judged by shellcheck, and run by sh with stand-ins for QEMU and swtpm."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest

from recipes.machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from recipes.vmm.qemu_parse import parse
from recipes.vmm.script import launch_script
from tests.support import ROOT, require_tool

pytestmark = pytest.mark.tool

MACHINE = QemuMachine(
    name="small",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="qemu64,-cx16",
    vcpus=1,
    memory=512 << 20,
    firmware=UefiFirmware(package="ovmf", code="CODE.fd", vars="vars.fd"),
    tpm=TpmInterface.TIS,
    disks=(Disk(bootindex=0), Disk(read_only=True)),
    smbios_strings=("a,b $HOME `x` \\ 'q' \"d\"",),
)
BARE = replace(MACHINE, tpm=None, disks=(), smbios_strings=(), accelerator=Accelerator.KVM)
SEALED = replace(MACHINE, disks=(Disk(read_only=True),))

QEMU = """#!{python}
import os, signal, sys, time
if "--version" in sys.argv:
    print("QEMU emulator version 7.2.22 (Debian)"); sys.exit(0)
folder = {folder!r}
with open(os.path.join(folder, "argv"), "w") as out: out.write("\\0".join(sys.argv))
with open(os.path.join(folder, "stdin"), "w") as out: out.write(sys.stdin.read())
if os.environ.get("HANG"):
    with open(os.path.join(folder, "hanging"), "w") as out: out.write(str(os.getpid()))
    time.sleep(60)
sys.exit(int(os.environ.get("STATUS", "0")))
"""
SWTPM = """#!{python}
import os, socket, sys, time
words = [str(os.getpid()), *sys.argv]
with open(os.path.join({folder!r}, "swtpm.argv"), "w") as out: out.write("\\0".join(words))
if os.environ.get("BROKEN"):
    print("swtpm: cannot do that"); sys.exit(1)
path = [word for word in sys.argv if word.startswith("type=unixio,path=")][0][17:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
time.sleep(60)
"""


def render(machine: QemuMachine = MACHINE, *, qemu_version: str = "7.2.22") -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string((ROOT / "templates" / "run-qemu.sh.j2").read_text(encoding="utf-8"))
    script = launch_script(
        machine,
        code="fw/CODE.fd",
        vars_template="fw/VARS.fd",
        disks=("disk.raw", "extra disk.raw")[: len(machine.disks)],
        qemu_version=qemu_version,
    )
    return template.render(script=script, image="debian-cvm")


class Place:
    """A folder with the script, its files and stand-ins for the programs."""

    def __init__(self, folder: Path, machine: QemuMachine = MACHINE) -> None:
        self.folder = folder / "an image, with $signs"
        self.programs = folder / "bin"
        self.temporary = folder / "tmp"
        for path in (self.folder / "fw", self.programs, self.temporary):
            path.mkdir(parents=True)
        for name in ("fw/CODE.fd", "fw/VARS.fd", "disk.raw", "extra disk.raw"):
            (self.folder / name).write_bytes(name.encode())
        (self.folder / "fw" / "VARS.fd").chmod(0o444)
        self.script = self.folder / "run-small.sh"
        self.script.write_text(render(machine), encoding="utf-8")
        self.script.chmod(0o755)
        self.stand_in("qemu-system-x86_64", QEMU)
        self.stand_in("swtpm", SWTPM)

    def stand_in(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text.format(python=sys.executable, folder=str(self.programs)))
        path.chmod(0o755)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = {"PATH": f"{self.programs}:/usr/bin:/bin", "TMPDIR": str(self.temporary), **variables}
        return subprocess.Popen(
            ["sh", str(self.script), *arguments],
            cwd=self.temporary.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **variables)
        out, error = process.communicate(b"typed\n", timeout=30)
        return process.returncode, out.decode(), error.decode()

    def argv(self) -> list[str]:
        return (self.programs / "argv").read_text().split("\0")


@pytest.mark.parametrize("machine", [MACHINE, BARE, SEALED], ids=["full", "bare", "sealed"])
@pytest.mark.parametrize("version", ["7.2.22", ""])
def test_shellcheck_finds_nothing(machine: QemuMachine, version: str, tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text(render(machine, qemu_version=version), encoding="utf-8")
    result = subprocess.run(
        [require_tool("shellcheck"), "--shell=sh", "--severity=style", str(script)],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (0, "")
    assert max(map(len, script.read_text().splitlines())) <= 120


def test_the_words_start_the_machine_that_was_rendered(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.run("-name", "x") == (0, "", "")
    parsed = parse(place.argv(), name="small", package="ovmf")
    assert parsed.machine == MACHINE
    assert parsed.files.code == str(place.folder / "fw" / "CODE.fd")
    assert [disk.path for disk in parsed.files.disks] == [
        str(place.folder / "disk.raw"),
        str(place.folder / "extra disk.raw"),
    ]
    assert [disk.snapshot for disk in parsed.files.disks] == [True, False]
    assert parsed.files.serial == "mon:stdio"
    assert parsed.ignored[-1] == "-name x"
    assert (place.programs / "stdin").read_text() == "typed\n"
    assert list(place.temporary.iterdir()) == []


def test_variables_choose_console_state_disk_and_snapshot(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "other,disk").write_bytes(b"")
    choice = {"SERIAL": "file:log", "STATE": "state", "SNAPSHOT": "off", "DISK": "other,disk"}
    assert place.run(**choice) == (0, "", "")
    files = parse(place.argv()).files
    assert (files.serial, files.vars) == ("file:log", str(tmp_path / "state" / "vars.fd"))
    assert (files.disks[0].path, files.disks[0].snapshot) == ("other,disk", False)
    store = tmp_path / "state" / "vars.fd"
    assert store.read_bytes() == b"fw/VARS.fd"
    assert os.access(store, os.W_OK)
    store.write_bytes(b"changed by the guest")
    assert place.run(**choice)[0] == 0
    assert store.read_bytes() == b"changed by the guest"


def test_swtpm_gets_absolute_paths_and_is_ended(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.run(STATE="state")[0] == 0
    process, *argv = (place.programs / "swtpm.argv").read_text().split("\0")
    assert f"dir={tmp_path / 'state' / 'tpm'}" in argv
    assert not Path(f"/proc/{process}").exists()


def test_the_status_of_qemu_is_the_status_of_the_script(tmp_path: Path) -> None:
    assert Place(tmp_path).run(STATUS="3")[0] == 3


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_everything(number: signal.Signals, status: int, tmp_path: Path) -> None:
    place = Place(tmp_path)
    process = place.start(HANG="1")
    assert process.stdin is not None
    process.stdin.close()
    mark = place.programs / "hanging"
    limit = time.monotonic() + 20
    while not mark.exists() or not mark.read_text():
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) == status
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    assert not Path(f"/proc/{mark.read_text()}").exists()
    assert list(place.temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("fw/CODE.fd", "{folder}/fw/CODE.fd is missing or not readable"),
        ("fw/VARS.fd", "{folder}/fw/VARS.fd is missing or not readable"),
        ("disk.raw", "{folder}/disk.raw is missing or not readable"),
        ("extra disk.raw", "{folder}/extra disk.raw is missing or not readable"),
    ],
)
def test_missing_files(missing: str, message: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    (place.folder / missing).unlink()
    what = message.format(folder=place.folder)
    advice = "build the image first, and keep its files beside this script"
    assert place.run() == (2, "", f"run-small.sh: {what}; {advice}\n")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"QEMU": "no-such-qemu"},
            "no-such-qemu is not installed; install the Debian package qemu-system-x86",
        ),
        ({"SNAPSHOT": "yes"}, "SNAPSHOT=yes is neither on nor off"),
        ({"BROKEN": "1"}, "swtpm ended: swtpm: cannot do that"),
    ],
)
def test_other_mistakes(variables: dict[str, str], message: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.run(**variables) == (2, "", f"run-small.sh: {message}\n")
    assert list(place.temporary.iterdir()) == []


def test_swtpm_missing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (place.programs / "swtpm").unlink()
    for name in ("sh", "dirname", "sed"):
        (place.programs / name).symlink_to(f"/usr/bin/{name}")
    result = place.run(PATH=str(place.programs))
    assert result == (2, "", "run-small.sh: swtpm is not installed; install the Debian package swtpm\n")


def test_another_qemu_version_is_said(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.stand_in("qemu-system-x86_64", QEMU.replace("7.2.22", "7.2.2"))
    what = "this is not QEMU 7.2.22; PCR 1 may differ from its golden value"
    assert place.run() == (0, "", f"run-small.sh: {what}\n")


def test_help_names_every_variable(tmp_path: Path) -> None:
    status, out, error = Place(tmp_path).run("--help")
    assert (status, error) == (0, "")
    for name in ("SERIAL", "STATE", "SNAPSHOT", "DISK", "QEMU"):
        assert f"\n  {name} " in out


def test_kvm_machines_need_kvm() -> None:
    text = render(BARE)
    assert "/dev/kvm is not usable" in text
    assert "swtpm socket" not in text
    assert "/dev/kvm" not in render()


def test_every_option_is_on_a_line_of_its_own() -> None:
    lines = [line.strip().removesuffix(" \\") for line in render().splitlines()]
    start = lines.index('"$QEMU"')
    assert all(len(shlex.split(line)) <= 2 for line in lines[start + 1 : lines.index("qemu_pid=$!") - 1])
