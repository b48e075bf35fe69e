"""``keys:policy``: the key that approves TPM policies, made on first use and then kept.

It is for development, like those of Secure Boot. A volume that is sealed for whatever it signs opens for no
image that another key signed: whoever loses it loses the data, and whoever has it can open them.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from ..errors import FormatError, ImageError
from .keys import FOLDER, checked, write_key
from .task import Task, guarded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

    from ..golden.unlock_predict import PolicySigner

PRIVATE, PUBLIC = FOLDER / "pcr.key", FOLDER / "pcr.pub"
# Every TPM verifies with the first; most with the second, and few with more.
# Spec: PC Client Platform TPM Profile 1.05 section 4.2 (RSA 2048 mandatory, 3072 recommended).
_BITS = (2048, 3072)
# The exponent that TPMs must take. Spec: TPM 2.0 Library part 1 annex B.
_EXPONENT = 65537


def task() -> Task:
    """The doit task. It has no ``clean``: keys are never removed by a build."""
    return {
        "basename": "keys",
        "name": "policy",
        "doc": "make the development key that signs TPM policies in keys/, once",
        "targets": [str(PRIVATE), str(PUBLIC)],
        "uptodate": [checked((PRIVATE, PUBLIC))],
        "actions": [(guarded, [make])],
        "verbosity": 2,
    }


def make() -> None:
    """Makes the key if it is missing, and writes its public key beside it.

    Raises:
        ImageError: the private key is lost, others can read it, or the two do not belong together.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    FOLDER.mkdir(exist_ok=True)
    if PUBLIC.exists() and not PRIVATE.exists():
        what = f"is missing beside {PUBLIC.name}"
        raise ImageError(f"keys/{PRIVATE.name}: {what}; restore it, or remove both and lose what they sealed")
    if not PRIVATE.exists():
        key = rsa.generate_private_key(_EXPONENT, _BITS[0])
        write_key(PRIVATE, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    pem = public_pem(private_key())
    if not PUBLIC.exists():
        write_key(PUBLIC, pem, 0o644)
    if PUBLIC.read_bytes() != pem:
        what = f"is not the public key of {PRIVATE.name} as openssl writes it"
        raise ImageError(f"keys/{PUBLIC.name}: {what}; remove it, it is then made again")


def private_key() -> RSAPrivateKey:
    """The key that signs.

    Raises:
        ImageError: others can read it, or it is not one that TPMs verify with.
    """
    from ..formats import secureboot_keys

    name = f"keys/{PRIVATE.name}"
    mode = stat.S_IMODE(PRIVATE.stat().st_mode)
    if mode & 0o077:
        raise ImageError(f"{name}: others may use it (mode {mode:04o}); run chmod 600 {name}")
    try:
        key = secureboot_keys.load_key(PRIVATE.read_bytes(), name)
    except FormatError:
        raise FormatError(name, "no RSA key in unencrypted PEM; give an RSA-2048 key") from None
    _check_size(key.public_key(), name)
    return key


def public_pem(key: RSAPrivateKey) -> bytes:
    """The public half as it stands in ``.pcrpkey`` and in tokens: a SubjectPublicKeyInfo in PEM.

    A header is compared byte for byte with what the image expects, so there is one spelling.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_public(pem: bytes, source: str) -> RSAPublicKey:
    """The public key of a PEM file.

    Raises:
        FormatError: it is not an RSA key that TPMs verify with.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPublicKey):
        raise FormatError(source, "no RSA public key in PEM; give that of an RSA-2048 key")
    _check_size(key, source)
    return key


def _check_size(key: RSAPublicKey, source: str) -> None:
    exponent = key.public_numbers().e
    if key.key_size not in _BITS or exponent != _EXPONENT:
        what = f"RSA-{key.key_size} with exponent {exponent}, which not every TPM verifies with"
        raise FormatError(source, f"{what}; give an RSA-2048 key with exponent {_EXPONENT}")


def policy_signer(pem: bytes, source: str = f"keys/{PUBLIC.name}") -> PolicySigner:
    """A public key as a TPM and as ``.pcrsig`` name it.

    Raises:
        FormatError: it is not an RSA key that TPMs verify with.
    """
    from ..formats.pcrsig import fingerprint
    from ..formats.tpm2_public import external_public
    from ..golden.unlock_predict import PolicySigner

    key = load_public(pem, source)
    return PolicySigner(name=external_public(key).name, fingerprint=fingerprint(key))


def tpm_public(pem: bytes, source: str = f"keys/{PUBLIC.name}") -> bytes:
    """A public key as TPM2_LoadExternal takes it, a TPM2B_PUBLIC: ``tpm2.pub`` of the initramfs.

    Raises:
        FormatError: it is not an RSA key that TPMs verify with.
    """
    from ..formats.tpm2 import sized
    from ..formats.tpm2_public import external_public

    return sized(external_public(load_public(pem, source)).pack())


def signed_policy_digest(pem: bytes, source: str = f"keys/{PUBLIC.name}") -> bytes:
    """What a volume's key is sealed with: PolicyAuthorize of a public key, whatever it has signed.

    Raises:
        FormatError: it is not an RSA key that TPMs verify with.
    """
    return policy_signer(pem, source).sealed
