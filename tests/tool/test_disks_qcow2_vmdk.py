"""qcow2, VMDK and OVA judged by qemu-img and GNU tar."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from recipes.disks.format import DiskFormat, aligned_size, lookup
from recipes.disks.source import RawDisk
from tests.support import require_tool

pytestmark = pytest.mark.tool
KIB, MIB, TIB, PIB = 1 << 10, 1 << 20, 1 << 40, 1 << 50
DRIVERS = {"qcow2": "qcow2", "qcow2-zstd": "qcow2", "qcow2-zlib": "qcow2", "vmdk": "vmdk"}


def noise(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(b"%d" % seed).digest(size)


def _zeros(file: BinaryIO) -> None:
    file.truncate(3 * MIB)


def _tiny(file: BinaryIO) -> None:
    file.write(noise(512))


def _odd(file: BinaryIO) -> None:
    file.write(b"text" * 100000 + noise(65536 * 3) + bytes(96))
    file.truncate(MIB - 512)


def _sparse(file: BinaryIO) -> None:
    for place in (0, 40 * MIB - 512, 40 * MIB, 512 * MIB, 600 * MIB - 512):
        file.seek(place)
        file.write(noise(512, place))


def _full(file: BinaryIO) -> None:
    file.writelines((noise(KIB, number) * 64, noise(64 * KIB, number))[number % 2] for number in range(48))


INPUTS: dict[str, Callable[[BinaryIO], None]] = {
    "zeros": _zeros,
    "tiny": _tiny,
    "odd": _odd,
    "sparse": _sparse,
    "full": _full,
}


def qemu_img(*arguments: str | Path) -> str:
    argv = [require_tool("qemu-img"), *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write(kind: DiskFormat, raw: Path, target: Path, size: int | None = None) -> None:
    with raw.open("rb") as source, target.open("wb") as out:
        disk = RawDisk.of("raw", source)
        kind.write(disk.grown(size or disk.size), out, seed=b"seed")


@pytest.mark.parametrize("name", DRIVERS)
@pytest.mark.parametrize("content", INPUTS)
def test_the_same_disk(tmp_path: Path, name: str, content: str) -> None:
    raw, image, back = (tmp_path / file for file in ("raw", "image", "back"))
    with raw.open("wb") as file:
        INPUTS[content](file)
    kind, driver = lookup(name), DRIVERS[name]
    write(kind, raw, image)
    os.truncate(raw, aligned_size(kind, raw.stat().st_size))
    assert qemu_img("compare", "-f", "raw", "-F", driver, raw, image) == "Images are identical.\n"
    assert "No errors were found on the image." in qemu_img("check", "-f", driver, image)
    qemu_img("convert", "-f", driver, "-O", "raw", image, back)
    assert back.stat().st_size == raw.stat().st_size
    with raw.open("rb") as one, back.open("rb") as other:
        digests = {hashlib.file_digest(file, "sha256").digest() for file in (one, other)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "compression"), [("qcow2", "zlib"), ("qcow2-zstd", "zstd"), ("qcow2-zlib", "zlib")]
)
def test_qcow2_says_how_it_is_compressed(tmp_path: Path, name: str, compression: str) -> None:
    (tmp_path / "raw").write_bytes(b"text" * 65536)
    write(lookup(name), tmp_path / "raw", tmp_path / "image")
    data = json.loads(qemu_img("info", "--output=json", "-f", "qcow2", tmp_path / "image"))[
        "format-specific"
    ]["data"]
    assert (data["compat"], data["compression-type"], data["refcount-bits"]) == ("1.1", compression, 16)
    assert (data["lazy-refcounts"], data["corrupt"]) == (False, False)


def test_vmdk_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"text" * 65536)
    write(lookup("vmdk"), tmp_path / "raw", tmp_path / "image")
    data = json.loads(qemu_img("info", "--output=json", "-f", "vmdk", tmp_path / "image"))["format-specific"][
        "data"
    ]
    assert data["create-type"] == "streamOptimized"
    assert [(extent["compressed"], extent["cluster-size"]) for extent in data["extents"]] == [(True, 65536)]


def test_reference_counts_in_several_blocks(tmp_path: Path) -> None:
    # A block counts 32768 clusters, 2 GiB; a disk of 2.25 GiB with a sector of content in each.
    raw, image = tmp_path / "raw", tmp_path / "image"
    clusters = 36 * 1024
    with raw.open("wb") as file:
        for number in range(clusters):
            file.seek(number * 65536)
            file.write(b"%d" % number)
        file.truncate(clusters * 65536)
    write(lookup("qcow2"), raw, image)
    assert "No errors were found on the image." in qemu_img("check", "-f", "qcow2", image)
    assert qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, image) == "Images are identical.\n"
    image.unlink()


@pytest.mark.parametrize(("name", "size"), [("qcow2", 2 * PIB), ("qcow2-zstd", 2 * PIB), ("vmdk", 2 * TIB)])
def test_largest(tmp_path: Path, name: str, size: int) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(noise(4096))
    write(lookup(name), raw, image, size)
    info = json.loads(qemu_img("info", "--output=json", "-f", DRIVERS[name], image))
    assert info["virtual-size"] == size
    assert "No errors were found on the image." in qemu_img("check", "-f", DRIVERS[name], image)
    dd = [f"if={image}", f"of={tmp_path / 'start'}", "bs=4096", "count=1"]
    qemu_img("dd", "-f", DRIVERS[name], "-O", "raw", *dd)
    assert (tmp_path / "start").read_bytes() == raw.read_bytes()


def test_ova_by_gnu_tar(tmp_path: Path) -> None:
    raw, archive = tmp_path / "raw", tmp_path / "image.ova"
    with raw.open("wb") as file:
        _full(file)
    write(lookup("ova"), raw, archive)
    tar = require_tool("tar")
    listed = subprocess.run(
        [tar, "--format=ustar", "-tf", archive], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == ["image.ovf", "image.mf", "image.vmdk"]
    assert listed.stderr == ""
    subprocess.run([tar, "-xf", archive, "-C", tmp_path], check=True)
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "vmdk", raw, tmp_path / "image.vmdk")
    # As sha256sum's own BSD style has it, which OVF takes its own from, but for blanks.
    lines = (tmp_path / "image.mf").read_text().replace("SHA256(", "SHA256 (").replace(")= ", ") = ")
    done = subprocess.run(
        [require_tool("sha256sum"), "--check", "--strict"],
        input=lines,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "image.ovf: OK\nimage.vmdk: OK\n"
