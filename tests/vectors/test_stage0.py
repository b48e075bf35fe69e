"""Memory maps and ACPI digests that others published or recorded, and events of real machines."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace
from typing import Any

import pytest

from recipes.machine.qemu import Accelerator
from recipes.machine.stage0 import Stage0Generation, Stage0Machine
from recipes.measure.e820 import memory_map, pack_map, stage0_map
from recipes.measure.stage0 import AcpiTables, replay
from recipes.measure.stage0_acpi import acpi_trace
from recipes.measure.stage0_event import encode_event
from recipes.measure.trace import Established
from recipes.units import KIB
from recipes.vmm.fwcfg import parse_e820
from tests.support import VECTORS
from tests.unit import stage0_samples as samples
from tests.vectors.sev_inputs import SNP

FOLDER = VECTORS / "stage0"
OLDER: list[dict[str, Any]] = json.loads((FOLDER / "memory_maps.json").read_text(encoding="utf-8"))
HATS: dict[str, Any] = SNP["hats"]


def shaped(shape: str, memory: int) -> Stage0Machine:
    """A machine of HATs' launcher."""
    if shape == "snp_q35":
        return samples.machine(memory=memory)
    assert shape == "insecure_microvm"
    return samples.insecure(memory=memory)


@pytest.mark.parametrize(
    "case", HATS["memory_map"], ids=lambda case: f"{case['shape']}-{case['ram_size_kb']}"
)
def test_published_memory_map(case: dict[str, Any]) -> None:
    machine = shaped(case["shape"], case["ram_size_kb"] * KIB)
    found = stage0_map(memory_map(machine), machine.generation)
    entries = [(int(address, 16), int(size, 16), kind) for address, size, kind in case["entries"]]
    assert [(item.address, item.size, int(item.type)) for item in found] == entries
    assert hashlib.sha256(pack_map(found)).hexdigest() == case["published"] == case["sha256"]
    prediction = replay(samples.launch(machine))
    assert prediction.memory_map.hex() == case["published"]
    assert prediction.established["memory_map_sha256"] is Established.ORACLE


@pytest.mark.parametrize("case", OLDER, ids=lambda case: str(case["ram_size_kb"]))
def test_published_memory_map_of_the_older_generation(case: dict[str, Any]) -> None:
    machine = samples.machine(memory=case["ram_size_kb"] * KIB, generation=Stage0Generation.OAK_55607DD8)
    prediction = replay(samples.launch(machine))
    assert prediction.memory_map.hex() == case["memory_map_sha256"]
    assert prediction.established["memory_map_sha256"] is Established.ORACLE


def files_of(case: dict[str, Any]) -> dict[str, bytes]:
    return {name: zlib.decompress(base64.b64decode(text)) for name, text in case["files_zlib_b64"].items()}


def machine_of(case: dict[str, Any]) -> Stage0Machine:
    kind, *settings = case["machine"].split(",")
    assert case["cpu"] == "max (TCG)"
    pairs = tuple(sorted(tuple(item.split("=")) for item in settings))
    return samples.insecure(
        type=kind,
        accelerator=Accelerator.TCG,
        vcpus=case["cpus"],
        max_vcpus=case["cpus"],
        memory=case["mem_kib"] * KIB,
        settings=pairs,
    )


def capture_name(case: dict[str, Any]) -> str:
    version = re.search(r"version ([0-9.]+)", case["qemu"])
    assert version is not None
    return f"{version[1]}-{case['machine'].split(',')[0]}-{case['cpus']}-{case['mem_kib']}"


