from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from recipes.errors import FormatError
from recipes.formats.oci_tar import write_tar
from recipes.formats.tarstream import BytesArchive, entries
from recipes.formats.tree import FileTree, Node, NodeType
from recipes.sources import oci_build
from recipes.sources.oci import import_image
from recipes.sources.oci_build import ImageSettings, build_image
from tests.trees import EPOCH, example_tree, expected, file, shuffled, trees

SETTINGS = ImageSettings(
    entrypoint=("/usr/bin/app",),
    cmd=("--serve",),
    env=("PATH=/usr/bin", "EMPTY="),
    user="1000:1000",
    working_dir="/srv",
    tag="1.0",
)
KINDS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.LNKTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


def archive(tree: FileTree, epoch: int = EPOCH) -> bytes:
    out = io.BytesIO()
    size = write_tar(tree, out, epoch=epoch)
    assert size == len(out.getvalue())
    return out.getvalue()


def application() -> FileTree:
    tree = FileTree()
    tree.add_file("usr/bin/app", b"#!app", 0o755)
    tree.add_file("usr/lib/" + "n" * 90 + "/" + "m" * 60, b"long")
    tree.add_symlink("bin", "usr/bin")
    tree["usr/bin/twin"] = Node(type=NodeType.HARDLINK, mode=0, target="usr/bin/app")
    return tree


def built(tmp_path: Path, tree: FileTree | None = None, name: str = "image", **options: Any) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    build_image(tree or application(), folder, replace(SETTINGS, **options))
    return folder


@settings(max_examples=60)
@given(trees())
def test_archives_as_tarfile_reads_them(tree: FileTree) -> None:
    judge(tree)


def test_one_of_everything() -> None:
    judge(example_tree())


def judge(tree: FileTree) -> None:
    data = archive(tree)
    want = expected(tree)
    del want[""]
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as found:
        members = found.getmembers()
        assert [member.name for member in members] == sorted(
            want, key=lambda path: [os.fsencode(part) for part in path.split("/")]
        )
        for member in members:
            node = want[member.name]
            assert KINDS[member.type] | member.mode == node.mode
            assert (member.uid, member.gid) == (node.uid, node.gid)
            assert member.mtime == min(node.mtime, EPOCH)
            assert (member.uname, member.gname) == ("", "")
            if member.issym():
                assert os.fsencode(member.linkname) == node.content
            elif not member.isdir():
                content = found.extractfile(member)
                assert (content.read() if content else b"") == node.content
            if member.isdev() and not member.isfifo():
                assert (member.devmajor, member.devminor) == node.device
            if not member.islnk():
                given = {
                    key.removeprefix("SCHILY.xattr."): value.encode("utf-8", "surrogateescape")
                    for key, value in member.pax_headers.items()
                    if key.startswith("SCHILY.xattr.")
                }
                assert given == dict(node.xattrs)


@pytest.mark.parametrize("size", [99, 100, 101, 155, 156, 200, 255, 256, 257, 300])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_names_of_every_length(size: int, parts: int) -> None:
    """Around the limits of name, prefix and link name."""
    length = (size - parts + 1) // parts
    names = ["n" * min(length, 255)] * (parts - 1)
    path = "/".join([*names, "f" * min(size - sum(len(name) + 1 for name in names), 255)])
    tree = FileTree()
    tree.add_parents(path)
    tree[path] = file(b"x")
    tree["z-hard"] = Node(type=NodeType.HARDLINK, mode=0, target=path)
    tree["z-soft"] = Node(type=NodeType.SYMLINK, mode=0o777, target="t" * size, mtime=EPOCH)
    tree["d" * min(size, 255)] = Node(type=NodeType.DIRECTORY, mode=0o755)
    judge(tree)


def test_pax_only_where_needed() -> None:
    assert b"PaxHeaders" not in archive(application())
    owned = FileTree()
    owned["a"] = file(b"", uid=0o7777777)
    assert b"PaxHeaders" not in archive(owned)
    owned["a"] = file(b"", uid=0o10000000)
    assert b"PaxHeaders/a" in archive(owned)


def test_the_order_of_filling_changes_nothing() -> None:
    tree = example_tree()
    data = archive(tree)
    for seed in range(3):
        assert archive(shuffled(tree, seed)) == data
    assert archive(tree, 0) != data
    with tarfile.open(fileobj=io.BytesIO(archive(tree, 0))) as found:
        assert {member.mtime for member in found} == {0}


@settings(max_examples=40)
@given(trees())
def test_our_reader_agrees(tree: FileTree) -> None:
    found = dict(entries(BytesArchive(archive(tree), "t")))
    assert set(found) == set(tree.nodes) - {""}
    names = [name for name, node in found.items() if node.type is not NodeType.HARDLINK]
    want = expected(tree)
    assert all(found[name].read() == want[name].content for name in names if found[name].payload)


