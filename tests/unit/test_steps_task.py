from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from doit.exceptions import TaskFailed

from recipes.errors import FormatError, ImageError
from recipes.schema import Image, load_image
from recipes.steps import digests, task
from recipes.steps.digests import DigestCache, sidecar
from recipes.steps.task import Step, canonical, guarded, tree_fingerprint, write_text
from tests.support import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with a digest cache of its own."""
    cache = DigestCache(tmp_path / "out" / "cache" / "digests.json")
    monkeypatch.setattr(digests, "DIGESTS", cache)
    for name, value in (("DIGESTS", cache), ("ROOT", tmp_path), ("OUT", tmp_path / "out")):
        monkeypatch.setattr(task, name, value)
    monkeypatch.setattr(task, "code_digest", lambda: "code")
    return tmp_path


@pytest.fixture(scope="module")
def image() -> Image:
    return load_image(ROOT / "recipes" / "images" / "debian-cvm.yaml", ROOT)


def step(project: Path, image: Image, build: Callable[..., None], *names: str, **arguments: Any) -> Step:
    folder = project / "out" / image.name
    return Step(
        basename="thing",
        image=image,
        products=tuple(folder / name for name in names or ("thing",)),
        inputs=(),
        build=build,
        arguments=arguments,
        doc="make a thing",
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_products_come_with_what_they_are(
    project: Path, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(thing: Path, other: Path, *, text: str) -> None:
        thing.write_text(text)
        other.write_bytes(bytes(3 << 20))

    step(project, image, build, "thing", "folder/other", text="abc").run()
    folder = project / "out" / image.name
    assert names(folder) == ["other", "other.digest.json", "thing", "thing.digest.json"]
    # NIST's example for SHA-256: FIPS 180-4, "abc".
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert json.loads((folder / "thing.digest.json").read_text()) == {"sha256": digest, "size": 3}
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["debian-cvm/thing", "debian-cvm/folder/other"]
    assert f"sha256 {digest[:16]}…" in shown[0]
    assert "3 MiB" in shown[1] or "3.0 MiB" in shown[1]


@pytest.mark.parametrize("error", [FormatError("x", "bad"), ZeroDivisionError(), KeyboardInterrupt()])
def test_a_failing_build_leaves_nothing(project: Path, image: Image, error: BaseException) -> None:
    def build(thing: Path, other: Path) -> None:
        thing.write_bytes(b"whole")
        other.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        step(project, image, build, "thing", "other").run()
    assert names(project / "out" / image.name) == []


def test_a_failing_build_leaves_the_old_product_but_not_as_finished(project: Path, image: Image) -> None:
    made = step(project, image, lambda thing: thing.write_bytes(b"old"))
    made.run()

    def build(thing: Path) -> None:
        raise FormatError("x", "bad")

    with pytest.raises(FormatError):
        replace(made, build=build).run()
    assert names(project / "out" / image.name) == ["thing"]
    assert not digests.intact(made.products)(None, None)


def test_what_a_killed_build_left_is_in_nobodys_way(project: Path, image: Image) -> None:
    folder = project / "out" / image.name
    folder.mkdir(parents=True)
    (folder / ".thing.tmp").write_bytes(b"of a killed build")

    def build(thing: Path) -> None:
        with thing.open("xb") as file:
            file.write(b"new")

    step(project, image, build).run()
    assert (folder / "thing").read_bytes() == b"new"
    assert names(folder) == ["thing", "thing.digest.json"]


def test_an_input_that_changes_meanwhile_is_no_input(project: Path, image: Image) -> None:
    source = project / "source"
    source.write_text("before")

    def build(thing: Path) -> None:
        thing.write_text(source.read_text())
        source.write_text("after!")

    made = replace(step(project, image, build), inputs=(source,))
    with pytest.raises(ImageError) as caught:
        made.run()
    assert str(caught.value) == "source: changed while it was being read; run the same command again"
    assert names(project / "out") == []


def test_doit_watches_sources_and_the_sidecars_of_products(project: Path, image: Image) -> None:
    source, product = project / "initrd" / "init", project / "out" / image.name / "kernel"
    made = replace(step(project, image, lambda thing: None), inputs=(source, product)).task()
    assert made["file_dep"] == [str(source), f"{product}.digest.json"]
    assert made["targets"] == [
        str(project / "out" / image.name / "thing"),
        str(project / "out" / image.name / "thing.digest.json"),
    ]
    assert made["doc"] == "make a thing"


def test_clean_removes_products_and_empty_folders_only(project: Path, image: Image) -> None:
    def build(thing: Path, other: Path) -> None:
        thing.touch()
        other.touch()

    made = step(project, image, build, "thing", "folder/other")
    made.run()
    folder = project / "out" / image.name
    (folder / "log").write_text("kept")
    action, arguments = made.task()["clean"][0]
    action(*arguments)
    assert names(folder) == ["log"]
    assert not (folder / "folder").exists()
    action(*arguments)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FormatError("disk", "no table", offset=512), "disk: offset 0x200: no table"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            "/x/y: no space left on device; free some space and run the same command again",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/y"),
            "/x/y: permission denied; correct its permissions and run the same command again",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/x/y"),
            "/x/y: read-only file system; make it writable and run the same command again",
        ),
        (
            OSError(errno.EFBIG, "File too large", "/x/y"),
            "/x/y: file too large; raise the limit on file sizes and run the same command again",
        ),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "/x/.y.tmp", None, "/x/y"),
            "/x/y: is a directory; remove the folder in its place and run the same command again",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/y"),
            "/x/y: not a directory; remove the file in a folder's place and run the same command again",
        ),
        (
            FileExistsError(errno.EEXIST, "File exists", "/x/y"),
            "/x/y: file exists; remove what is in its place and run the same command again",
        ),
    ],
)
def test_what_users_can_mend_is_one_message(error: Exception, message: str) -> None:
    def action() -> None:
        raise error

    failed = guarded(action)
    assert isinstance(failed, TaskFailed)
    assert failed.get_msg().strip() == message


def test_folders_in_the_place_of_a_product_are_for_the_user_to_remove(project: Path, image: Image) -> None:
    made = step(project, image, lambda thing: thing.write_bytes(b"x"))
    made.products[0].mkdir(parents=True)
    clean, arguments = made.task()["clean"][0]
    for failed in (guarded(made.run), clean(*arguments)):
        assert isinstance(failed, TaskFailed)
        assert failed.get_msg().startswith(f"{made.products[0]}: is a directory; remove the folder")
    assert names(project / "out") == []


def test_an_error_without_a_file_names_the_build_folder(project: Path) -> None:
    def action() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    failed = guarded(action)
    assert failed is not None
    assert failed.get_msg().startswith(f"{project}/out: no space left")


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file"), ValueError(), OSError()])
def test_a_bug_stays_a_bug(error: Exception) -> None:
    def action() -> None:
        raise error

    with pytest.raises(type(error)):
        guarded(action)


def test_an_action_that_works_says_nothing() -> None:
    assert guarded(lambda: None) is None


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Thing:
    size: int
    colour: Colour
    parts: tuple[str, ...]
    digest: bytes
    path: Path


def test_values_have_one_text(project: Path) -> None:
    thing = Thing(1, Colour.RED, ("a", "b"), b"\x01\xff", project / "out" / "x")
    expected = '{"colour":"red","digest":"01ff","parts":["a","b"],"path":"out/x","size":1}'
    assert canonical(thing) == expected
    assert canonical({"b": None, "a": [thing]}) == f'{{"a":[{expected}],"b":null}}'
    assert canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})
    assert canonical(replace(thing, size=2)) != expected


def test_a_set_has_no_text() -> None:
    """Its order is not one to depend on."""
    with pytest.raises(TypeError):
        canonical({"x": {1, 2}})


def _link_elsewhere(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("there")


CHANGES: tuple[Callable[[Path], object], ...] = (
    lambda folder: (folder / "program").chmod(0o644),
    lambda folder: (folder / "etc" / "plain").chmod(0o744),
    lambda folder: (folder / "etc" / "new").symlink_to("plain"),
    _link_elsewhere,
    lambda folder: (folder / "link").unlink(),
    lambda folder: (folder / "empty").mkdir(),
    lambda folder: os.mkfifo(folder / "fifo"),
    lambda folder: (folder / "etc" / "plain").rename(folder / "plain"),
)


@pytest.mark.parametrize("change", CHANGES)
def test_what_an_overlay_is_besides_bytes_counts(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = tmp_path / "overlay"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "plain").write_text("x")
    (folder / "program").touch(0o755)
    (folder / "link").symlink_to("nowhere")
    before = tree_fingerprint(folder)
    assert before == tree_fingerprint(folder)
    assert before == (
        ("overlay", "d", False, ""),
        ("overlay/etc", "d", False, ""),
        ("overlay/etc/plain", "-", False, ""),
        ("overlay/link", "l", False, "nowhere"),
        ("overlay/program", "-", True, ""),
    )
    change(folder)
    assert tree_fingerprint(folder) != before


def test_what_git_does_not_keep_of_an_overlay_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "file").touch(0o644)
    before = tree_fingerprint(tmp_path / "overlay", tmp_path / "missing")
    (tmp_path / "overlay" / "file").chmod(0o600)
    (tmp_path / "overlay").chmod(0o700)
    assert tree_fingerprint(tmp_path / "overlay") == before


def test_small_files_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_text(path, "old", 0o600)
    assert path.stat().st_mode & 0o777 == 0o600

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert sidecar(path).name == "file.digest.json"


def test_the_builder_and_its_libraries_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "requirements.lock").write_text("one==1\n")
    monkeypatch.setattr(task, "ROOT", tmp_path)
    seen = set()
    for name, text in (("recipes/a.py", ""), ("recipes/a.py", "x"), ("requirements.lock", "one==2\n")):
        (tmp_path / name).write_text(text)
        seen.add(task.code_digest.__wrapped__())
    assert len(seen) == 3
