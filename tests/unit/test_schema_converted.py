from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import SpecError
from recipes.schema import ConvertedImage, load_project
from recipes.schema.converted import ROOT_PROVIDERS
from recipes.sources.providers import PASSPHRASE, read_provider
from recipes.units import MIB
from tests.support import ROOT

RECIPE = """\
architecture: x86_64
debian: {suite: trixie}
base: {packages: [dpkg, systemd-sysv], size: 128MiB}
kernel: {package: linux-image-cloud-amd64}
initramfs: {packages: [busybox-static], modules: [ext4], network: dhcp}
root:
  size: 256MiB
  unlock: [kbs]
  kbs: {url: "https://10.0.2.2:8443", ca: keys/broker-ca.pem, volume: one-root}
machines:
  - {name: m, vmm: qemu, machine: pc-q35-7.2, accel: tcg, cpu: qemu64, firmware: ovmf, vcpus: 1,
     memory: 512MiB, tpm: tis}
"""
PROVIDERS = ", ".join(ROOT_PROVIDERS)
BROUGHT = RECIPE.replace(
    "{packages: [dpkg, systemd-sysv], size: 128MiB}", f"{{path: cloud.qcow2, sha256: {'a' * 64}}}"
)


def load(folder: Path, text: str, name: str = "one") -> ConvertedImage:
    (folder / "recipes" / "images").mkdir(parents=True, exist_ok=True)
    (folder / "rootfs" / "base").mkdir(parents=True, exist_ok=True)
    (folder / "keys").mkdir(exist_ok=True)
    (folder / "keys" / "broker-ca.pem").touch()
    providers = folder / "initrd" / "unlock.d"
    providers.mkdir(parents=True, exist_ok=True)
    for provider in (*ROOT_PROVIDERS, "ephemeral", "tpm2"):
        (providers / provider).touch()
    (folder / "recipes" / "images" / f"{name}.yaml").write_text(text)
    (image,) = load_project(folder).converted
    return image


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(folder, text)
    return str(caught.value).splitlines()


def test_the_committed_recipe_is_whole() -> None:
    (image,) = load_project(ROOT).converted
    recipe = image.recipe
    assert image.name == "jindisk-style"
    assert (recipe.base.is_brought, recipe.root.unlock) == (False, ("kbs",))
    assert recipe.root.size >= recipe.base.size
    assert image.lock_path.name == "jindisk-style.lock"
    assert image.captures_path.name == "jindisk-style.captures.lock"
    assert {machine.accelerator.value for machine in image.machines} >= {"tcg"}


def test_a_recipe_is_recognised_by_its_base(tmp_path: Path) -> None:
    image = load(tmp_path, RECIPE)
    project = load_project(tmp_path)
    assert (project.images, project.realms, project.converted) == ((), (), (image,))
    assert (image.recipe.base.size, image.recipe.root.size) == (128 * MIB, 256 * MIB)


def test_an_image_that_is_brought(tmp_path: Path) -> None:
    image = load(tmp_path, BROUGHT.replace("kernel: {package: linux-image-cloud-amd64}\n", ""))
    assert image.recipe.base.path == "cloud.qcow2"
    assert image.recipe.kernel.package is None


def test_the_root_has_a_header_whatever_could_be_opened(tmp_path: Path) -> None:
    header = load(tmp_path, RECIPE).recipe.root.header
    assert header is not None
    assert header.value == "luks2"


