"""Logs of real machines: their events replay to the PCRs that the machines' TPMs held."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import Any

import pytest

from recipes.formats.eventlog import EventLog, describe, pack, parse
from recipes.measure.tpm import replay
from tests.support import VECTORS

CLOUD = {
    case["file"]: case for case in json.loads((VECTORS / "eventlogs" / "index.json").read_text())["cases"]
}
BOOTS = sorted(path.name.removesuffix(".eventlog.gz") for path in (VECTORS / "pcr").glob("*.eventlog.gz"))
# PCRs that something else extended than what the log of firmware and kernel tells: IMA, and the userspace of
# the addons case, whose PCRs were read before it ran.
UNLOGGED = {"10"}


def read(name: str) -> tuple[bytes, EventLog]:
    data = gzip.decompress((VECTORS / name).read_bytes())
    return data, parse(data, name)


@pytest.mark.parametrize("name", sorted(CLOUD))
def test_a_cloud_log_replays_to_its_pcrs(name: str) -> None:
    case: dict[str, Any] = CLOUD[name]
    data, log = read(f"eventlogs/{name}")
    assert hashlib.sha256(data).hexdigest() == case["sha256"]
    values = replay(log)
    found = {bank: {pcr: values[bank, int(pcr)].hex() for pcr in pcrs} for bank, pcrs in case["pcrs"].items()}
    assert found == case["pcrs"]
    assert pack(log) == data


def test_all_logs_are_here() -> None:
    assert len(CLOUD) == 4
    assert len(BOOTS) == 8


def test_startup_locality_of_the_laptop() -> None:
    assert read("eventlogs/glinux-alex.bin.gz")[1].startup_locality == 3
    assert {read(f"eventlogs/{name}")[1].startup_locality for name in CLOUD} == {0, 3}


@pytest.mark.parametrize("name", BOOTS)
def test_the_log_of_a_recorded_boot(name: str) -> None:
    case = json.loads((VECTORS / "pcr" / f"{name}.json").read_text())
    data, log = read(f"pcr/{name}.eventlog.gz")
    assert hashlib.sha256(data).hexdigest() == case["eventlog_sha256"]
    assert pack(log) == data
    found = [(event.pcr, event.type_name, event.digests.get("sha256", b"").hex()) for event in log.events]
    assert found == [(item["pcr"], item["type"], item["sha256"]) for item in case["events"]]
    values = replay(log)
    for bank, pcrs in case["pcrs"].items():
        want = {pcr: value for pcr, value in pcrs.items() if pcr not in UNLOGGED}
        assert {pcr: values[bank, int(pcr)].hex() for pcr in want} == want, bank


@pytest.mark.parametrize("name", [f"eventlogs/{name}" for name in sorted(CLOUD)])
def test_every_event_has_a_printable_description(name: str) -> None:
    for event in read(name)[1].events:
        assert describe(event).isprintable()


def test_descriptions_of_a_boot() -> None:
    lines = [describe(event) for event in read("pcr/q35-512m-1cpu-secureboot.eventlog.gz")[1].events]
    assert lines[:5] == [
        "Spec ID Event03",
        "2025.02-8+deb13u1",
        "0x820000 + 0xe0000",
        "0x900000 + 0xe80000",
        "SecureBoot 01",
    ]
    assert lines[15] == "Boot0001 UEFI Misc Device PciRoot(0x0)/Pci(0x1,0x0)"
    assert lines[27].endswith(
        "/HD(1,GPT,00000000-0000-0000-0000-000000000001,0x800,0x20000)/"
        "\\EFI\\BOOT\\BOOTX64.EFI (17766400 bytes)"
    )
    assert lines[40:42] == ["0x8f3b22ed LOADED_IMAGE::LoadOptions", "0x8f3b22ec Linux initrd"]
