"""The operator's public key that a guest encrypts the key of a new volume to.

Spec: RFC 7468 sections 2 and 13 (PEM, SubjectPublicKeyInfo), RFC 8017 section 7.1 (RSAES-OAEP).
"""

from __future__ import annotations

import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ..errors import FormatError

MAX_PEM = 16383  # bytes; what the guest's helper reads: PEM_MAX of initrd/helpers/escrow.c
MIN_BITS, MAX_BITS = 2048, 4096
_REMEDY = "give the RSA public key that `openssl pkey -in KEY -pubout` writes"
# Nothing beside the one block: the helper in the guest takes no more either.
_ONE_KEY = re.compile(
    rb"[ \t\r\n]*-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/= \t\r\n]+-----END PUBLIC KEY-----[ \t\r\n]*"
)


def check_escrow_key(pem: bytes, source: str) -> None:
    """Stops at whatever is not exactly one RSA public key of 2048 to 4096 bits.

    Raises:
        FormatError: it is none, another kind of key or size, or not alone in its file.
    """
    if len(pem) > MAX_PEM:
        raise FormatError(source, f"has {len(pem)} bytes, at most {MAX_PEM} are read; {_REMEDY}")
    if _ONE_KEY.fullmatch(pem) is None:
        raise FormatError(source, f"not exactly one public key in PEM; {_REMEDY}")
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError(source, f"not a public key in PEM; {_REMEDY}") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise FormatError(source, f"a public key of another kind than RSA; {_REMEDY}")
    if not MIN_BITS <= key.key_size <= MAX_BITS:
        what = f"an RSA key of {key.key_size} bits, expected {MIN_BITS} to {MAX_BITS}"
        raise FormatError(source, f"{what}; make another one")