@pytest.mark.parametrize("modules", ["", "\n  modules: [dm_jindisk]", "\n  modules: [ext4, dm-jindisk]"])
def test_a_device_for_jindisk(tmp_path: Path, modules: str) -> None:
    assert load(tmp_path, RECIPE).recipe.root.jindisk is None
    text = RECIPE.replace("unlock: [kbs]", f"unlock: [kbs]\n  jindisk: /dev/disk/by-id/virtio-one{modules}")
    assert load(tmp_path, text).recipe.root.jindisk == "/dev/disk/by-id/virtio-one"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{packages: [dpkg, systemd-sysv], size: 128MiB}",
            "{path: a.qcow2, packages: [dpkg]}",
            "3:7: base: an image is brought (path, sha256) or assembled here (packages); write one of them",
        ),
        (
            "{packages: [dpkg, systemd-sysv], size: 128MiB}",
            "{size: 128MiB}",
            "3:7: base: an image is brought (path, sha256) or assembled here (packages); write one of them",
        ),
        (
            "{packages: [dpkg, systemd-sysv], size: 128MiB}",
            "{path: a.qcow2}",
            "3:7: base: sha256 is missing; write that of the file, `sha256sum` prints it",
        ),
        (
            "{packages: [dpkg, systemd-sysv], size: 128MiB}",
            f"{{path: a/../../b.raw, sha256: {'a' * 64}}}",
            "3:14: base: a/../../b.raw does not lie in the project; give a path relative to it",
        ),
        (
            "size: 128MiB}",
            f"sha256: {'a' * 64}}}",
            "3:48: base: sha256 is for a file that is brought; remove it",
        ),
        (
            "unlock: [kbs]",
            "unlock: [kbs]\n  jindisk: vdb",
            "9:12: root.jindisk: 'vdb' is not allowed; write for example /dev/vdb",
        ),
        (
            "unlock: [kbs]",
            "unlock: [kbs]\n  jindisk: /dev/vdb\n  modules: [ext4]",
            (
                "10:12: root.modules leave out dm-jindisk, without which nothing can be done with its "
                "tables; add it, or remove root.jindisk"
            ),
        ),
        ("size: 128MiB", "size: 63MiB", "3:46: base.size must be whole MiB and at least 64MiB"),
        ("size: 128MiB", "size: 257MiB", "7:9: root.size is less than base.size; a root only grows"),
        ("size: 256MiB", "size: 1KiB", "7:9: root.size must be whole MiB and at least 64MiB"),
        ("[dpkg, systemd-sysv]", "[dpkg, dpkg]", "3:25: package 'dpkg' is listed twice"),
        (
            "unlock: [kbs]",
            "unlock: [kbs, tpm2]",
            f"8:17: provider tpm2 cannot open a root that the build encrypts; use one of {PROVIDERS}",
        ),
        (
            "unlock: [kbs]",
            "unlock: [kbs]\n  header: none",
            "9:11: the build gives the root a LUKS2 header; write luks2, or nothing",
        ),
        (
            "unlock: [kbs]",
            "unlock: [kbs]\n  escrow: keys/op.pem",
            "9:11: root.escrow is for a key that the guest makes; the build keeps this one in keys/",
        ),
        (
            "unlock: [kbs]",
            "unlock: [kbs]\n  overlays: [bass]",
            "9:14: there is no overlay rootfs/bass; did you mean 'base'?",
        ),
        (
            "kernel: {package: linux-image-cloud-amd64}",
            "kernel: {cmdline: root=/dev/vda1}",
            "4:19: 'root=/dev/vda1' is not yours to set: the build writes it",
        ),
        (
            "machines:",
            "disk: {esp_size: 8MiB}\nmachines:",
            "10:18: disk.esp_size must be at least 34MiB; a smaller file system is not FAT32",
        ),
        ("x86_64", "aarch64", "1:15: architecture aarch64 is for realms; a disk image is x86_64"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    found = mistakes(tmp_path, RECIPE.replace(old, new))
    assert f"recipes/images/one.yaml:{message}" in found


def test_modules_are_those_of_a_package(tmp_path: Path) -> None:
    text = BROUGHT.replace("kernel: {package: linux-image-cloud-amd64}\n", "")
    text = text.replace("  size: 256MiB", "  size: 256MiB\n  modules: [ext4]")
    (found,) = mistakes(tmp_path, text)
    what = "root.modules are those of a kernel package; the base's kernel has its own; remove them, or name"
    assert found == f"recipes/images/one.yaml:7:12: {what} kernel.package"


def test_every_provider_for_a_root_gives_passphrases() -> None:
    for name in ROOT_PROVIDERS:
        provider = read_provider(name, (ROOT / "initrd" / "unlock.d" / name).read_bytes())
        assert PASSPHRASE in provider.kinds, name
