from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from recipes.formats.oci import Digest
from recipes.formats.p384 import SigningKey
from recipes.formats.tree import NodeType
from recipes.sources.oci import import_image
from recipes.sources.oci_build import ImageSettings, build_image
from recipes.sources.oci_sign import sign_image, verify_image
from tests.oci_samples import one_image
from tests.support import require_tool
from tests.trees import example_tree, expected

pytestmark = pytest.mark.tool

ISLET = "com.samsung.islet.image"


def run(*argv: str | Path, data: bytes | None = None) -> bytes:
    words = [require_tool(str(argv[0])), *map(str, argv[1:])]
    done = subprocess.run(words, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def openssl_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A private key as SEC1 DER and its public key as SPKI DER, made as Islet's README makes them."""
    private, public = folder / f"{name}.prv", folder / f"{name}.pub"
    pem = run("openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout")
    run("openssl", "ec", "-outform", "DER", "-out", private, data=pem)
    run("openssl", "ec", "-pubout", "-outform", "DER", "-out", public, data=pem)
    return private, public


def openssl_verifies(folder: Path, public: bytes, signature: bytes, data: bytes) -> bool:
    paths = [folder / name for name in ("check.pub", "check.sig", "check.data")]
    for path, content in zip(paths, (public, signature, data), strict=True):
        path.write_bytes(content)
    done = subprocess.run(
        [
            *(require_tool("openssl"), "dgst", "-sha384", "-keyform", "DER"),
            *("-verify", str(paths[0]), "-signature", str(paths[1]), str(paths[2])),
        ],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def manifest_of(folder: Path) -> Any:
    [reference] = json.loads((folder / "index.json").read_bytes())["manifests"]
    return json.loads(blob(folder, reference))


def blob(folder: Path, reference: dict[str, Any]) -> bytes:
    return (folder / "blobs" / str(reference["digest"]).replace(":", "/")).read_bytes()


def test_openssl_verifies_our_annotations(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    authority, vendor = SigningKey.from_scalar(7, "t"), SigningKey.from_scalar(8, "t")
    imported = import_image(one_image().folder(tmp_path / "src"), folder)
    spki = vendor.public.der
    sign_image(folder, imported.manifest, lambda data: vendor.sign(data).der, spki, authority.sign(spki).der)
    manifest = manifest_of(folder)
    config = blob(folder, manifest["config"])
    found = manifest["annotations"]
    values = {name: bytes.fromhex(found[ISLET + name]) for name in (".signature", ".vendorpub")}
    certified = bytes.fromhex(found[f"{ISLET}.vendorpub.signature"])
    assert openssl_verifies(tmp_path, values[".vendorpub"], values[".signature"], config)
    assert openssl_verifies(tmp_path, authority.public.der, certified, values[".vendorpub"])
    assert not openssl_verifies(tmp_path, values[".vendorpub"], values[".signature"], config + b" ")


def test_we_verify_what_openssl_signed(tmp_path: Path) -> None:
    """Its signatures are randomised, which is as good an image; only not the same one twice."""
    folder = tmp_path / "image"
    folder.mkdir()
    imported = import_image(one_image().folder(tmp_path / "src"), folder)
    ca_key, ca_public = openssl_key(tmp_path, "root-ca")
    key, public = openssl_key(tmp_path, "vendor")

    def sign(private: Path, data: bytes) -> bytes:
        return run("openssl", "dgst", "-sha384", "-sign", private, "-keyform", "DER", data=data)

    spki = public.read_bytes()
    certified = sign(ca_key, spki)
    signed = sign_image(folder, imported.manifest, lambda data: sign(key, data), spki, certified)
    found = verify_image(folder, ca_public.read_bytes())
    assert (found.manifest_digest, found.vendor_spki, found.vendor_signature) == (signed, spki, certified)
    assert found.config_digest_sha384 == hashlib.sha384(found.config).digest()
    digest = run("openssl", "dgst", "-sha384", "-binary", data=found.config)
    assert found.config_digest_sha384 == digest


def test_gnu_tar_reads_a_layer(tmp_path: Path) -> None:
    tree = example_tree()
    for path in [
        path for path, node in tree.nodes.items() if node.type in (NodeType.CHARACTER, NodeType.BLOCK)
    ]:
        del tree.nodes[path]
    del tree.nodes["byte-\udcff"]
    folder = tmp_path / "image"
    folder.mkdir()
    image = build_image(tree, folder, ImageSettings(entrypoint=("/usr/bin/su",)), epoch=1 << 40)
    layer = folder / image.layers[0].path
    want = expected(tree)
    listed = run("tar", "--list", "--quoting-style=literal", "--file", layer).decode().splitlines()
    assert {name.rstrip("/") for name in listed} == set(want) - {""}
    out = tmp_path / "unpacked"
    out.mkdir()
    run("tar", "--extract", "--no-same-owner", "--same-permissions", "--file", layer, "--directory", out)
    for path, node in want.items():
        if not path:
            continue
        found = (out / path).lstat()
        assert found.st_mode == node.mode, path
        if (out / path).is_symlink():
            assert str((out / path).readlink()).encode() == node.content
        elif (out / path).is_file():
            assert ((out / path).read_bytes(), int(found.st_mtime)) == (node.content, node.mtime)
    assert (out / "usr/bin/su").stat().st_ino == (out / "usr/bin/a-link").stat().st_ino
    owners = run("tar", "--list", "--verbose", "--numeric-owner", "--file", layer).decode()
    assert "100000/4000000000" in owners


def test_layers_that_gnu_tar_packed(tmp_path: Path) -> None:
    """Its formats, its padding to 20 blocks, hard links, long names, with and without compression."""
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/app").write_bytes(b"#!app")
    (root / "usr/bin/twin").hardlink_to(root / "usr/bin/app")
    (root / ("l" * 120)).write_bytes(b"long")
    (root / "bin").symlink_to("usr/bin")
    packed = [
        run("tar", "--create", f"--format={kind}", "--directory", root, "--file", "-", ".")
        for kind in ("gnu", "pax", "posix")
    ]
    kinds = ("", "+gzip", "+zstd")
    sample = one_image(*zip(packed, kinds, strict=True))
    folder = tmp_path / "image"
    folder.mkdir()
    result = import_image(sample.archive(tmp_path / "src.tar"), folder)
    assert len(result.layers) == 3
    # A layout that GNU tar packed as a whole.
    archive = tmp_path / "whole.tar"
    run("tar", "--create", "--directory", folder, "--file", archive, ".")
    (tmp_path / "again").mkdir()
    assert import_image(archive, tmp_path / "again") == result


def test_python_reads_the_layer(tmp_path: Path) -> None:
    tree = example_tree()
    for path in [
        path for path, node in tree.nodes.items() if node.type in (NodeType.CHARACTER, NodeType.BLOCK)
    ]:
        del tree.nodes[path]
    del tree.nodes["byte-\udcff"]
    folder = tmp_path / "image"
    folder.mkdir()
    image = build_image(tree, folder, ImageSettings(entrypoint=("/usr/bin/su",)))
    assert image.manifest == Digest.parse(str(image.manifest), "t")
    with tarfile.open(folder / image.layers[0].path) as archive:
        assert set(archive.getnames()) == set(tree.nodes) - {""}
        assert {member.mtime for member in archive.getmembers()} == {0}
