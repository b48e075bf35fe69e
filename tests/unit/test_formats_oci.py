from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.oci import (
    MAX_DOCUMENT,
    Digest,
    DigestAlgorithm,
    MediaType,
    Platform,
    read_config,
    read_index,
    read_json,
    read_layout_marker,
    read_manifest,
)
from recipes.formats.oci_write import (
    annotate_manifest,
    layout_marker,
    narrow_index,
    redirect_index,
    write_config,
)
from tests.oci_samples import CONFIG, INDEX, LAYER, MANIFEST, REF_NAME, changed, dumps

A, B, C = ("sha256:" + digit * 64 for digit in "abc")
LONG = "sha512:" + "0123456789abcdef" * 8
DOCKER = "application/vnd.docker.distribution.manifest"
INDEX_DOCUMENT: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": INDEX,
    "x-top": [None, True, 1.5, -3, {"ä": "\u2028"}],
    "manifests": [
        {
            "mediaType": MANIFEST,
            "digest": A,
            "size": 10,
            "annotations": {REF_NAME: "1.0", "other": "kept"},
            "data": "e30=",
            "x-own": {"kept": 1},
            "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"},
        },
        {"mediaType": INDEX, "digest": LONG, "size": 0, "platform": None, "annotations": None},
    ],
    "annotations": {"z": "1", "a": "2"},
}
MANIFEST_DOCUMENT: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": MANIFEST,
    "config": {"mediaType": CONFIG, "digest": A, "size": 1},
    "layers": [
        {"mediaType": LAYER, "digest": B, "size": 2},
        {"mediaType": LAYER + "+gzip", "digest": C, "size": 3},
        {"mediaType": LAYER + "+zstd", "digest": LONG, "size": 1 << 40},
    ],
    "subject": {"mediaType": MANIFEST, "digest": C, "size": 4},
}
CONFIG_DOCUMENT: dict[str, Any] = {
    "created": "2024-01-01T00:00:00Z",
    "architecture": "arm64",
    "os": "linux",
    "config": {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": None,
        "Env": ["A=1\n2"],
        "User": "u:g",
        "WorkingDir": "/w",
    },
    "rootfs": {"type": "layers", "diff_ids": [A, LONG]},
    "history": [{"empty_layer": True}],
}
READERS = {"index": read_index, "manifest": read_manifest, "config": read_config}
DOCUMENTS = {"index": INDEX_DOCUMENT, "manifest": MANIFEST_DOCUMENT, "config": CONFIG_DOCUMENT}


def complaint(kind: str, data: bytes) -> str:
    with pytest.raises(FormatError) as caught:
        READERS[kind](data, "f.json")
    return str(caught.value)


def test_index() -> None:
    first, second = read_index(dumps(INDEX_DOCUMENT), "i").manifests
    assert (first.media_type, str(first.digest), first.size, first.tag) == (MediaType.MANIFEST, A, 10, "1.0")
    assert first.platform == Platform("linux", "arm64", "v8")
    assert str(first.platform) == "linux/arm64/v8"
    assert (second.media_type, second.digest.algorithm) == (MediaType.INDEX, DigestAlgorithm.SHA512)
    assert (second.tag, second.platform, second.annotations) == (None, None, ())
    assert second.digest.path == "blobs/sha512/" + "0123456789abcdef" * 8


def test_manifest() -> None:
    found = read_manifest(dumps(MANIFEST_DOCUMENT), "m")
    assert (str(found.config.digest), found.config.size) == (A, 1)
    assert [layer.media_type for layer in found.layers] == [
        MediaType.LAYER,
        MediaType.LAYER_GZIP,
        MediaType.LAYER_ZSTD,
    ]
    assert found.annotations == ()


def test_config() -> None:
    found = read_config(dumps(CONFIG_DOCUMENT), "c")
    assert (found.platform, [str(item) for item in found.diff_ids]) == (
        Platform("linux", "arm64"),
        [A, LONG],
    )
    assert (found.entrypoint, found.cmd, found.env) == (("/bin/sh", "-c"), (), ("A=1\n2",))
    assert (found.user, found.working_dir) == ("u:g", "/w")
    bare = read_config(dumps(changed(CONFIG_DOCUMENT, ("config",), ...)), "c")
    assert (bare.entrypoint, bare.user) == ((), "")


def test_a_config_that_was_written_reads_as_it_was() -> None:
    found = read_config(dumps(CONFIG_DOCUMENT), "c")
    assert read_config(write_config(found), "c") == found


