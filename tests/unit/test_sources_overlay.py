from __future__ import annotations

import os
from pathlib import Path

import pytest

from recipes.errors import SpecError
from recipes.formats.tree import FileTree, NodeType
from recipes.sources.overlay import lay_over, read_overlay
from tests.support import ROOT


def folder_with(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return root


def packages(**files: str) -> FileTree:
    tree = FileTree()
    for path, package in files.items():
        tree.add_file(path.replace("__", "/"), b"from a package", source=package)
    return tree


def facts(tree: FileTree) -> list[tuple[str, NodeType, int, int, int, int, bytes]]:
    return [(path, n.type, n.mode, n.uid, n.gid, n.mtime, n.read()) for path, n in tree.sorted()]


def test_only_the_executable_bit_of_a_mode_counts(tmp_path: Path) -> None:
    folder_with(tmp_path, {"etc/secret": b"a", "usr/bin/tool": b"b", "etc/open": b"c"})
    (tmp_path / "etc/secret").chmod(0o600)
    (tmp_path / "etc/open").chmod(0o666)
    (tmp_path / "usr/bin/tool").chmod(0o700)
    (tmp_path / "etc").chmod(0o775)
    (tmp_path / "link").symlink_to("/etc/secret")
    os.utime(tmp_path / "etc/open", (1, 1))
    tree = read_overlay(tmp_path, "demo").tree
    directory, file, link = NodeType.DIRECTORY, NodeType.FILE, NodeType.SYMLINK
    assert facts(tree) == [
        ("", directory, 0o755, 0, 0, 0, b""),
        ("etc", directory, 0o755, 0, 0, 0, b""),
        ("etc/open", file, 0o644, 0, 0, 0, b"c"),
        ("etc/secret", file, 0o644, 0, 0, 0, b"a"),
        ("link", link, 0o777, 0, 0, 0, b""),
        ("usr", directory, 0o755, 0, 0, 0, b""),
        ("usr/bin", directory, 0o755, 0, 0, 0, b""),
        ("usr/bin/tool", file, 0o755, 0, 0, 0, b"b"),
    ]
    assert tree["link"].target == "/etc/secret"
    assert tree["etc/open"].source == "overlay demo"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("etc/a~", "overlay demo: etc/a~ is what an editor left behind; remove it"),
        ("etc/.a.swp", "overlay demo: etc/.a.swp is what an editor left behind; remove it"),
        (".#a", "overlay demo: .#a is what an editor left behind; remove it"),
        ("a\nb", "overlay demo: 'a\\nb' has a control character in its name; rename it"),
        (os.fsdecode(b"caf\xe9"), "overlay demo: 'caf\\udce9' is not UTF-8; rename it"),
    ],
)
def test_names_that_do_not_belong(tmp_path: Path, path: str, message: str) -> None:
    folder_with(tmp_path, {path: b""})
    with pytest.raises(SpecError) as caught:
        read_overlay(tmp_path, "demo")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../../x", "overlay demo: etc/link points to ../../x, above the image's root; correct the link"),
        ("../..", "overlay demo: etc/link points to ../.., above the image's root; correct the link"),
        (
            os.fsdecode(b"\xff"),
            "overlay demo: etc/link points to '\\udcff', which is not UTF-8; correct the link",
        ),
    ],
)
def test_links_that_leave_the_image(tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/link").symlink_to(target)
    with pytest.raises(SpecError) as caught:
        read_overlay(tmp_path, "demo")
    assert str(caught.value) == message


def test_a_relative_link_inside_the_image_is_kept(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/link").symlink_to("../run/file")
    assert read_overlay(tmp_path, "demo").tree["etc/link"].target == "../run/file"


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError) as caught:
        read_overlay(tmp_path, "demo")
    assert str(caught.value) == "overlay demo: pipe is no file, directory or symbolic link; remove it"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read_overlay(tmp_path / "none", "none")
    assert str(caught.value) == (
        "overlay none: there is no folder rootfs/none; create it or correct rootfs.overlays"
    )


def test_replaces_lists_files_of_the_overlay(tmp_path: Path) -> None:
    folder_with(tmp_path, {"etc/issue": b"", ".replaces": b"# why\n\netc/issue\n"})
    overlay = read_overlay(tmp_path, "demo")
    assert overlay.replaces == {"etc/issue"}
    assert ".replaces" not in overlay.tree
    (tmp_path / ".replaces").write_text("etc/isue\n")
    with pytest.raises(SpecError) as caught:
        read_overlay(tmp_path, "demo")
    assert str(caught.value) == (
        "overlay demo: .replaces lists etc/isue, which the overlay does not have; remove the line"
    )


def test_lay_over_keeps_the_input_and_replaces_what_is_listed(tmp_path: Path) -> None:
    folder_with(tmp_path, {"etc/issue": b"ours", "etc/new": b"new", ".replaces": b"etc/issue\n"})
    below = packages(etc__issue="base-files")
    result = lay_over(below, [read_overlay(tmp_path, "demo")])
    assert (result["etc/issue"].read(), result["etc/new"].read()) == (b"ours", b"new")
    assert below["etc/issue"].read() == b"from a package"
    assert "etc/new" not in below


def clash(tmp_path: Path, files: dict[str, bytes], below: FileTree) -> str:
    with pytest.raises(SpecError) as caught:
        lay_over(below, [read_overlay(folder_with(tmp_path / "demo", files), "demo")])
    return str(caught.value)


def test_a_package_file_is_not_replaced_by_accident(tmp_path: Path) -> None:
    message = clash(tmp_path, {"etc/issue": b""}, packages(etc__issue="base-files"))
    assert message == (
        "overlay demo: etc/issue is in base-files as well; list it in rootfs/demo/.replaces to replace it"
    )


def test_a_listed_file_that_no_package_has(tmp_path: Path) -> None:
    message = clash(tmp_path, {"etc/issue": b"", ".replaces": b"etc/issue\n"}, FileTree())
    assert message == "overlay demo: etc/issue is listed in .replaces, but no package has it; remove the line"


def test_a_file_where_a_package_has_a_directory(tmp_path: Path) -> None:
    message = clash(tmp_path, {"etc/x": b""}, packages(etc__x__y="some-package"))
    assert message == (
        "overlay demo: etc/x is a file, another source has a directory there; "
        "move it to where that leads, or rename it"
    )


def test_a_path_through_a_link_of_a_package(tmp_path: Path) -> None:
    below = FileTree()
    below.add_symlink("lib", "usr/lib", source="base-files")
    message = clash(tmp_path, {"lib/systemd/x": b""}, below)
    assert message == (
        "overlay demo: lib is a directory, base-files has a symlink there; "
        "move it to where that leads, or rename it"
    )


def test_two_overlays_with_one_file(tmp_path: Path) -> None:
    overlays = [read_overlay(folder_with(tmp_path / name, {"etc/x": b""}), name) for name in ("one", "two")]
    with pytest.raises(SpecError) as caught:
        lay_over(FileTree(), overlays)
    assert str(caught.value) == "overlay two: etc/x is in overlay one as well; keep it in one of them"


def test_the_overlays_of_the_project_do_not_clash() -> None:
    """An application's is alone in its root file system; the others may meet in one."""
    found = sorted(path.name for path in (ROOT / "rootfs").iterdir() if path.is_dir())
    names = [name for name in found if not name.startswith("app-")]
    assert {"base", "boot-counter", "boot-report"} <= set(names)
    tree = lay_over(FileTree(), [read_overlay(ROOT / "rootfs" / name, name) for name in names])
    assert tree["usr/lib/goldsmith/boot-report"].mode == 0o755
    assert tree["etc/machine-id"].read() == b""
