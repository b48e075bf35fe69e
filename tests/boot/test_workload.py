"""A workload that is measured before it runs, and one that was changed and does not. Boots with swtpm.

The shipped image opens its workload by a root hash. With other words in the configuration of the initramfs
the same image takes any workload, which is what ``verity: false`` builds.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from recipes.formats import erofs
from recipes.formats.tree import FileTree
from recipes.golden.report import BootReport, parse_report
from recipes.measure.trace import HashAlgorithm
from recipes.measure.userspace import workload_word
from recipes.sources.workload import assemble, read_folder
from recipes.sources.workload_images import read_archive
from recipes.steps import workload
from recipes.steps.check import Proof, prove
from recipes.steps.develop import TESTED_WORKLOAD
from recipes.vmm.qemu import DriveFile
from tests.erofs_reader import read_erofs

from .support import (
    STOP,
    Boot,
    Boots,
    Built,
    Run,
    add_to_initramfs,
    altered,
    boot_kernel,
    boot_uefi,
    partitions,
    shipped_file,
)
from .variants import Variant, make_uki, put_uki

pytestmark = pytest.mark.boot

IMAGE = Built(TESTED_WORKLOAD)
MACHINE = "q35"
CONFIG = "etc/initramfs/config"
GREETING = "Hello from a measured container."
OTHER = "Hello from another container."
# Every key that podman has a word for, in two containers that need each other.
OTHER_COMPOSE = """\
services:
  client:
    image: hello
    network_mode: host
    command: [sh, -c, "wget -q -O - http://127.0.0.1:8080/greeting && exec sleep 1000000000"]
    depends_on: [server]
  server:
    image: hello:latest
    network_mode: bridge
    entrypoint: [/usr/bin/busybox, httpd]
    command: [-f, -v, -h, /srv/www]
    environment: {LEVEL: "a $$ and a blank"}
    ports: ["8080:80"]
    volumes: ["./config:/srv/www", "kept:/var/kept"]
    tmpfs: ["/run:size=1m,mode=0700"]
    user: "0:0"
    working_dir: /srv
    read_only: true
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    restart: always
volumes:
  kept:
"""
REFUSED = "<3>goldsmith: workload hello: refused, nothing of it runs: "
PANIC = "Kernel panic - not syncing"

Files = dict[str, bytes]


def prove_shipped(built: Built, folder: Path) -> Proof:
    """The image as it ships, every register held against the prediction."""
    return prove(IMAGE.image, IMAGE.expected(MACHINE), stop=STOP)


def unverified() -> bytes:
    """The configuration of an initramfs that opens no workload."""
    lines = shipped_file(IMAGE.initramfs, CONFIG).splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(b"WORKLOAD_")]
    assert len(lines) - len(kept) == 3
    return b"".join(kept)


def shipped_files() -> Files:
    """Every file of the shipped workload."""
    image = read_erofs(workload.filesystem(IMAGE.verified).read_bytes())
    found = {path.lstrip("/"): inode for path, inode in image.files.items()}
    return {path: inode.content for path, inode in found.items() if stat.S_ISREG(inode.mode)}


def put_workload(disk: Path, files: Files) -> None:
    """Writes another content into the workload's partition."""
    tree = FileTree()
    for path, data in files.items():
        tree.add_file(path, data)
    part = partitions(disk)["workload"]
    image = disk.with_name("workload.erofs")
    with image.open("w+b") as out:
        erofs.write(tree, out, epoch=0, uuid=UUID(int=4))
    assert image.stat().st_size <= part.size
    with disk.open("r+b") as out:
        out.seek(part.offset)
        out.write(image.read_bytes())


def other_greeting(files: Files) -> None:
    files["config/greeting"] = f"{OTHER}\n".encode()


def other_argument(files: Files) -> None:
    words = files["services/hello/arguments"]
    files["services/hello/arguments"] = words.replace(b"--cap-drop=ALL", b"--cap-add=ALL\0")


def exchanged(folder: Path) -> tuple[Files, bytes]:
    """Another workload of the same name with a manifest of its own, and that manifest."""
    source = folder / "hello"
    (source / "config").mkdir(parents=True)
    (source / "docker-compose.yml").write_text(OTHER_COMPOSE)
    (source / "config/greeting").write_text(f"{OTHER}\n")
    (source / "hello.tar").write_bytes(shipped_files()["images/hello.tar"])
    read = read_folder(source, "docker-compose.yml")
    made = assemble("hello", read, [read_archive(path, "amd64") for path in read.archives], "c")
    files = {path: node.read() for path, node in made.tree.nodes.items() if node.payload is not None}
    return files, made.manifest


def boot_unverified(put: Callable[[Path, Path], None], built: Built, folder: Path) -> Run:
    """A whole boot by firmware of the image that takes any workload."""
    with altered(IMAGE, folder) as disk:
        put(disk, folder)
        put_uki(disk, make_uki(IMAGE, folder, Variant(files={CONFIG: unverified()})))
        return boot_uefi(IMAGE, IMAGE.machine(MACHINE), [disk])


