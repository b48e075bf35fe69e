"""Signatures that TPM keys make, TPMT_SIGNATURE: read, written and verified.

Spec: TCG TPM 2.0 Library part 2 section 11.3 (signatures), part 1 annexes B.6, B.7 (RSASSA, RSAPSS) and C.4
(ECDSA); version 1.59.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from ..errors import VerifyError
from .tpm2 import Alg, Reader, sized
from .tpm2_public import PublicKey

_HASHES: dict[Alg, hashes.HashAlgorithm] = {
    Alg.SHA256: hashes.SHA256(),
    Alg.SHA384: hashes.SHA384(),
    Alg.SHA512: hashes.SHA512(),
}
_RSA_SCHEMES = (Alg.RSASSA, Alg.RSAPSS)
# RSA-4096, and a coordinate of P-521. Spec: see tpm2_public.
_MAX_RSA = 512
_MAX_COORDINATE = 66


@dataclass(frozen=True)
class RsaSignature:
    """TPMS_SIGNATURE_RSA with its selector: scheme RSASSA (PKCS #1 v1.5) or RSAPSS."""

    scheme: Alg
    hash: Alg
    value: bytes

    def pack(self) -> bytes:
        """The TPMT_SIGNATURE."""
        return struct.pack(">HH", self.scheme, self.hash) + sized(self.value)


@dataclass(frozen=True)
class EccSignature:
    """TPMS_SIGNATURE_ECDSA with its selector; r and s are big endian and may be shorter than the curve."""

    hash: Alg
    r: bytes
    s: bytes

    @property
    def scheme(self) -> Alg:
        """Always ECDSA."""
        return Alg.ECDSA

    def pack(self) -> bytes:
        """The TPMT_SIGNATURE."""
        return struct.pack(">HH", Alg.ECDSA, self.hash) + sized(self.r) + sized(self.s)


Signature = RsaSignature | EccSignature


def read_signature(data: bytes, source: str) -> Signature:
    """The signature in ``data``.

    Raises:
        FormatError: not exactly one TPMT_SIGNATURE of RSASSA, RSAPSS or ECDSA.
    """
    reader = Reader(data, source)
    scheme = reader.algorithm("sigAlg", (*_RSA_SCHEMES, Alg.ECDSA))
    algorithm = reader.hash("hash")
    signature: Signature
    if scheme is Alg.ECDSA:
        r, s = (reader.sized(name, _MAX_COORDINATE) for name in ("signatureR", "signatureS"))
        signature = EccSignature(algorithm, r, s)
    else:
        signature = RsaSignature(scheme, algorithm, reader.sized("sig", _MAX_RSA))
    reader.finish()
    return signature


def verify_signature(signature: Signature, key: PublicKey, message: bytes, source: str) -> None:
    """Returns if ``key`` signed ``message``.

    A signature over SHA-1 is refused. RSAPSS salts may have any length: TPMs use the longest that fits, or
    that of the hash (Spec: part 1 annex B.7).

    Raises:
        VerifyError: it did not, or the signature is of another kind than the key.
    """
    algorithm = _HASHES.get(signature.hash)
    if algorithm is None:
        raise VerifyError(
            f"{source}: the signature is over {signature.hash.name}; sign with SHA-256 or longer"
        )
    try:
        if isinstance(signature, RsaSignature) and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature.value, message, _padding(signature.scheme, algorithm), algorithm)
            return
        if isinstance(signature, EccSignature) and isinstance(key, ec.EllipticCurvePublicKey):
            r, s = (int.from_bytes(number, "big") for number in (signature.r, signature.s))
            key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(algorithm))
            return
    except (InvalidSignature, UnsupportedAlgorithm):
        raise VerifyError(f"{source}: the signature was not made with this key over these bytes") from None
    kind = "RSA" if isinstance(key, rsa.RSAPublicKey) else "ECC"
    raise VerifyError(f"{source}: {signature.scheme.name} signature, but the key is {kind}; take its own key")


def _padding(scheme: Alg, algorithm: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    if scheme is Alg.RSAPSS:
        return padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
    return padding.PKCS1v15()
