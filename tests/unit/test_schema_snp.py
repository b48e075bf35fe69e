from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import SpecError
from recipes.machine import SnpBoot, SnpFirmware, TpmInterface
from recipes.schema import load_image, load_project
from tests.support import ROOT
from tests.unit.test_schema import RECIPE, mistakes, write

FIRMWARE = """\
architecture: x86_64
debian: {suite: sid}
package: ovmf-amdsev
file: OVMF.amdsev.fd
boots: kernel
"""
HEAD = "  - {name: s, vmm: qemu, machine: pc-q35-10.0, "
GOOD = "accel: kvm, cpu: [EPYC-Milan, EPYC-Genoa], firmware: ovmf-amdsev, vcpus: [1, 2],\n"
TAIL = "     memory: 1GiB, tpm: crb, sev: {boot: uki}}\n"


def with_firmware(folder: Path) -> Path:
    (folder / "recipes" / "firmware").mkdir(parents=True)
    (folder / "recipes" / "firmware" / "ovmf-amdsev.yaml").write_text(FIRMWARE)
    return folder


def test_every_combination_is_a_machine(tmp_path: Path) -> None:
    path = write(with_firmware(tmp_path), RECIPE + HEAD + GOOD + TAIL)
    image = load_image(path, tmp_path)
    assert [machine.name for machine in image.machines] == ["m"]
    assert [(machine.name, machine.cpu, machine.vcpus) for machine in image.snp] == [
        ("s-epyc-milan-1cpu", "EPYC-Milan", 1),
        ("s-epyc-milan-2cpu", "EPYC-Milan", 2),
        ("s-epyc-genoa-1cpu", "EPYC-Genoa", 1),
        ("s-epyc-genoa-2cpu", "EPYC-Genoa", 2),
    ]
    first = image.snp[0]
    assert first.firmware == SnpFirmware(package="ovmf-amdsev", file="OVMF.amdsev.fd", recipe="ovmf-amdsev")
    assert (first.boot, first.tpm, first.features, first.policy) == (
        SnpBoot.UKI,
        TpmInterface.CRB,
        0x1,
        0x30000,
    )


def test_what_a_machine_says_of_sev(tmp_path: Path) -> None:
    sev = 'sev: {boot: disk, features: "0x21", policy: "0xb0000", cbitpos: 47, reduced_phys_bits: 5}}\n'
    machine = f"{HEAD}accel: kvm, cpu: EPYC, firmware: ovmf, vcpus: 1, memory: 1GiB, tpm: crb, {sev}"
    text = f"profile: dev\n{RECIPE}{machine}"
    (found,) = load_image(write(tmp_path, text), tmp_path).snp
    assert (found.features, found.policy, found.cbitpos, found.reduced_phys_bits) == (0x21, 0xB0000, 47, 5)
    assert found.firmware == SnpFirmware(package="ovmf", file="OVMF.fd")
    assert not found.kernel_hashes
    assert (found.measured(None).features, found.measured(None).kernel_hashes) == (0x21, False)


