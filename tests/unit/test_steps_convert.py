"""The steps of converted images, without an appliance: what they ask for, keep, derive and lay out."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from recipes.errors import SpecError
from recipes.formats import gpt
from recipes.formats.fat_reader import FatFilesystem
from recipes.formats.oci_tar import write_tar
from recipes.formats.tree import FileTree
from recipes.schema import ConvertedImage, RootSpec, load_project
from recipes.schema.volumes import UnlockSpec
from recipes.sources import converted_root
from recipes.sources.converted_root import KernelTargets, RootFacts, RootPlan
from recipes.steps import graph, kernel, layout, volume_keys, volumes
from recipes.steps.convert import asking, base, disk, encrypt, jindisk, root
from recipes.units import MIB
from tests.support import ROOT

PARTITION = UUID("5e5554b7-deba-59ab-abc9-d38bc6372ff1")
UNLOCK = UnlockSpec(unlock=("kbs",))
LOCK = "suite: trixie\narchitecture: amd64\nepoch: 1700000000\nrequest: {}\npackages: []\n"


@pytest.fixture
def image() -> ConvertedImage:
    return load_project(ROOT).converted[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of keys of our own."""
    monkeypatch.setattr(volume_keys, "FOLDER", tmp_path / "keys")
    for module in (volume_keys, volumes):
        monkeypatch.setattr(module, "KEYS", tmp_path / "keys/volumes")
    return tmp_path / "keys"


def test_what_is_asked_of_debian(image: ConvertedImage) -> None:
    groups = {name: packages for name, packages, _ in asking.asked_for(image)}
    assert set(groups) == {"initramfs", "stub", "toolchain", "firmware", "base", "tools", "kernel", "added"}
    assert groups["tools"] == ("e2fsprogs", "libarchive13t64")
    brought = replace(image.recipe, base=replace(image.recipe.base, packages=(), path="a.qcow2"))
    own = replace(brought, kernel=replace(brought.kernel, package=None))
    names = {name for name, _, _ in asking.asked_for(replace(image, recipe=own))}
    assert names == {"initramfs", "stub", "toolchain", "firmware", "added"}


