"""A running machine says over the network what it booted, and is given another workload. Boots with swtpm.

The host asks as anybody would, with ``goldsmith attest``; all it knows is the image's golden manifest.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pytest

from recipes.formats import erofs
from recipes.formats.tree import FileTree
from recipes.golden.manifest import dump
from recipes.golden.report import is_complete
from recipes.measure.userspace import workload_word
from recipes.steps import operator_keys, workload
from recipes.steps.develop import TESTED_WORKLOAD
from recipes.vmm.qemu import DriveFile
from tests.support import ROOT
from tests.tool.attest_lab import make_operator

from .support import Boot, Boots, Built, Run, boot_uefi
from .test_workload import OTHER, Files, exchanged

pytestmark = pytest.mark.boot

IMAGE = Built(TESTED_WORKLOAD)
MACHINE = "q35"


@dataclass(frozen=True)
class Said:
    """How one call of ``goldsmith`` ended."""

    code: int
    out: str
    words: str


@dataclass
class Client:
    """Asks the machine once its system is up; ``said`` has what came of it, by name."""

    folder: Path
    port: int
    said: dict[str, Said] = field(default_factory=dict)
    asked: bool = False

    def __call__(self, console: bytes) -> bool:
        """Whether there is nothing more to see."""
        if not self.asked and is_complete(console) and b"containers run: hello" in console:
            self.asked = True
            self._ask_all()
        return self.asked and (self.said["exchange"].code != 0 or OTHER.encode() in console)

    def _ask_all(self) -> None:
        files, manifest = exchanged(self.folder / "exchanged")
        after = ("--after", self._write("new", files, manifest))
        self._write("tampered", {**files, "config/greeting": b"Hello from nobody knows where.\n"}, manifest)
        stranger = make_operator(self.folder / "stranger")
        operator = (operator_keys.CERTIFICATE, operator_keys.KEY)
        ak, none = self.folder / "ak.pub", self.folder / "none.pub"
        self.ask("no key", none)
        self.ask("first", ak, "--trust-on-first-use")
        self.ask("again", ak, "--json")
        self.ask("stranger", ak, *self._sending("new", *stranger))
        self.ask("tampered", ak, *self._sending("tampered", *operator))
        self.ask("nothing happened", ak)
        self.ask("exchange", ak, *self._sending("new", *operator))
        self.ask("not expected", ak)
        self.ask("expected", ak, *after)

    def _sending(self, name: str, certificate: Path, key: Path) -> tuple[object, ...]:
        files = ("--workload", self.folder / f"{name}.erofs", "--certificate", certificate)
        return (*files, "--private-key", key)

    def _write(self, name: str, files: Files, manifest: bytes) -> Path:
        """A workload as a build leaves it: the image, and the manifest beside it."""
        tree = FileTree()
        for path, data in files.items():
            tree.add_file(path, data)
        with (self.folder / f"{name}.erofs").open("wb") as out:
            erofs.write(tree, out, epoch=0, uuid=UUID(int=5))
        listed = self.folder / f"{name}.json"
        listed.write_bytes(manifest)
        return listed

    def ask(self, name: str, ak: Path, *options: object) -> None:
        """One call of the program."""
        argv = [sys.executable, "-m", "recipes", "attest", f"https://127.0.0.1:{self.port}", "--ak", ak]
        argv += ["--golden", self.folder / "golden.json", "--machine", MACHINE, *options]
        done = subprocess.run([*map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=400)
        self.said[name] = Said(done.returncode, done.stdout, done.stderr)


def write_golden(path: Path) -> None:
    """The shipped manifest without PCR 1, where firmware names the network card that the machine has here."""
    manifest = IMAGE.manifest
    machines = [
        replace(
            machine,
            registers=tuple(row for row in machine.registers if row.register != "PCR1"),
            traces=tuple(trace for trace in machine.traces if trace.register != "PCR1"),
        )
        for machine in manifest.machines
        if machine.name == MACHINE
    ]
    path.write_text(dump(replace(manifest, machines=tuple(machines), unlock=())))


@dataclass(frozen=True)
class Asked:
    """What the machine showed, and what it said to the client."""

    run: Run
    said: Mapping[str, Said]
    word: str


def ask_a_machine(built: Built, folder: Path) -> Asked:
    """The shipped disk, as it is, with a network card."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_golden(folder / "golden.json")
    client = Client(folder, port)
    network = f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:8000"
    # A card without an option ROM, or PCR 2 would have it.
    options = ("-netdev", network, "-device", "virtio-net-pci,netdev=net0,romfile=")
    disk = DriveFile(path=str(IMAGE.disk), snapshot=True)
    run = boot_uefi(IMAGE, IMAGE.machine(MACHINE), [disk], until=client, options=options)
    word = workload_word("hello", (folder / "new.json").read_bytes())
    shutil.rmtree(folder / "exchanged")
    return Asked(run, client.said, word)


BOOTS: dict[str, Boot] = {"attest": ask_a_machine}


@pytest.fixture
def asked(boots: Boots) -> Asked:
    found: Asked = boots["attest"].result()
    return found


def test_a_machine_with_a_known_key_is_the_predicted_one(asked: Asked) -> None:
    said = asked.said["again"]
    assert (said.code, said.words) == (0, ""), said
    document = json.loads(said.out)
    assert document["equal"] is True
    assert (document["differences"], document["registers"]) == ([], [])
    assert "trusted on first use" in asked.said["first"].words
    assert document["attestation_key"] in asked.said["first"].words


def test_without_a_known_key_nothing_is_believed(asked: Asked) -> None:
    said = asked.said["no key"]
    assert said.code == 2
    assert "no attestation key; enrol the machine's key there" in said.words


def test_a_stranger_hands_in_nothing(asked: Asked) -> None:
    said = asked.said["stranger"]
    assert said.code == 2, said
    assert "is this the service, and yours the certificate?" in said.words


def test_a_workload_that_is_not_whole_changes_nothing(asked: Asked) -> None:
    said = asked.said["tampered"]
    assert said.code == 2, said
    assert "the machine refuses (422): workload: a file is not what its manifest says" in said.words
    assert asked.said["nothing happened"].code == 0, asked.said["nothing happened"]


def test_another_workload_runs_and_the_register_shows_both(asked: Asked) -> None:
    said = asked.said["exchange"]
    assert said.code == 0, said
    assert f"q35: runs {asked.word}\n" in said.out
    assert OTHER in asked.run.text
    assert asked.run.text.index(OTHER) > asked.run.text.index("is in PCR 14")
    unexpected = asked.said["not expected"]
    assert unexpected.code == 1, unexpected
    what = "PCR14 differs at event 2 of 1: predicted nothing more, observed EV_IPL"
    assert f"{what} ({asked.word})" in unexpected.words
    assert asked.said["expected"].code == 0, asked.said["expected"]


def test_tested_images_have_an_operator() -> None:
    assert workload.measured(IMAGE.verified) is not None
    assert IMAGE.verified.recipe.attest is not None
    assert IMAGE.verified.recipe.attest.operators == f"keys/{operator_keys.CERTIFICATE.name}"
