"""``keys:secure-boot``: development keys for Secure Boot, made on first use and then kept.

They are for development: whoever can read ``keys/`` can sign for every machine that trusts them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, ImageError
from .digests import DIGESTS, ROOT
from .task import Task, guarded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

FOLDER = ROOT / "keys"
ROLES = ("PK", "KEK", "db")


def key_path(role: str) -> Path:
    """Path of a private key, PEM."""
    return FOLDER / f"{role}.key"


def certificate_path(role: str) -> Path:
    """Path of the certificate of that key, PEM."""
    return FOLDER / f"{role}.pem"


def task() -> Task:
    """The doit task. It has no ``clean``: keys are never removed by a build."""
    return {
        "basename": "keys",
        "name": "secure-boot",
        "doc": "make development Secure Boot keys in keys/, once",
        "targets": [str(path) for path in _files()],
        "uptodate": [checked(_files())],
        "actions": [(guarded, [make])],
        "verbosity": 2,
    }


def _files() -> tuple[Path, ...]:
    return tuple(path(role) for role in ROLES for path in (key_path, certificate_path))


def checked(paths: tuple[Path, ...]) -> Callable[[Any, dict[str, Any]], bool]:
    """An ``uptodate`` check: the files are those that were good when the task last ended."""

    def state() -> list[list[str]]:
        return [[stat.filemode(path.stat().st_mode), DIGESTS.sha256(path)] for path in paths]

    def check(task: Any, values: dict[str, Any]) -> bool:  # noqa: ANN401 - doit's own calling convention
        task.value_savers.append(lambda: {"keys": state()})
        try:
            return bool(values.get("keys") == state())
        except OSError:
            return False

    return check


def make() -> None:
    """Makes the keys that are missing; a key before its certificate, so a killed run loses nothing.

    Raises:
        ImageError: a certificate without its key: that key is lost and must not be replaced in silence; a
            key that others can read, or that cannot sign with its certificate.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from ..formats import secureboot_keys

    FOLDER.mkdir(exist_ok=True)
    for role in ROLES:
        key, certificate = key_path(role), certificate_path(role)
        name = f"Goldsmith development {role}"
        if certificate.exists() and not key.exists():
            raise ImageError(
                f"keys/{key.name}: is missing beside {certificate.name}; restore it or remove both"
            )
        if not key.exists():
            write_key(key, secureboot_keys.make_key(name).private_key, 0o600)
        if not certificate.exists():
            pem = secureboot_keys.make_certificate(_load(role), name).public_bytes(Encoding.PEM)
            write_key(certificate, pem, 0o644)
        _check(role)


def _load(role: str) -> RSAPrivateKey:
    from ..formats import secureboot_keys

    key = key_path(role)
    name, pem = f"keys/{key.name}", key.read_bytes()
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o077:
        raise ImageError(f"{name}: others may use it (mode {mode:04o}); run chmod 600 {name}")
    try:
        return secureboot_keys.load_key(pem, name)
    except FormatError as error:
        raise _unusable(role, error) from None


def _check(role: str) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm

    from ..formats import secureboot_keys

    public = _load(role).public_key()
    name = f"keys/{certificate_path(role).name}"
    try:
        certificate = secureboot_keys.load_certificate(certificate_path(role).read_bytes(), name)
        certified = certificate.public_key()
    except FormatError as error:
        raise _unusable(role, error) from None
    except (ValueError, UnsupportedAlgorithm):
        certified = None
    if certified != public:
        raise _unusable(role, FormatError(name, f"is not the certificate of {role}.key"))


def _unusable(role: str, error: FormatError) -> ImageError:
    """The error with what to do about it, without the words of the library in brackets."""
    what = error.what.partition(" (")[0]
    return ImageError(f"{error.source}: {what}; remove keys/{role}.key and keys/{role}.pem to make new ones")


def write_key(path: Path, data: bytes, mode: int) -> None:
    """Writes a key file, which nobody else can read at any time, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    temporary.replace(path)
