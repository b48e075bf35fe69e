"""A workload that comes while another one runs: taken when it is whole, or as if nothing had come."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.sources.workload import assemble, read_folder
from recipes.sources.workload_images import read_archive
from tests.support import require_tool
from tests.tool import test_workload_script as script
from tests.unit.workload_samples import write_folder

pytestmark = pytest.mark.tool

# A guest whose partition has a workload.
guest = script.guest
Guest = script.Guest


def put(guest: Guest, folder: Path, name: str = "site") -> str:
    """Puts another workload where the stand-in for `mount` takes an image's files from; the word of it."""
    compose = script.COMPOSE.replace("    restart: always\n", "")
    source = write_folder(
        folder / name, compose=compose, files={**script.FILES, "config/app.toml": b"port = 443\n"}
    )
    read = read_folder(source, "docker-compose.yml")
    made = assemble(name, read, [read_archive(path, "amd64") for path in read.archives], "c")
    shutil.rmtree(guest.partition)
    for path, node in made.tree.sorted():
        if node.payload is not None:
            (guest.partition / path).parent.mkdir(parents=True, exist_ok=True)
            (guest.partition / path).write_bytes(node.read())
    return f"workload:{name}:sha256:{hashlib.sha256(made.manifest).hexdigest()}"


def replace(guest: Guest) -> subprocess.CompletedProcess[str]:
    (guest.root / "calls").unlink()
    argv = [require_tool("dash"), str(guest.root / "script"), "replace", "image"]
    return subprocess.run(argv, capture_output=True, text=True, cwd="/", env={"HOME": "/"})


def config(guest: Guest) -> bytes:
    return (guest.root / "run/workload/config/app.toml").read_bytes()


def test_the_old_one_ends_before_the_new_one_is_measured_and_runs(guest: Guest, tmp_path: Path) -> None:
    assert guest.run("measure").returncode == 0
    assert guest.run("start").returncode == 0
    word = put(guest, tmp_path)
    done = replace(guest)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{word}\n", "")
    calls = [call for call in guest.calls if call.startswith("system")]
    assert calls == [
        "systemctl --quiet is-active workload-measure.service",
        "systemctl stop workload.service",
        "systemctl stop workload@*.service",
        "systemctl --quiet is-active workload@*.service",
        "systemctl list-units --all --plain --no-legend --full workload@*.service",
        "systemctl daemon-reload",
        f"systemd-pcrextend --pcr=14 {word}",
        "systemctl start workload.service",
    ]
    assert config(guest) == b"port = 443\n"
    assert (guest.root / "run/workload").resolve() == guest.root / "var/lib/workload"
    for left in (
        "var/lib/workload.next",
        "run/workload.next",
        "run/workload.source",
        "var/lib/containers/storage",
    ):
        assert not (guest.root / left).exists(), left
    # What systemd was told of the old services is forgotten.
    assert list((guest.root / "run/systemd/system").iterdir()) == []
    modes = {name: (guest.root / "var/lib/workload" / name).stat().st_mode & 0o777 for name in script.FILES}
    assert modes == {"config/app.toml": 0o444, "config/run": 0o555, "secrets/key": 0o444}
    mounts = [call for call in guest.calls if call.startswith("mount -t")]
    assert mounts == ["mount -t erofs -o ro,nodev,nosuid,noexec,loop image /run/workload.source"]


