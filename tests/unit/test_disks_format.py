from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import BinaryIO

import pytest

from recipes.disks import format as disk_format
from recipes.disks.format import (
    DiskFormat,
    aligned_size,
    check_carries,
    derived_bytes,
    derived_uuid,
    lookup,
    registry,
)
from recipes.disks.raw import Raw
from recipes.disks.source import Progress, RawDisk
from recipes.errors import FormatError, SpecError


@dataclass(frozen=True)
class Reversed:
    """A format of somebody else."""

    name: str = "reversed"
    suffix: str = ".rev"
    summary: str = "sectors from the last to the first"
    architectures: frozenset[str] = frozenset({"x86_64"})
    firmware: frozenset[str] = frozenset({"uefi"})
    max_size: int = 4096
    alignment: int = 1024

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        out.write(disk.read(0, disk.size)[::-1])


reversed_format = Reversed()
wrong_name = Reversed(name="backwards")
takes_raw = Reversed(name="raw")


def plug_in(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    points = tuple(EntryPoint(name, value, disk_format.GROUP) for name, value in entries)

    def found(*, group: str) -> tuple[EntryPoint, ...]:
        return points if group == "goldsmith.disks" else ()

    monkeypatch.setattr(disk_format, "entry_points", found)


def test_the_built_in_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch)
    found = registry()
    assert {"raw", "vhd", "vhd-dynamic", "vhdx", "gce"} <= set(found)
    assert list(found) == sorted(found)
    for name, item in found.items():
        checked: DiskFormat = item
        assert checked.name == name
        assert checked.summary
        assert checked.architectures <= disk_format.ANY_ARCHITECTURE
        assert checked.firmware <= disk_format.ANY_FIRMWARE
        assert checked.max_size % 512 == 0
    suffixes = [item.suffix for item in found.values()]
    assert len(set(suffixes)) == len(suffixes), "two formats would write the same file"


def test_a_format_of_another_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, ("reversed", f"{__name__}:reversed_format"))
    assert lookup("reversed") is reversed_format
    assert list(registry()) == sorted(registry())


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch)
    with pytest.raises(SpecError) as caught:
        lookup("vhdy")
    assert str(caught.value) == "disk format 'vhdy' is not known; did you mean 'vhd'?"
    with pytest.raises(SpecError, match=r"^disk format '' is not known; known: gce, .*raw.*vhdx"):
        lookup("")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("raw", f"{__name__}:takes_raw", "there is a disk format of that name; choose another"),
        ("x", "no.such.module:thing", "cannot be loaded (No module named 'no'); reinstall or remove it"),
        (
            "x",
            f"{__name__}:nothing",
            f"cannot be loaded (module '{__name__}' has no attribute 'nothing'); reinstall or remove it",
        ),
        (
            "x",
            f"{__name__}:plug_in",
            "function lacks a member of recipes.disks.format.DiskFormat; its author has to add it",
        ),
        (
            "x",
            f"{__name__}:wrong_name",
            "the format calls itself 'backwards'; both names have to be the same",
        ),
    ],
)
def test_an_entry_point_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    plug_in(monkeypatch, (name, value))
    with pytest.raises(SpecError) as caught:
        registry()
    assert str(caught.value) == f"entry point {name}: {message}"


def test_an_installed_distribution_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As importlib.metadata finds it, with nothing put in its place."""
    info = tmp_path / "other_disks-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-disks\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[goldsmith.disks]\nmirror = other_disks_module:MIRROR\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SpecError) as caught:
        registry()
    want = "entry point mirror of other-disks: cannot be loaded (No module named 'other_disks_module')"
    assert str(caught.value) == f"{want}; reinstall or remove it"
    (tmp_path / "other_disks_module.py").write_text(
        "from dataclasses import replace\nfrom recipes.disks.raw import Raw\n"
        "MIRROR = replace(Raw(), name='mirror')\n"
    )
    assert lookup("mirror") == Raw(name="mirror")
    sys.modules.pop("other_disks_module")


def test_what_a_format_cannot_carry() -> None:
    check_carries(reversed_format, architecture="x86_64", firmware="uefi")
    with pytest.raises(SpecError) as caught:
        check_carries(reversed_format, architecture="aarch64", firmware="uefi")
    want = "disk format reversed: does not carry images for aarch64; it takes x86_64; choose another format"
    assert str(caught.value) == want
    with pytest.raises(SpecError) as caught:
        check_carries(reversed_format, architecture="x86_64", firmware="bios")
    want = "disk format reversed: does not carry what boots with bios; it takes uefi; choose another format"
    assert str(caught.value) == want


def test_the_size_rule() -> None:
    sizes = {512: 1024, 1024: 1024, 1536: 2048, 4096: 4096}
    assert {size: aligned_size(reversed_format, size) for size in sizes} == sizes
    with pytest.raises(FormatError) as caught:
        aligned_size(reversed_format, 4608)
    want = "disk format reversed: a disk of 5120 bytes is larger than 4096, the most this format holds"
    assert str(caught.value) == f"{want}; make it smaller or choose another format"


def test_identifiers_follow_the_seed_and_the_label() -> None:
    uuids = {derived_uuid(seed, label) for seed in (b"a", b"b") for label in ("x", "y")}
    assert len(uuids) == 4
    assert derived_uuid(b"a", "x") in uuids
    assert {uuid.version for uuid in uuids} == {8}
    assert {uuid.variant for uuid in uuids} == {"specified in RFC 4122"}
    assert len(derived_bytes(b"a", "x", 4)) == 4