def test_attributes_that_tar_cannot_name() -> None:
    tree = FileTree()
    tree["a"] = file(b"", xattrs=(("user.a=b", b""),))
    with pytest.raises(FormatError) as caught:
        archive(tree)
    assert str(caught.value) == (
        "/a: extended attribute 'user.a=b' cannot be written to a tar archive; remove it"
    )


def test_a_layout(tmp_path: Path) -> None:
    folder = built(tmp_path)
    index = json.loads((folder / "index.json").read_bytes())
    assert json.loads((folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    [reference] = index["manifests"]
    oci = "application/vnd.oci.image."
    assert index == {
        "schemaVersion": 2,
        "mediaType": f"{oci}index.v1+json",
        "manifests": [
            {
                "mediaType": f"{oci}manifest.v1+json",
                "digest": reference["digest"],
                "size": reference["size"],
                "annotations": {"org.opencontainers.image.ref.name": "1.0"},
                "platform": {"architecture": "arm64", "os": "linux"},
            }
        ],
    }
    manifest = json.loads(blob(folder, reference))
    assert [item["mediaType"] for item in (manifest, manifest["config"], *manifest["layers"])] == [
        f"{oci}manifest.v1+json",
        f"{oci}config.v1+json",
        f"{oci}layer.v1.tar",
    ]
    assert json.loads(blob(folder, manifest["config"])) == {
        "architecture": "arm64",
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/app"],
            "Cmd": ["--serve"],
            "Env": ["PATH=/usr/bin", "EMPTY="],
            "User": "1000:1000",
            "WorkingDir": "/srv",
        },
        "rootfs": {"type": "layers", "diff_ids": [manifest["layers"][0]["digest"]]},
    }
    assert blob(folder, manifest["layers"][0]) == archive(application(), 0)
    assert len(list(folder.rglob("*"))) == 7


def blob(folder: Path, reference: dict[str, Any]) -> bytes:
    data = (folder / "blobs" / str(reference["digest"]).replace(":", "/")).read_bytes()
    assert len(data) == reference["size"]
    assert "sha256:" + hashlib.sha256(data).hexdigest() == reference["digest"]
    return data


def test_a_built_image_imports_as_it_is(tmp_path: Path) -> None:
    folder = built(tmp_path)
    (tmp_path / "copy").mkdir()
    import_image(folder, tmp_path / "copy")
    for path in folder.rglob("*"):
        copy = tmp_path / "copy" / path.relative_to(folder)
        assert copy.is_dir() if path.is_dir() else copy.read_bytes() == path.read_bytes()


def test_umask_does_not_matter(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        folder = built(tmp_path)
    finally:
        os.umask(old)
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entrypoint": ()}, "there is no entrypoint; say which program the image runs"),
        ({"cmd": ("a\0",)}, "a NUL character in a text; remove it"),
        ({"env": ("PATH",)}, "environment 'PATH' is not NAME=value"),
        ({"env": ("=x",)}, "environment '=x' is not NAME=value"),
        ({"working_dir": "srv"}, "working directory 'srv' is not an absolute path"),
        ({"tag": "a:b"}, "tag 'a:b' is not 1 to 128 letters, digits, '.', '_' and '-'"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        built(tmp_path, **options)
    assert str(caught.value) == f"image settings: {message}"


@pytest.mark.parametrize(
    ("path", "node", "message"),
    [
        (
            "dev",
            Node(type=NodeType.CHARACTER, mode=0o666, device=(1, 3), source="p"),
            "/dev (from p): a character device; an application image must have none, leave it out",
        ),
        (".wh.x", file(b""), "/.wh.x: names that begin with .wh. remove files; rename it"),
        ("a\udcff", file(b""), "/a\\udcff: the name is not UTF-8, which Islet's client needs; rename it"),
        ("a/b", file(b""), "/a/b: its directory /a is missing; add it before"),
    ],
)
def test_trees_that_no_image_can_have(tmp_path: Path, path: str, node: Node, message: str) -> None:
    tree = application()
    tree[path] = node
    with pytest.raises(FormatError) as caught:
        built(tmp_path, tree)
    assert str(caught.value) == message


@dataclass(frozen=True)
class Endless:
    """Content that must not be written to its end."""

    size: int = 1 << 40

    def chunks(self) -> Iterator[bytes]:
        while True:
            yield bytes(1 << 20)


def test_a_layer_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_build, "BLOB_LIMIT", 8 << 20)
    tree = application()
    tree["big"] = replace(file(b""), payload=Endless(8 << 30))
    with pytest.raises(FormatError) as caught:
        built(tmp_path, tree)
    assert str(caught.value) == "/big: 8589934592 bytes; a layer holds files below 8 GiB"
    tree["big"] = replace(file(b""), payload=Endless((8 << 30) - 1))
    with pytest.raises(FormatError) as caught:
        built(tmp_path, tree, "second")
    assert "blobs of 2 GiB and more are refused, leave files out" in str(caught.value)