def test_the_disk_has_the_program_and_the_encrypted_root(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(LOCK)
    (tmp_path / "boot.efi").write_bytes(b"MZ boot program")
    (tmp_path / "root.luks").write_bytes(b"\x01" * MIB)
    disk.build(
        tmp_path / "disk.raw",
        lock=tmp_path / "lock",
        boot_program=tmp_path / "boot.efi",
        root=tmp_path / "root.luks",
        esp_size=34 * MIB,
        disk_guid=str(UUID(int=1)),
        esp_guid=str(UUID(int=2)),
        root_guid=str(PARTITION),
    )
    with (tmp_path / "disk.raw").open("rb") as file:
        table = gpt.read(file, "disk.raw")
        esp, encrypted_part = table.partitions
        assert (esp.type_guid, encrypted_part.type_guid) == (gpt.TYPE_ESP, gpt.TYPE_ROOT_X86_64)
        assert (encrypted_part.guid, encrypted_part.name) == (PARTITION, "root")
        file.seek(encrypted_part.offset)
        assert file.read(encrypted_part.size) == b"\x01" * MIB
        found = FatFilesystem.open(file, esp.offset, "esp").files
        assert [entry.read() for entry in found.values()] == [b"MZ boot program"]


def test_a_secret_in_the_boot_program_stops_the_disk(
    tmp_path: Path, image: ConvertedImage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (volume,) = volumes.volumes(image)
    volume_keys.make([volume])
    monkeypatch.setattr(layout, "own_keys", volume_keys.own_keys)
    (tmp_path / "boot.efi").write_bytes(b"MZ" + volume.key_file.read_bytes())
    with pytest.raises(SpecError, match="EFI system partition"):
        layout.write_disk(
            tmp_path / "disk.raw",
            boot_program=tmp_path / "boot.efi",
            esp_size=34 * MIB,
            esp_guid=UUID(int=1),
            disk_guid=UUID(int=2),
            parts=[],
            epoch=0,
        )


class Conversions:
    """In the place of the appliance: writes what it was given, another root every time."""

    def __init__(self) -> None:
        self.plans: list[RootPlan] = []

    def __call__(
        self, base: Path, target: Path, plan: RootPlan, *, cache: Path, kernel: KernelTargets | None
    ) -> RootFacts:
        self.plans.append(plan)
        target.write_bytes(os.urandom(4096) + bytes(plan.size - 4096))
        if kernel is None:
            return RootFacts(system="debian 13", device="/dev/sda1")
        kernel.kernel.write_bytes(b"kernel")
        kernel.modules.write_bytes(b"modules")
        return RootFacts(system="debian 13", device="/dev/sda1", kernel="6.1")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conversions:
    conversions = Conversions()
    monkeypatch.setattr(converted_root, "convert_root", conversions)
    monkeypatch.setattr(root, "CONVERTED", tmp_path / "converted")
    (tmp_path / "lock").write_text(LOCK)
    (tmp_path / "base.raw").write_bytes(bytes(512))
    return conversions


SPEC = RootSpec(size=MIB, unlock=("kbs",))


def convert(folder: Path, spec: RootSpec = SPEC, *, sha256: str = "") -> list[bytes]:
    targets = [folder / name for name in ("root", "facts", "vmlinuz", "kernel.tar", "kernel.json")]
    root.build(
        *targets,
        base_path=folder / "base.raw",
        sha256=sha256,
        lock=folder / "lock",
        spec=spec,
        kernel_files=(),
    )
    return [target.read_bytes() for target in targets]


def test_a_root_is_made_once_and_then_kept(tmp_path: Path, made: Conversions) -> None:
    first = convert(tmp_path)
    assert json.loads(first[1]) == {"system": "debian 13", "device": "/dev/sda1", "kernel": "6.1"}
    assert json.loads(first[4])["release"] == "6.1"
    assert first[2:4] == [b"kernel", b"modules"]
    # How it is opened is no part of what it is.
    assert convert(tmp_path, replace(SPEC, unlock=("passphrase",), timeout=7)) == first
    assert len(made.plans) == 1
    assert [path.name for path in (tmp_path / "converted").iterdir() if path.name.startswith(".")] == []


def test_another_size_or_base_is_another_root(tmp_path: Path, made: Conversions) -> None:
    first = convert(tmp_path)
    assert len(convert(tmp_path, replace(SPEC, size=2 * MIB))[0]) == 2 * MIB
    (tmp_path / "base.raw").write_bytes(bytes(1024))
    assert convert(tmp_path)[0] != first[0]
    (tmp_path / "base.raw").write_bytes(bytes(512))
    assert convert(tmp_path) == first
    assert len(made.plans) == 3


def test_a_damaged_entry_is_made_again(tmp_path: Path, made: Conversions) -> None:
    first = convert(tmp_path)
    (entry,) = (tmp_path / "converted").iterdir()
    with (entry / "root.raw").open("r+b") as file:
        file.write(b"changed")
    assert convert(tmp_path)[0] != first[0]
    (entry / "entry.json").unlink()
    convert(tmp_path)
    assert len(made.plans) == 3


def without(listed: object) -> object:
    assert isinstance(listed, dict)
    return {name: digest for name, digest in listed.items() if name != "root.raw"}


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {},
        lambda _: [],
        without,
        lambda listed: listed | {"../../base.raw": hashlib.sha256(bytes(512)).hexdigest()},
        lambda listed: listed | {"root.raw": None},
    ],
    ids=["empty", "list", "one less", "one more", "no digest"],
)
def test_an_entry_lists_exactly_its_files(
    tmp_path: Path, made: Conversions, change: Callable[[object], object]
) -> None:
    first = convert(tmp_path)
    (entry,) = (tmp_path / "converted").iterdir()
    listed = json.loads((entry / "entry.json").read_text())
    assert sorted(listed) == ["kernel.json", "kernel.tar", "root.json", "root.raw", "vmlinuz"]
    (entry / "entry.json").write_text(json.dumps(change(listed)))
    assert convert(tmp_path)[0] != first[0]
    assert len(made.plans) == 2


