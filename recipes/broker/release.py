"""A volume's key on its way: what a quote is bound to, and the key encrypted to one guest.

Spec: ``protocol.PROTOCOL``; RFC 5869 (HKDF), NIST SP 800-56A (ECDH), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .refusal import RefusedError

_LABEL = b"goldsmith key release 1"
_KEY_SIZE, _IV_SIZE = 32, 12


@dataclass(frozen=True)
class Wrapped:
    """A key that only one guest can read: the broker's ephemeral public key, then ciphertext and tag."""

    ephemeral: bytes
    data: bytes


def binding(nonce: bytes, ephemeral: bytes, volume: str) -> bytes:
    """What the quote's extraData has to be: without it an answer could be asked for in a guest's name."""
    return hashlib.sha256(nonce + ephemeral + volume.encode("ascii")).digest()


def read_point(ephemeral: bytes) -> ec.EllipticCurvePublicKey:
    """The guest's ephemeral key.

    Raises:
        RefusedError: it is no point on the curve; 400.
    """
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), ephemeral)
    except ValueError:
        raise RefusedError(400, "ephemeral", "not a point on P-256") from None


def wrap(
    key: bytes | bytearray,
    *,
    guest: ec.EllipticCurvePublicKey,
    session: str,
    volume: str,
    nonce: bytes,
    own: ec.EllipticCurvePrivateKey | None = None,
) -> Wrapped:
    """``key`` for the guest alone.

    Args:
        own: the broker's ephemeral key, used for nothing else; a new one when not given.
    """
    own = own or ec.generate_private_key(ec.SECP256R1())
    ours, theirs = _point(own.public_key()), _point(guest)
    derive = HKDF(hashes.SHA256(), _KEY_SIZE + _IV_SIZE, salt=nonce, info=_LABEL + ours + theirs).derive
    secret = derive(own.exchange(ec.ECDH(), guest))
    additional = session.encode("ascii") + volume.encode("ascii") + nonce
    return Wrapped(ours, AESGCM(secret[:_KEY_SIZE]).encrypt(secret[_KEY_SIZE:], key, additional))


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
