from __future__ import annotations

import platform
from pathlib import Path
from uuid import UUID

import pytest

from recipes.errors import SpecError, ToolError
from recipes.formats.tree import FileTree
from recipes.sources.ext4_image import CONFIGURATION, write_ext4
from recipes.sources.locked_program import LockedProgram


def test_programs_are_for_one_kind_of_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ToolError) as caught:
        LockedProgram(FileTree(), "usr/bin/x", tmp_path)
    advice = "the programs of locked packages are for x86-64 Linux; build there"
    assert str(caught.value).splitlines()[0] == f"usr/bin/x: does not run on Linux aarch64; {advice}"


def test_what_no_package_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    tree = FileTree()
    tree.add_file("usr/bin/x", b"")
    for path, libraries, missing in (
        ("usr/bin/y", (), "usr/bin/y"),
        ("usr/bin/x", ("usr/lib/z.so",), "usr/lib/z.so"),
    ):
        with pytest.raises(SpecError) as caught:
            LockedProgram(tree, path, tmp_path, libraries=libraries)
        assert (
            str(caught.value) == f"{missing}: no package has it; add the one that does, or correct the path"
        )


def make(folder: Path, tools: FileTree, size: int) -> None:
    identity = UUID(int=1)
    write_ext4(
        FileTree(), folder / "fs", tools=tools, work=folder, size=size, uuid=identity, label="x", epoch=0
    )


def test_file_systems_that_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^file system of 1048577 bytes: not whole MiB$"):
        make(tmp_path, FileTree(), (1 << 20) + 1)
    with pytest.raises(SpecError, match=r"^etc/mke2fs.conf: no package has it; add e2fsprogs$"):
        make(tmp_path, FileTree(), 1 << 20)
    assert CONFIGURATION == "etc/mke2fs.conf"
