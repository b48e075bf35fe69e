"""Layers of image archives: what podman could not load is refused before it is on a disk."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from recipes.errors import FormatError
from recipes.sources.workload_images import read_archive
from tests.oci_samples import changed
from tests.packages import Entry, entry, hardlink, symlink, tar
from tests.unit.workload_samples import LAYER, config, docker_members, oci_members

OTHER = tar(entry("bin/other", b"#!/bin/sh\n"))
TWICE = "2/layer.tar"
AGAIN = "save the image again"
FILE = entry("1/layer.tar", LAYER)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(folder: Path, *members: Entry) -> list[tuple[tuple[str, ...], str]]:
    """Names and configuration of each image."""
    path = folder / "web.tar"
    path.write_bytes(tar(*members))
    return [(image.names, str(image.config)) for image in read_archive(path, "amd64").images]


def mistake(folder: Path, *members: Entry) -> str:
    with pytest.raises(FormatError) as caught:
        read(folder, *members)
    return str(caught.value)


def entries(members: dict[str, bytes]) -> list[Entry]:
    return [entry(name, data) for name, data in members.items()]


def saved(paths: object, *members: Entry, content: tuple[bytes, ...] = (LAYER,)) -> list[Entry]:
    """An archive of ``docker save`` whose configuration names ``content``, and its manifest ``paths``."""
    data = config(layers=content)
    item = {"Config": "config.json", "RepoTags": ["web:1"], "Layers": paths}
    return [entry("config.json", data), entry("manifest.json", json.dumps([item]).encode()), *members]


def layout(*path: str | int, value: object = None) -> dict[str, bytes]:
    """An OCI archive with another value at a place of its manifest; ``...`` takes it away."""
    members = oci_members("1")
    old = next(path for path, data in members.items() if b'"layers": [' in data)
    manifest = json.loads(members.pop(old))
    data = json.dumps(changed(manifest, path, value) if path else manifest).encode()
    members[f"blobs/sha256/{sha256(data)}"] = data
    index = json.loads(members["index.json"])
    index["manifests"][0] |= {"digest": f"sha256:{sha256(data)}", "size": len(data)}
    return {**members, "index.json": json.dumps(index).encode()}


def test_a_layer_that_comes_twice_is_a_link_where_docker_saved_it(tmp_path: Path) -> None:
    """As Docker up to 24 wrote the second one; newer ones write the same path twice."""
    twice = (LAYER, LAYER)
    image = (("web:1",), f"sha256:{sha256(config(layers=twice))}")
    members = saved(["1/layer.tar", TWICE], FILE, symlink(TWICE, "../1/layer.tar"), content=twice)
    assert read(tmp_path, *members) == [image]
    members = saved(["1/layer.tar", "1/layer.tar"], FILE, content=twice)
    assert read(tmp_path, *members) == [image]


@pytest.mark.parametrize("path", ["./1/layer.tar", "1//layer.tar", "2/../1/layer.tar"])
def test_paths_are_cleaned_as_podman_does(tmp_path: Path, path: str) -> None:
    assert read(tmp_path, *saved([path], entry("1/layer.tar", LAYER)))


def test_compressed_layers_are_podmans_to_check(tmp_path: Path) -> None:
    """They are named by what they hold; other tools than docker and podman write them."""
    assert read(tmp_path, *saved(["1.tar.gz"], entry("1.tar.gz", gzip.compress(LAYER))))


NAMES_ONE = f"the image's configuration names 1; {AGAIN}, with podman save"
LINK = "podman reads layers from files alone; save every image alone, with podman save"
LEAVES = "'2/layer.tar' is a symlink to {!a}, which is no file"


@pytest.mark.parametrize(
    ("members", "what"),
    [
        (saved(["1/layer.tar"]), f"there is no file '1/layer.tar'; {AGAIN}"),
        (saved([TWICE], symlink(TWICE, "../1/layer.tar")), f"{LEAVES.format('../1/layer.tar')}; {AGAIN}"),
        (saved([TWICE], FILE, symlink(TWICE, "/1/layer.tar")), f"{LEAVES.format('/1/layer.tar')}; {AGAIN}"),
        (saved([TWICE], FILE, symlink(TWICE, "../../x")), f"{LEAVES.format('../../x')}; {AGAIN}"),
        (
            saved([TWICE], FILE, symlink("3", "1/layer.tar"), symlink(TWICE, "../3")),
            f"{LEAVES.format('../3')}; {AGAIN}",
        ),
        (
            saved([TWICE], FILE, symlink(TWICE, "../1/layer.tar")),
            f"manifest.json: image 1: '2/layer.tar' is a symlink, {LINK}",
        ),
        (
            saved([TWICE], FILE, hardlink(TWICE, "1/layer.tar")),
            f"'2/layer.tar' is a hardlink, not a file; {AGAIN}",
        ),
        (
            saved(["1"], entry("1", type_=b"5")),
            f"'1' is a directory, not a file; {AGAIN}",
        ),
        (
            saved([TWICE], entry(TWICE, OTHER)),
            f"manifest.json: image 1: '2/layer.tar' has another digest than its layer; {AGAIN}",
        ),
        (
            saved(["1/layer.tar", "./1/layer.tar"], FILE, content=(LAYER, OTHER)),
            f"manifest.json: image 1: './1/layer.tar' stands for two layers; {AGAIN}",
        ),
        (
            saved([], FILE),
            f"manifest.json: image 1: the number of layers is 0, {NAMES_ONE}",
        ),
        (
            saved(["1/layer.tar", 1], FILE, content=(LAYER, LAYER)),
            f"manifest.json: image 1: 'Layers' is not a list of paths; {AGAIN}",
        ),
        (saved(None), "manifest.json: image 1: 'Layers' is not a list"),
    ],
)
def test_layers_of_docker_archives(tmp_path: Path, members: list[Entry], what: str) -> None:
    assert mistake(tmp_path, *members) == f"web.tar: {what}"


def test_a_configuration_that_is_no_file(tmp_path: Path) -> None:
    members = saved(["1/layer.tar"], FILE)
    members[0] = hardlink("config.json", "1/layer.tar")
    assert mistake(tmp_path, *members) == f"web.tar: 'config.json' is a hardlink, not a file; {AGAIN}"


def test_blobs_of_layouts(tmp_path: Path) -> None:
    blob = f"blobs/sha256/{sha256(LAYER)}"
    good = layout()
    assert len(read(tmp_path, *entries(good))) == 1
    missing = {path: data for path, data in good.items() if path != blob}
    assert mistake(tmp_path, *entries(missing)) == f"web.tar: there is no file '{blob}'; {AGAIN}"
    damaged = {**good, blob: LAYER[:-1] + b"\1"}
    assert mistake(tmp_path, *entries(damaged)) == f"web.tar: {blob}: its content has another digest; {AGAIN}"
    what = f"{blob}: {len(LAYER)} bytes, its reference says 7"
    assert mistake(tmp_path, *entries(layout("layers", 0, "size", value=7))) == f"web.tar: {what}; {AGAIN}"
    linked = [*entries(missing), hardlink(blob, "index.json")]
    assert mistake(tmp_path, *linked) == f"web.tar: '{blob}' is a hardlink, not a file; {AGAIN}"


@pytest.mark.parametrize("key", ["size", "digest"])
@pytest.mark.parametrize(("place", "name"), [(("config",), "config"), (("layers", 0), "layers 1")])
def test_references_of_layouts(tmp_path: Path, place: tuple[str | int, ...], name: str, key: str) -> None:
    said = mistake(tmp_path, *entries(layout(*place, key, value=...)))
    assert said.startswith("web.tar: manifest sha256:")
    assert said.endswith(f": {name}: '{key}' is missing")


def test_the_size_of_the_manifest(tmp_path: Path) -> None:
    members = oci_members("1")
    index = changed(json.loads(members["index.json"]), ("manifests", 0, "size"), 1)
    members["index.json"] = json.dumps(index).encode()
    path = index["manifests"][0]["digest"].replace(":", "/")
    what = f"blobs/{path}: {len(members[f'blobs/{path}'])} bytes, its reference says 1; {AGAIN}"
    assert mistake(tmp_path, *entries(members)) == f"web.tar: {what}"


@pytest.mark.parametrize("number", [0, 2])
def test_a_layout_of_other_layers_than_its_configuration(tmp_path: Path, number: int) -> None:
    """Docker 25.0 wrote layouts that name no layer at all."""
    layer = {"digest": f"sha256:{sha256(LAYER)}", "size": len(LAYER)}
    said = mistake(tmp_path, *entries(layout("layers", value=[layer] * number)))
    what = f"the number of layers is {number}, {NAMES_ONE}"
    assert said.startswith("web.tar: manifest sha256:")
    assert said.endswith(f": {what}")


def test_a_layout_with_a_layer_that_its_configuration_does_not_name(tmp_path: Path) -> None:
    """Every blob is what its own name says, and the image is another."""
    layer = {"digest": f"sha256:{sha256(OTHER)}", "size": len(OTHER)}
    path = f"blobs/sha256/{sha256(OTHER)}"
    said = mistake(tmp_path, *entries({**layout("layers", value=[layer]), path: OTHER}))
    assert said.endswith(f": '{path}' has another digest than its layer; {AGAIN}")


def test_a_compressed_layer_of_a_layout_is_for_podman_to_check(tmp_path: Path) -> None:
    packed = gzip.compress(OTHER, mtime=0)
    layer = {"digest": f"sha256:{sha256(packed)}", "size": len(packed)}
    members = {**layout("layers", value=[layer]), f"blobs/sha256/{sha256(packed)}": packed}
    assert len(read(tmp_path, *entries(members))) == 1


def test_an_archive_of_a_newer_docker_names_its_own_image_alone(tmp_path: Path) -> None:
    """``manifest.json`` may list other images than the one that podman loads of the layout."""
    blobs = oci_members(None)
    digest = f"blobs/sha256/{sha256(config())}"
    other = config(layers=(OTHER,))
    items = [
        {"Config": digest, "RepoTags": ["web:7"], "Layers": [f"blobs/sha256/{sha256(LAYER)}"]},
        {"Config": "other.json", "RepoTags": ["db:2"], "Layers": ["other.tar"]},
    ]
    more = {"other.json": other, "other.tar": OTHER, "manifest.json": json.dumps(items).encode()}
    assert read(tmp_path, *entries({**blobs, **more})) == [(("web:7",), f"sha256:{sha256(config())}")]


def test_images_share_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is read for its digest once, however many images have it."""
    members = docker_members("web:1")
    (item,) = json.loads(members["manifest.json"])
    items = [{**item, "RepoTags": [f"web:{number}"]} for number in range(50)]
    members["manifest.json"] = json.dumps(items).encode()
    computed: list[str] = []
    new = hashlib.new

    def count(name: str, data: bytes = b"") -> object:
        computed.append(name)
        return new(name, data)

    monkeypatch.setattr(hashlib, "new", count)
    assert len(read(tmp_path, *entries(members))) == 50
    # The configuration for each image, and the layer.
    assert len(computed) == 51
