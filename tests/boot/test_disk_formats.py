"""The image boots from each format that QEMU opens, and measures what is predicted for a disk of that format.

Two boots are from disks that the guest may write to. One of those is a disk that is longer than its partition
table says: nothing may grow the table, and firmware measures it as if the disk ended where it does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from recipes.formats import gpt
from recipes.golden.report import parse_report
from recipes.golden.verify import compare
from recipes.measure.trace import ALL_ALGORITHMS, HashAlgorithm
from recipes.units import GIB, MIB, SECTOR_SIZE
from recipes.vmm import launch
from recipes.vmm.qemu import DriveFile
from tests.tool.disk_conformance import run as run_tool

from .support import Boot, Boots, Built, Run, boot_uefi, read_at

pytestmark = pytest.mark.boot

MACHINE = "q35-1cpu-512m-tis"
# What QEMU calls the formats. Of VHD it opens both kinds; of a streamOptimized VMDK it writes nothing.
DRIVERS = {"vhd": "vpc", "vhd-dynamic": "vpc", "vhdx": "vhdx", "vmdk": "vmdk"}
WRITTEN = "qcow2"
UNPACKED = "gce"
FORMATS = (*DRIVERS, WRITTEN, UNPACKED)
PRIMARY = gpt.PRIMARY_SECTORS * SECTOR_SIZE
BACKUP = gpt.BACKUP_SECTORS * SECTOR_SIZE
# Behind the disk as it ships: no whole number of MiB, and not the size of any format.
MORE = 200 * MIB + 7 * SECTOR_SIZE


@dataclass(frozen=True)
class Booted:
    """What a boot showed, and both copies of the partition table on its disk, before it and after it."""

    run: Run
    before: tuple[bytes, bytes] = (b"", b"")
    after: tuple[bytes, bytes] = (b"", b"")


def boot_format(name: str, built: Built, _: Path) -> Booted:
    file = DriveFile(path=str(built.shipped_disk(name)), format=DRIVERS[name], snapshot=True)
    return Booted(boot_uefi(built, built.machine(MACHINE), [file]))


def tables(disk: Path, size: int) -> tuple[bytes, bytes]:
    """The sectors of both tables of a disk that has ``size`` bytes, whatever its file has."""
    return read_at(disk, 0, PRIMARY), read_at(disk, size - BACKUP, BACKUP)


def boot_written(built: Built, folder: Path) -> Booted:
    """From a copy, which the guest writes to."""
    disk, raw = folder / "disk.qcow2", folder / "disk.raw"
    run_tool("cp", "--sparse=always", built.shipped_disk(WRITTEN), disk)
    run = boot_uefi(built, built.machine(MACHINE), [DriveFile(path=str(disk), format="qcow2")])
    run_tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
    size = built.disk.stat().st_size
    return Booted(run, tables(built.disk, size), tables(raw, raw.stat().st_size))


def boot_unpacked(built: Built, folder: Path) -> Booted:
    """From the disk in the archive, on a larger one; the guest writes to it."""
    run_tool("tar", "--extract", "--gzip", "--directory", folder, "--file", built.shipped_disk(UNPACKED))
    disk = folder / "disk.raw"
    size = disk.stat().st_size
    os.truncate(disk, size + MORE)
    before = tables(disk, size)
    run = boot_uefi(built, built.machine(MACHINE), [disk])
    assert not any(read_at(disk, size, MORE)), "the guest wrote behind the end of its partition table"
    return Booted(run, before, tables(disk, size))


BOOTS: dict[str, Boot] = {
    **{f"disk-{name}": partial(boot_format, name) for name in DRIVERS},
    f"disk-{WRITTEN}": boot_written,
    f"disk-{UNPACKED}-enlarged": boot_unpacked,
}


@pytest.fixture(scope="module")
def booted(boots: Boots) -> Mapping[str, Booted]:
    return {name: boots[key].result() for name, key in zip(FORMATS, BOOTS, strict=True)}


@pytest.mark.parametrize("name", FORMATS)
def test_every_register_is_that_of_a_disk_of_the_format(
    built: Built, booted: Mapping[str, Booted], name: str
) -> None:
    report = parse_report(booted[name].run.console, "console")
    assert report.facts["state"] == "running"
    expected = built.expected(MACHINE).on_disk(name)
    comparison = compare(expected, report.observation, banks=ALL_ALGORITHMS)
    wrong = {item.register for item in comparison.differences}
    if expected.vmm == f"qemu {launch.qemu_version()}":
        assert not wrong, comparison.differences
    else:
        assert wrong <= {"PCR1"}, comparison.differences


@pytest.mark.parametrize("name", FORMATS)
def test_pcr_5_is_another_one_where_the_disk_is_larger(
    built: Built, booted: Mapping[str, Booted], name: str
) -> None:
    sizes = {disk.format: disk.size for disk in built.manifest.disks}
    assert sizes["raw"] == built.disk.stat().st_size
    observed = parse_report(booted[name].run.console, "console").observation.values
    for algorithm in HashAlgorithm:
        is_raws = observed["PCR5", algorithm] == built.expected(MACHINE).value("PCR5", algorithm)
        assert is_raws == (sizes[name] == sizes["raw"])


def test_the_archives_disk_is_the_one_that_is_larger(built: Built, booted: Mapping[str, Booted]) -> None:
    """Or else the boots above would show less than they claim."""
    sizes = {disk.format: disk.size for disk in built.manifest.disks}
    assert [name for name in FORMATS if sizes[name] != sizes["raw"]] == [UNPACKED]
    assert sizes[UNPACKED] == GIB
    primary, backup = booted[UNPACKED].before
    assert backup.endswith(bytes(SECTOR_SIZE - gpt.HEADER_SIZE))
    assert gpt.SIGNATURE in primary
    assert gpt.SIGNATURE in backup


@pytest.mark.parametrize("name", [WRITTEN, UNPACKED])
def test_the_guest_neither_moves_nor_grows_its_table(booted: Mapping[str, Booted], name: str) -> None:
    assert booted[name].before == booted[name].after
    assert any(booted[name].before[1])