def put_exchanged(disk: Path, folder: Path) -> None:
    put_workload(disk, exchanged(folder)[0])


def put_tampered(change: Callable[[Files], None], disk: Path, folder: Path) -> None:
    files = shipped_files()
    change(files)
    assert files != shipped_files()
    put_workload(disk, files)


def boot_argument(built: Built, folder: Path) -> Run:
    """Without firmware: nothing is measured, and the refusal comes before that."""
    tree = FileTree()
    tree.add_file(CONFIG, unverified())
    initrd = add_to_initramfs(IMAGE.initramfs, folder / "initrd", tree)
    with altered(IMAGE, folder) as disk:
        put_tampered(other_argument, disk, folder)
        drives = [DriveFile(path=str(disk))]
        return boot_kernel(IMAGE, IMAGE.command_line(), drives, initrd=initrd, until=is_refused)


def is_refused(console: bytes) -> bool:
    return REFUSED[3:].encode() in console


def boot_block(built: Built, folder: Path) -> Run:
    """One bit of the verified partition is another."""
    with altered(IMAGE, folder) as disk:
        part = partitions(disk)["workload"]
        with disk.open("r+b") as file:
            file.seek(part.offset)
            place = file.read(part.size).index(GREETING.encode())
            file.seek(part.offset + place)
            file.write(b"J")
        return boot_kernel(IMAGE, IMAGE.command_line(), [DriveFile(path=str(disk))])


BOOTS: dict[str, Boot] = {
    "workload": prove_shipped,
    "workload-exchanged": partial(boot_unverified, put_exchanged),
    "workload-tampered": partial(boot_unverified, partial(put_tampered, other_greeting)),
    "workload-argument": boot_argument,
    "workload-block": boot_block,
}


def report_of(run: Run) -> BootReport:
    return parse_report(run.console, "console")


def register(report: BootReport) -> Mapping[HashAlgorithm, bytes]:
    """PCR 14 in every bank."""
    values = report.observation.values
    return {algorithm: values["PCR14", algorithm] for algorithm in HashAlgorithm}


def extended(word: str) -> Mapping[HashAlgorithm, bytes]:
    """What a register holds after one word, by hand. Spec: TPM 2.0 Library part 1, 17.2 PCR extend."""
    return {each: each.digest(bytes(each.size) + each.digest(word.encode("ascii"))) for each in HashAlgorithm}


def words(report: BootReport) -> list[str]:
    """What the log says was extended into PCR 14."""
    return [step.description for step in report.observation.steps if step.register == "PCR14"]


def test_the_register_is_as_predicted(boots: Boots) -> None:
    proof: Proof = boots["workload"].result()
    assert proof.comparison.differences == ()
    compared = {item.algorithm for item in proof.comparison.results if item.register == "PCR14:ready"}
    assert compared == set(HashAlgorithm)
    assert proof.passed
    manifest = workload.manifest_path(IMAGE.verified).read_bytes()
    assert words(proof.report) == [workload_word("hello", manifest)]
    assert register(proof.report) == extended(workload_word("hello", manifest))


def test_the_container_runs_behind_the_measurement(boots: Boots) -> None:
    text = boots["workload"].result().console.decode("utf-8", "replace").replace("\r", "")
    measured = re.search(r"goldsmith: workload hello: sha256:[0-9a-f]{64} is in PCR 14\n", text)
    assert measured is not None
    assert text.index(GREETING) > measured.end()
    assert "goldsmith: workload hello: containers run: hello\n" in text


def test_without_a_root_hash_another_workload_runs_and_the_register_shows_it(
    boots: Boots, tmp_path: Path
) -> None:
    run: Run = boots["workload-exchanged"].result()
    report = report_of(run)
    _, manifest = exchanged(tmp_path)
    assert report.facts["state"] == "running"
    assert words(report) == [workload_word("hello", manifest)]
    assert register(report) == extended(workload_word("hello", manifest))
    assert OTHER in run.text
    assert "goldsmith: workload hello: containers run: server client\n" in run.text


def test_a_changed_file_is_refused_and_the_register_is_closed(boots: Boots) -> None:
    run: Run = boots["workload-tampered"].result()
    report = report_of(run)
    what = "a file is not what its manifest says; write the workload's partition again"
    assert f"{REFUSED[3:]}{what}" in run.text
    assert OTHER not in run.text
    assert "containers run" not in run.text
    assert report.facts["state"] == "degraded"
    assert report.failed_units == ("workload-measure.service",)
    assert words(report) == ["workload:hello:refused"]
    assert register(report) == extended("workload:hello:refused")


def test_a_changed_argument_is_refused(boots: Boots) -> None:
    run: Run = boots["workload-argument"].result()
    assert f"{REFUSED[3:]}a file is not what its manifest says; " in run.text
    assert GREETING not in run.text


def test_a_changed_block_of_a_verified_workload_ends_the_machine(boots: Boots) -> None:
    run: Run = boots["workload-block"].result()
    assert run.stopped
    assert PANIC in run.text
    assert re.search(r"device-mapper: verity: .*data block [0-9]+ is corrupted", run.text)
    assert GREETING not in run.text