UNPRINTABLE = "holds a character that is not printable"
MISSING = "'mediaType' is missing, and Islet's registry refuses that; expected"
RULE = "[image-registry ir-server/src/oci/validate.rs]"
NO_DIGEST = "is not sha256: or sha512: and its lower-case hexadecimal digits [OCI image-spec, descriptor.md]"
NO_NUMBER = "is not a whole number from 0 to 2**64-1"
DOCKERS = "a format of Docker's own; convert the image to OCI, expected"
TOTO = "application/vnd.in-toto+json"
FIRST: tuple[str | int, ...] = ("manifests", 0)


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("index", ("mediaType",), ..., f"{MISSING} {INDEX} {RULE}"),
        ("manifest", ("mediaType",), None, f"{MISSING} {MANIFEST} {RULE}"),
        ("index", (*FIRST, "mediaType"), ..., f"manifests 1: {MISSING} {MANIFEST} or {INDEX} {RULE}"),
        (
            "index",
            ("mediaType",),
            f"{DOCKER}.list.v2+json",
            f"'mediaType' is '{DOCKER}.list.v2+json', {DOCKERS} {INDEX}",
        ),
        (
            "manifest",
            ("mediaType",),
            f"{DOCKER}.v2+json",
            f"'mediaType' is '{DOCKER}.v2+json', {DOCKERS} {MANIFEST}",
        ),
        (
            "manifest",
            ("layers", 1, "mediaType"),
            TOTO,
            f"layers 2: 'mediaType' is '{TOTO}', expected {LAYER} or {LAYER}+gzip or {LAYER}+zstd",
        ),
        ("manifest", ("mediaType",), INDEX, f"'mediaType' is '{INDEX}', expected {MANIFEST}"),
        ("index", ("mediaType",), 7, "'mediaType' is not a string"),
        ("index", ("schemaVersion",), 1, f"'schemaVersion' is 1, expected 2 for {INDEX}"),
        ("index", ("schemaVersion",), ..., "'schemaVersion' is missing"),
        ("index", ("schemaVersion",), True, f"'schemaVersion' {NO_NUMBER}"),
        ("index", (*FIRST, "size"), -1, f"manifests 1: 'size' {NO_NUMBER}"),
        ("index", ("manifests",), {}, "'manifests' is not a list"),
        ("index", FIRST, "x", "manifests 1: not a JSON object"),
        ("index", (*FIRST, "digest"), "sha256:../x", f"manifests 1: digest 'sha256:../x' {NO_DIGEST}"),
        ("index", (*FIRST, "digest"), A.upper(), f"manifests 1: digest '{A.upper()}' {NO_DIGEST}"),
        ("index", (*FIRST, "digest"), A + "\n", f"manifests 1: 'digest' {UNPRINTABLE}"),
        ("index", (*FIRST, "annotations", "x"), 1, "manifests 1: annotation 'x' is not a string"),
        (
            "index",
            (*FIRST, "platform", "architecture"),
            ...,
            "manifests 1: platform: 'architecture' is missing",
        ),
        ("manifest", ("layers",), [], "'layers' is empty; an image needs at least one layer"),
        ("manifest", ("config",), ..., "'config' is missing"),
        ("config", ("architecture",), ..., "'architecture' is missing"),
        ("config", ("rootfs",), ..., "'rootfs' is missing"),
        ("config", ("rootfs", "type"), "x", "rootfs: 'type' is 'x', expected 'layers'"),
        ("config", ("rootfs", "diff_ids", 0), "md5:00", f"rootfs: digest 'md5:00' {NO_DIGEST}"),
        (
            "config",
            ("config", "Env", 0),
            "A=\0",
            "config: 'Env' holds 'A=\\x00', expected strings without NUL",
        ),
        ("config", ("config", "Entrypoint"), "/bin/sh", "config: 'Entrypoint' is not a list"),
        ("config", ("config",), [], "config: not a JSON object"),
    ],
)
def test_wrong_fields(kind: str, path: tuple[str | int, ...], value: object, message: str) -> None:
    assert complaint(kind, dumps(changed(DOCUMENTS[kind], path, value))) == f"f.json: {message}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f.json: no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "f.json: not a JSON object"),
        (b'{"a":\xff}', "f.json: offset 0x5: no JSON: not UTF-8"),
        (b'{"a":1,"a":1}', "f.json: no JSON: a key is written twice in one object"),
        (b'{"a":NaN}', "f.json: no JSON: NaN is no number of JSON"),
        (b'{"a":1e999}', "f.json: no JSON: a number is beyond every float"),
        (b'{"a":"\\ud800"}', "f.json: '\\ud800' holds half of a surrogate pair"),
        (b'{"\\udfff":1}', "f.json: '\\udfff' holds half of a surrogate pair"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "f.json: nested more than 64 levels deep"),
        (b" " * (MAX_DOCUMENT + 1), "f.json: 4.0 MiB; at most 4 MiB are read"),
    ],
)
def test_what_is_no_document(data: bytes, message: str) -> None:
    for kind in READERS:
        assert complaint(kind, data) == message


def test_very_deep_and_very_long_numbers() -> None:
    assert "no JSON" in complaint("index", b"[" * 100_000)
    assert "no JSON" in complaint("index", b'{"a":' + b"9" * 5000 + b"}")


