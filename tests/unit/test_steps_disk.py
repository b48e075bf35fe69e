from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from recipes.errors import SpecError
from recipes.formats import gpt
from recipes.formats.fat_reader import FatFilesystem
from recipes.sources.lock import Lock, dump
from recipes.steps import disk
from recipes.units import MIB

GUIDS = [str(UUID(int=number)) for number in (1, 2, 3)]


def build(folder: Path, boot_program: bytes) -> Path:
    (folder / "uki").write_bytes(boot_program)
    (folder / "root").write_bytes(b"root".ljust(3 * 4096, b"\1"))
    (folder / "tree").write_bytes(b"tree".ljust(4096, b"\2"))
    (folder / "lock").write_text(
        dump(Lock(suite="s", architecture="amd64", epoch=1_700_000_000, packages=()))
    )
    (folder / "facts").write_text(
        json.dumps(
            {
                "root_hash": "00",
                "data_partition_uuid": str(UUID(int=4)),
                "hash_partition_uuid": str(UUID(int=5)),
            }
        )
    )
    disk.build(
        folder / "disk.raw",
        lock=folder / "lock",
        boot_program=folder / "uki",
        root=folder / "root",
        tree=folder / "tree",
        facts=folder / "facts",
        contents=(),
        esp_size=34 * MIB,
        data_size=16 * MIB,
        disk_guid=GUIDS[0],
        esp_guid=GUIDS[1],
        data_guid=GUIDS[2],
    )
    return folder / "disk.raw"


def test_every_partition_holds_its_file(tmp_path: Path) -> None:
    path = build(tmp_path, b"boot program")
    with path.open("rb") as file:
        table = gpt.read(file, "disk")
        assert [partition.name for partition in table.partitions] == ["esp", "root", "root-verity", "data"]
        assert [str(partition.guid) for partition in table.partitions[1:3]] == [
            str(UUID(int=4)),
            str(UUID(int=5)),
        ]
        esp = FatFilesystem.open(file, table.partitions[0].offset, "esp")
        assert esp.file("EFI/BOOT/BOOTX64.EFI").read() == b"boot program"
        for partition, name in zip(table.partitions[1:3], ("root", "tree"), strict=True):
            file.seek(partition.offset)
            content = (tmp_path / name).read_bytes()
            assert file.read(len(content)) == content
        file.seek(table.partitions[3].offset)
        assert not any(file.read(table.partitions[3].size))


def test_the_disk_is_sparse(tmp_path: Path) -> None:
    stat = build(tmp_path, b"boot program").stat()
    assert stat.st_size > 50 * MIB
    assert stat.st_blocks * 512 < 4 * MIB


def test_a_secret_in_the_boot_program_stops_the_build(tmp_path: Path) -> None:
    header = b"-----BEGIN " + b"PRIVATE KEY-----\n" + b"MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ\n"
    with pytest.raises(SpecError, match=r"EFI system partition: EFI/BOOT/BOOTX64\.EFI:2: .*private key"):
        build(tmp_path, b"MZ\n" + header)
