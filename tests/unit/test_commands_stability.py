"""``goldsmith stability`` and ``doit stability:REALM`` as a user calls them."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.__main__ import main
from recipes.commands import stability as command
from recipes.schema import RealmImage, load_project
from recipes.steps.realm import initramfs, kernel, stability
from recipes.vmm.kvmtool_parse import parse
from tests.support import ROOT
from tests.vectors.kvmtool_inputs import generate, vectors

VECTORS = {vector.name: vector for vector in vectors()}
PLAIN = VECTORS["cpus-1"].argv


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the command lines, in the working directory."""
    for name in ("kernel-a.img", "initrd-a.img", "disk.img", "flash3.img"):
        (tmp_path / name).write_bytes(generate(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(
    capsys: pytest.CaptureFixture[str], *words: str, argv: tuple[str, ...] = PLAIN
) -> tuple[int, str, str]:
    status = main(["stability", *words, "--", "lkvm", *argv])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_the_default_report(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == [
        "profile kvmtool-eac5, RIM established: oracle",
        "180 machines, 180 of them possible, 84 different RIMs",
    ]
    assert f"1      256M    serial    0/1 1/0      {VECTORS['cpus-1'].rim.hex()}" in lines
    assert f"4      256M    serial    0/1 1/0      {VECTORS['cpus-4'].rim.hex()}" in lines
    assert out.endswith("\n")
    assert not out.endswith("\n\n")


def test_declared_values(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--vcpus", "1,4", "--memory", "256M,1G", "--disks", "0-4", "--nics=1", "--consoles", "serial"]
    status, out, _ = run(capsys, *words, "--json")
    assert status == 0
    rows = {tuple(row["values"].values()): row["registers"] for row in json.loads(out)["rows"]}
    assert len(rows) == 20
    recorded = {
        ("1", "256M", "0", "1", "serial"): "cpus-1",
        ("4", "256M", "0", "1", "serial"): "cpus-4",
        ("1", "1G", "0", "1", "serial"): "mem-1G",
        ("1", "256M", "2", "1", "serial"): "disks-2",
        ("1", "256M", "3", "1", "serial"): "disks-3",
        ("1", "256M", "4", "1", "serial"): "disks-4",
    }
    for values, name in recorded.items():
        assert rows[values][0]["value"] == VECTORS[name].rim.hex()


def test_the_profile_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--profile",
        "kvmtool-eac5-tf-rmm",
        "--vcpus",
        "4",
        "--memory",
        "256",
        "--disks",
        "0",
        "--nics",
        "1",
    ]
    status, out, _ = run(capsys, *words, "--json", argv=VECTORS["cpus-4"].argv)
    document = json.loads(out)
    assert (status, document["profile"]) == (0, "kvmtool-eac5-tf-rmm")
    recorded = VECTORS["cpus-4"].rim_runnable_recs_only
    assert recorded is not None
    assert document["rows"][0]["registers"][0]["value"] == recorded.hex()


def test_the_host_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    # Spec section 6.3: without --islet the host decides; the measurer itself knows 0 and 2 only.
    argv = tuple(word for word in PLAIN if word != "--islet")
    status, out, err = run(capsys, "--host", "num_bps=4", "--json", argv=argv)
    assert status == 0
    assert (
        "note: --host: 4 breakpoints and 2 watchpoints are values that no other program measured with" in err
    )
    document = json.loads(out)
    assert document["machine"]["host"]["num_bps"] == 4
    assert {row["registers"][0]["established"] for row in document["rows"]} == {"spec-only"}


def test_the_flash_has_the_size_of_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--vcpus",
        "1",
        "--memory",
        "256",
        "--disks",
        "0",
        "--nics",
        "1",
        "--consoles",
        "serial",
        "--json",
    ]
    _, out, _ = run(capsys, *words, argv=VECTORS["flash-nonpow2"].argv)
    assert json.loads(out)["rows"][0]["registers"][0]["value"] == VECTORS["flash-nonpow2"].rim.hex()


def test_refused_machines_end_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    argv = VECTORS["no-initrd-with-disk"].argv
    status, out, _ = run(capsys, "--memory", "2,256", "--vcpus", "1", "--nics", "1", argv=argv)
    assert status == 0
    assert "20 machines, 8 of them possible" in out
    assert "12 machines that cannot be launched" in out
    assert VECTORS["no-initrd-with-disk"].rim.hex() in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "stability: no command line; write it behind --, for example -- lkvm run ..."),
        (["--"], "stability: no command line; write it behind --, for example -- lkvm run ..."),
        (
            ["--", "qemu-system-x86_64", "-m", "1"],
            "stability: qemu-system-x86_64: not kvmtool; it is for lkvm run ... alone",
        ),
        (
            ["--vcpus", "a", "--", "lkvm", *PLAIN],
            "--vcpus 'a': neither a number nor a range; write for example 1,2,4 or 0-4",
        ),
        (
            ["--vcpus", "1-900", "--disks", "0-90", "--", "lkvm", *PLAIN],
            "stability: 900 vcpus x 2 memory x 91 disks x 3 nics x 2 consoles are 982800 machines, up to",
        ),
        (
            ["--", "lkvm", *PLAIN, "-d", "missing.img"],
            "-d missing.img: there is no such disk image; kvmtool would not start",
        ),
        (
            ["--vcpus", "17", "--", "lkvm", *PLAIN],
            "stability: no machine of the matrix can be launched: -c 17: a realm has 1 to 16 vCPUs; give",
        ),
        (["--host", "x=1", "--", "lkvm", *PLAIN], "--host x=1: x is not known"),
        (
            ["--profile", "kvmtool-rel0-tf-rmm", "--", "lkvm", *PLAIN[:-1], "--dtb", "disk.img"],
            "stability: --dtb: a device tree of its own holds for one command line, not for a matrix",
        ),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stability", *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"goldsmith: {message}")
    assert output.out == ""


def test_progress_is_for_terminals_and_for_what_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(capsys)[2] == ""
    monkeypatch.setattr(command, "_PATIENCE", 0.0)
    monkeypatch.setattr(command, "_INTERVAL", 0.0)
    progress = run(capsys)[2]
    assert progress.startswith("\r1 of 180 machines\r2 of 180 machines")
    assert progress.endswith("\r180 of 180 machines\r\033[K")
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert run(capsys)[2] == ""


@pytest.fixture
def realm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> RealmImage:
    """The project's realm with another machine, and with its products in the folder."""
    for module in (kernel, initramfs, stability):
        monkeypatch.setattr(module, "OUT", folder / "out")
    found = load_project(ROOT).realms[0]
    machine = replace(parse(["lkvm", *PLAIN]).machine, name="plain")
    place = folder / "out" / found.folder
    place.mkdir(parents=True)
    (place / "Image").write_bytes(generate("kernel-a.img"))
    (place / "initramfs.cpio.gz").write_bytes(generate("initrd-a.img"))
    return replace(found, machines=(machine,))


def test_the_task_waits_for_kernel_and_initramfs(realm: RealmImage) -> None:
    task = stability.task(realm)
    assert (task["basename"], task["name"]) == ("stability", realm.name)
    assert task["task_dep"] == [f"kernel:{realm.name}", f"initramfs:{realm.name}"]
    assert "uptodate" not in task
    assert "targets" not in task


def test_the_task_prints_the_report_and_writes_it(
    realm: RealmImage, capsys: pytest.CaptureFixture[str]
) -> None:
    action, arguments = stability.task(realm)["actions"][0]
    assert action(*arguments) is None
    out = capsys.readouterr().out
    assert out.startswith(f"{realm.name} around its machine plain\n\nprofile kvmtool-eac5")
    path = stability.report_path(realm)
    assert stat.S_ISREG(path.lstat().st_mode)
    document = json.loads(path.read_text())
    values = {row["registers"][0]["value"] for row in document["rows"]}
    assert VECTORS["cpus-1"].rim.hex() in values
    assert VECTORS["disks-4"].rim.hex() in values
    assert [item.name for item in path.parent.iterdir() if item.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("disks", "4-0", "'4-0': neither a number nor a range; write for example 1,2,4 or 0-4"),
        ("nics", "0-999,0-9", "'0-999,0-9': more than 1000 values; give fewer"),
    ],
)
def test_a_value_of_the_recipe_that_is_none_is_said_with_its_place(
    realm: RealmImage, name: str, text: str, what: str
) -> None:
    declared = replace(realm.recipe.stability, **{name: text})
    wrong = replace(realm, recipe=replace(realm.recipe, stability=declared))
    action, arguments = stability.task(wrong)["actions"][0]
    line, column = realm.places["stability", name]
    place = f"recipes/images/{realm.name}.yaml:{line}:{column}"
    assert action(*arguments).message == f"{place}: stability.{name} {what}"
    recipe = (ROOT / "recipes" / "images" / f"{realm.name}.yaml").read_text().splitlines()
    assert recipe[line - 1][: column - 1].endswith(f"{name}: ")


def test_the_task_fails_with_a_message(realm: RealmImage) -> None:
    kernel.image_path(realm).unlink()
    action, arguments = stability.task(realm)["actions"][0]
    failed = action(*arguments)
    assert failed.message.startswith(str(kernel.image_path(realm)))
    assert "there is no such file" in failed.message