@pytest.mark.parametrize("case", HATS["fwcfg_captures"], ids=capture_name)
def test_recorded_files(case: dict[str, Any]) -> None:
    files, machine = files_of(case), machine_of(case)
    recorded = sorted((item.address, item.length, item.type) for item in parse_e820(files["etc/e820"]))
    assert [(item.address, item.size, int(item.type)) for item in memory_map(machine)] == recorded
    acpi = AcpiTables(
        table_loader=files["etc/table-loader"],
        rsdp=files["etc/acpi/rsdp"],
        tables=files["etc/acpi/tables"],
    )
    trace = acpi_trace(acpi)
    assert trace.steps[-1].after.hex() == case["acpi_table_sha256"]
    names = [step.description.split(" ")[0] for step in trace.steps if step.operation == "READ_FILE"]
    expected = ["RSDP", "DSDT", "FACP", "APIC", "XSDT"]
    if machine.type == "q35":
        expected = ["RSDP", "FACS", "DSDT", "FACP", "APIC", "HPET", "WAET", "RSDT", "padding"]
    assert [name for name in names if name != "padding" or machine.type == "q35"] == expected
    prediction = replay(samples.launch(machine, acpi=acpi))
    assert prediction.acpi_table is not None
    assert prediction.acpi_table.hex() == case["acpi_table_sha256"]


def events() -> list[tuple[str, bytes, bytes]]:
    """Name, event and the certificate's digest of it, from every evidence file."""
    text = (FOLDER / "events.txtpb").read_text(encoding="utf-8")
    found = re.findall(r'^# (\w+)\nencoded_events: "(.*)"\ncertificate: "(.*)"$', text, re.MULTILINE)
    assert len(found) == 4
    return [(name, unescaped(event), unescaped(digest)) for name, event, digest in found]


def unescaped(text: str) -> bytes:
    """Protobuf's text form escapes bytes as Python does."""
    value = ast.literal_eval(f'b"{text}"')
    assert isinstance(value, bytes)
    return value


# Where the values stand in those events: every digest has a tag and a length in front.
DIGESTS = [75, 109, 143, 177, 211]
CMDLINE_AT = 246


@pytest.mark.parametrize(
    ("name", "event", "digest"), events(), ids=lambda item: item if isinstance(item, str) else ""
)
def test_event_of_a_real_machine(name: str, event: bytes, digest: bytes) -> None:
    values = [event[at : at + 32] for at in DIGESTS]
    assert encode_event(digests=values, cmdline=event[CMDLINE_AT:]) == event
    assert hashlib.sha256(event).digest() == digest
    # The memory map and the ACPI digest are those of the published policy for this shape.
    published = {
        case["shape"]: case["published"] for case in HATS["memory_map"] if case["ram_size_kb"] == 8000000
    }
    assert values[3].hex() == published["snp_q35"]
    assert values[4].hex() == HATS["published_acpi"]["snp_q35_8000000"]["4"]


@pytest.mark.parametrize(("name", "event", "digest"), events()[:1], ids=lambda item: "")
def test_event_of_a_prediction(name: str, event: bytes, digest: bytes) -> None:
    """A replay puts its own values where stage0 puts them."""
    text = event[CMDLINE_AT:].decode()
    prediction = replay(samples.launch(samples.machine(cmdline=text)))
    assert prediction.event is not None
    found = prediction.event
    assert (found[: DIGESTS[0]], found[CMDLINE_AT - 3 :]) == (event[: DIGESTS[0]], event[CMDLINE_AT - 3 :])
    assert [found[at : at + 32] for at in DIGESTS] == [
        prediction.kernel_setup_data,
        prediction.kernel_image,
        prediction.init_ram_fs,
        prediction.memory_map,
        prediction.acpi_table,
    ]
    assert found[DIGESTS[3] : DIGESTS[3] + 32] == event[DIGESTS[3] : DIGESTS[3] + 32]
    assert prediction.event_sha256 == hashlib.sha256(found).digest()


def test_without_high_acpi_area_the_maps_differ_by_it_alone() -> None:
    machine = samples.machine()
    newer = stage0_map(memory_map(machine), machine.generation)
    older = stage0_map(
        memory_map(machine), replace(machine, generation=Stage0Generation.OAK_55607DD8).generation
    )
    assert sum(item.size for item in newer) == sum(item.size for item in older)
    assert len(newer) == len(older) + 2
