"""A realm as its users build it: twice, disturbed, damaged, with others' applications, with other keys."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key

from tests.house.differences import describe, first_difference
from tests.house.project import Project, checkout, copy_keys, files, finish
from tests.house.test_reproducible import LONG_NAME, SURROUNDINGS
from tests.oci_samples import CONFIG, Sample, changed, digest_of, dumps, one_image, write
from tests.support import require_tool

REALM = "islet-realm"
LOCKS = (f"images/{REALM}", "kernels/debian-arm64")
KERNEL = "kernels/debian-arm64"
# Made from the keys, and from what is made from them.
KEYED = {"applications.json", "golden.json", "initramfs.cpio.gz", "metadata.bin", "metadata.yaml"}
KEYED |= {"reference.json", "registry/hello/index.json", "root-ca.pub"}
PROVISIONED = ["metadata.yaml", "metadata.bin", "reference.json", "warden.txt", "lkvm.txt", "measure.txt"]
ANNOTATIONS = "com.samsung.islet.image."


@dataclass(frozen=True)
class Realm:
    """The realm in one copy of the project, and what came out of an undisturbed build."""

    project: Project
    products: dict[str, str]


def copy(root: Path, **options: Any) -> Project:
    return replace(checkout(root, locks=LOCKS, **options), image=REALM)


def made(output: str) -> list[str]:
    """Names of the products that a build said it made."""
    return re.findall(rf"^  {REALM}/(\S+) .* sha256 [0-9a-f]{{16}}… ", output, re.MULTILINE)


@pytest.fixture(scope="module")
def built(workshop: Path) -> Realm:
    project = copy(workshop / "realm")
    project.build(REALM)
    return Realm(project, project.products())


@pytest.fixture
def realm(built: Realm) -> Realm:
    """The realm, whole again whatever the test before did."""
    if built.project.products() != built.products:
        built.project.build(REALM)
    assert built.project.products() == built.products
    return built


@pytest.fixture(scope="module")
def elsewhere(built: Realm, workshop: Path) -> Project:
    """The same keys in another folder, for another user, in another place of the world, on one processor."""
    project = copy(workshop / "realms" / LONG_NAME, umask=0o077, mtime=86_400)
    copy_keys(built.project, project)
    if os.geteuid() == 0:
        project.root.parent.chmod(0o755)
        project = project.as_nobody()
    processor = (require_tool("taskset"), "-c", str(max(os.sched_getaffinity(0))))
    project = replace(project, environment=SURROUNDINGS, prefix=(*processor, *project.prefix))
    project.build("-n", "0", REALM)
    return project


@pytest.mark.parametrize("folder", [REALM, KERNEL])
def test_the_same_keys_give_the_same_bytes_anywhere(built: Realm, elsewhere: Project, folder: str) -> None:
    one, other = (replace(project, image=folder) for project in (built.project, elsewhere))
    names = sorted(one.products())
    assert {REALM: "metadata.bin", KERNEL: "kernel.json"}[folder] in names
    assert sorted(other.products()) == names
    pairs = [(one.out / name, other.out / name) for name in names]
    differing = [describe(*pair) for pair in pairs if first_difference(*pair) is not None]
    assert not differing, "\n".join(differing)


def test_products_name_neither_folder_nor_user(built: Realm, elsewhere: Project) -> None:
    words = [str(built.project.root.parent).encode(), b"/nonexistent", b"somebody"]
    for path in files(elsewhere.out):
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
            assert path.read_bytes()[4:8] == bytes(4), "the time of the build is in the archive"
            words = words[:1]  # of the programs in it one may know the others
        assert not [word for word in words if word in data], path


def test_modes_do_not_depend_on_the_umask(elsewhere: Project) -> None:
    """A registry's server may be another user than the one who builds."""
    modes = {path.stat().st_mode & 0o777 for path in files(elsewhere.out / "registry")}
    folders = {
        path.stat().st_mode & 0o777 for path in (elsewhere.out / "registry").rglob("*") if path.is_dir()
    }
    assert (modes, folders) == ({0o644}, {0o755})


def test_a_second_build_makes_nothing(realm: Realm) -> None:
    out = realm.project.root / "out"
    times = {
        path: path.stat().st_mtime_ns
        for path in files(out)
        if path.parent != out and "cache" not in path.parts
    }
    assert made(realm.project.build(REALM)) == []
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_killed_in_the_middle_it_leaves_nothing_that_looks_finished(realm: Realm) -> None:
    project, archive = realm.project, realm.project.out / "initramfs.cpio.gz"
    project.build("forget", f"initramfs:{REALM}")
    archive.unlink()
    process = project.start(REALM)
    temporary = archive.with_name(f".{archive.name}.tmp")
    for _ in range(1200):
        if temporary.exists() and temporary.stat().st_size:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert temporary.exists(), "it was not killed in the middle"
    assert not archive.exists()
    assert not archive.with_name(f"{archive.name}.digest.json").exists()
    assert project.unsound() == []
    assert made(project.build(REALM)) == ["initramfs.cpio.gz"]
    assert project.products() == realm.products
    assert project.leftovers() == []


