from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from recipes.errors import FormatError, ImageError
from recipes.formats.secureboot_keys import make_key
from recipes.steps import private_keys, unlock_keys
from tests.unit.boot_images import signing_key

ONE, OTHER = signing_key("one").private_key, signing_key("other").private_key


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_of(pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(pem, None)
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


EC = pem_of(ec.derive_private_key(12345678901234567890, ec.SECP256R1()))
RSA_1024 = pem_of(rsa.generate_private_key(65537, 1024))
RSA_E3 = pem_of(rsa.generate_private_key(3, 2048))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good pair, where the step looks for it."""
    monkeypatch.setattr(unlock_keys, "FOLDER", tmp_path)
    monkeypatch.setattr(unlock_keys, "PRIVATE", tmp_path / "pcr.key")
    monkeypatch.setattr(unlock_keys, "PUBLIC", tmp_path / "pcr.pub")
    (tmp_path / "pcr.key").write_bytes(ONE)
    (tmp_path / "pcr.key").chmod(0o600)
    (tmp_path / "pcr.pub").write_bytes(public_of(ONE))
    return tmp_path


def test_the_key_is_made_once(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    unlock_keys.make()
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(made) == ["pcr.key", "pcr.pub"]
    assert (folder / "pcr.key").stat().st_mode & 0o777 == 0o600
    assert unlock_keys.private_key().key_size == 2048
    assert made["pcr.pub"] == public_of(made["pcr.key"])
    unlock_keys.make()
    assert made == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_key_that_is_brought_is_kept(folder: Path) -> None:
    (folder / "pcr.pub").unlink()
    unlock_keys.make()
    assert (folder / "pcr.key").read_bytes() == ONE
    assert (folder / "pcr.pub").read_bytes() == public_of(ONE)


def _rewrite(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


TOO_FEW = "which not every TPM verifies with; give an RSA-2048 key with exponent 65537"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "pcr.key").unlink(),
            "keys/pcr.key: is missing beside pcr.pub; restore it, or remove both and lose what they sealed",
        ),
        (
            lambda folder: (folder / "pcr.key").chmod(0o640),
            "keys/pcr.key: others may use it (mode 0640); run chmod 600 keys/pcr.key",
        ),
        *(
            (
                _rewrite("pcr.key", data),
                "keys/pcr.key: no RSA key in unencrypted PEM; give an RSA-2048 key",
            )
            for data in (b"", b"junk", EC)
        ),
        (_rewrite("pcr.key", RSA_1024), f"keys/pcr.key: RSA-1024 with exponent 65537, {TOO_FEW}"),
        (_rewrite("pcr.key", RSA_E3), f"keys/pcr.key: RSA-2048 with exponent 3, {TOO_FEW}"),
        *(
            (
                _rewrite("pcr.pub", data),
                (
                    "keys/pcr.pub: is not the public key of pcr.key as openssl writes it; "
                    "remove it, it is then made again"
                ),
            )
            for data in (public_of(OTHER), public_of(ONE).replace(b"\n", b"\r\n"), b"")
        ),
    ],
)
def test_keys_that_cannot_be_used(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        unlock_keys.make()


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"junk", "p: no RSA public key in PEM; give that of an RSA-2048 key"),
        (public_of(EC), "p: no RSA public key in PEM; give that of an RSA-2048 key"),
        (make_key("x").certificate, "p: no RSA public key in PEM; give that of an RSA-2048 key"),
        (public_of(RSA_1024), f"p: RSA-1024 with exponent 65537, {TOO_FEW}"),
    ],
)
def test_public_keys_that_cannot_be_used(pem: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        unlock_keys.policy_signer(pem, "p")


def test_how_a_tpm_names_a_key() -> None:
    """By hand. Spec: TPM 2.0 Library part 2 section 12.2.4 (TPMT_PUBLIC), part 3 section 23.16."""
    pem = public_of(ONE)
    numbers = unlock_keys.load_public(pem, "p").public_numbers()
    modulus = numbers.n.to_bytes(256, "big")
    # RSA, SHA-256, userwithauth|decrypt|sign, no policy, no symmetric, no scheme, 2048, 65537.
    fields = "0001 000b 00060040 0000 0010 0010 0800 00010001 0100"
    area = bytes.fromhex(fields) + modulus
    name = b"\0\x0b" + hashlib.sha256(area).digest()
    start = hashlib.sha256(bytes(32) + b"\0\0\1\x6a" + name).digest()
    assert unlock_keys.tpm_public(pem) == len(area).to_bytes(2, "big") + area
    assert unlock_keys.policy_signer(pem).name == name
    assert unlock_keys.signed_policy_digest(pem) == hashlib.sha256(start).digest()
    assert unlock_keys.signed_policy_digest(public_of(OTHER)) != unlock_keys.signed_policy_digest(pem)


def test_the_key_is_one_that_no_product_may_hold(folder: Path) -> None:
    names = {key.name: key.data for key in private_keys.own_keys()}
    assert names["keys/pcr.key"] == ONE


def test_the_task_makes_both_files(folder: Path) -> None:
    task = unlock_keys.task()
    assert (task["basename"], task["name"]) == ("keys", "policy")
    assert task["targets"] == [str(folder / "pcr.key"), str(folder / "pcr.pub")]
    assert "clean" not in task
