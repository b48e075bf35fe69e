from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import FormatError
from recipes.formats.oci import Digest
from recipes.formats.p384 import SigningKey
from recipes.sources.oci_sign import ApplicationImage, sign_image, verify_image
from tests.oci_samples import REF_NAME, Sample, changed, digest_of, dumps, one_image
from tests.packages import entry, tar

NAMES = [
    "com.samsung.islet.image.signature",
    "com.samsung.islet.image.vendorpub",
    "com.samsung.islet.image.vendorpub.signature",
]
CA, VENDOR, OTHER = (SigningKey.from_scalar(number, "test key") for number in (11, 12, 13))
CERTIFIED = CA.sign(VENDOR.public.der).der


def signer(key: SigningKey) -> Callable[[bytes], bytes]:
    return lambda data: key.sign(data).der


def sign(folder: Path, digest: str) -> str:
    return str(sign_image(folder, Digest.parse(digest, "t"), signer(VENDOR), VENDOR.public.der, CERTIFIED))


def document(folder: Path, digest: str) -> Any:
    return json.loads((folder / "blobs" / digest.replace(":", "/")).read_bytes())


def index(folder: Path) -> Any:
    return json.loads((folder / "index.json").read_bytes())


def reachable(folder: Path) -> set[str]:
    """Every blob that the layout refers to, its digest and size checked on the way."""
    found: set[str] = set()
    waiting = list(index(folder)["manifests"])
    while waiting:
        item = waiting.pop()
        path = folder / "blobs" / item["digest"].replace(":", "/")
        data = path.read_bytes()
        assert (digest_of(data, item["digest"].split(":")[0]), len(data)) == (item["digest"], item["size"])
        found.add(path.relative_to(folder).as_posix())
        if item["mediaType"].endswith(("index.v1+json", "manifest.v1+json")):
            inner = json.loads(data)
            waiting += inner.get("manifests", []) + inner.get("layers", [])
            waiting += [inner["config"]] if "config" in inner else []
    return found


