"""``helpers:IMAGE``: what it reads, and what it writes."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from recipes.errors import ToolError
from recipes.formats.tree import FileTree
from recipes.schema import Image, load_project
from recipes.steps import helpers
from recipes.steps.packages import resolved_lock
from tests.support import ROOT
from tests.unit.test_sources_toolchain import on_x86_64, packages

__all__ = ["on_x86_64"]

SOURCES = {
    "b.c": b"bee",
    "a.c": b"/* SPDX */\n/*: sources shared.c */\n",
    "shared.c": b"",
}


def image() -> Image:
    return next(image for image in load_project(ROOT).images if image.name == "debian-cvm")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources, and a toolchain that is made of scripts."""

    @contextmanager
    def unpacked(
        lock: Path, group: str, beside: Path, exclude: Sequence[str] = ()
    ) -> Iterator[tuple[FileTree, tuple[()]]]:
        assert (lock, group) == (Path("lock"), "toolchain")
        yield packages(), ()

    monkeypatch.setattr(helpers, "unpacked", unpacked)
    folder = tmp_path / "sources"
    folder.mkdir()
    for name, data in SOURCES.items():
        (folder / name).write_bytes(data)
    return folder


def build(target: Path, folder: Path) -> bytes:
    target.parent.mkdir(exist_ok=True)
    helpers.build(target, lock=Path("lock"), folder=folder)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    return target.read_bytes()


def test_the_step_watches_the_lock_and_every_source() -> None:
    step = helpers.step(image())
    assert step.products == (helpers.helpers_path(image()),)
    sources = [path for path in step.inputs if path.parent == ROOT / "initrd" / "helpers"]
    assert set(step.inputs) == {resolved_lock(image()), *sources}
    assert ROOT / "initrd" / "helpers" / "dmtable.c" in sources


def test_the_product_is_an_archive_of_programs(tmp_path: Path, folder: Path) -> None:
    target = tmp_path / "made" / "helpers.tar"
    build(target, folder)
    with tarfile.open(target) as archive:
        found = [
            (item.name, item.mode, item.uid, item.mtime, item.uname) for item in archive if item.isfile()
        ]
    assert found == [(f"usr/lib/goldsmith/{name}", 0o755, 0, 0, "") for name in ("a", "b")]
    programs = helpers.read_helpers(target)
    assert list(programs) == ["a", "b"]
    assert programs["b"] == b"x86_64-linux-gnu-ld(x86_64-linux-gnu-as(cc1(bee)))"


def test_nothing_of_the_machine_is_in_the_product(tmp_path: Path, folder: Path) -> None:
    before = build(tmp_path / "made" / "helpers.tar", folder)
    mask = os.umask(0o077)
    try:
        again = build(tmp_path / "elsewhere" / "x.tar", folder)
    finally:
        os.umask(mask)
    assert before == again


def test_a_helper_that_does_not_compile(tmp_path: Path, folder: Path) -> None:
    target = tmp_path / "made" / "helpers.tar"
    (folder / "wrong.c").write_bytes(b"BROKEN")
    with pytest.raises(ToolError, match=r"correct initrd/helpers/wrong\.c"):
        build(target, folder)
    assert list(target.parent.iterdir()) == []
