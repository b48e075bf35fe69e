from __future__ import annotations

from dataclasses import Field, fields
from pathlib import Path

import pytest

from recipes.errors import MeasureError, SpecError
from recipes.golden.stability_axes import find_kind
from recipes.machine import Irqchip, VirtioTransport
from recipes.schema import RealmImage, load_project
from recipes.schema.realm import StabilitySpec
from tests.support import ROOT

KERNEL = "architecture: aarch64\ndebian: {suite: trixie}\npackage: linux-image-cloud-arm64\n"
RECIPE = """\
architecture: aarch64
debian: {suite: trixie}
kernel: debian-arm64
initramfs: {packages: [busybox-static], modules: []}
realm: {id: com.example.realm, registry: "10.0.0.1:8888"}
applications:
  - {name: hello, packages: [busybox-static], command: [/bin/hello]}
machines:
  - {name: m, vmm: kvmtool, vcpus: 1, memory: 256MiB}
"""
# Words of all options that take words.
WORDS = [item.value for option in (Irqchip, VirtioTransport) for item in option]


def load(folder: Path, text: str, name: str = "realm") -> RealmImage:
    for part in ("recipes/images", "recipes/kernels", "rootfs/base"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "recipes/kernels/debian-arm64.yaml").write_text(KERNEL)
    (folder / f"recipes/images/{name}.yaml").write_text(text)
    (realm,) = load_project(folder).realms
    return realm


def mistakes(folder: Path, text: str) -> str:
    with pytest.raises(SpecError) as caught:
        load(folder, text)
    return str(caught.value)


def test_the_committed_realm_is_what_warden_starts() -> None:
    (realm,) = load_project(ROOT).realms
    machine = realm.provisioned
    # Spec: realm-manager 79b74b6 warden lkvm.rs: gicv3, serial console, no SVE, a tap device, a disk each.
    assert machine.irqchip is Irqchip.GICV3
    assert machine.console == "serial"
    assert machine.disable_sve
    assert machine.islet
    assert machine.algorithm == "sha256"
    assert machine.disks == len(realm.recipe.applications) == 1
    assert machine.networks is not None
    assert machine.networks[0].options.startswith("tapif=")
    assert load_project(ROOT).kernel(realm.recipe.kernel).folder == "kernels/debian-arm64"


def test_every_combination_is_a_machine(tmp_path: Path) -> None:
    text = RECIPE.replace(
        "vcpus: 1, memory: 256MiB", "vcpus: [1, 2], memory: 256MiB, algorithm: [sha256, sha512]"
    )
    names = [machine.name for machine in load(tmp_path, text).machines]
    assert names == ["m-1cpu-sha256", "m-1cpu-sha512", "m-2cpu-sha256", "m-2cpu-sha512"]


def test_warden_puts_kernel_options_in_quotation_marks(tmp_path: Path) -> None:
    text = RECIPE.replace('registry: "10.0.0.1:8888"', 'registry: "10.0.0.1:8888", cmdline: " quiet  debug "')
    assert load(tmp_path, text).provisioned.parameters == '"quiet debug"'
    assert load(tmp_path, RECIPE).provisioned.parameters is None


def test_two_images_share_a_kernel(tmp_path: Path) -> None:
    load(tmp_path, RECIPE, "one")
    (tmp_path / "recipes/images/two.yaml").write_text(RECIPE)
    project = load_project(tmp_path)
    assert {project.kernel(realm.recipe.kernel) for realm in project.realms} == set(project.kernels)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("disks: 0-4000000", "10:20: stability.disks: '0-4000000' is not allowed; write for example 1,2,4"),
        ('vcpus: "1;2"', "10:20: stability.vcpus: '1;2' is not allowed; write for example 1,2,4 or 0-4"),
        ('nics: ""', "10:19: stability.nics: '' is not allowed; write for example 1,2,4 or 0-4"),
        ("memory: 256MiB", "10:21: stability.memory: '256MiB' is not allowed; write for example 256M,1G"),
        ("consoles: serail", "10:23: stability.consoles: 'serail' is not allowed; write for example serial,"),
        ('rng: "yes"', "10:18: stability.rng: 'yes' is not allowed; write for example off,on"),
        (
            "transports: pcie",
            "10:25: stability.transports: 'pcie' is not allowed; write for example pci,mmio",
        ),
        ("irqchips: gic", "10:23: stability.irqchips: 'gic' is not allowed; write for example gicv3,"),
    ],
)
def test_values_of_the_stability_report_are_read_at_once(tmp_path: Path, value: str, place: str) -> None:
    assert place in mistakes(tmp_path, f"{RECIPE}stability: {{{value}}}\n")