def blobs(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in (folder / "blobs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_signed_and_verified(tmp_path: Path, algorithm: str) -> None:
    sample = one_image(algorithm=algorithm, manifest={"x-kept": {"a": [1]}})
    folder = sample.folder(tmp_path / "a")
    old = sample.index["manifests"][0]["digest"]
    before = json.loads(sample.blobs[old])
    new = sign(folder, old)
    assert new.startswith(f"{algorithm}:")
    assert new != old
    manifest = document(folder, new)
    config = sample.blobs[before["config"]["digest"]]
    values = [VENDOR.sign(config).der.hex(), VENDOR.public.der.hex(), CERTIFIED.hex()]
    assert manifest == before | {"annotations": dict(zip(NAMES, values, strict=True))}
    assert reachable(folder) == blobs(folder)
    assert index(folder)["manifests"][0]["annotations"] == {REF_NAME: "1.0"}
    assert verify_image(folder, CA.public.der) == ApplicationImage(
        config=config,
        config_digest_sha384=hashlib.sha384(config).digest(),
        vendor_spki=VENDOR.public.der,
        vendor_signature=CERTIFIED,
        manifest_digest=Digest.parse(new, "t"),
        tag="1.0",
    )


def test_signing_again_changes_nothing_and_another_key_replaces(tmp_path: Path) -> None:
    sample = one_image()
    folder = sample.folder(tmp_path / "a")
    new = sign(folder, sample.index["manifests"][0]["digest"])
    files = blobs(folder)
    assert sign(folder, new) == new
    assert blobs(folder) == files
    key = OTHER.public.der
    other = sign_image(folder, Digest.parse(new, "t"), signer(OTHER), key, CA.sign(key).der)
    assert len(document(folder, str(other))["annotations"]) == 3
    assert reachable(folder) == blobs(folder)
    assert verify_image(folder, CA.public.der).vendor_spki == key
    # Back to the first key: the very same bytes as before.
    assert sign(folder, str(other)) == new
    assert blobs(folder) == files


def test_every_index_above_follows(tmp_path: Path) -> None:
    sample = Sample()
    image = sample.image(tag=None)
    other = sample.image((tar(entry("other")), ""), tag=None, architecture="amd64")
    other["platform"] = {"os": "linux", "architecture": "amd64"}
    inner = sample.nested(image | {"data": "e30="}, other)
    untouched = sample.nested(other)
    sample.top(sample.nested(inner, untouched, tag="1"), image | {"annotations": {REF_NAME: "2"}})
    sample.index["x-kept"] = True
    folder = sample.folder(tmp_path / "a")
    new = sign(folder, image["digest"])
    assert reachable(folder) == blobs(folder)
    top = index(folder)
    assert top["x-kept"] is True
    assert top["manifests"][1]["digest"] == new
    [found, same] = document(folder, top["manifests"][0]["digest"])["manifests"]
    assert same == untouched
    [signed, left] = document(folder, found["digest"])["manifests"]
    assert (signed["digest"], left, "data" in signed) == (new, other, False)
    assert verify_image(folder, CA.public.der, "1").tag == "1"
    assert verify_image(folder, CA.public.der, new).tag == "1"


def refused(folder: Path, digest: str, *arguments: Any) -> str:
    before = {path: (folder / path).read_bytes() for path in blobs(folder)}
    with pytest.raises(FormatError) as caught:
        sign_image(folder, Digest.parse(digest, "t"), *arguments)
    assert {path: (folder / path).read_bytes() for path in blobs(folder)} == before
    return str(caught.value)


def test_keys_that_do_not_belong_together(tmp_path: Path) -> None:
    sample = one_image()
    folder = sample.folder(tmp_path / "a")
    digest = sample.index["manifests"][0]["digest"]
    spki = VENDOR.public.der
    assert refused(folder, digest, signer(OTHER), spki, CERTIFIED) == (
        "vendor key: it is not the key that signed the image; give the signer's own"
    )
    assert "P-384 public key" in refused(folder, digest, signer(VENDOR), spki[:-1], CERTIFIED)
    assert "signature of the image" in refused(folder, digest, lambda _: b"raw" * 32, spki, CERTIFIED)
    assert "root CA's signature" in refused(folder, digest, signer(VENDOR), spki, b"")
    missing = "sha256:" + "0" * 64
    assert refused(folder, missing, signer(VENDOR), spki, CERTIFIED) == (
        f"{folder}: index.json: there is no image {missing!r}; there are 1.0"
    )


def signed_sample(changes: dict[str, Any] | None = None, **options: Any) -> Sample:
    """Signed by hand; ``changes`` replaces annotations, or with ``...`` takes them away."""
    plain = one_image(**options)
    config = plain.blobs[json.loads(plain.blobs[plain.index["manifests"][0]["digest"]])["config"]["digest"]]
    values = [VENDOR.sign(config).der.hex(), VENDOR.public.der.hex(), CERTIFIED.hex()]
    annotations: dict[str, Any] = dict(zip(NAMES, values, strict=True))
    for name, value in (changes or {}).items():
        annotations = changed(annotations, (name,), value)
    return one_image(manifest={"annotations": annotations}, **options)


def complaint(tmp_path: Path, sample: Sample, authority: SigningKey = CA) -> str:
    folder = sample.folder(tmp_path / "a")
    with pytest.raises(FormatError) as caught:
        verify_image(folder, authority.public.der)
    digest = sample.index["manifests"][0]["digest"]
    return str(caught.value).replace(f"{folder}: manifest {digest}: ", "M: ")


def test_an_image_signed_by_hand(tmp_path: Path) -> None:
    verify_image(signed_sample().folder(tmp_path / "a"), CA.public.der)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({NAMES[0]: ...}, f"M: annotation {NAMES[0]} is missing; sign the image"),
        ({NAMES[1]: ...}, f"M: annotation {NAMES[1]} is missing; sign the image"),
        ({NAMES[2]: ...}, f"M: annotation {NAMES[2]} is missing; sign the image"),
        ({NAMES[0]: "ABCD"}, f"M: annotation {NAMES[0]} is not bytes in lower-case hexadecimal digits"),
        ({NAMES[0]: "abc"}, f"M: annotation {NAMES[0]} is not bytes in lower-case hexadecimal digits"),
        (
            {NAMES[0]: VENDOR.sign(b"other").der.hex()},
            f"M: {NAMES[0]} does not fit the configuration; sign the image again",
        ),
        (
            {NAMES[1]: OTHER.public.der.hex()},
            f"M: {NAMES[2]} is not by this root CA; sign the image with a vendor key of it",
        ),
    ],
)
def test_annotations_that_are_wrong(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert complaint(tmp_path, signed_sample(changes)) == message


def test_annotations_that_are_no_der(tmp_path: Path) -> None:
    assert f"M: {NAMES[2]}: " in complaint(tmp_path, signed_sample({NAMES[2]: "00"}))


def test_another_root(tmp_path: Path) -> None:
    assert complaint(tmp_path, signed_sample(), OTHER) == (
        f"M: {NAMES[2]} is not by this root CA; sign the image with a vendor key of it"
    )


def test_layers_are_looked_into(tmp_path: Path) -> None:
    sample = signed_sample()
    manifest = json.loads(sample.blobs[sample.index["manifests"][0]["digest"]])
    digest = manifest["layers"][0]["digest"]
    sample.blobs[digest] = sample.blobs[digest][:-1] + b"\xff"
    assert f"layer {digest}: the content has the digest" in complaint(tmp_path, sample)


def test_a_layer_of_another_image(tmp_path: Path) -> None:
    """Configuration and signature are right, the manifest names another layer."""
    other = Sample()
    foreign = json.loads(other.blobs[other.image((tar(entry("evil")), ""))["digest"]])["layers"]
    sample = signed_sample()
    old = json.loads(sample.blobs[sample.index["manifests"][0]["digest"]])
    sample.blobs |= other.blobs
    reference = sample.blob(dumps(old | {"layers": foreign}), sample.index["manifests"][0]["mediaType"])
    assert "the image's configuration says" in complaint(tmp_path, sample.top(reference))
