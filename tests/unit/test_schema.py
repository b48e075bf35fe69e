from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import SpecError
from recipes.machine import Accelerator, TpmInterface
from recipes.schema import load_image, load_project
from tests.support import ROOT

RECIPE = """\
architecture: x86_64
debian: {suite: trixie}
kernel: {package: linux-image-cloud-amd64}
initramfs: {packages: [busybox-static], modules: [erofs]}
rootfs:
  packages: [systemd]
  overlays: [base]
data: {size: 64MiB, unlock: [ephemeral]}
machines:
  - {name: m, vmm: qemu, machine: pc-q35-7.2, accel: tcg, cpu: qemu64, firmware: ovmf, vcpus: 1,
     memory: 512MiB, tpm: tis}
"""


def write(folder: Path, text: str, name: str = "one") -> Path:
    (folder / "recipes" / "images").mkdir(parents=True, exist_ok=True)
    (folder / "rootfs" / "base").mkdir(parents=True, exist_ok=True)
    (folder / "initrd" / "unlock.d").mkdir(parents=True, exist_ok=True)
    (folder / "initrd" / "unlock.d" / "ephemeral").touch()
    path = folder / "recipes" / "images" / f"{name}.yaml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str, name: str = "one") -> str:
    with pytest.raises(SpecError) as caught:
        load_image(write(folder, text, name), folder)
    return str(caught.value)


def test_the_committed_recipe_names_the_machines_it_promises() -> None:
    image = next(image for image in load_project(ROOT).images if image.name == "debian-cvm")
    tcg = [machine for machine in image.machines if machine.accelerator is Accelerator.TCG]
    shapes = {(item.vcpus, item.memory >> 20, item.tpm) for item in tcg if not item.firmware.secure_boot}
    assert shapes == {(c, m, t) for c in (1, 2) for m in (512, 2048) for t in TpmInterface}
    assert sum(item.firmware.secure_boot for item in tcg) == 1
    assert any(machine.accelerator is Accelerator.KVM for machine in image.machines)


def test_lists_make_every_combination_and_name_what_varies(tmp_path: Path) -> None:
    text = RECIPE.replace("vcpus: 1", "vcpus: [1, 4]").replace("tpm: tis", "tpm: [tis, crb]")
    image = load_image(write(tmp_path, text), tmp_path)
    assert [machine.name for machine in image.machines] == [
        "m-1cpu-tis",
        "m-1cpu-crb",
        "m-4cpu-tis",
        "m-4cpu-crb",
    ]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "overlays: [base]",
            "overlays: [bsae]",
            "6:14: there is no overlay rootfs/bsae; did you mean 'base'?",
        ),
        (
            "[ephemeral]",
            "[ephemral]",
            "there is no provider initrd/unlock.d/ephemral; did you mean 'ephemeral'?",
        ),
        ("firmware: ovmf", "firmware: ovfm", "firmware 'ovfm' is not known; did you mean 'ovmf'?"),
        ("size: 64MiB", "size: 8MiB", "data.size must be whole MiB and at least 16MiB"),
        ("memory: 512MiB", "memory: 64MiB", "memory: must be whole MiB from 256MiB to 1024GiB"),
        ("vcpus: 1", "vcpus: 0", "vcpus: 0 is not 1 to 256"),
        ("packages: [systemd]", "packages: [systemd, systemd]", "package 'systemd' is listed twice"),
        ("machine: pc-q35-7.2", "machine: q35", "'q35' is not allowed; write for example pc-q35-7.2"),
        (
            "package: linux-image-cloud-amd64",
            "package: linux, cmdline: init=/bin/sh",
            "'init=/bin/sh' is not yours to set: the build writes it",
        ),
        (
            "modules: [erofs]",
            "modules: [erofs], on_failure: shell",
            "a release never gives a shell; use panic, or set profile: dev",
        ),
        ("data: {", "disk: {formats: [raw, vhd, vhd]}\ndata: {", "8:28: disk format 'vhd' is listed twice"),
        ("data: {", "disk: {esp_size: 8MiB}\ndata: {", "disk.esp_size must be at least 34MiB"),
        (
            "data: {",
            "golden: {wildcards: [{register: PCR24, event: EV_IPL, reason: a reason}]}\ndata: {",
            "golden.wildcards[0].register: 'PCR24' is not allowed; write for example PCR5",
        ),
        (
            "data: {",
            "golden: {wildcards: [{register: PCR5, event: gpt, reason: a reason}]}\ndata: {",
            "golden.wildcards[0].event: 'gpt' is not allowed; write for example EV_EFI_GPT_EVENT",
        ),
        (
            "data: {",
            "golden: {wildcards: [{register: PCR5, event: EV_EFI_GPT_EVENT}]}\ndata: {",
            "golden.wildcards[0]: key 'reason' is missing",
        ),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert message.split(": ", 1)[-1] in mistakes(tmp_path, RECIPE.replace(before, after))


@pytest.mark.parametrize("name", ["check", "rootfs", "update"])
def test_reserved_names(tmp_path: Path, name: str) -> None:
    what = f"an image cannot be called {name!r}: it is the name of a task; rename the file"
    assert mistakes(tmp_path, RECIPE, name) == f"recipes/images/{name}.yaml:1:1: {what}"


def test_mistakes_of_every_recipe_come_in_one_run(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("512MiB", "512Mb"), "one")
    write(tmp_path, RECIPE.replace("profile", "x").replace("kernel:", "kernal:"), "two")
    with pytest.raises(SpecError) as caught:
        load_project(tmp_path)
    assert "one.yaml:11:14: machines[0].memory[0]: '512Mb' is not a size" in str(caught.value)
    assert "two.yaml:3:1: unknown key 'kernal'; did you mean 'kernel'?" in str(caught.value)


def test_machine_names_must_differ(tmp_path: Path) -> None:
    machine = RECIPE[RECIPE.index("  - {name") :]
    assert "two machines are called 'm'" in mistakes(tmp_path, RECIPE + machine)


def test_mistakes_of_every_kind_come_in_one_run(tmp_path: Path) -> None:
    text = RECIPE.replace("[base]", "[bsae]").replace("[ephemeral]", "[ephemral]").replace("ovmf,", "ovfm,")
    text = (
        text.replace("kernel:", "kernal:").replace("64MiB", "64Mb").replace("[erofs]", "[erofs], tpm: maybe")
    )
    message = mistakes(tmp_path, text)
    for part in ("bsae", "ephemral", "ovfm", "kernal", "64Mb", "'maybe' is not known"):
        assert part in message
    assert len(message.splitlines()) == 6
