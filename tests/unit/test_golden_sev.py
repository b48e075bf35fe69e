"""Machines with SEV in a golden manifest."""

from __future__ import annotations

from dataclasses import replace

from recipes.golden import manifest_reader
from recipes.golden.diff import moved_registers
from recipes.golden.explain import explain
from recipes.golden.manifest import GoldenManifest, dump
from recipes.golden.sev import UNMEASURED, golden_sev
from recipes.machine.sev import SevMachine, SevMode
from recipes.machine.sev_cpus import CPU_MODELS
from recipes.measure.sev import SevFirmware, SevLaunch, replay
from tests.unit import sev_firmware as fw

MACHINE = SevMachine(name="snp", mode=SevMode.SEV_SNP, vcpus=2, cpu=CPU_MODELS["EPYC-Milan"], features=1)


def manifest(*machines: SevMachine) -> GoldenManifest:
    image = SevFirmware.of("F", [fw.firmware()])
    found = tuple(
        golden_sev(item, replay(SevLaunch(machine=item, firmware=image)), kernel=False, launch="qemu")
        for item in machines
    )
    return GoldenManifest(image="i", version="1", artefacts=(), machines=found, unmeasured=UNMEASURED)


def test_a_manifest_is_read_back() -> None:
    plain = replace(MACHINE, name="sev", mode=SevMode.SEV, cpu=None)
    made = manifest(MACHINE, plain)
    assert manifest_reader.load(dump(made), "golden.json") == made
    assert [row.algorithm.value for item in made.machines for row in item.registers] == ["sha384", "sha256"]
    assert made.machines[0].policies[0].covers == (
        "firmware, places of its SEV metadata, "
        "number and first registers of vCPUs (CPU signature, SEV_FEATURES)"
    )
    assert "  = sha384 " in explain(made.machines[0].traces)


def test_what_moved_is_named() -> None:
    made = manifest(MACHINE, replace(MACHINE, name="more", vcpus=3))
    (moved,) = moved_registers(*made.machines)
    assert str(moved) == (
        "LAUNCH_DIGEST: first differs at step 9, VMSA 0xfffffffff000 x 2 vCPUs 1 to 2; "
        "input: CPU 25/1/1, SEV_FEATURES 0x1, reset block of F; before: vCPU 1"
    )
