from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import pytest

from recipes.disks import format as registered
from recipes.disks.raw import Raw
from recipes.disks.source import Progress, RawDisk
from recipes.errors import FormatError, SpecError
from recipes.formats import gpt
from recipes.reader import Place
from recipes.schema import DiskImage, load_project
from recipes.schema.publish import PublishSpec
from recipes.steps import disk_formats, golden, graph, task
from recipes.steps.digests import sidecar, sidecar_text
from recipes.units import GIB, MIB
from tests.support import ROOT

RECIPE = ROOT / "recipes" / "images" / "debian-cvm.yaml"


@dataclass(frozen=True)
class Echo(Raw):
    """A format of somebody else: a raw disk of whole tens of MiB."""

    name: str = "echo"
    suffix: str = ".echo"
    summary: str = "as it is"
    max_size: int = 100 * MIB
    alignment: int = 10 * MIB


@dataclass(frozen=True)
class Broken(Echo):
    """Ends half way."""

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        out.write(bytes(MIB))
        raise FormatError("disk", "something is wrong with it")


@pytest.fixture(autouse=True)
def plugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Formats of other distributions beside ours."""
    known = dict(registered.registry())
    others = (
        Echo(),
        Broken(name="broken", suffix=".broken"),
        Echo(name="arm", suffix=".arm", architectures=frozenset({"aarch64"})),
        Echo(name="bios", suffix=".bios", firmware=frozenset({"bios"})),
        Echo(name="twin", suffix=".vhd"),
        Echo(name="shadow", suffix=".raw"),
        Echo(name="hostile", suffix="/../../escaped"),
        Echo(name="sidecar", suffix=".vhd.digest.json"),
    )
    known |= {item.name: item for item in others}
    monkeypatch.setattr(registered, "registry", lambda: known)
    disk_formats._registry.cache_clear()
    yield
    disk_formats._registry.cache_clear()


def image_with(*formats: str, kind: str = "images") -> DiskImage:
    """A committed image in these formats, for no cloud; its recipe names each on a line, from 30:7 on."""
    project = load_project(ROOT)
    image: DiskImage = next(iter(getattr(project, kind)))
    spec = replace(image.recipe.disk, formats=formats)
    places: dict[Place, tuple[int, int]]
    places = {("disk", "formats", index): (30 + index, 7) for index in range(len(formats))}
    # The recipes of both kinds have a disk; replace cannot say so of a union.
    recipe: Any = replace(image.recipe, disk=spec, publish=PublishSpec())
    return replace(image, recipe=recipe, places=places)


def mistakes(*formats: str) -> list[str]:
    image = image_with(*formats)
    with pytest.raises(SpecError) as caught:
        graph.steps(image)  # type: ignore[arg-type]
    where = image.path.relative_to(ROOT).as_posix()
    return [line.removeprefix(f"{where}:") for line in str(caught.value).splitlines()]


def test_raw_alone_asks_nobody_and_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "registry", lambda: pytest.fail("nothing but raw was asked for"))
    for formats in ((), ("raw",)):
        image = image_with(*formats)
        assert disk_formats.steps(image) == ()
        assert [name for name, _ in disk_formats.shipped_disks(image)] == ["raw"]
        assert disk_formats.virtual_sizes(disk_formats.shipped_disks(image)) == ()


@pytest.mark.parametrize("kind", ["images", "converted"])
def test_a_task_for_each_format_and_raw_first(kind: str) -> None:
    image = image_with("gce", "raw", "vhd", "echo", kind=kind)
    made = disk_formats.steps(image)
    names = [f"disk:{image.name}.{name}" for name in ("gce", "vhd", "echo")]
    assert [step.name for step in made] == names
    assert [f"{step.task()['basename']}:{step.task()['name']}" for step in made] == names
    assert [path.name for step in made for path in step.products] == ["disk.tar.gz", "disk.vhd", "disk.echo"]
    files = ["disk.raw", "disk.tar.gz", "disk.vhd", "disk.echo"]
    shipped = disk_formats.shipped_disks(image)
    assert [(name, path.name) for name, path in shipped] == list(
        zip(("raw", "gce", "vhd", "echo"), files, strict=True)
    )
    assert [path.name for path in golden.artefact_paths(image)][-4:] == files
    whole: Any = graph.converted_steps if kind == "converted" else graph.steps
    order = [step.name for step in whole(image)]
    assert order.index(f"disk:{image.name}") < order.index(names[0]) < order.index(f"golden:{image.name}")
    assert set(names) < set(order)


def test_an_unknown_format_is_named_with_its_place_and_a_suggestion() -> None:
    (line,) = mistakes("raw", "vhdk", "qcow2")
    assert line == "31:7: disk format 'vhdk' is not known; did you mean 'vhd'?"


def test_every_mistake_comes_in_one_run() -> None:
    found = mistakes("qcow3", "arm", "bios", "vhd", "twin", "shadow", "hostile", "sidecar")
    author = "its author has to choose a suffix such as .vhd"
    assert found == [
        "30:7: disk format 'qcow3' is not known; did you mean 'qcow2'?",
        "31:7: disk format arm: does not carry images for x86_64; it takes aarch64; choose another format",
        "32:7: disk format bios: does not carry what boots with uefi; it takes bios; choose another format",
        "34:7: disk format twin: its file disk.vhd is that of vhd too; leave one of them out",
        "35:7: disk format shadow: its file disk.raw is that of raw too; leave one of them out",
        f"36:7: disk format hostile: its file would be called 'disk/../../escaped'; {author}",
        f"37:7: disk format sidecar: its file would be called 'disk.vhd.digest.json'; {author}",
    ]


def test_the_code_of_a_format_from_elsewhere_decides_too() -> None:
    """What rebuilds everything is the digest of our own code, which another distribution's is no part of."""
    ours, theirs = disk_formats.steps(image_with("vhd", "echo"))
    assert ours.fingerprint == ""
    assert theirs.fingerprint == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


