from __future__ import annotations

import stat
from pathlib import Path

import pytest

from recipes.errors import ImageError
from recipes.formats.p384 import Signature, SigningKey
from recipes.steps import keys as secure_boot
from recipes.steps.realm import keys


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of keys/."""
    for name in ("METADATA", "ROOT_CA", "ROOT_CA_PUBLIC", "VENDOR", "VENDOR_SIGNATURE"):
        monkeypatch.setattr(keys, name, tmp_path / getattr(keys, name).name)
    monkeypatch.setattr(keys, "FOLDER", tmp_path)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_keys_are_made_once_and_kept(folder: Path) -> None:
    keys.make()
    before = content(folder)
    assert sorted(before) == [
        "islet-metadata.pem",
        "islet-root-ca.prv",
        "islet-root-ca.pub",
        "islet-vendor.prv",
        "islet-vendor.pub.sig",
    ]
    for name in ("islet-metadata.pem", "islet-root-ca.prv", "islet-vendor.prv"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    keys.make()
    assert content(folder) == before
    # Spec: islet-provisioning: root-ca.pub is SubjectPublicKeyInfo of P-384, 120 bytes.
    assert len(before["islet-root-ca.pub"]) == 120
    assert before["islet-metadata.pem"].startswith(b"-----BEGIN EC PRIVATE KEY-----")


def test_the_root_ca_may_be_elsewhere(folder: Path) -> None:
    authority, vendor = SigningKey.generate(), SigningKey.generate()
    (folder / "islet-root-ca.pub").write_bytes(authority.public.der)
    secure_boot.write_key(folder / "islet-vendor.prv", vendor.der, 0o600)
    (folder / "islet-vendor.pub.sig").write_bytes(authority.sign(vendor.public.der).der)
    keys.make()
    assert not (folder / "islet-root-ca.prv").exists()
    signing = keys.vendor_keys()
    assert signing.root_ca == authority.public
    assert authority.public.verify(vendor.public.der, Signature.from_der(signing.signature, "signature"))


def test_the_public_half_alone_cannot_sign(folder: Path) -> None:
    (folder / "islet-root-ca.pub").write_bytes(SigningKey.generate().public.der)
    with pytest.raises(ImageError, match=r"keys/islet-vendor\.pub\.sig: is missing; put it there"):
        keys.make()


def test_a_lost_vendor_key_is_not_replaced_in_silence(folder: Path) -> None:
    keys.make()
    (folder / "islet-vendor.prv").unlink()
    with pytest.raises(ImageError, match=r"keys/islet-vendor\.prv: is missing beside islet-vendor\.pub\.sig"):
        keys.make()
    assert not (folder / "islet-vendor.prv").exists()


def test_a_lost_root_ca_is_not_replaced_in_silence(folder: Path) -> None:
    keys.make()
    for name in ("islet-root-ca.prv", "islet-root-ca.pub", "islet-metadata.pem"):
        (folder / name).unlink()
    before = content(folder)
    what = (
        r"^keys/islet-root-ca\.pub: is missing beside islet-vendor\.pub\.sig, which it checks; "
        r"restore it, or remove that$"
    )
    with pytest.raises(ImageError, match=what):
        keys.make()
    assert content(folder) == before


def test_keys_that_do_not_belong_together_are_refused(folder: Path) -> None:
    keys.make()
    secure_boot.write_key(folder / "islet-vendor.prv", SigningKey.generate().der, 0o600)
    with pytest.raises(ImageError, match=r"is not islet-root-ca\.pub's signature of islet-vendor\.prv"):
        keys.make()


def test_a_public_key_of_another_root_is_refused(folder: Path) -> None:
    keys.make()
    other = SigningKey.generate()
    (folder / "islet-root-ca.prv").unlink()
    secure_boot.write_key(folder / "islet-root-ca.prv", other.der, 0o600)
    with pytest.raises(ImageError, match=r"keys/islet-root-ca\.pub: is not the public key of"):
        keys.make()


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    keys.make()
    (folder / "islet-metadata.pem").chmod(0o644)
    with pytest.raises(ImageError, match="others may use it"):
        keys.make()


def test_products_are_searched_for_all_of_them(folder: Path) -> None:
    keys.make()
    assert [key.name for key in keys.own_keys()] == [
        "keys/islet-metadata.pem",
        "keys/islet-root-ca.prv",
        "keys/islet-vendor.prv",
    ]
    assert all(key.data.startswith(b"-----BEGIN EC PRIVATE KEY-----") for key in keys.own_keys())