@pytest.mark.parametrize(
    ("old", "new", "at", "problem"),
    [
        ("accel: kvm", "accel: tcg", "tcg", "accel: tcg has no SEV; write kvm"),
        ("EPYC-Genoa", "EPYC-Genova", "EPYC-Genova", "cpu: 'EPYC-Genova' is no model of a CPU with SEV"),
        ("ovmf-amdsev", "ovmf-amdsef", "ovmf-amdsef", "firmware 'ovmf-amdsef' is none for sev-snp"),
        ("boot: uki", "boot: disk", "disk}", "firmware ovmf-amdsev boots no disk; use ovmf, or boot: uki"),
        (
            "boot: uki",
            "boot: kernel",
            "kernel}",
            "firmware adds initrd=initrd to the command line, and a release boots with its own; use",
        ),
        (
            "uki",
            'uki, features: "0x20"',
            '"0x20"',
            "features: 0x20 lacks bit 0, which every guest with SEV-SNP",
        ),
        ("uki", "uki, features: 1", "1}", "machines[1].sev.features: expected text, found a number ('1')"),
        (
            "uki",
            'uki, features: "0x10001"',
            '"0x10001"',
            "features: 0x10001 has bits 0x10000 that are not known",
        ),
        ("uki", 'uki, features: "0xg"', '"0xg"', "machines[1].sev.features: '0xg' is not allowed"),
        (
            "uki",
            'uki, policy: "0x10000"',
            '"0x10000"',
            "policy: 0x10000 lacks bit 17, which is always one; write 0x30000",
        ),
        (
            "uki",
            'uki, policy: "0x4030000"',
            '"0x4030000"',
            "policy: 0x4030000 has reserved bits 0x4000000; leave them out",
        ),
        (
            "uki",
            'uki, policy: "0xb0000"',
            '"0xb0000"',
            "policy: 0xb0000 has bit 19, with which the host may read the guest's memory; write 0x30000",
        ),
        (
            "uki",
            'uki, policy: "0x70000"',
            '"0x70000"',
            "policy: 0x70000 has bit 18, with which a migration agent may copy the guest elsewhere; write",
        ),
        ("uki", "uki, cbitpos: 70", "70", "cbitpos: 70 is not 32 to 63"),
        ("uki", "uki, reduced_phys_bits: 0", "0}", "reduced_phys_bits: 0 is not 1 to 63"),
        (
            "tpm: crb, ",
            "",
            "{name: s",
            "tpm: missing, and the initramfs insists on one; give the machine one",
        ),
        ("tpm: crb", "tpm: [tis, crb]", "[tis", "tpm: a machine with sev has one, or none"),
        ("pc-q35", "pc-i440fx", "pc-i440fx", "machine: pc-i440fx-10.0 is not modelled with SEV"),
        ("boot: uki", "boots: uki", "boots", "unknown key 'boots'; did you mean 'boot'?"),
    ],
)
def test_mistakes_have_a_place(tmp_path: Path, old: str, new: str, at: str, problem: str) -> None:
    own = (HEAD + GOOD + TAIL).replace(old, new)
    before = RECIPE + own[: own.index(at)]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    assert f"one.yaml:{line}:{column}: {problem}" in mistakes(with_firmware(tmp_path), RECIPE + own)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[EPYC-Milan, EPYC-Genoa]", "[EPYC-Milan, EPYC-Milan]", "cpu: listed twice"),
        ("vcpus: [1, 2]", "vcpus: [2, 2]", "vcpus: listed twice"),
        (
            "sev: {boot: uki}",
            "sev: null",
            "sev: nothing is said of it; write for example {boot: uki}, or leave",
        ),
        ("sev: {boot: uki}", "sev: 3", "machines[1].sev: expected keys and values, found a number ('3')"),
    ],
)
def test_one_mistake_is_one_error(tmp_path: Path, old: str, new: str, problem: str) -> None:
    (only,) = mistakes(with_firmware(tmp_path), (RECIPE + HEAD + GOOD + TAIL).replace(old, new)).splitlines()
    assert problem in only


def test_a_kernel_with_its_parts_is_for_development(tmp_path: Path) -> None:
    text = (RECIPE + HEAD + GOOD + TAIL).replace("boot: uki", "boot: kernel")
    image = load_image(write(with_firmware(tmp_path), f"profile: dev\n{text}"), tmp_path)
    assert {machine.boot for machine in image.snp} == {SnpBoot.KERNEL}


def test_firmware_without_a_place_for_hashes(tmp_path: Path) -> None:
    text = (HEAD + GOOD + TAIL).replace("ovmf-amdsev", "ovmf")
    assert "firmware ovmf has no place for kernel hashes; use ovmf-amdsev, or boot: disk" in mistakes(
        tmp_path, RECIPE + text
    )


def test_a_machine_without_sev_has_one_cpu_and_a_tpm(tmp_path: Path) -> None:
    found = mistakes(tmp_path, RECIPE.replace(", tpm: tis", "").replace("cpu: qemu64", "cpu: [a, b]"))
    assert "one.yaml:10:5: machines[0]: key 'tpm' is missing" in found
    assert "cpu: a machine without sev has one; make each an entry of its own" in found


def test_names_are_given_once(tmp_path: Path) -> None:
    text = (HEAD + TAIL.strip()).replace("name: s", "name: m")
    text = text.replace("pc-q35-10.0, ", "pc-q35-10.0, accel: kvm, cpu: EPYC, firmware: ovmf, vcpus: 1, ")
    assert "two machines are called 'm'" in mistakes(tmp_path, RECIPE + text.replace("uki", "disk") + "\n")


def test_the_committed_recipes_of_firmware() -> None:
    (shared,) = load_project(ROOT).firmware
    assert (shared.name, shared.folder) == ("ovmf-amdsev", "firmware/ovmf-amdsev")
    assert shared.recipe.file == "OVMF.amdsev.fd"


def test_an_image_cannot_be_called_like_firmware(tmp_path: Path) -> None:
    write(with_firmware(tmp_path), RECIPE, "ovmf-amdsev")
    (tmp_path / "recipes" / "kernels").mkdir()
    with pytest.raises(SpecError) as caught:
        load_project(tmp_path)
    assert str(caught.value) == "ovmf-amdsev.yaml:1:1: there is firmware called ovmf-amdsev; rename one"
