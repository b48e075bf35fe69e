"""``keys:islet``: the P-384 keys that sign realm metadata and application images, made on first use.

Keys that are put into ``keys/`` under these names are used as they are. A release keeps the private key of
its root CA elsewhere: ``islet-root-ca.pub`` and ``islet-vendor.pub.sig`` are enough to sign applications.

Spec: realm-metadata-tool f08738d (SEC1 PEM), image-registry 92e5635 (``*.prv`` SEC1 DER, ``*.pub`` SPKI DER).
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FormatError, ImageError
from ...record import dataclass
from ..keys import FOLDER, checked, write_key
from ..task import Task, guarded

if TYPE_CHECKING:
    from ...formats.p384 import PublicKey, SigningKey
    from ...sources.secrets import OwnKey

METADATA = FOLDER / "islet-metadata.pem"
ROOT_CA = FOLDER / "islet-root-ca.prv"
ROOT_CA_PUBLIC = FOLDER / "islet-root-ca.pub"
VENDOR = FOLDER / "islet-vendor.prv"
VENDOR_SIGNATURE = FOLDER / "islet-vendor.pub.sig"
# What the applications step reads; the root CA's private key is not among it.
SIGNING = (ROOT_CA_PUBLIC, VENDOR, VENDOR_SIGNATURE)
FILES = (METADATA, *SIGNING)


@dataclass(frozen=True)
class VendorKeys:
    """Who signs applications: the vendor's key, the root CA's public key, and its signature of the vendor's.

    Attributes:
        signature: DER, over the vendor's public key in DER.
    """

    vendor: SigningKey
    root_ca: PublicKey
    signature: bytes


def task() -> Task:
    """The doit task. It has no ``clean``: keys are never removed by a build."""
    return {
        "basename": "keys",
        "name": "islet",
        "doc": "make development keys for realm metadata and applications in keys/, once",
        "targets": [str(path) for path in FILES],
        "uptodate": [checked(FILES)],
        "actions": [(guarded, [make])],
        "verbosity": 2,
    }


def make() -> None:
    """Makes the keys that are missing.

    Raises:
        ImageError: a public file without what it was made from, or keys that do not belong together.
    """
    from ...formats.p384 import SigningKey

    FOLDER.mkdir(exist_ok=True)
    _check_lost()
    if not METADATA.exists():
        write_key(METADATA, SigningKey.generate().pem, 0o600)
    metadata_key()
    if not ROOT_CA.exists() and not ROOT_CA_PUBLIC.exists():
        write_key(ROOT_CA, SigningKey.generate().der, 0o600)
    if not VENDOR.exists():
        write_key(VENDOR, SigningKey.generate().der, 0o600)
    if ROOT_CA.exists():
        _certify()
    vendor_keys()


def _check_lost() -> None:
    """Refuses to replace a key in silence that was there before, before any key is made.

    Raises:
        ImageError: there is a signature, and not what it was made with.
    """
    if not VENDOR_SIGNATURE.exists():
        return
    if not VENDOR.exists():
        what = f"is missing beside {VENDOR_SIGNATURE.name}; restore it, or remove that"
        raise ImageError(f"keys/{VENDOR.name}: {what}")
    if not ROOT_CA.exists() and not ROOT_CA_PUBLIC.exists():
        what = f"is missing beside {VENDOR_SIGNATURE.name}, which it checks; restore it, or remove that"
        raise ImageError(f"keys/{ROOT_CA_PUBLIC.name}: {what}")


def _certify() -> None:
    """Writes what follows from the root CA's private key, where it is not there."""
    authority = _read(ROOT_CA)
    if not ROOT_CA_PUBLIC.exists():
        write_key(ROOT_CA_PUBLIC, authority.public.der, 0o644)
    if not VENDOR_SIGNATURE.exists():
        write_key(VENDOR_SIGNATURE, authority.sign(_read(VENDOR).public.der).der, 0o644)


def metadata_key() -> SigningKey:
    """The key that signs realm metadata.

    Raises:
        ImageError: others can read it, or it is not one.
    """
    from ...formats.p384_files import read_metadata_key

    return read_metadata_key(_private(METADATA), f"keys/{METADATA.name}")


def vendor_keys() -> VendorKeys:
    """What applications are signed with.

    Raises:
        ImageError: a file is missing or damaged, or they do not belong together.
    """
    from ...formats.p384 import Signature
    from ...formats.p384_files import read_public_key

    vendor = _read(VENDOR)
    for path in (ROOT_CA_PUBLIC, VENDOR_SIGNATURE):
        if not path.exists():
            what = "is missing; put it there, or its maker islet-root-ca.prv"
            raise ImageError(f"keys/{path.name}: {what}")
    root_ca = read_public_key(ROOT_CA_PUBLIC.read_bytes(), f"keys/{ROOT_CA_PUBLIC.name}")
    signature = VENDOR_SIGNATURE.read_bytes()
    if not root_ca.verify(vendor.public.der, Signature.from_der(signature, f"keys/{VENDOR_SIGNATURE.name}")):
        what = f"is not {ROOT_CA_PUBLIC.name}'s signature of {VENDOR.name}; restore the three, or remove them"
        raise ImageError(f"keys/{VENDOR_SIGNATURE.name}: {what}")
    if ROOT_CA.exists() and _read(ROOT_CA).public != root_ca:
        what = f"is not the public key of {ROOT_CA.name}; remove one of them"
        raise ImageError(f"keys/{ROOT_CA_PUBLIC.name}: {what}")
    return VendorKeys(vendor, root_ca, signature)


def own_keys() -> tuple[OwnKey, ...]:
    """The private keys, which must not be found in any product."""
    from ...formats.p384_files import read_metadata_key
    from ...sources.secrets import OwnKey

    found = []
    for path in (METADATA, ROOT_CA, VENDOR):
        if path.exists():
            name = f"keys/{path.name}"
            key = read_metadata_key(path.read_bytes(), name) if path == METADATA else _read(path)
            found.append(OwnKey(name, key.pem))
    return tuple(found)


def _read(path: Path) -> SigningKey:
    from ...formats.p384_files import read_image_key

    return read_image_key(_private(path), f"keys/{path.name}")


def _private(path: Path) -> bytes:
    name = f"keys/{path.name}"
    if not path.exists():
        raise FormatError(name, "there is no such key; run `python3 dodo.py keys`")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ImageError(f"{name}: others may use it (mode {mode:04o}); run chmod 600 {name}")
    return path.read_bytes()