def test_layout_marker() -> None:
    read_layout_marker(layout_marker(), "oci-layout")
    assert json.loads(layout_marker()) == {"imageLayoutVersion": "1.0.0"}
    for data, message in (
        (b'{"imageLayoutVersion":"1.0.1"}', "imageLayoutVersion '1.0.1', expected '1.0.0'"),
        (b"{}", "'imageLayoutVersion' is missing"),
        (b'{"imageLayoutVersion":"\\u001b"}', f"'imageLayoutVersion' {UNPRINTABLE}"),
    ):
        with pytest.raises(FormatError) as caught:
            read_layout_marker(data, "oci-layout")
        assert str(caught.value) == f"oci-layout: {message}"


def test_annotations_are_replaced_and_nothing_else_changes() -> None:
    document = changed(MANIFEST_DOCUMENT, ("annotations",), {"b": "old", "kept": "1"})
    written = annotate_manifest(dumps(document), "m", {"a": "new", "b": "newer"})
    expected = changed(document, ("annotations",), {"b": "newer", "kept": "1", "a": "new"})
    # serde_json's pretty printer and this call agree: two spaces, no newline at the end.
    assert written == json.dumps(expected, indent=2, ensure_ascii=False).encode()
    assert annotate_manifest(written, "m", {"a": "new", "b": "newer"}) == written


@pytest.mark.parametrize("missing", [..., None])
def test_annotations_where_there_were_none(missing: object) -> None:
    document = changed(changed(MANIFEST_DOCUMENT, ("annotations",), None), ("annotations",), missing)
    assert json.loads(annotate_manifest(dumps(document), "m", {"a": "1"}))["annotations"] == {"a": "1"}


def test_references_are_led_elsewhere() -> None:
    new = Digest.parse(B, "")
    written = redirect_index(dumps(INDEX_DOCUMENT), "i", {Digest.parse(A, ""): (new, 99)})
    expected = changed(INDEX_DOCUMENT, ("manifests", 0, "digest"), B)
    expected = changed(expected, ("manifests", 0, "size"), 99)
    assert json.loads(written) == changed(expected, ("manifests", 0, "data"), ...)
    assert list(json.loads(written)) == list(INDEX_DOCUMENT)


def test_an_index_is_narrowed() -> None:
    data = dumps(INDEX_DOCUMENT)
    found = json.loads(narrow_index(data, "i", 0, data, "2"))
    reference = changed(INDEX_DOCUMENT["manifests"][0], ("annotations", REF_NAME), "2")
    assert found == changed(INDEX_DOCUMENT, ("manifests",), [reference])
    only = dumps(changed(INDEX_DOCUMENT, ("manifests", 1), ...))
    assert narrow_index(only, "i", 0, only, "1.0") == only
    assert narrow_index(only, "i", 0, only, "1.1") != only


@pytest.mark.parametrize("number", ["1.50", "1E2", "1e5", "0.1000000000000000055"])
def test_numbers_that_would_come_out_otherwise(number: str) -> None:
    data = dumps(INDEX_DOCUMENT).replace(b"1.5", number.encode())
    read_index(data, "i")
    with pytest.raises(FormatError) as caught:
        redirect_index(data, "i", {})
    assert str(caught.value) == f"i: number {number} cannot be written back as it is; remove it"


def test_digests() -> None:
    # FIPS 180-4, the examples for "abc".
    assert str(Digest.of(b"abc")) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (
        Digest.of(b"abc", DigestAlgorithm.SHA512).value.hex().startswith("ddaf35a193617abacc417349ae204131")
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), JSON, max_size=5))
def test_unknown_fields_survive(more: dict[str, Any]) -> None:
    document = {**more, **INDEX_DOCUMENT}
    assert json.loads(redirect_index(dumps(document), "i", {})) == document


@settings(max_examples=100)
@given(JSON)
def test_json_reads_as_python_reads_it(value: Any) -> None:
    assert read_json(dumps(value), "j") == value


def only_format_errors(kind: str, data: bytes) -> None:
    try:
        READERS[kind](data, "f")
        if kind == "index" and read_index(data, "f").manifests:
            redirect_index(data, "f", {})
            narrow_index(data, "f", 0, data, "t")
        if kind == "manifest":
            annotate_manifest(data, "f", {"a": "b"})
    except FormatError:
        pass


@settings(max_examples=150)
@given(st.sampled_from(sorted(READERS)), st.binary(max_size=60))
def test_random_bytes(kind: str, data: bytes) -> None:
    only_format_errors(kind, data)


@settings(max_examples=150)
@given(st.sampled_from(sorted(READERS)), st.data())
def test_damaged_bytes(kind: str, data: st.DataObject) -> None:
    document = bytearray(dumps(DOCUMENTS[kind]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(document) - 1))
        document[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=3))
    only_format_errors(kind, bytes(document))


@settings(max_examples=150)
@given(st.sampled_from(sorted(READERS)), st.data())
def test_other_values_anywhere(kind: str, data: st.DataObject) -> None:
    document = DOCUMENTS[kind]
    path: list[str | int] = []
    place: Any = document
    while isinstance(place, dict | list) and place and (not path or data.draw(st.booleans())):
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        path.append(key)
        place = place[key]
    only_format_errors(kind, dumps(changed(document, tuple(path), data.draw(JSON))))
