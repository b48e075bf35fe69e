from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from doit.exceptions import TaskFailed

from recipes.errors import ImageError
from recipes.formats.secureboot_keys import SigningKey, make_key
from recipes.steps import digests, keys
from recipes.steps.digests import DigestCache

REMEDY = "remove keys/db.key and keys/db.pem to make new ones"
ONE, OTHER = make_key("one"), make_key("other")
EC = ec.derive_private_key(12345678901234567890, ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three good keys, where the step looks for them."""
    monkeypatch.setattr(keys, "FOLDER", tmp_path)
    cache = DigestCache(tmp_path / "cache" / "digests.json")
    for module in (keys, digests):
        monkeypatch.setattr(module, "DIGESTS", cache)
    for role in keys.ROLES:
        _put(tmp_path, role, ONE)
    return tmp_path


def _put(folder: Path, role: str, pair: SigningKey) -> None:
    (folder / f"{role}.key").write_bytes(pair.private_key)
    (folder / f"{role}.key").chmod(0o600)
    (folder / f"{role}.pem").write_bytes(pair.certificate)


def _rewrite(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def test_keys_are_made_once(folder: Path) -> None:
    for path in folder.glob("*.*"):
        path.unlink()
    keys.make()
    made = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    assert sorted(made) == ["KEK.key", "KEK.pem", "PK.key", "PK.pem", "db.key", "db.pem"]
    assert {(folder / f"{role}.key").stat().st_mode & 0o777 for role in keys.ROLES} == {0o600}
    keys.make()
    assert made == {path.name: path.read_bytes() for path in folder.glob("*.*")}


def test_a_lost_certificate_is_made_again(folder: Path) -> None:
    (folder / "db.pem").unlink()
    keys.make()
    assert (folder / "db.key").read_bytes() == ONE.private_key
    assert b"BEGIN CERTIFICATE" in (folder / "db.pem").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_rewrite("db.pem", OTHER.certificate), f"keys/db.pem: is not the certificate of db.key; {REMEDY}"),
        (_rewrite("db.key", EC), f"keys/db.key: the key is not RSA; Secure Boot needs RSA-2048; {REMEDY}"),
        (_rewrite("db.key", b"junk"), f"keys/db.key: not an unencrypted PEM private key; {REMEDY}"),
        (_rewrite("db.key", b""), f"keys/db.key: not an unencrypted PEM private key; {REMEDY}"),
        (_rewrite("db.pem", b"junk"), f"keys/db.pem: not a PEM certificate; {REMEDY}"),
        (
            lambda folder: (folder / "db.key").chmod(0o640),
            "keys/db.key: others may use it (mode 0640); run chmod 600 keys/db.key",
        ),
        (
            lambda folder: (folder / "db.key").unlink(),
            "keys/db.key: is missing beside db.pem; restore it or remove both",
        ),
    ],
)
def test_keys_that_cannot_be_used(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        keys.make()


def test_an_unusable_key_without_a_certificate(folder: Path) -> None:
    (folder / "db.key").write_bytes(EC)
    (folder / "db.pem").unlink()
    with pytest.raises(ImageError, match=f"^keys/db.key: the key is not RSA; .*; {REMEDY}$"):
        keys.make()
    assert not (folder / "db.pem").exists()


def test_a_folder_in_the_place_of_a_key(folder: Path) -> None:
    (folder / "db.key").unlink()
    (folder / "db.key").mkdir()
    action, arguments = keys.task()["actions"][0]
    failed = action(*arguments)
    assert isinstance(failed, TaskFailed)
    assert failed.get_msg().startswith(f"{folder}/db.key: is a directory; remove the folder")


def test_keys_are_checked_when_they_have_changed(folder: Path) -> None:
    check = keys.task()["uptodate"][0]

    def run(values: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        task = SimpleNamespace(value_savers=[])
        return check(task, values), task.value_savers[0]()

    good, values = run({})
    assert not good
    assert run(values) == (True, values)
    (folder / "db.key").chmod(0o644)
    assert not run(values)[0]
    (folder / "db.key").chmod(0o600)
    assert run(values)[0]
    (folder / "db.pem").write_bytes(OTHER.certificate)
    assert not run(values)[0]
