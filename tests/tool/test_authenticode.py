from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from recipes.formats import secureboot_keys
from recipes.formats.authenticode import image_digest, sign, strip_signature
from recipes.formats.authenticode_verify import verify
from tests.support import require_tool
from tests.unit.boot_images import kernel, key_pair, patched, signing_key, stub

pytestmark = pytest.mark.tool

IMAGES = {"stub": stub(), "kernel": kernel(), "odd length": stub() + b"tail"}


def run(*argv: str | Path, status: int = 0) -> str:
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (status == 0), done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    made = signing_key()
    (tmp_path / "db.key").write_bytes(made.private_key)
    (tmp_path / "db.pem").write_bytes(made.certificate)
    return tmp_path / "db.key", tmp_path / "db.pem"


@pytest.mark.parametrize("name", IMAGES)
def test_others_accept_our_signature(name: str, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    path = tmp_path / "image.efi"
    path.write_bytes(sign(IMAGES[name], *key_pair()))
    assert "Signature verification OK" in run(require_tool("sbverify"), "--cert", keys[1], path)
    output = run(require_tool("osslsigncode"), "verify", "-CAfile", keys[1], path)
    assert "Signature verification: ok" in output


def test_others_refuse_another_certificate_and_changed_bytes(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    sbverify, path, other = require_tool("sbverify"), tmp_path / "image.efi", tmp_path / "other.pem"
    other.write_bytes(signing_key("somebody else").certificate)
    signed = sign(stub(), *key_pair())
    path.write_bytes(signed)
    run(sbverify, "--cert", other, path, status=1)
    path.write_bytes(patched(signed, 0x800, b"\xcc\xcc\xcc"))
    run(sbverify, "--cert", keys[1], path, status=1)


@pytest.mark.parametrize("name", IMAGES)
def test_we_accept_sbsign(name: str, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    path, out = tmp_path / "image.efi", tmp_path / "signed.efi"
    path.write_bytes(IMAGES[name])
    run(require_tool("sbsign"), "--key", keys[0], "--cert", keys[1], "--output", out, path)
    _, certificate = key_pair()
    assert verify(out.read_bytes(), [key_pair("somebody else")[1], certificate]) == certificate
    assert image_digest(out.read_bytes(), "sha256") == image_digest(sign(IMAGES[name], *key_pair()), "sha256")


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_we_accept_osslsigncode_and_agree_on_the_digest(
    algorithm: str, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    tool, path, out = require_tool("osslsigncode"), tmp_path / "image.efi", tmp_path / "signed.efi"
    path.write_bytes(stub())
    run(tool, "sign", "-h", algorithm, "-certs", keys[1], "-key", keys[0], "-in", path, "-out", out)
    _, certificate = key_pair()
    assert verify(out.read_bytes(), [certificate]) == certificate
    match = re.search("Calculated message digest : ([0-9A-F]+)", run(tool, "verify", "-CAfile", keys[1], out))
    assert match is not None
    assert image_digest(stub(), algorithm).hex().upper() == match[1]


def test_sha1_digest_of_osslsigncode(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    tool, path, out = require_tool("osslsigncode"), tmp_path / "image.efi", tmp_path / "signed.efi"
    path.write_bytes(kernel())
    run(tool, "sign", "-h", "sha1", "-certs", keys[1], "-key", keys[0], "-in", path, "-out", out)
    done = subprocess.run([tool, "verify", str(out)], capture_output=True, text=True, check=False)
    match = re.search("Calculated message digest : ([0-9A-F]+)", done.stdout)
    assert match is not None
    assert image_digest(kernel(), "sha1").hex().upper() == match[1]


def test_intermediate_certificates_that_come_along(tmp_path: Path) -> None:
    """sbsign adds an intermediate; the trusted certificate is two steps above the signer."""
    root_key, root = key_pair("root")
    middle_key, _ = key_pair("middle")
    leaf_key, _ = key_pair("leaf")
    middle = _issued("middle", middle_key.public_key(), root.subject, root_key)
    leaf = _issued("leaf", leaf_key.public_key(), middle.subject, middle_key)
    for name, certificate in (("root", root), ("middle", middle), ("leaf", leaf)):
        (tmp_path / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "leaf.key").write_bytes(signing_key("leaf").private_key)
    (tmp_path / "image.efi").write_bytes(stub())
    argv = (
        "--key",
        tmp_path / "leaf.key",
        "--cert",
        tmp_path / "leaf.pem",
        "--addcert",
        tmp_path / "middle.pem",
    )
    run(require_tool("sbsign"), *argv, "--output", tmp_path / "signed.efi", tmp_path / "image.efi")
    assert verify((tmp_path / "signed.efi").read_bytes(), [key_pair()[1], root]) == root


def _issued(name: str, public: object, issuer: x509.Name, key: object) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(public)  # type: ignore[arg-type]
        .serial_number(len(name))
        .not_valid_before(secureboot_keys.NOT_BEFORE)
        .not_valid_after(secureboot_keys.NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )


def test_two_signatures_and_their_removal(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    """sbsign adds a second signature behind ours; the first trusted one decides."""
    other = signing_key("somebody else")
    (tmp_path / "other.key").write_bytes(other.private_key)
    (tmp_path / "other.pem").write_bytes(other.certificate)
    path, out = tmp_path / "image.efi", tmp_path / "signed.efi"
    path.write_bytes(sign(stub(), *key_pair()))
    argv = ("--key", tmp_path / "other.key", "--cert", tmp_path / "other.pem", "--output", out)
    run(require_tool("sbsign"), *argv, path)
    first, second = key_pair()[1], key_pair("somebody else")[1]
    assert verify(out.read_bytes(), [second]) == second
    assert verify(out.read_bytes(), [second, first]) == first
    assert "signature 2" in run(require_tool("sbverify"), "--list", out)
    stripped = strip_signature(out.read_bytes())
    assert image_digest(stripped, "sha256") == image_digest(stub(), "sha256")
    assert keys


def test_certificate_passes_openssl(keys: tuple[Path, Path]) -> None:
    output = run(require_tool("openssl"), "verify", "-x509_strict", "-CAfile", keys[1], keys[1])
    assert output.strip().endswith(": OK")