@pytest.mark.parametrize(
    ("pattern", "again"),
    [
        ("registry/hello/blobs/sha256/*", ["registry", "applications.json", "root-ca.pub"]),
        ("registry/hello/index.json", ["registry", "applications.json", "root-ca.pub"]),
        ("root-ca.pub", ["registry", "applications.json", "root-ca.pub"]),
        ("metadata.bin", PROVISIONED),
    ],
)
def test_a_flipped_bit_is_noticed(realm: Realm, pattern: str, again: list[str]) -> None:
    path = max(realm.project.out.glob(pattern), key=lambda item: item.stat().st_size)
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert made(realm.project.build(REALM)) == again
    assert realm.project.products() == realm.products


def test_a_blob_too_many_is_noticed(realm: Realm) -> None:
    """What lies in the registry's folder is served."""
    path = realm.project.out / "registry" / "hello" / "blobs" / "sha256" / ("0" * 64)
    path.write_bytes(b"not from here")
    assert made(realm.project.build(REALM)) == ["registry", "applications.json", "root-ca.pub"]
    assert realm.project.products() == realm.products


@contextmanager
def application(project: Project, *, version: str = "1.0") -> Iterator[Path]:
    """A recipe with another application, which is imported from the path that this gives."""
    text = project.recipe.read_text()
    recipe = yaml.safe_load(text)
    recipe["applications"].append({"name": "web", "version": version, "layout": "images/web"})
    place = project.root / "images" / "web"
    place.parent.mkdir()
    project.recipe.write_text(yaml.safe_dump(recipe))
    try:
        yield place
    finally:
        project.recipe.write_text(text)
        shutil.rmtree(place.parent)


def signed_image(registry: Path) -> tuple[dict[str, bytes], bytes]:
    """Islet's three annotations of an image's manifest without their prefix, and its configuration."""
    index = json.loads((registry / "index.json").read_text())
    (reference,) = index["manifests"]
    data = (registry / "blobs" / reference["digest"].replace(":", "/")).read_bytes()
    assert (digest_of(data), len(data)) == (reference["digest"], reference["size"])
    manifest = json.loads(data)
    found = {
        name.removeprefix(ANNOTATIONS): bytes.fromhex(text) for name, text in manifest["annotations"].items()
    }
    return found, (registry / "blobs" / manifest["config"]["digest"].replace(":", "/")).read_bytes()


def verify(public: bytes, signature: bytes, data: bytes) -> None:
    key = load_der_public_key(public)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(signature, data, ec.ECDSA(SHA384()))


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_an_imported_application_is_signed_and_otherwise_as_it_was(realm: Realm, kind: str) -> None:
    sample, project = one_image(), realm.project
    with application(project) as place:
        getattr(sample, kind)(place)
        project.build(f"applications:{REALM}")
        out = project.out / "registry" / "web"
        found, config = signed_image(out)
        verify(found["vendorpub"], found["signature"], config)
        verify((project.out / "root-ca.pub").read_bytes(), found["vendorpub.signature"], found["vendorpub"])
        there = {path.name: path.read_bytes() for path in files(out / "blobs")}
        kept = {digest.partition(":")[2]: data for digest, data in sample.blobs.items()}
        kept.pop(sample.index["manifests"][0]["digest"].partition(":")[2])  # the annotations are in it
        assert kept.items() <= there.items()
        assert len(there) == len(kept) + 1
        rows = json.loads((project.out / "applications.json").read_text())["applications"]
        assert [row["name"] for row in rows] == ["hello", "web"]
        assert rows[1]["config_digest"] == hashlib.sha384(config).hexdigest()


def damaged_layer() -> Sample:
    sample = one_image()
    layer = next(digest for digest, data in sample.blobs.items() if data.startswith(b"\x1f\x8b"))
    sample.blobs[layer] = sample.blobs[layer][:-1] + bytes([sample.blobs[layer][-1] ^ 1])
    return sample


def missing_layer() -> Sample:
    sample = one_image()
    del sample.blobs[next(digest for digest, data in sample.blobs.items() if data.startswith(b"\x1f\x8b"))]
    return sample


def index_without_type() -> Sample:
    sample = one_image()
    sample.index = changed(sample.index, ("mediaType",), ...)
    return sample


def index_into_a_folder_above() -> Sample:
    sample = one_image()
    sample.index = changed(sample.index, ("manifests", 0, "digest"), ESCAPE)
    return sample


def layer_of_two_gibibytes() -> Sample:
    sample = Sample()
    huge = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": f"sha256:{'a' * 64}",
        "size": 2 << 30,
    }
    config = sample.blob(
        dumps(
            {
                "architecture": "arm64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'a' * 64}"]},
            }
        ),
        CONFIG,
    )
    return sample.top(sample.image(manifest={"config": config, "layers": [huge]}))