def test_a_conversion_that_fails_leaves_nothing(
    tmp_path: Path, made: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> RootFacts:
        raise SpecError("root.size: too small")

    monkeypatch.setattr(converted_root, "convert_root", fails)
    with pytest.raises(SpecError, match="too small"):
        convert(tmp_path)
    assert list((tmp_path / "converted").iterdir()) == []


def test_another_base_than_the_one_that_was_named(tmp_path: Path, made: Conversions) -> None:
    with pytest.raises(SpecError) as caught:
        convert(tmp_path, sha256="a" * 64)
    digest = hashlib.sha256(bytes(512)).hexdigest()
    assert f"base.raw has the SHA-256 {digest}, the recipe says {'a' * 64}; it is another image" in str(
        caught.value
    )
    (tmp_path / "base.raw").unlink()
    with pytest.raises(SpecError, match=r"^base.path: there is no .*base.raw; put the image there"):
        convert(tmp_path)
    assert not made.plans


def kernel_with(folder: Path, *files: str) -> dict[str, Path]:
    """Products of the kernel step whose package has these files."""
    tree = FileTree()
    for name in files:
        tree.add_file(f"usr/lib/modules/5.17.0-own/{name}", b"kernel/drivers/md/dm-jindisk.ko\n")
    with (folder / "kernel.tar").open("wb") as out:
        write_tar(tree, out, epoch=0)
    facts = {"release": "5.17.0-own", "package": "linux-own", "version": "1"}
    (folder / "kernel.json").write_text(json.dumps(facts))
    return {"kernel_files": folder / "kernel.tar", "facts": folder / "kernel.json"}


@pytest.mark.parametrize(
    "files", [("updates/dm-jindisk.ko.xz",), ("kernel/drivers/md/a.ko", "modules.builtin")]
)
def test_tables_for_a_kernel_with_jindisk(tmp_path: Path, files: tuple[str, ...]) -> None:
    paths = tmp_path / "format", tmp_path / "open"
    jindisk.build(*paths, device="/dev/vdb", size=64 * MIB, **kernel_with(tmp_path, *files))
    lines = [path.read_text().splitlines() for path in paths]
    assert [each[-1] for each in lines] == [f"0 131072 jindisk @KEY@ @IV@ /dev/vdb {flag}" for flag in (1, 0)]
    assert all(line.startswith("#") for each in lines for line in each[:-1])
    assert all(each[0].startswith("# spec-only") for each in lines)


def test_a_kernel_without_jindisk_is_named(tmp_path: Path) -> None:
    files = kernel_with(tmp_path, "kernel/drivers/md/dm-crypt.ko")
    with pytest.raises(SpecError) as caught:
        jindisk.build(tmp_path / "format", tmp_path / "open", device="/dev/vdb", size=64 * MIB, **files)
    what = "the kernel 5.17.0-own has no module dm-jindisk, which is outside of Linux"
    assert str(caught.value) == (
        f"root.jindisk: {what}; name a kernel package that has it, or remove the key"
    )
    assert list(tmp_path.glob("format")) == []


def test_tables_are_written_where_a_device_is_named(image: ConvertedImage) -> None:
    assert jindisk.steps(image) == ()
    named = replace(image, recipe=replace(image.recipe, root=replace(image.recipe.root, jindisk="/dev/vdb")))
    (step,) = jindisk.steps(named)
    assert step.name == "jindisk:jindisk-style"
    assert [path.name for path in step.products] == ["jindisk-format.table", "jindisk-open.table"]
    assert set(step.inputs) == {kernel.package_files(named), kernel.kernel_facts(named)}
    assert step in graph.converted_steps(named)
    own = replace(named.recipe, kernel=replace(named.recipe.kernel, package=None))
    (step,) = jindisk.steps(replace(named, recipe=own))
    # The base's own kernel comes out of the conversion.
    assert set(step.inputs) <= set(root.step(replace(named, recipe=own)).products)


def test_the_steps_fit_each_other(image: ConvertedImage) -> None:
    made = [step(image) for step in (base.step, root.step, encrypt.step, disk.step)]
    assert [step.name for step in made] == [
        f"{name}:jindisk-style" for name in ("base", "convert", "encrypt", "disk")
    ]
    # Each reads what the one before it makes.
    for before, after in itertools.pairwise(made):
        assert set(before.products) & set(after.inputs)
    own = replace(image, recipe=replace(image.recipe, kernel=replace(image.recipe.kernel, package=None)))
    names = [path.name for path in root.step(own).products]
    assert names == ["root.raw", "root.json", "vmlinuz", "kernel.tar", "kernel.json"]
    brought = replace(image.recipe, base=replace(image.recipe.base, packages=(), path="none.qcow2"))
    assert root.base_image(replace(image, recipe=brought)) == ROOT / "none.qcow2"
