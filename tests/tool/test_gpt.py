from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from recipes.formats import gpt
from recipes.formats.gpt import PartitionPlan, PartitionTable, grow, lay_out, read
from recipes.units import MIB
from tests.support import require_tool

pytestmark = pytest.mark.tool

DISK = uuid.UUID("5a4d1a6e-0d1c-4c7e-9d5e-0123456789ab")
PLANS = [
    PartitionPlan(name="esp", type_guid=gpt.TYPE_ESP, guid=uuid.uuid5(DISK, "esp"), size=3 * MIB),
    PartitionPlan(
        name="root größe",
        type_guid=gpt.TYPE_ROOT_X86_64,
        guid=uuid.uuid5(DISK, "root"),
        size=5000,
        attributes=1 << 60,
    ),
    PartitionPlan(
        name="x" * 36, type_guid=gpt.TYPE_ROOT_VERITY_X86_64, guid=uuid.uuid5(DISK, "verity"), size=MIB + 1
    ),
]


def run(*argv: str | Path) -> str:
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write(table: PartitionTable, path: Path) -> None:
    with path.open("wb") as out:
        out.write(table.primary())
        backup = table.backup()
        out.seek(table.sectors * 512 - len(backup))
        out.write(backup)


def judge(table: PartitionTable, path: Path) -> None:
    assert "No errors detected." in run(require_tool("sfdisk"), "--verify", path)
    output = run(require_tool("sgdisk"), "-v", path)
    assert "No problems found." in output
    # It would like partitions to end on a whole MiB too, for disk encryption tools of long ago.
    assert all("doesn't end on" in line for line in output.splitlines() if "Caution" in line)
    assert "Warning" not in output
    found = json.loads(run(require_tool("sfdisk"), "--json", path))["partitiontable"]
    assert found["label"] == "gpt"
    assert uuid.UUID(found["id"]) == table.disk_guid
    assert (found["firstlba"], found["lastlba"]) == (34, table.sectors - 34)
    assert [(each["start"], each["size"]) for each in found["partitions"]] == [
        # sfdisk gives lengths, so an end that is not inclusive would show.
        (each.first_lba, each.last_lba - each.first_lba + 1)
        for each in table.partitions
    ]
    for entry, partition in zip(found["partitions"], table.partitions, strict=True):
        assert uuid.UUID(entry["type"]) == partition.type_guid
        assert uuid.UUID(entry["uuid"]) == partition.guid
        assert entry["name"] == partition.name
        assert bool(partition.attributes) == ("attrs" in entry)


def test_sfdisk_and_sgdisk_find_nothing_wrong(tmp_path: Path) -> None:
    table = lay_out(DISK, PLANS)
    write(table, tmp_path / "disk")
    judge(table, tmp_path / "disk")


def test_grown_table(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    table = lay_out(DISK, PLANS)
    write(table, path)
    grown = grow(table, table.sectors + 12345)
    with path.open("r+b") as out:
        out.write(grown.primary())
        # The old backup now lies in free space; it must not disturb anybody.
        out.seek((grown.sectors - 33) * 512)
        out.write(grown.backup())
    judge(grown, path)


def test_partition_to_the_last_usable_sector(tmp_path: Path) -> None:
    plan = PartitionPlan(name="all", type_guid=gpt.TYPE_VAR, guid=uuid.uuid5(DISK, "var"), size=2 * MIB)
    table = lay_out(DISK, [plan], sectors=2048 + 4096 + 33)
    write(table, tmp_path / "disk")
    judge(table, tmp_path / "disk")


def test_type_guids_are_those_of_sgdisk(tmp_path: Path) -> None:
    codes = {
        "ef00": gpt.TYPE_ESP,
        "8304": gpt.TYPE_ROOT_X86_64,
        "8305": gpt.TYPE_ROOT_ARM64,
        "8310": gpt.TYPE_VAR,
        "8300": gpt.TYPE_LINUX_GENERIC,
        "830c": None,
    }
    path = tmp_path / "disk"
    path.write_bytes(b"")
    with path.open("r+b") as out:
        out.truncate(32 * MIB)
    argv = [part for code in codes for part in ("-n", "0:0:+1M", "-t", f"0:{code}")]
    run(require_tool("sgdisk"), "-o", *argv, path)
    with path.open("rb") as file:
        found = read(file, "disk").partitions
    for partition, expected in zip(found, codes.values(), strict=True):
        assert expected in {None, partition.type_guid}


def test_verity_type_guids_are_those_of_sfdisk() -> None:
    known = run(require_tool("sfdisk"), "--label", "gpt", "--list-types")
    names = {
        "Linux root verity (x86-64)": gpt.TYPE_ROOT_VERITY_X86_64,
        "Linux root verity (ARM-64)": gpt.TYPE_ROOT_VERITY_ARM64,
        "Linux root (x86-64)": gpt.TYPE_ROOT_X86_64,
        "Linux root (ARM-64)": gpt.TYPE_ROOT_ARM64,
        "Linux variable data": gpt.TYPE_VAR,
        "Linux filesystem": gpt.TYPE_LINUX_GENERIC,
        "EFI System": gpt.TYPE_ESP,
    }
    table = {line[36:].strip(): line[:36].lower() for line in known.splitlines() if line[8:9] == "-"}
    for name, expected in names.items():
        assert table[name] == str(expected)


def test_we_read_what_sgdisk_writes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as out:
        out.truncate(16 * MIB)
    guid = uuid.uuid5(DISK, "fourteen")
    argv = [
        "-n",
        "14:2048:4095",
        "-t",
        "14:ef02",
        "-u",
        f"14:{guid}",
        "-c",
        "14:bios",
        "-n",
        "1:4096:0",
        "-A",
        "1:set:2",
    ]
    run(require_tool("sgdisk"), "-o", "-U", str(DISK), *argv, path)
    with path.open("rb") as file:
        table = read(file, "disk")
    assert table.disk_guid == DISK
    assert table.sectors == 32768
    first, second = table.partitions
    assert (first.number, first.first_lba, first.last_lba, first.attributes) == (1, 4096, 32734, 4)
    assert (second.number, second.name, second.guid, second.last_lba) == (14, "bios", guid, 4095)


def test_we_read_what_sfdisk_writes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as out:
        out.truncate(16 * MIB)
    script = f"label: gpt\nlabel-id: {DISK}\nstart=2048, size=100, name=a\nstart=4096, size=1\n"
    done = subprocess.run([require_tool("sfdisk"), str(path)], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with path.open("rb") as file:
        table = read(file, "disk")
    assert table.disk_guid == DISK
    assert [(each.name, each.first_lba, each.last_lba) for each in table.partitions] == [
        ("a", 2048, 2147),
        ("", 4096, 4096),
    ]
