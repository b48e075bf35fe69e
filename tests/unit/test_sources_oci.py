from __future__ import annotations

import contextlib
import json
import os
import stat
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.oci import Digest
from recipes.sources.oci import ImageLayout, import_image
from tests.oci_samples import (
    INDEX,
    LAYER,
    MANIFEST,
    REF_NAME,
    ROOT,
    Sample,
    changed,
    digest_of,
    members,
    one_image,
    packed,
    write,
)
from tests.packages import Entry, directory, entry, hardlink, symlink, tar


def fresh(tmp_path: Path, name: str = "fresh") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def imported(tmp_path: Path, sample: Sample, wanted: str | None = None) -> ImageLayout:
    """Imported from a folder; from a tar archive it must come out the same."""
    first = import_image(sample.folder(tmp_path / "src"), fresh(tmp_path), wanted=wanted)
    archive = sample.archive(tmp_path / "src.tar")
    assert import_image(archive, fresh(tmp_path, "other"), wanted=wanted) == first
    assert contents(tmp_path / "other") == contents(tmp_path / "fresh")
    return first


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def complaint(tmp_path: Path, sample: Sample, wanted: str | None = None) -> str:
    return said(tmp_path, sample.folder(tmp_path / "src"), wanted)


def said(tmp_path: Path, source: Path, wanted: str | None = None) -> str:
    with pytest.raises(FormatError) as caught:
        import_image(source, fresh(tmp_path), wanted=wanted)
    text = str(caught.value)
    assert text.startswith(str(source))
    return text.removeprefix(f"{source}: ")


