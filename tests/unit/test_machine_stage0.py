from __future__ import annotations

import json
from dataclasses import replace

import pytest

from recipes.machine.qemu import Accelerator
from recipes.machine.stage0 import Stage0Chipset, Stage0Generation, Stage0Machine
from tests.unit import stage0_samples as samples

MACHINE = samples.machine()
ACPI_CHANGES = [
    {"type": "pc-q35-9.2"},
    {"accelerator": Accelerator.TCG},
    {"vcpus": 1},
    {"max_vcpus": 4},
    {"memory": 1 << 30},
    {"amd": False},
    {"phys_bits": 46},
    {"devices": ("virtio-net-pci",)},
    {"settings": ()},
]
OTHER_CHANGES = [{"sev": None}, {"cmdline": "quiet"}, {"generation": Stage0Generation.OAK_55607DD8}]


@pytest.mark.parametrize("changes", [*ACPI_CHANGES, *OTHER_CHANGES], ids=lambda item: next(iter(item)))
def test_every_field_but_the_name_is_part_of_the_identity(changes: dict[str, object]) -> None:
    changed = replace(MACHINE, **changes)  # type: ignore[arg-type]
    assert changed.identity() != MACHINE.identity()
    assert replace(changed, name="other").identity() == changed.identity()
    assert (changed.acpi_identity() != MACHINE.acpi_identity()) == (changes in ACPI_CHANGES)


def test_identities_are_canonical_json() -> None:
    machine = samples.insecure(vcpus=1, max_vcpus=1, memory=1 << 20, cmdline="a", phys_bits=48)
    assert machine.acpi_identity() == (
        '{"accelerator":"kvm","amd":true,"devices":[],"max_vcpus":1,"memory":1048576,"phys_bits":48,'
        '"settings":[],"type":"microvm","vcpus":1}'
    )
    whole = json.loads(MACHINE.identity())
    assert whole["generation"] == "oak-d6f890b7"
    assert whole["sev"]["mode"] == "sev-snp"


@pytest.mark.parametrize(
    ("kind", "chipset"),
    [
        ("q35", Stage0Chipset.Q35),
        ("pc-q35-9.2", Stage0Chipset.Q35),
        ("pc-q35-10.1", Stage0Chipset.Q35),
        ("pc-q35-4.0.1", Stage0Chipset.Q35),
        ("pc-q35", None),
        ("q35-9.2", None),
        ("pc-q35-07.0", None),
        ("microvm", Stage0Chipset.MICROVM),
        ("pc", None),
        ("pc-i440fx-9.2", None),
        ("q35x", None),
        ("virt", None),
    ],
)
def test_chipset(kind: str, chipset: Stage0Chipset | None) -> None:
    machine: Stage0Machine = samples.machine(type=kind)
    assert machine.chipset is chipset