def nothing() -> Sample:
    return Sample()


ESCAPE = "sha256:../../../../keys/islet-vendor.prv"
HEX = "lower-case hexadecimal digits [OCI image-spec, descriptor.md]"
NO_TYPE = "'mediaType' is missing, and Islet's registry refuses that; expected application/vnd.oci.image."
SOURCE = " [image-registry ir-server/src/oci/validate.rs]"
DIGEST = "sha256:{64 digits}"
BAD = {
    "wrong digest": (
        damaged_layer,
        f"layer {DIGEST}: the content has the digest {DIGEST}; the image is damaged, fetch it again",
    ),
    "missing blob": (
        missing_layer,
        f"layer {DIGEST}: the layout does not have this blob; export the image again, whole",
    ),
    "index without mediaType": (index_without_type, f"index.json: {NO_TYPE}index.v1+json{SOURCE}"),
    "manifest without mediaType": (
        lambda: one_image(manifest={"mediaType": None}),
        f"manifest {DIGEST}: {NO_TYPE}manifest.v1+json{SOURCE}",
    ),
    "amd64": (
        lambda: one_image(architecture="amd64"),
        f"config {DIGEST}: the image is for linux/amd64, a realm runs linux/arm64; build it for arm64",
    ),
    "path escape": (
        index_into_a_folder_above,
        f"index.json: manifests 1: digest '{ESCAPE}' is not sha256: or sha512: and its {HEX}",
    ),
    "2 GiB": (
        layer_of_two_gibibytes,
        f"layer {DIGEST}: 2 GiB; blobs of 2 GiB and more are refused, split it into several layers",
    ),
    "no image": (nothing, "index.json: there is no image in it; export one with its manifest"),
    "other tag": (
        lambda: one_image(tag="2.0"),
        "index.json: there is no image '1.0'; there are 2.0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_layout_is_one_message(realm: Realm, case: str) -> None:
    project, (sample, message) = realm.project, BAD[case]
    with application(project) as place:
        write(place, sample().files())
        said = failure(project)
    expected = re.escape(f"{place}: {message}\n").replace(re.escape("{64 digits}"), "[0-9a-f]{64}")
    assert re.fullmatch(expected, said), said
    assert project.unsound() == []


def test_a_layout_that_is_not_there_is_one_message(realm: Realm) -> None:
    with application(realm.project) as place:
        said = failure(realm.project)
    assert said == f"{place}: there is no such file or folder; give an OCI layout or a tar archive\n"


def failure(project: Project) -> str:
    """What a build of the applications that must fail says of its reason."""
    result = project.run(f"applications:{REALM}")
    said = result.stdout + result.stderr
    assert result.returncode == 1, said
    head = f"\napplications:{REALM} failed:\n"
    assert said.startswith(head)
    return said.removeprefix(head)


def test_other_keys_make_another_realm(realm: Realm, workshop: Path) -> None:
    project = copy(workshop / "keys")
    project.build(REALM)
    products = project.products()
    plain = {name for name in products if not name.endswith(".digest.json")}
    differing = {name for name in plain if products[name] != realm.products.get(name)}
    assert {name for name in differing if "/blobs/" not in name} == KEYED
    assert len([name for name in differing if "/blobs/" in name]) == 1, "only the manifest is signed"
    rims = [rim(each) for each in (project, realm.project)]
    assert rims[0] != rims[1]
    authority = (project.out / "root-ca.pub").read_bytes()
    assert authority == (project.root / "keys" / "islet-root-ca.pub").read_bytes()
    assert authority in gzip.decompress((project.out / "initramfs.cpio.gz").read_bytes())
    found, config = signed_image(project.out / "registry" / "hello")
    verify(authority, found["vendorpub.signature"], found["vendorpub"])
    verify(found["vendorpub"], found["signature"], config)


def rim(project: Project) -> str:
    """The RIM in the golden manifest, which the metadata has signed and the verifier wants."""
    golden = json.loads((project.out / "golden.json").read_text())["machines"][0]
    value = next(row["value"] for row in golden["registers"] if row["register"] == "RIM")
    reference = json.loads((project.out / "reference.json").read_text())["realm"]["reference-values"]
    assert reference["rim"] == value
    # Offsets of realm-metadata-tool f08738d: rim 0x88, public key 0xf0, signature 0x150.
    metadata = (project.out / "metadata.bin").read_bytes()
    assert metadata[0x88:0xA8].hex() == value
    key = load_pem_private_key((project.root / "keys" / "islet-metadata.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    numbers = key.public_key().public_numbers()
    assert metadata[0xF0:0x150] == numbers.x.to_bytes(48, "big") + numbers.y.to_bytes(48, "big")
    r, s = (int.from_bytes(metadata[at : at + 48], "big") for at in (0x150, 0x180))
    key.public_key().verify(encode_dss_signature(r, s), metadata[:0x150], ec.ECDSA(SHA384()))
    return str(value)
