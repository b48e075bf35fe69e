"""Applications as the step leaves them, judged by tarfile, hashlib and a library for signatures."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from recipes.errors import FormatError, ImageError, SpecError
from recipes.schema.realm import ApplicationSpec
from recipes.sources import lock as locks
from recipes.steps import packages
from recipes.steps.realm import applications, keys
from tests.oci_samples import REF_NAME, digest_of, one_image
from tests.packages import EPOCH, control, deb, directory, entry
from tests.vectors.test_islet import REM

SIGNATURE, VENDOR, CERTIFIED = (
    f"com.samsung.islet.image.{name}" for name in ("signature", "vendorpub", "vendorpub.signature")
)
MADE = ApplicationSpec(name="made", version="2.1", overlay="app", command=("/usr/bin/run", "-v"))
IMPORTED = ApplicationSpec(name="imported", version="1.0", layout="images/app")
DEBIAN = ApplicationSpec(name="debian", packages=("pa",), overlay="app", command=("/usr/pa",))


@dataclass(frozen=True)
class Project:
    """A project with keys and a package, and where the step writes."""

    root: Path

    def build(self, *specs: ApplicationSpec) -> dict[str, bytes]:
        """Every product by its path; of the folder, every file in it."""
        out = self.root / "out"
        out.mkdir(exist_ok=True)
        for path in sorted(out.rglob("*"), reverse=True):
            (path.rmdir if path.is_dir() else path.unlink)()
        products = (out / "registry", out / "applications.json", out / "root-ca.pub")
        applications.build(*products, specs=specs, lock=self.root / "lock")
        return {
            path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()
        }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in ("METADATA", "ROOT_CA", "ROOT_CA_PUBLIC", "VENDOR", "VENDOR_SIGNATURE"):
        monkeypatch.setattr(keys, name, tmp_path / "keys" / getattr(keys, name).name)
    monkeypatch.setattr(keys, "FOLDER", tmp_path / "keys")
    monkeypatch.setattr(applications, "ROOT", tmp_path)
    monkeypatch.setattr(packages, "PACKAGES", tmp_path / "packages")
    keys.make()
    run = tmp_path / "rootfs" / "app" / "usr" / "bin" / "run"
    run.parent.mkdir(parents=True)
    run.write_bytes(b"#!/bin/sh\n")
    run.chmod(0o700)
    one_image().folder(tmp_path / "images" / "app")
    data = deb(
        control("pa"),
        directory("./usr/"),
        entry("./usr/pa", b"pa", mode=0o755),
        directory("./usr/share/"),
        directory("./usr/share/doc/"),
        directory("./usr/share/doc/pa/"),
        entry("./usr/share/doc/pa/copyright", b"free"),
        entry("./usr/share/doc/pa/README", b"long"),
    )
    digest = hashlib.sha256(data)
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / f"{digest.hexdigest()}.deb").write_bytes(data)
    package = locks.LockedPackage(
        name="pa",
        version="1",
        architecture="arm64",
        sha256=digest.digest(),
        size=len(data),
        source="pa",
        source_version="1",
        groups=("app-debian",),
    )
    lock = locks.Lock(suite="trixie", architecture="arm64", epoch=EPOCH, packages=(package,))
    (tmp_path / "lock").write_text(locks.dump(lock, image="realm"))
    return Project(tmp_path)


def image(products: dict[str, bytes], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The only manifest of an application's index, with the reference to it; digests and sizes hold."""
    folder = f"registry/{name}"
    assert json.loads(products[f"{folder}/oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (reference,) = json.loads(products[f"{folder}/index.json"])["manifests"]
    data = blob(products, name, reference)
    manifest = json.loads(data)
    for item in (manifest["config"], *manifest["layers"]):
        blob(products, name, item)
    return reference, manifest


def blob(products: dict[str, bytes], name: str, reference: dict[str, Any]) -> bytes:
    data = products[f"registry/{name}/blobs/" + reference["digest"].replace(":", "/")]
    assert (digest_of(data), len(data)) == (reference["digest"], reference["size"])
    return data


def verify(public: bytes, signature: bytes, data: bytes) -> None:
    key = load_der_public_key(public)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    key.verify(signature, data, ec.ECDSA(SHA384()))


@pytest.mark.parametrize("spec", [MADE, IMPORTED, DEBIAN], ids=lambda spec: spec.name)
def test_three_annotations_identify_an_image(project: Project, spec: ApplicationSpec) -> None:
    """Spec: image-registry 92e5635: over the configuration's bytes, and over the vendor's key."""
    products = project.build(spec)
    _, manifest = image(products, spec.name)
    found = {name: bytes.fromhex(text) for name, text in manifest["annotations"].items()}
    assert found.keys() == {SIGNATURE, VENDOR, CERTIFIED}
    config = blob(products, spec.name, manifest["config"])
    verify(found[VENDOR], found[SIGNATURE], config)
    verify(products["root-ca.pub"], found[CERTIFIED], found[VENDOR])
    with pytest.raises(InvalidSignature):
        verify(products["root-ca.pub"], found[SIGNATURE], config)


def test_facts_are_what_the_realm_measures(project: Project) -> None:
    products = project.build(MADE, IMPORTED)
    document = json.loads(products["applications.json"])
    assert document["schema"] == 1
    assert [row["name"] for row in document["applications"]] == ["made", "imported"]
    for row, tag in zip(document["applications"], ("2.1", "1.0"), strict=True):
        reference, manifest = image(products, row["name"])
        config = blob(products, row["name"], manifest["config"])
        assert row == {
            "name": row["name"],
            "tag": tag,
            "manifest": reference["digest"],
            "config": manifest["config"]["digest"],
            "public_key": manifest["annotations"][VENDOR],
            "public_key_signature": manifest["annotations"][CERTIFIED],
            "config_digest": hashlib.sha384(config).hexdigest(),
        }
        assert reference["annotations"][REF_NAME] == tag
    read = applications.read_facts(project.root / "out" / "applications.json")
    assert [(item.name, item.config_digest.hex()) for item in read] == [
        (row["name"], row["config_digest"]) for row in document["applications"]
    ]


def test_an_image_of_an_overlay(project: Project) -> None:
    products = project.build(MADE)
    _, manifest = image(products, "made")
    config = json.loads(blob(products, "made", manifest["config"]))
    assert (config["architecture"], config["os"]) == ("arm64", "linux")
    assert config["config"]["Entrypoint"] == ["/usr/bin/run", "-v"]
    assert contents(products, "made") == {"usr/bin/run": (0o755, b"#!/bin/sh\n")}


def test_an_image_of_packages_has_no_documentation_but_the_licence(project: Project) -> None:
    found = contents(project.build(DEBIAN), "debian")
    assert found.pop("usr/bin/run") == (0o755, b"#!/bin/sh\n")
    assert found == {"usr/pa": (0o755, b"pa"), "usr/share/doc/pa/copyright": (0o644, b"free")}


def contents(products: dict[str, bytes], name: str) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of each file in the only layer; its digest is in the configuration."""
    _, manifest = image(products, name)
    (layer,) = manifest["layers"]
    data = blob(products, name, layer)
    if layer["mediaType"].endswith("+gzip"):
        data = gzip.decompress(data)
    config = json.loads(blob(products, name, manifest["config"]))
    assert config["rootfs"]["diff_ids"] == [digest_of(data)]
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            assert (member.uid, member.gid) == (0, 0)
            content = archive.extractfile(member)
            if content is not None:
                found[member.name] = (member.mode, content.read())
    return found


def test_layers_of_an_imported_image_are_not_touched(project: Project) -> None:
    before = {path.name: path.read_bytes() for path in (project.root / "images").rglob("sha256/*")}
    products = project.build(IMPORTED)
    _, manifest = image(products, "imported")
    for item in (manifest["config"], *manifest["layers"]):
        assert blob(products, "imported", item) == before[item["digest"].partition(":")[2]]


def test_the_same_keys_sign_the_same(project: Project) -> None:
    first = project.build(MADE, IMPORTED, DEBIAN)
    assert project.build(MADE, IMPORTED, DEBIAN) == first


def test_no_application_is_a_realm_as_well(project: Project) -> None:
    products = project.build()
    assert sorted(products) == ["applications.json", "root-ca.pub"]
    assert json.loads(products["applications.json"])["applications"] == []
    assert applications.read_facts(project.root / "out" / "applications.json") == ()


def test_latest_takes_an_only_image_whatever_its_tag(project: Project) -> None:
    """Islet's warden asks for `latest` where nothing else is said."""
    products = project.build(ApplicationSpec(name="imported", layout="images/app"))
    assert json.loads(products["applications.json"])["applications"][0]["tag"] == "1.0"


def test_what_an_import_leaves_out_is_said(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    orphan = project.root / "images" / "app" / "blobs" / "sha256" / hashlib.sha256(b"orphan").hexdigest()
    orphan.write_bytes(b"orphan")
    products = project.build(IMPORTED)
    assert not [path for path in products if path.endswith(orphan.name)]
    said = capsys.readouterr().out
    assert said == f"  imported: blobs/sha256/{orphan.name} belongs to no image that is taken; left out\n"


def test_a_private_key_in_an_overlay_stops_the_build(project: Project) -> None:
    """Also Islet's own, in DER as its tools keep it."""
    (project.root / "rootfs" / "app" / "usr" / "key").write_bytes(keys.VENDOR.read_bytes())
    with pytest.raises(SpecError, match=r"application made: usr/key:1: our own key keys/islet-vendor\.prv"):
        project.build(MADE)


@pytest.mark.parametrize("name", ["islet-vendor.pub.sig", "islet-root-ca.pub"])
def test_keys_that_do_not_belong_together_sign_nothing(project: Project, name: str) -> None:
    (project.root / "keys" / name).unlink()
    with pytest.raises(ImageError, match=name.replace(".", r"\.") + ": is missing"):
        project.build(MADE)
    assert not (project.root / "out" / "registry").exists()


ROW = {
    "name": "app",
    "tag": "1.0",
    "manifest": "",
    "config": "",
    "public_key": REM["vendor_pub_hex"],
    "public_key_signature": REM["vendor_pub_signature_hex"],
    "config_digest": hashlib.sha384(REM["config_utf8"].encode()).hexdigest(),
}


def facts(**changes: object) -> str:
    return json.dumps({"schema": 1, "applications": [ROW | changes]})


def test_facts_of_the_vector(tmp_path: Path) -> None:
    (tmp_path / "applications.json").write_text(facts())
    (found,) = applications.read_facts(tmp_path / "applications.json")
    assert b"".join(data for _, data in found.parts).hex() == (
        REM["vendor_pub_hex"] + REM["vendor_pub_signature_hex"] + str(ROW["config_digest"])
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "applications.json: no JSON: "),
        ("[]", "applications.json: not a JSON object"),
        ('{"schema": 2, "applications": []}', "applications.json: schema 2; this version reads schema 1"),
        ('{"schema": 1}', "applications.json: 'applications' is missing"),
        (facts(public_key=7), "applications.json: applications 1: 'public_key' is not a string"),
        (facts(config_digest=""), "application app: config digest of 0 bytes, expected 48"),
    ],
)
def test_damaged_facts(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "applications.json").write_text(text)
    with pytest.raises(ImageError) as caught:
        applications.read_facts(tmp_path / "applications.json")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("damage", [lambda: facts(public_key="zz").encode(), lambda: b"\xff"])
def test_facts_that_are_no_text_or_no_hexadecimal(tmp_path: Path, damage: Callable[[], bytes]) -> None:
    (tmp_path / "applications.json").write_bytes(damage())
    with pytest.raises(FormatError, match=r"^applications\.json: "):
        applications.read_facts(tmp_path / "applications.json")