def test_the_register_holds_both_words(guest: Guest, tmp_path: Path) -> None:
    """Spec: TPM 2.0 Library part 1 section 17.2."""
    guest.run("measure")
    word = put(guest, tmp_path)
    replace(guest)
    for bank in script.BANKS:
        value = bytes(hashlib.new(bank).digest_size)
        for each in (guest.good, word):
            value = hashlib.new(bank, value + hashlib.new(bank, each.encode()).digest()).digest()
        assert guest.text(f"tpm0/pcr-{bank}/14") == f"{value.hex().upper()}\n"


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (
            script.change("config/app.toml", b"port = 81\n"),
            "a file is not what its manifest says; send what the build made",
        ),
        (remove("config/run"), "a file is not what its manifest says; send what the build made"),
        (
            script.change("config/more", b""),
            "its files are not those of its manifest; send what the build made",
        ),
        (
            script.change("workload.json", b"{}\n"),
            "its list of files is not the one of its manifest; send what",
        ),
        (remove("workload.json"), "it has no manifest; send what the build made"),
        (script.add_link, "1 of its entries are no files; send what the build made"),
    ],
)
def test_what_is_not_whole_changes_nothing(
    guest: Guest, tmp_path: Path, tamper: Callable[[Path], None], why: str
) -> None:
    guest.run("measure")
    before = {bank: guest.text(f"tpm0/pcr-{bank}/14") for bank in script.BANKS}
    put(guest, tmp_path)
    tamper(guest.partition)
    done = replace(guest)
    assert done.returncode == 1
    assert done.stdout.startswith(why)
    assert guest.text("kmsg").startswith(f"<3>goldsmith: workload site: another one was not taken: {why}")
    assert "systemctl stop workload.service" not in guest.calls
    assert not [call for call in guest.calls if call.startswith("systemd-pcrextend")]
    assert {bank: guest.text(f"tpm0/pcr-{bank}/14") for bank in script.BANKS} == before
    assert config(guest) == script.FILES["config/app.toml"]
    assert not (guest.root / "var/lib/workload.next").exists()


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("lose-partition", "it is no EROFS image, or not all of one; send what the build made"),
        ("no-space", "its files do not fit into /var, or cannot be read; make the data partition larger"),
    ],
)
def test_what_cannot_be_read_changes_nothing(guest: Guest, tmp_path: Path, flag: str, why: str) -> None:
    guest.run("measure")
    put(guest, tmp_path)
    (guest.root / flag).touch()
    done = replace(guest)
    assert (done.returncode, done.stdout) == (1, f"{why}\n")
    assert "systemctl stop workload.service" not in guest.calls
    assert config(guest) == script.FILES["config/app.toml"]


def test_another_name_is_another_workload(guest: Guest, tmp_path: Path) -> None:
    guest.run("measure")
    put(guest, tmp_path, "other")
    done = replace(guest)
    assert (done.returncode, done.stdout) == (1, "it is not called site; name its folder so\n")


def test_where_it_cannot_be_measured_nothing_runs(guest: Guest, tmp_path: Path) -> None:
    """The old one has ended by then, so the register is closed."""
    guest.run("measure")
    guest.run("start")
    put(guest, tmp_path)
    (guest.root / "no-measured-boot").touch()
    done = replace(guest)
    assert (done.returncode, done.stdout) == (4, "")
    assert guest.text("running-meanwhile") == ""
    assert "systemctl stop workload.service" in guest.calls
    assert "systemctl start workload.service" not in guest.calls
    assert guest.words[-1] == "workload:site:refused"
    assert "refused, nothing of it runs" in guest.text("kmsg")


def test_it_was_measured_and_does_not_start(guest: Guest, tmp_path: Path) -> None:
    guest.run("measure")
    word = put(guest, tmp_path)
    (guest.root / "no-start").touch()
    done = replace(guest)
    assert (done.returncode, done.stdout) == (3, f"{word}\n")
    assert "it was measured and does not start; see the log of workload.service" in guest.text("kmsg")
    assert guest.words == [word]


@pytest.mark.parametrize("started", ["failed", "activating", "inactive"])
def test_containers_end_where_not_all_of_them_started(guest: Guest, tmp_path: Path, started: str) -> None:
    """systemd runs no ExecStop= then, and those that did start are there."""
    guest.run("measure")
    guest.set_state("workload.service", started)
    guest.set_state("workload@db.service", "active")
    guest.set_state("workload@web.service", "failed")
    word = put(guest, tmp_path)
    done = replace(guest)
    assert (done.returncode, done.stdout) == (0, f"{word}\n")
    assert guest.state("workload@db.service") == "inactive"
    assert guest.text("running-meanwhile") == ""
    assert guest.words == [word]


@pytest.mark.parametrize("state", ["active", "activating", "deactivating"])
def test_containers_that_do_not_end_stay_what_is_measured(guest: Guest, tmp_path: Path, state: str) -> None:
    guest.run("measure")
    guest.run("start")
    (guest.root / "stuck-workload@db.service").write_text(f"{state}\n")
    (guest.root / "var/lib/containers/storage").mkdir()
    before = {bank: guest.text(f"tpm0/pcr-{bank}/14") for bank in script.BANKS}
    put(guest, tmp_path)
    done = replace(guest)
    assert (done.returncode, done.stdout) == (4, "the containers that run do not end; see their log\n")
    assert {bank: guest.text(f"tpm0/pcr-{bank}/14") for bank in script.BANKS} == before
    assert guest.words == []
    assert (guest.root / "var/lib/containers/storage").is_dir()
    assert config(guest) == script.FILES["config/app.toml"]
    assert not (guest.root / "var/lib/workload.next").exists()
    assert "systemctl --no-block start workload.service" in guest.calls