@pytest.mark.parametrize("kind", ["", "+gzip", "+zstd"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_one_image_keeps_every_byte(tmp_path: Path, kind: str, algorithm: str) -> None:
    lower, upper = tar(*ROOT), tar(entry("usr/.wh.run"), entry("usr/new", b"x" * 3_000_000))
    sample = one_image((lower, kind), (upper, kind), algorithm=algorithm)
    result = imported(tmp_path, sample)
    assert contents(tmp_path / "fresh") == sample.files()
    assert [str(layer) for layer in result.layers] == [
        digest_of(packed(data, kind), algorithm) for data in (lower, upper)
    ]
    assert str(result.manifest) == sample.index["manifests"][0]["digest"]
    assert (result.tag, result.left_out) == ("1.0", ())


def test_umask_does_not_matter(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        import_image(one_image().folder(tmp_path / "src"), fresh(tmp_path))
    finally:
        os.umask(old)
    for path in (tmp_path / "fresh").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


def test_the_same_layer_twice_and_layers_without_content(tmp_path: Path) -> None:
    empty = tar()
    imported(tmp_path, one_image((empty, ""), (empty, ""), (empty, "+gzip")))


def test_orphans_are_named_and_left_out(tmp_path: Path) -> None:
    sample = one_image()
    orphan = sample.blob(b"orphan", "x")["digest"].replace(":", "/")
    result = imported(tmp_path, sample)
    assert result.left_out == (f"blobs/{orphan}",)
    assert not (tmp_path / "fresh/blobs" / orphan).exists()


def test_files_that_others_put_beside(tmp_path: Path) -> None:
    folder = one_image().folder(tmp_path / "src")
    (folder / "manifest.json").write_text("[]")
    assert import_image(folder, fresh(tmp_path)).left_out == ()
    assert not (tmp_path / "fresh/manifest.json").exists()


def two(tags: tuple[str | None, str | None] = ("1.0", "latest"), other: str = "arm64") -> Sample:
    sample = Sample()
    first = sample.image((tar(*ROOT, entry("first")), ""), tag=tags[0])
    second = sample.image((tar(*ROOT, entry("second")), ""), tag=tags[1], architecture=other)
    if other != "arm64":
        second["platform"] = {"os": "linux", "architecture": other}
    return sample.top(first, second)


def chosen(sample: Sample, result: ImageLayout) -> int:
    digests = [item["digest"] for item in sample.index["manifests"]]
    return digests.index(str(result.manifest))


@pytest.mark.parametrize(
    ("tags", "wanted", "number", "tag"),
    [
        (("1.0", "latest"), None, 1, "latest"),
        (("1.0", "latest"), "1.0", 0, "1.0"),
        (("1.0", "2.0"), "2.0", 1, "2.0"),
        ((None, "2.0"), "2.0", 1, "2.0"),
    ],
)
def test_selection(
    tmp_path: Path, tags: tuple[str | None, str | None], wanted: str | None, number: int, tag: str
) -> None:
    sample = two(tags)
    result = imported(tmp_path, sample, wanted)
    assert (chosen(sample, result), result.tag) == (number, tag)
    index = json.loads((tmp_path / "fresh/index.json").read_bytes())
    assert index == changed(sample.index, ("manifests",), [sample.index["manifests"][number]])
    assert len(result.left_out) == 3  # manifest, config and layer of the other image


def test_selection_by_digest_and_an_image_without_a_tag(tmp_path: Path) -> None:
    sample = two((None, "2.0"))
    result = imported(tmp_path, sample, sample.index["manifests"][0]["digest"])
    assert (chosen(sample, result), result.tag) == (0, "latest")
    index = json.loads((tmp_path / "fresh/index.json").read_bytes())
    assert index["manifests"][0]["annotations"] == {REF_NAME: "latest"}


def test_another_platform_is_passed_over(tmp_path: Path) -> None:
    sample = two(("1.0", "latest"), "amd64")
    assert chosen(sample, imported(tmp_path, sample)) == 0


def test_one_image_with_two_tags(tmp_path: Path) -> None:
    sample = one_image()
    [reference] = sample.index["manifests"]
    again = reference | {"annotations": {REF_NAME: "latest"}}
    assert imported(tmp_path, sample.top(reference, again)).tag == "latest"


def test_an_image_below_another_index_comes_to_the_top(tmp_path: Path) -> None:
    sample = Sample()
    inner = sample.nested(sample.image(tag=None))
    foreign = {"mediaType": MANIFEST, "digest": "sha256:" + "0" * 64, "size": 5}
    foreign["platform"] = {"os": "unknown", "architecture": "unknown"}
    sample.index["x-top"] = [1]
    sample.top(sample.nested(inner, foreign, tag="3"))
    result = imported(tmp_path, sample)
    assert (result.tag, result.left_out) == ("3", ())
    index = json.loads((tmp_path / "fresh/index.json").read_bytes())
    assert index["x-top"] == [1]
    assert [(item["digest"], item["annotations"]) for item in index["manifests"]] == [
        (str(result.manifest), {REF_NAME: "3"})
    ]
    assert import_image(tmp_path / "fresh", fresh(tmp_path, "again"), wanted="3") == result
    assert contents(tmp_path / "again") == contents(tmp_path / "fresh")


def test_selections_that_are_none(tmp_path: Path) -> None:
    assert complaint(tmp_path, two(("1.0", "2.0"))) == (
        "index.json: which image? there are 1.0, 2.0; name one by its tag or digest"
    )


def test_a_tag_that_is_not_there(tmp_path: Path) -> None:
    text = "index.json: there is no image '3'; there are 1.0, latest (linux/amd64)"
    assert complaint(tmp_path, two(other="amd64"), "3") == text


def test_a_tag_for_another_platform(tmp_path: Path) -> None:
    text = "index.json: there is no image for linux/arm64; there are latest (linux/amd64)"
    assert complaint(tmp_path, two(other="amd64"), "latest") == text


def test_no_image(tmp_path: Path) -> None:
    assert complaint(tmp_path, Sample()) == (
        "index.json: there is no image in it; export one with its manifest"
    )


def test_a_config_for_another_platform(tmp_path: Path) -> None:
    sample = one_image(architecture="amd64")
    config = next(digest for digest, data in sample.blobs.items() if b"rootfs" in data)
    assert complaint(tmp_path, sample) == (
        f"config {config}: the image is for linux/amd64, a realm runs linux/arm64; build it for arm64"
    )


@pytest.mark.parametrize("tag", ["a/b:1", "", ".hidden", "x" * 129, "1\n"])
def test_tags_that_the_registry_refuses(tmp_path: Path, tag: str) -> None:
    sample = one_image()
    sample.index["manifests"][0]["annotations"] = {REF_NAME: tag}
    assert complaint(tmp_path, sample) == (
        f"index.json: manifests 1: tag {tag!r} is not 1 to 128 letters, digits, '.', '_' and '-'; "
        f"tag the image again, with its version alone"
    )


def test_a_tag_twice(tmp_path: Path) -> None:
    assert complaint(tmp_path, two(("1", "1"))) == (
        "index.json: manifests 2: tag '1' is there twice; keep it on one image"
    )


def blob_path(sample: Sample, reference: dict[str, Any]) -> str:
    return "blobs/" + str(reference["digest"]).replace(":", "/")


def layer_of(sample: Sample) -> dict[str, Any]:
    manifest = json.loads(sample.blobs[sample.index["manifests"][0]["digest"]])
    return dict(manifest["layers"][0])


def test_a_blob_with_another_digest(tmp_path: Path) -> None:
    for number, what in enumerate(("manifest", "config", "layer")):
        sample = one_image()
        reference = sample.index["manifests"][0]
        if what != "manifest":
            document = json.loads(sample.blobs[reference["digest"]])
            reference = document["config"] if what == "config" else document["layers"][0]
        digest = reference["digest"]
        data = bytearray(sample.blobs[digest])
        data[len(data) // 2] ^= 1
        sample.blobs[digest] = bytes(data)
        folder = tmp_path / str(number)
        folder.mkdir()
        assert complaint(folder, sample) == (
            f"{what} {digest}: the content has the digest {digest_of(bytes(data))}; the image is damaged, "
            f"fetch it again"
        )


def test_a_blob_of_another_length_and_one_that_is_missing(tmp_path: Path) -> None:
    sample = one_image()
    layer = layer_of(sample)
    sample.blobs[layer["digest"]] += b"x"
    text = f"layer {layer['digest']}: {layer['size'] + 1} bytes, its reference says {layer['size']}"
    assert complaint(tmp_path, sample) == text
    del sample.blobs[layer["digest"]]
    (tmp_path / "b").mkdir()
    assert complaint(tmp_path / "b", sample) == (
        f"layer {layer['digest']}: the layout does not have this blob; export the image again, whole"
    )


@pytest.mark.parametrize("archive", [False, True])
def test_a_blob_of_two_gibibytes_is_not_even_read(tmp_path: Path, archive: bool) -> None:
    size = 1 << 31
    digest = "sha256:" + "0" * 64
    sample = one_image(manifest={"layers": [{"mediaType": LAYER, "digest": digest, "size": size}]})
    name = f"blobs/sha256/{'0' * 64}"
    source = sample.archive(tmp_path / "big.tar") if archive else write(tmp_path / "big", sample.files())
    if archive:
        info = tarfile.TarInfo(name)
        info.size = size
        with source.open("r+b") as file:
            file.seek(-10240 if source.stat().st_size % 10240 == 0 else -1024, os.SEEK_END)
            end = tar(*members(sample.files())).rstrip(b"\0")
            file.seek(-(-len(end) // 512) * 512)
            file.truncate()
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.truncate(file.tell() + size + 1024)
    else:
        (source / name).touch()
        os.truncate(source / name, size)
    assert said(tmp_path, source) == (
        f"layer {digest}: 2 GiB; blobs of 2 GiB and more are refused, split it into several layers"
    )


def test_a_reference_that_claims_two_gibibytes(tmp_path: Path) -> None:
    sample = one_image()
    layer = layer_of(sample) | {"size": 3 << 30}
    assert "3 GiB; blobs of 2 GiB and more are refused" in complaint(
        tmp_path, one_image(manifest={"layers": [layer]})
    )


def test_a_document_that_claims_to_be_large(tmp_path: Path) -> None:
    sample = one_image()
    reference = sample.index["manifests"][0]
    sample.index["manifests"] = [reference | {"size": 5 << 20}]
    assert complaint(tmp_path, sample) == (f"manifest {reference['digest']}: 5 MiB, at most 4 MiB are read")


def test_more_layers_than_diff_ids(tmp_path: Path) -> None:
    sample = one_image(config={"rootfs": {"type": "layers", "diff_ids": []}})
    assert complaint(tmp_path, sample).endswith(": 0 diff_ids, the manifest has 1 layers")


def test_another_diff_id(tmp_path: Path) -> None:
    wrong = "sha256:" + "1" * 64
    sample = one_image(config={"rootfs": {"type": "layers", "diff_ids": [wrong]}})
    assert complaint(tmp_path, sample) == (
        f"layer {layer_of(sample)['digest']}: unpacks to {digest_of(tar(*ROOT))}, the image's configuration "
        f"says {wrong}; build the image again"
    )


REFUSED = "and Islet's registry refuses that"
RULE = "[image-registry ir-server/src/oci/validate.rs]"
ADVICE = "give an OCI layout, a folder or a tar archive"
PYTHONS = "Expecting property name enclosed in double quotes:"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"oci-layout": None}, f"there is no oci-layout; {ADVICE}"),
        ({"index.json": None}, f"there is no index.json; {ADVICE}"),
        (
            {"oci-layout": b'{"imageLayoutVersion":"2"}'},
            "oci-layout: imageLayoutVersion '2', expected '1.0.0'",
        ),
        ({"oci-layout": b"{"}, f"oci-layout: no JSON: {PYTHONS} line 1 column 2 (char 1)"),
        ({"index.json": b" " * (5 << 20)}, "index.json: 5 MiB, at most 4 MiB are read"),
        (
            {"index.json": b"{}"},
            f"index.json: 'mediaType' is missing, {REFUSED}; expected {INDEX} {RULE}",
        ),
    ],
)
def test_layouts_that_are_none(tmp_path: Path, files: dict[str, bytes | None], message: str) -> None:
    given = {name: data for name, data in (one_image().files() | files).items() if data is not None}
    assert said(tmp_path, write(tmp_path / "src", given)) == message
    path = tmp_path / "src.tar"
    path.write_bytes(tar(*members(given)))
    (tmp_path / "b").mkdir()
    assert said(tmp_path / "b", path) == message


def test_no_such_file_and_a_file_that_is_no_archive(tmp_path: Path) -> None:
    text = "there is no such file or folder; give an OCI layout or a tar archive"
    assert said(tmp_path, tmp_path / "missing") == text
    path = tmp_path / "x"
    path.write_bytes(b"x" * 512)
    (tmp_path / "b").mkdir()
    assert "checksum field is b'xxxxxxxx'" in said(tmp_path / "b", path)


def test_what_is_neither_a_file_nor_a_folder(tmp_path: Path) -> None:
    text = "neither a file nor a folder; give an OCI layout or a tar archive"
    assert said(tmp_path, Path("/dev/null")) == text
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "b").mkdir()
    assert said(tmp_path / "b", tmp_path / "pipe") == text


@pytest.mark.parametrize(("kind", "name"), [("+gzip", "gzip"), ("+zstd", "zstd")])
def test_a_compressed_archive(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(packed(tar(*members(one_image().files())), kind))
    assert said(tmp_path, path) == f"compressed with {name}; unpack it first, to a plain tar archive"


@pytest.mark.parametrize("place", ["oci-layout", "index.json", "blobs", "blobs/sha256", "layer", "other"])
def test_links_in_a_folder(tmp_path: Path, place: str) -> None:
    sample = one_image()
    folder = sample.folder(tmp_path / "src")
    path = blob_path(sample, layer_of(sample)) if place == "layer" else place
    if place == "other":
        (folder / "other").symlink_to("index.json")
    else:
        (folder / path).rename(tmp_path / "elsewhere")
        (folder / path).symlink_to(tmp_path / "elsewhere")
    assert said(tmp_path, folder) == f"{path!r} is a symbolic link; a layout has files and folders only"


def test_special_files_in_a_folder(tmp_path: Path) -> None:
    folder = one_image().folder(tmp_path / "src")
    os.mkfifo(folder / "pipe")
    assert said(tmp_path, folder) == "'pipe' is a special file; a layout has files and folders only"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (entry("../index.json"), "path '../index.json' is empty or leaves the archive's own tree"),
        (entry("/index.json"), "path '/index.json' is empty or leaves the archive's own tree"),
        (entry("./index.json", b"{}"), "'index.json' is in the archive twice"),
        (directory("index.json"), "'index.json' is a file and a folder"),
        (symlink("x", "index.json"), "'x' is a symlink; a layout has files and folders only"),
        (hardlink("x", "index.json"), "'x' is a hardlink; a layout has files and folders only"),
        (entry("x", type_=tarfile.CHRTYPE), "'x' is a character device; a layout has files and folders only"),
    ],
)
def test_members_of_an_archive(tmp_path: Path, more: Entry, message: str) -> None:
    path = tmp_path / "src.tar"
    path.write_bytes(tar(*members(one_image().files()), more))
    assert said(tmp_path, path).endswith(message)