@pytest.mark.parametrize("item", fields(StabilitySpec), ids=lambda item: str(item.name))
def test_whatever_the_stability_report_takes_is_no_mistake(tmp_path: Path, item: Field[str]) -> None:
    kind = find_kind(item.name)
    for text in ("0", "1, 2-4", "256,1G,64m", "off,on", "serial, virtio,hv", *WORDS):
        try:
            kind.words("", text)
        except MeasureError:
            continue
        realm = load(tmp_path, f'{RECIPE}stability: {{{item.name}: "{text}"}}\n')
        assert getattr(realm.recipe.stability, item.name) == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "kernel: debian-arm64",
            "kernel: debian-arm",
            "realm.yaml:3:9: there is no kernel recipe recipes/kernels/debian-arm.yaml; did you mean",
        ),
        ("aarch64", "x86_64", "realm.yaml:1:15: a realm is aarch64"),
        ("memory: 256MiB", "memory: 0MiB", "realm.yaml:9:47: "),
        (
            "memory: 256MiB",
            "memory: 4GiB",
            "realm.yaml:9:47: memory: must be whole MiB from 64MiB to 2048MiB; above that kvmtool takes",
        ),
        ("vcpus: 1", "vcpus: 17", "realm.yaml:9:36: vcpus: 17 is not 1 to 16"),
        ("vcpus: 1,", "vcpus: [],", "vcpus: the list is empty"),
        ("vcpus: 1,", "vcpus: [1, 1],", "vcpus 1 is listed twice"),
        ("com.example.realm", "caf\u00e9", "is not allowed; write for example com.example.realm"),
        ("10.0.0.1:8888", "10.0.0.1:99999", "realm.registry: 99999 is not a port, 1 to 65535"),
        ("name: m,", "name: m, profile: kvmtool-eac,", "; did you mean 'kvmtool-eac5'?"),
        ("name: m,", "name: m, profile: kvmtool-rel0-islet,", "is not modelled; measure it with --dtb FILE"),
        (
            "name: m,",
            "name: m, islet: false,",
            "islet: the first machine is provisioned for Islet; put another machine first, or write true",
        ),
        (
            "name: m,",
            "name: m, profile: kvmtool-eac5-tf-rmm,",
            "profile: the first machine is provisioned for Islet; put another machine first, or use kvmtool",
        ),
        (
            "name: m,",
            "name: m, algorithm: sha512,",
            "algorithm: warden starts realms with sha256; put another",
        ),
        ("name: m,", "name: m, vsock: 2,", "vsock: 2 is no guest's CID; use 3 or more"),
        ("com.example.realm,", "com.example.realm, svn: 0,", "realm.svn: 0 is not 1 to 2^64-1"),
        (
            "com.example.realm,",
            "com.example.realm, cmdline: 'a\"b',",
            "realm.cmdline: warden puts it in quotation marks; it can hold none",
        ),
        (
            "com.example.realm,",
            "com.example.realm, cmdline: quiet single,",
            "'single' would give a shell, or another init; remove it, or set profile: dev",
        ),
        (", command: [/bin/hello]", "", "command is missing: what the application starts"),
        ("packages: [busybox-static], command", "command", "write one of them"),
        ("name: hello,", "name: hello, layout: ../x.tar,", "write one of them"),
        (
            "packages: [busybox-static], command: [/bin/hello]",
            "layout: ../x.tar",
            "layout: ../x.tar does not lie in the project; give a path relative to it",
        ),
        ("name: hello,", "name: hello, image_size: 512KiB,", "image_size: must be whole MiB"),
        (
            "name: hello,",
            "name: hello, overlay: bse,",
            "there is no overlay rootfs/bse; did you mean 'base'?",
        ),
        (
            "com.example.realm,",
            "com.example.realm, manager: {rsi_module: {path: r, sha256: " + "0" * 64 + "}},",
            "rsi_module: the stand-in has no use for it; name a binary, or remove it",
        ),
        (
            "com.example.realm,",
            "com.example.realm, manager: {binary: {path: m}},",
            "key 'sha256' is missing",
        ),
        ("name: hello", "name: Hello", "is not allowed; write for example web-server"),
        ("machines:", "stability: {vcpu: '1'}\nmachines:", "unknown key 'vcpu'; did you mean 'vcpus'?"),
        ("realm: {", "realm: {idd: x, ", "unknown key 'idd'; did you mean 'id'?"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert message in mistakes(tmp_path, RECIPE.replace(old, new))


def test_five_applications_are_too_many(tmp_path: Path) -> None:
    line = RECIPE.splitlines()[6]
    more = "\n".join([line, *(line.replace("hello,", f"hello{number},") for number in range(4))])
    assert "5 applications; kvmtool takes 4 disks" in mistakes(tmp_path, RECIPE.replace(line, more))


def test_an_image_and_a_kernel_cannot_have_one_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is a kernel called debian-arm64; rename one"):
        load(tmp_path, RECIPE, "debian-arm64")


@pytest.mark.parametrize("text", [RECIPE.replace("realm: {", "reallm: {"), "vmm: kvmtool\n"])
def test_a_realm_with_a_typo_is_still_read_as_one(tmp_path: Path, text: str) -> None:
    shown = mistakes(tmp_path, text)
    assert "rootfs" not in shown
    assert "key 'realm' is missing" in shown or "unknown key 'reallm'; did you mean 'realm'?" in shown


def test_mistakes_of_all_recipes_come_at_once(tmp_path: Path) -> None:
    text = (
        RECIPE.replace("vcpus: 1", "vcpus: 99")
        .replace("svn: 1", "svn: 0")
        .replace("MiB}", "MiB, islet: perhaps}")
    )
    shown = mistakes(tmp_path, text)
    assert "vcpus: 99" in shown
    assert "perhaps" in shown
