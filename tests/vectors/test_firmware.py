"""Firmware builds and variable stores that others made: what we read from them is what was measured."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from functools import lru_cache
from typing import Any

import pytest

from recipes.formats.efi import variable_data
from recipes.formats.efi_signature import pack_signature_lists, parse_signature_lists
from recipes.formats.eventlog import EventType, parse
from recipes.formats.ovmf import aarch64_blob, contains_utf16, measured_volumes
from recipes.formats.varstore import read, write
from tests.support import VECTORS

INDEX = {
    item["stored"]: item for item in json.loads((VECTORS / "firmware" / "index.json").read_text())["files"]
}
BUILDS: dict[str, Any] = json.loads((VECTORS / "pcr" / "firmware.json").read_text())
EMPTY = "ovmf-2025.02-8+deb13u1.OVMF_VARS_4M.fd.xz"
SNAKEOIL = "ovmf-2025.02-8+deb13u1.OVMF_VARS_4M.snakeoil.fd.xz"
MICROSOFT = "ovmf-2025.02-8+deb13u1.OVMF_VARS_4M.ms.fd.xz"
ENROLLED = "pcr/q35-512m-1cpu-secureboot.vars.fd.xz"


@lru_cache(maxsize=3)  # some files inflate to 64 MiB
def firmware(name: str) -> bytes:
    return lzma.decompress((VECTORS / "firmware" / name).read_bytes())


@pytest.mark.parametrize("name", sorted(INDEX))
def test_files_are_those_of_the_index(name: str) -> None:
    data = firmware(name)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (INDEX[name]["size"], INDEX[name]["sha256"])


def test_no_file_is_outside_of_the_index() -> None:
    assert sorted(INDEX) == sorted(path.name for path in (VECTORS / "firmware").glob("*.xz"))


@pytest.mark.parametrize("build", sorted(BUILDS))
def test_measured_volumes_of_x86_builds(build: str) -> None:
    package, version, name = build.split()
    volumes = measured_volumes(firmware(f"{package}-{version}.{name}.xz"), name)
    found = [
        {
            "size": len(item),
            "sha256_static": hashlib.sha256(item).hexdigest(),
            "sha384_static": hashlib.sha384(item).hexdigest(),
        }
        for item in volumes
    ]
    assert found == BUILDS[build]["inner_fvs"]
    version = BUILDS[build]["crtm_version"]
    if version:
        assert all(contains_utf16(item, version) for item in volumes)
        assert not any(contains_utf16(item, version[:-1]) for item in volumes)


def test_the_blob_of_an_aarch64_build_is_the_one_measured() -> None:
    log = parse(
        gzip.decompress((VECTORS / "pcr" / "aarch64-virt-1024m-1cpu.eventlog.gz").read_bytes()), "log"
    )
    events = [item for item in log.events if item.type == EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB]
    blob = aarch64_blob(firmware("qemu-efi-aarch64-2025.02-8+deb13u1.AAVMF_CODE.secboot.fd.xz"), "code")
    assert [item.digests["sha512"] for item in events] == [hashlib.sha512(blob).digest()]
    assert events[0].data == (0x1000).to_bytes(8, "little") + len(blob).to_bytes(8, "little")


def test_the_blob_of_an_older_aarch64_build() -> None:
    # Its length as its event said: section "PCR 0" of the recorded boots.
    blob = aarch64_blob(firmware("qemu-efi-aarch64-2022.11-6+deb12u2.AAVMF_CODE.fd.xz"), "code")
    assert len(blob) == 0x1FF000


@pytest.mark.parametrize(
    "name", sorted(name for name in INDEX if name.endswith(("_VARS.fd.xz", "_VARS_4M.fd.xz")))
)
def test_stores_as_shipped_are_empty(name: str) -> None:
    assert read(firmware(name), name) == ()


def test_an_enrolled_store_gives_what_its_boot_measured() -> None:
    store = lzma.decompress((VECTORS / ENROLLED).read_bytes())
    variables = {item.name: item for item in read(store, "vars")}
    assert sorted(variables) == ["CustomMode", "KEK", "PK", "SecureBootEnable", "db", "dbx"]
    log = parse(
        gzip.decompress((VECTORS / "pcr" / "q35-512m-1cpu-secureboot.eventlog.gz").read_bytes()), "log"
    )
    events = [item for item in log.events if item.type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG]
    for event, name in zip(events[1:], ("PK", "KEK", "db", "dbx"), strict=True):
        found = variable_data(name, variables[name].vendor, variables[name].data)
        assert found == event.data
        assert hashlib.sha384(found).digest() == event.digests["sha384"]


def test_a_store_that_firmware_wrote() -> None:
    # OVMF set and replaced variables here: most of the 39 entries are deleted.
    variables = read(firmware(SNAKEOIL), "vars")
    assert [item.name for item in variables] == [
        *(
            "certdb",
            "MTC",
            "Boot0000",
            "Timeout",
            "PlatformLang",
            "Lang",
            "VarErrorFlag",
            "Key0000",
            "Key0001",
        ),
        *("ConOut", "ConIn", "ErrOut", "Boot0001", "MemoryTypeInformation", "db", "dbx", "KEK", "PK"),
        *("VendorKeysNv", "SecureBootEnable", "CustomMode"),
    ]


@pytest.mark.parametrize("name", [SNAKEOIL, MICROSOFT])
def test_signature_databases_keep_their_bytes(name: str) -> None:
    values = [item.data for item in read(firmware(name), name) if item.name in ("PK", "KEK", "db", "dbx")]
    assert len(values) == 4
    assert [pack_signature_lists(parse_signature_lists(value, "list")) for value in values] == values


@pytest.mark.parametrize("name", [SNAKEOIL, MICROSOFT])
def test_variables_survive_being_written(name: str) -> None:
    variables = read(firmware(name), name)
    store = write(firmware(EMPTY), variables)
    assert len(store) == len(firmware(EMPTY))
    assert read(store, "vars") == variables
    # Everything behind the store is the template's.
    assert store[0x40000:] == firmware(EMPTY)[0x40000:]
