"""Device trees that kvmtool's writer put into guest memory, read and written again byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from recipes.formats.arm64_image import HEAD_SIZE, Arm64Image, read_header
from recipes.formats.fdt import cells, encode, guest_region, quads, stale_tail, strings, walk
from recipes.formats.fdt_reader import parse_fdt, read_fdt
from tests.vectors.kvmtool_inputs import (
    Vector,
    document,
    generate,
    regenerate,
    rejected,
    ripas_blocks,
    vectors,
)

RECORDED = [pytest.param(vector, id=vector.name) for vector in vectors() if vector.dtb is not None]
IMAGES = sorted(name for name, item in document()["inputs"].items() if item["generator"] == "arm64_image")


def test_all_vectors_are_here() -> None:
    assert (len(vectors()), len(rejected()), len(ripas_blocks())) == (64, 11, 12)
    assert len(RECORDED) == 3
    assert len({vector.name for vector in vectors()}) == 64


@pytest.mark.parametrize("vector", RECORDED)
def test_a_recorded_tree_is_written_as_it_was(vector: Vector) -> None:
    dtb, tail, region = vector.dtb, vector.dtb_tail, vector.dtb_region
    assert dtb is not None
    assert region is not None
    assert (len(dtb), hashlib.sha256(dtb).digest()) == (vector.dtb_size, vector.dtb_sha256)
    assert hashlib.sha256(region).digest() == vector.dtb_region_sha256
    for data in (dtb, region):  # as a file, and as `--dump-dtb` writes it
        read = parse_fdt(data, vector.name)
        assert (read.reserved, read.boot_cpu, read.size) == ((), 0, vector.dtb_size)
        assert encode(read.root) == dtb
        assert stale_tail(encode(read.root)) == tail
        assert guest_region(read.root) == region


def test_what_the_richest_tree_says() -> None:
    vector = next(item for item in vectors() if item.name == "everything")
    assert vector.dtb is not None
    nodes = dict(walk(read_fdt(vector.dtb, "dtb")))
    assert [path for path in nodes if path.startswith("/cpus/")] == [
        f"/cpus/cpu@{index}" for index in range(4)
    ]
    assert nodes["/chosen"].value("bootargs") == strings(" console=hvc0 root=/dev/vda rw  earlycon")
    assert nodes["/chosen"].value("kaslr-seed") == quads(7)
    assert nodes["/memory"].value("reg") == quads(0x80000000, 512 << 20)
    assert nodes["/intc/msic"].value("phandle") == cells(2)
    assert nodes["/psci"].value("compatible") == strings("arm,psci-0.2", "arm,psci")


@pytest.mark.parametrize("name", IMAGES)
def test_headers_of_the_kernels(name: str) -> None:
    item = document()["inputs"][name]
    data = generate(name)
    expected = Arm64Image(text_offset=item["text_offset"], image_size=item["image_size"], flags=item["flags"])
    assert read_header(data[:HEAD_SIZE], len(data), name) == expected


def test_the_raw_kernel() -> None:
    data = generate("kernel-raw.img")
    assert read_header(data[:HEAD_SIZE], len(data), "kernel-raw.img", allow_raw=True) is None


def test_every_input_but_the_packaged_one_is_made(tmp_path: Path) -> None:
    inputs = regenerate(tmp_path)
    there = {path.name for path in tmp_path.iterdir()}
    assert there | inputs.unavailable.keys() == document()["inputs"].keys()
    assert inputs.unavailable.keys() == {"debian-Image"}
    skipped = {vector.name for vector in vectors() if inputs.missing(vector)}
    assert skipped == {"debian-kernel-demo", "debian-kernel-tfrmm-sha512-cpus2"}
