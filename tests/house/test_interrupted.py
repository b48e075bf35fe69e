"""A build that is killed, starved or raced leaves nothing that looks finished, and the next one mends it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.house.conftest import Small
from tests.house.project import Project, finish, nobody, sha256, unavailable

SEED = 20250817  # as good as any other
KILLS = 6
MIB = 1 << 20


def lines(output: str) -> list[str]:
    """Names of the products that a build said it made."""
    return re.findall(r"^  debian-cvm/(\S+) .* sha256 [0-9a-f]{16}… ", output, re.MULTILINE)


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """What a failed build said, which is no traceback."""
    said = result.stdout + result.stderr
    assert result.returncode != 0, said
    assert "Traceback" not in said
    return said


def wait_until_building(process: subprocess.Popen[str], project: Project) -> None:
    """Returns when the build has taken its lock."""
    for _ in range(600):
        try:
            if json.loads((project.root / "out" / ".lock").read_text())["pid"] == process.pid:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    pytest.fail("the build never took its lock")


def test_killed_at_any_point_a_build_goes_on_to_the_same_bytes(small_build: Small) -> None:
    project = small_build.project
    chance = random.Random(SEED)
    points = sorted(chance.uniform(0.2, 1.0) * small_build.seconds for _ in range(KILLS))
    for number, point in enumerate(points):
        project.build("clean")
        project.build("forget")
        process = project.start("-n", "0" if number % 3 == 1 else "2")
        time.sleep(point)
        # A killed build must take its workers with it: alone they would hold its lock.
        (os.kill if number % 2 else os.killpg)(process.pid, signal.SIGKILL)
        finish(process)
        assert project.unsound() == [], f"after a kill at {point:.1f} s"
    project.build()
    assert project.products() == small_build.products
    assert project.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", ["0", "2"])
def test_told_to_stop_a_build_says_so_in_one_line(
    small_build: Small, number: signal.Signals, processes: str
) -> None:
    project = replace(small_build.project, plain=False)
    project.build("forget")
    process = project.start("-n", processes)
    wait_until_building(process, project)
    time.sleep(small_build.seconds / 4)
    os.killpg(process.pid, number)
    result = finish(process)
    assert result.returncode == 128 + number
    assert "Traceback" not in complaint(result)
    what = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminated"}[number]
    kept = "what was finished is kept, the same command goes on from there"
    assert result.stderr == f"\ndodo.py: {what}; {kept}\n"
    assert project.unsound() == []


def test_what_was_finished_before_an_interrupt_is_not_made_again(small_build: Small) -> None:
    project = replace(small_build.project, plain=False)
    project.build("forget")
    process = project.start("-n", "0")
    assert process.stdout is not None
    first = lines(process.stdout.readline() + process.stdout.readline())
    process.send_signal(signal.SIGINT)
    finish(process)
    again = lines(project.build())
    assert first == ["resolved.lock", "vmlinuz"]
    assert again
    assert "resolved.lock" not in again
    assert project.products() == small_build.products


def test_no_space_left_is_one_message_and_harms_nothing(small_build: Small) -> None:
    project = small_build.project
    project.build("clean")
    project.out.mkdir()
    failed = namespace(project, f"mount -t tmpfs -o size={24 * MIB} tmpfs '{project.out}'").run("-n", "0")
    said = "no space left on device; free some space and run the same command again"
    assert complaint(failed).count(said) == 1
    assert failed.returncode == 1
    project.build()
    assert project.products() == small_build.products


def test_a_limit_on_file_sizes_is_one_message_and_harms_nothing(small_build: Small) -> None:
    project = small_build.project
    project.build("clean")
    failed = replace(project, prefix=("prlimit", f"--fsize={4 * MIB}")).run()
    assert "file too large; raise the limit on file sizes and run the same command again" in complaint(failed)
    assert failed.returncode == 1
    assert project.unsound() == []
    assert project.leftovers() == []
    project.build()
    assert project.products() == small_build.products


def test_products_on_a_read_only_disk_are_one_message(small: Small) -> None:
    project = small.project
    project.build("forget")
    command = f"mount --bind '{project.out}' '{project.out}' && mount -o remount,ro,bind '{project.out}'"
    failed = namespace(project, command).run()
    assert "read-only file system; make it writable and run the same command again" in complaint(failed)
    assert failed.returncode == 1


def test_a_folder_of_another_user_is_one_message(small: Small) -> None:
    project = replace(small.project, prefix=nobody())
    failed = project.run()
    out = project.root / "out"
    assert complaint(failed) == (
        f"ERROR: {out}: permission denied; the build writes there, make that possible\n"
    )
    assert failed.returncode == 3
    listed = project.run("list")
    assert listed.returncode == 0, listed.stderr
    assert "debian-cvm" in listed.stdout


QEMU = """#!/bin/sh
case "$*" in *--version*) echo "QEMU emulator version 7.2.22"; exit;; esac
echo $$ >> "{log}"
exec sleep 300
"""
SWTPM = """#!{python}
import re, socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(re.search("path=([^,]*)", " ".join(sys.argv))[1])
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_machine_outlives_a_check_that_is_stopped(
    small: Small, tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    for name, text in (("qemu-system-x86_64", QEMU), ("swtpm", SWTPM)):
        (tmp_path / name).write_text(text.format(log=log, python=sys.executable))
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    project = replace(small.project, plain=False, environment=environment)
    process = project.start("check:debian-cvm")
    for _ in range(1600):
        pids = log.read_text().split() if log.exists() else []
        if len(pids) == 2:
            break
        time.sleep(0.05)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(str(finish(process)))
    (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
    result = finish(process)
    assert result.returncode == 128 + number, complaint(result)
    assert not [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and _alive(pid)]


def _alive(pid: str) -> bool:
    """Whether a process runs; one that nobody has asked about yet is dead."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_second_build_waits_and_says_for_whom(small_build: Small) -> None:
    project = small_build.project
    project.build("forget")
    first = project.start()
    wait_until_building(first, project)
    second = project.start()
    results = [finish(first), finish(second)]
    assert [result.returncode for result in results] == [0, 0], results
    assert results[0].stderr == ""
    assert results[1].stderr == f"waiting for process {first.pid} (doit), which is building here\n"
    assert "rootfs.erofs" in lines(results[0].stdout)
    assert lines(results[1].stdout) == []
    assert project.products() == small_build.products


def test_a_stopped_build_is_not_waited_for_but_a_running_one_may_be_listed(small_build: Small) -> None:
    project = small_build.project
    project.build("forget")
    process = project.start()
    wait_until_building(process, project)
    listed = project.run("list")
    assert listed.returncode == 0
    assert listed.stderr == ""
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    started = project.run("forget")
    assert started.stderr == ""


def test_an_edited_product_is_made_again(small: Small) -> None:
    path = small.project.out / "rootfs.erofs"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert lines(small.project.build()) == ["rootfs.erofs"]
    assert small.project.products() == small.products


def test_a_removed_product_is_made_again(small: Small) -> None:
    (small.project.out / "disk.raw").unlink()
    assert lines(small.project.build()) == ["disk.raw"]
    assert small.project.products() == small.products


def test_a_removed_sidecar_is_made_again(small: Small) -> None:
    (small.project.out / "verity.json.digest.json").unlink()
    assert lines(small.project.build()) == ["rootfs.verity", "verity.json"]
    assert small.project.products() == small.products


def test_a_touched_file_changes_nothing(small: Small) -> None:
    project = small.project
    for path in (project.out / "rootfs.erofs", project.out / "disk.raw", project.root / "initrd" / "init"):
        path.touch()
    times = {path: path.stat().st_mtime_ns for path in project.out.rglob("*")}
    assert lines(project.build()) == []
    assert {path: path.stat().st_mtime_ns for path in project.out.rglob("*")} == times


def test_an_edited_source_changes_what_is_made_of_it(small: Small) -> None:
    project = small.project
    script = project.root / "initrd" / "init"
    text = script.read_text()
    script.write_text(text + "\n# edited\n")
    made = lines(project.build())
    script.write_text(text)
    disks = ["disk.raw", "disk.tar.gz"]
    made_of_it = ["initramfs.cpio.zst", "initramfs.sizes.txt", "debian-cvm.efi", *disks, "golden.json"]
    assert made == [*made_of_it, "publish/gcp"]
    project.build()
    assert project.products() == small.products


def test_a_comment_in_the_recipe_changes_nothing(small: Small) -> None:
    project = small.project
    text = project.recipe.read_text()
    project.recipe.write_text(f"# words\n{text}")
    made = lines(project.build())
    project.recipe.write_text(text)
    assert made == []


def test_clean_keeps_what_is_costly_or_secret(small: Small) -> None:
    project = small.project
    kept = [*(project.root / "keys").iterdir(), *(project.root / "out" / "cache" / "packages").iterdir()]
    assert kept
    project.build("clean")
    assert not project.out.exists()
    assert all(path.exists() for path in kept)
    project.build("-n", "0")
    assert project.products() == small.products


def test_forgotten_steps_run_again(small: Small) -> None:
    project = small.project
    project.build("forget", "verity:debian-cvm")
    assert lines(project.build()) == ["rootfs.verity", "verity.json"]
    assert project.products() == small.products


def test_the_build_folder_may_be_removed(small: Small) -> None:
    """Everything in it is made again; here the packages stay, which would be downloaded."""
    project = replace(small.project, plain=False)
    packages = project.root / "packages"
    shutil.move(project.root / "out" / "cache" / "packages", packages)
    shutil.rmtree(project.root / "out")
    listed = project.build("list")
    assert "debian-cvm" in listed
    (project.root / "out" / "cache").mkdir(parents=True, exist_ok=True)
    shutil.move(packages, project.root / "out" / "cache" / "packages")
    project.build()
    assert project.products() == small.products


@pytest.mark.parametrize(("content", "said"), [(b"no database" * 100, "file is not a database; remove it")])
def test_a_damaged_state_says_what_to_do(small: Small, content: bytes, said: str) -> None:
    state = small.project.root / "out" / ".doit.db"
    before = state.read_bytes()
    state.write_bytes(content)
    failed = small.project.run()
    state.write_bytes(before)
    assert complaint(failed) == f"ERROR: {state}: {said}, every step then runs again\n"


def test_a_damaged_digest_cache_is_only_slower(small: Small) -> None:
    cache = small.project.root / "out" / "cache" / "digests.json"
    for damage in ("", "{", "[]", '{"x": {"y": 1}}', '{"x": 1}', '{"x": [1]}', '{"x": null}'):
        cache.write_text(damage)
        assert lines(small.project.build("packages:debian-cvm")) == []
    assert sha256(small.project.out / "resolved.lock") in cache.read_text()


def namespace(project: Project, command: str) -> Project:
    """The copy with a mount that only its commands see."""
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    if shutil.which("unshare") is None:
        unavailable("unshare is not installed")
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("mounting is forbidden here")
    return replace(project, prefix=("unshare", "--mount", "sh", "-c", f'{command} && exec "$@"', "sh"))
