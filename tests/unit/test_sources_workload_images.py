from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.sources.workload_images import read_archive
from tests.unit.workload_samples import config, docker_members, oci_members, tar

CONFIG = f"sha256:{hashlib.sha256(config()).hexdigest()}"


def read(folder: Path, members: dict[str, bytes], name: str = "web.tar") -> tuple[tuple[str, ...], str]:
    """Names and digest of the only image of an archive."""
    path = folder / name
    path.write_bytes(tar(members))
    archive = read_archive(path, "amd64")
    assert archive.size == path.stat().st_size
    assert archive.sha256 == hashlib.sha256(path.read_bytes()).digest()
    (image,) = archive.images
    return image.names, str(image.config)


def mistake(folder: Path, members: dict[str, bytes]) -> str:
    with pytest.raises(FormatError) as caught:
        read(folder, members)
    return str(caught.value)


def test_an_archive_of_docker_save(tmp_path: Path) -> None:
    names = ("localhost/web:1.0", "docker.io/library/web:latest")
    assert read(tmp_path, docker_members(*names)) == (("web:1.0", "web:latest"), CONFIG)


def test_several_images_of_one_archive(tmp_path: Path) -> None:
    other = config() + b" "
    first, second = docker_members("web:1.0"), docker_members("db:2", data=other)
    both = json.loads(first["manifest.json"]) + json.loads(second["manifest.json"])
    path = tmp_path / "all.tar"
    path.write_bytes(tar({**first, **second, "manifest.json": json.dumps(both).encode()}))
    images = read_archive(path, "amd64").images
    assert [(image.names, image.config.value) for image in images] == [
        (("web:1.0",), hashlib.sha256(config()).digest()),
        (("db:2",), hashlib.sha256(other).digest()),
    ]


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("1.0", "web:1.0"),
        (None, "web:latest"),
        ("localhost/site:3", "site:3"),
        ("site/web", "site/web:latest"),
    ],
)
def test_an_oci_archive(tmp_path: Path, tag: str | None, name: str) -> None:
    assert read(tmp_path, oci_members(tag)) == ((name,), CONFIG)


def test_an_archive_of_a_newer_docker_is_both(tmp_path: Path) -> None:
    members = {**oci_members(None), **docker_members("docker.io/library/web:7")}
    assert read(tmp_path, members) == (("web:7",), CONFIG)


def without(members: dict[str, bytes], start: str) -> dict[str, bytes]:
    return {name: data for name, data in members.items() if not name.startswith(start)}


def test_what_is_no_archive_of_images(tmp_path: Path) -> None:
    what = "web.tar: it has neither manifest.json nor oci-layout; write it with podman save"
    assert mistake(tmp_path, {"a": b"b"}) == what
    what = "web.tar: manifest.json: not a list with an image in it; save the image again"
    assert mistake(tmp_path, {"manifest.json": b"[]"}) == what
    (tmp_path / "web.tar").write_bytes(gzip.compress(tar(docker_members("web:1"))))
    with pytest.raises(FormatError, match=r"^web\.tar: compressed with gzip; unpack it first"):
        read_archive(tmp_path / "web.tar", "amd64")


def test_images_for_another_machine(tmp_path: Path) -> None:
    data = config("arm64")
    digest = hashlib.sha256(data).hexdigest()
    what = "the image is for linux/arm64, the machine is linux/amd64; save the image of that platform"
    assert mistake(tmp_path, docker_members("web:1", data=data)) == f"web.tar: {digest}.json: {what}"
    assert mistake(tmp_path, oci_members("1", data=data)) == f"web.tar: config sha256:{digest}: {what}"


def test_damaged_archives(tmp_path: Path) -> None:
    path = f"{hashlib.sha256(config()).hexdigest()}.json"
    members = without(docker_members("web:1"), path)
    assert mistake(tmp_path, members) == f"web.tar: there is no file '{path}'; save the image again"
    members = oci_members("1")
    blob = f"blobs/sha256/{hashlib.sha256(config()).hexdigest()}"
    members[blob] = members[blob].replace(b"amd64", b"arm64")
    what = f"web.tar: {blob}: its content has another digest; save the image again"
    assert mistake(tmp_path, members) == what
    members[blob] += b" "
    size = len(config())
    what = f"web.tar: {blob}: {size + 1} bytes, its reference says {size}; save the image again"
    assert mistake(tmp_path, members) == what
    what = "index.json: 2 images; podman loads archives of this kind with one, save each alone"
    assert mistake(tmp_path, oci_members("1", count=2)) == f"web.tar: {what}"
    members = docker_members("web:1", tags="web:1")
    what = "web.tar: manifest.json: image 1: 'RepoTags' is not a list of names"
    assert mistake(tmp_path, members) == what


def test_a_file_that_is_twice_in_it(tmp_path: Path) -> None:
    data = tar(docker_members("web:1"))
    path = tmp_path / "web.tar"
    path.write_bytes(data[: -len(data) % 10240 - 1024] + tar({"manifest.json": b"[]"}))
    start = data.rstrip(b"\0")
    whole = start + bytes(-len(start) % 512)
    path.write_bytes(whole + tar({"manifest.json": b"[]"}))
    with pytest.raises(
        FormatError, match=r"^web\.tar: 'manifest\.json' is in it twice; save the image again"
    ):
        read_archive(path, "amd64")


@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_nothing_but_a_format_error_comes_out_of_changed_archives(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chance = random.Random(seed)
    members = docker_members("web:1") if seed % 2 else oci_members("1")
    data = bytearray(tar(members))
    for _ in range(chance.randint(1, 6)):
        data[chance.randrange(len(data))] = chance.choice(b'\0\1 {}[]",:09af\xff')
    path = tmp_path_factory.getbasetemp() / "changed.tar"
    path.write_bytes(data)
    with contextlib.suppress(FormatError):
        read_archive(path, "amd64")


@pytest.mark.parametrize("name", ["\x1b]0;pwn\x07evil:1", "web:1\n", "-x", "", "w\u202eb:1"])
def test_names_that_would_steer_a_terminal(tmp_path: Path, name: str) -> None:
    advice = "a name has small letters, digits and ._/:-, then a tag, so tag it anew and save it again"
    what = f"an image is called {name!a}; {advice}"
    assert mistake(tmp_path, docker_members(name)) == f"web.tar: manifest.json: image 1: {what}"


def test_an_annotation_that_is_no_name(tmp_path: Path) -> None:
    advice = "a name has small letters, digits and ._/:-, then a tag, so tag it anew and save it again"
    assert mistake(tmp_path, oci_members("w b")) == f"web.tar: an image is called 'web:w b'; {advice}"