PLAN = gpt.PartitionPlan(name="one", type_guid=gpt.TYPE_LINUX_GENERIC, guid=UUID(int=9), size=MIB)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A finished raw disk of 4 MiB."""
    path = tmp_path / "disk.raw"
    table = gpt.lay_out(UUID(int=7), [PLAN], sectors=4 * MIB // 512)
    path.write_bytes(table.primary().ljust(4 * MIB - len(table.backup()), b"\0") + table.backup())
    sidecar(path).write_text(sidecar_text(path))
    return path


def test_the_partition_table_is_that_of_the_larger_disk(tmp_path: Path, raw: Path) -> None:
    disk_formats.build(tmp_path / "made", image="i", raw=raw, name="echo")
    with (tmp_path / "made").open("rb") as file:
        assert gpt.read(file, "made").sectors == 10 * MIB // 512
    assert (tmp_path / "made").stat().st_size == 10 * MIB


def test_the_seed_follows_the_image_and_its_bytes() -> None:
    seeds = {disk_formats.seed(image, digest) for image in ("a", "b") for digest in ("00", "11")}
    assert len(seeds) == 4
    assert {len(seed) for seed in seeds} == {32}


def test_a_disk_that_the_format_does_not_hold(tmp_path: Path, raw: Path) -> None:
    with raw.open("r+b") as file:
        file.truncate(101 * MIB)
    with pytest.raises(FormatError, match=r"^disk format echo: a disk of 115343360 bytes is larger than"):
        disk_formats.build(tmp_path / "made", image="i", raw=raw, name="echo")


def test_a_format_that_fails_leaves_no_product(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (task, disk_formats):
        monkeypatch.setattr(module, "OUT", tmp_path / "out")
    monkeypatch.setattr(task, "ROOT", tmp_path)
    (step,) = disk_formats.steps(image_with("broken"))
    step = replace(step, inputs=(raw,), arguments={**step.arguments, "raw": raw})
    with pytest.raises(FormatError, match="something is wrong with it"):
        step.run()
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_sizes_as_machines_see_them(raw: Path) -> None:
    disks = (
        ("raw", raw),
        ("vhd", Path("disk.vhd")),
        ("gce", Path("disk.tar.gz")),
        ("echo", Path("disk.echo")),
    )
    sizes = disk_formats.virtual_sizes(disks)
    assert [(disk.format, disk.file, disk.size) for disk in sizes] == [
        ("raw", "disk.raw", 4 * MIB),
        ("vhd", "disk.vhd", 4 * MIB),
        ("gce", "disk.tar.gz", GIB),
        ("echo", "disk.echo", 10 * MIB),
    ]
    others = disk_formats.other_sizes(raw, sizes)
    assert [(item.size, item.formats, item.source) for item in others] == [
        (GIB, ("gce",), "disk.tar.gz"),
        (10 * MIB, ("echo",), "disk.echo"),
    ]
    # Spec: UEFI 2.10 table 5.5, AlternateLBA.
    assert [int.from_bytes(item.gpt_event[32:40], "little") for item in others] == [
        GIB // 512 - 1,
        10 * MIB // 512 - 1,
    ]


def test_formats_of_one_size_share_a_prediction(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = (("raw", raw), ("gce", Path("disk.tar.gz")), ("big", Path("disk.big")))
    known = disk_formats._registry() | {"big": Echo(name="big", suffix=".big", max_size=GIB, alignment=GIB)}
    monkeypatch.setattr(registered, "registry", lambda: known)
    (other,) = disk_formats.other_sizes(raw, disk_formats.virtual_sizes(disks))
    assert other.formats == ("gce", "big")
    assert other.source == "disk.tar.gz, disk.big"


def test_progress_is_for_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_formats.Progress("gce")(1, 2)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    progress = disk_formats.Progress("gce")
    for done in (0, 50 * MIB, 50 * MIB + 1, 100 * MIB):
        progress(done, 100 * MIB)
    said = capsys.readouterr().out
    assert re.findall(r"([0-9]+) of 100 MiB", said) == ["0", "50"]
    assert said.endswith("\r\033[K")


def test_the_committed_recipe_ships_in_every_format() -> None:
    (image,) = [image for image in load_project(ROOT).images if image.path == RECIPE]
    ours = {name for name, item in disk_formats._registry().items() if not isinstance(item, Echo)}
    assert set(image.recipe.disk.formats) == ours
