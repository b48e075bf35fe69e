"""The same recipe and lock give the same bytes in another folder, for another user, in another time zone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from recipes.formats.erofs import write as write_erofs
from recipes.formats.tree import FileTree
from tests.house.conftest import Full
from tests.house.differences import describe, first_difference
from tests.house.project import Project, checkout, copy_keys, files, nobody

LONG_NAME = "a folder with blanks in a much longer name, which must leave no trace, Äpfel & Birnen"
# What a build could see of its surroundings. Locales that are not installed are as good: Python tries them.
SURROUNDINGS = {
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
    "TZ": "Pacific/Chatham",
    "PYTHONHASHSEED": "4242",
    "HOME": "/nonexistent",
    "USER": "somebody",
    "SOURCE_DATE_EPOCH": "1",
    "COLUMNS": "40",
    "GZIP": "-1",
    "ZSTD_CLEVEL": "19",
}


@pytest.fixture(scope="session")
def other(full: Full, workshop: Path) -> Project:
    project = checkout(workshop / LONG_NAME, umask=0o077, mtime=86_400)
    copy_keys(full.project, project)
    project = replace(project, environment=SURROUNDINGS)
    if os.geteuid() == 0:
        project = project.as_nobody()
    project.build("-n", "2")
    return project


def test_products_are_byte_identical(full: Full, other: Project) -> None:
    names = sorted(full.project.products())
    assert "golden.json" in names
    assert "disk.raw" in names
    assert sorted(other.products()) == names
    pairs = [(full.project.out / name, other.out / name) for name in names]
    differing = [describe(*pair) for pair in pairs if first_difference(*pair) is not None]
    assert not differing, "\n".join(differing)


def test_products_name_neither_the_folder_nor_the_user(full: Full, other: Project) -> None:
    """A path that both builds share would not show as a difference."""
    words = [str(full.project.root.parent).encode(), b"/nonexistent", b"somebody"]
    for path in files(other.out):
        if path.stat().st_size < 4 << 20 or path.suffix == ".erofs":
            data = path.read_bytes()
            assert not [word for word in words[: 1 if path.suffix == ".erofs" else 3] if word in data], path


def test_the_other_user_owns_what_he_built(other: Project) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    assert nobody()
    assert {path.stat().st_uid for path in files(other.out)} == {65534}


def test_a_build_writes_nothing_but_products_environment_and_keys(full: Full) -> None:
    assert full.project.sources() == full.sources


def test_dumps_of_two_builds_differ_nowhere_else_than_said(tmp_path: Path) -> None:
    """The report itself: what it says of a difference is where the difference is."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, text in ((one, b"same"), (other, b"sane")):
        folder.mkdir()
        tree = FileTree()
        tree.add_directory("")
        tree.add_file("first", b"equal")
        tree.add_file("second", text)
        with (folder / "rootfs.erofs").open("wb") as out:
            write_erofs(tree, out, epoch=0, uuid=UUID(int=1))
        (folder / "plain").write_bytes(b"12345678" + text)
    assert describe(one / "plain", other / "plain") == "plain: differs from offset 0xa (12 and 12 bytes)"
    assert describe(one / "rootfs.erofs", other / "rootfs.erofs").endswith(", first in second: content")