def test_archives_with_folders_and_dots(tmp_path: Path) -> None:
    files = {f"./{name}": data for name, data in one_image().files().items()}
    path = tmp_path / "src.tar"
    path.write_bytes(tar(directory("./"), directory("./blobs/"), *members(files)))
    import_image(path, fresh(tmp_path))


def test_a_truncated_archive(tmp_path: Path) -> None:
    path = one_image().archive(tmp_path / "src.tar")
    data = path.read_bytes().rstrip(b"\0")
    for number, size in enumerate((0, 100, 600, len(data) // 2, len(data) - 1)):
        path.write_bytes(data[:size])
        (tmp_path / str(number)).mkdir()
        assert said(tmp_path / str(number), path).endswith("truncated")


def test_memory_stays_flat(tmp_path: Path) -> None:
    big = tar(*(entry(f"f{number}", bytes([number]) * (4 << 20)) for number in range(8)))
    sample = one_image((big, "+gzip"), (big, ""))
    folder = sample.folder(tmp_path / "src")
    del big
    tracemalloc.start()
    try:
        import_image(folder, fresh(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20


def only_format_errors(source: Path, folder: Path) -> None:
    with contextlib.suppress(FormatError):
        import_image(source, fresh(folder))


@settings(max_examples=100)
@given(data=st.data())
def test_damaged_archives(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    archive = bytearray(tar(*members(one_image((tar(*ROOT), "")).files()))[:12288])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(archive) - 1))
        archive[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    folder = tmp_path_factory.mktemp("archive")
    (folder / "src.tar").write_bytes(archive)
    only_format_errors(folder / "src.tar", folder)


@settings(max_examples=100)
@given(data=st.data())
def test_damaged_layers_with_right_digests(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The hash fits, so that the damage reaches the decompressor and the reader of layers."""
    kind = data.draw(st.sampled_from(["", "+gzip", "+zstd"]))
    blob = bytearray(packed(tar(*ROOT), kind))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(blob) - 1))
        blob[place : place + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    sample = Sample()
    layer = sample.blob(bytes(blob), LAYER + kind)
    sample.top(sample.image(manifest={"layers": [layer]}))
    folder = tmp_path_factory.mktemp("layer")
    only_format_errors(sample.folder(folder / "src"), folder)


def test_a_digest_is_a_path_without_surprises() -> None:
    assert Digest.parse("sha256:" + "ab" * 32, "").path == "blobs/sha256/" + "ab" * 32
