"""ECDSA on P-384 with SHA-384, as Islet's tools use it: keys, signatures and their two encodings.

Realm metadata holds points and signatures raw (big endian, no prefix), application images hold them in DER.
Signing is deterministic, so the same key and input give the same file. Signatures are not normalised to a
small ``s``: verifiers accept both halves, and so do the crates that Islet uses.

Spec: FIPS 186-5 section 6.4; RFC 6979 section 3.2; SEC 1 version 2.0 sections 2.3 and C.4; RFC 5480
section 2; image-registry 92e5635 ``ir-sign/src/crypto.rs``, realm-metadata-tool f08738d ``src/crypto.rs``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from ..errors import FormatError
from . import der

COORDINATE_SIZE = 48
# X then Y, or r then s.
RAW_SIZE = 2 * COORDINATE_SIZE
# Order of the base point. Spec: SP 800-186 section 3.2.1.4.
ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
# Spec: RFC 5480 sections 2.1.1 (id-ecPublicKey) and 2.1.1.1 (secp384r1).
OID_EC_PUBLIC_KEY = der.encode_oid("1.2.840.10045.2.1")
OID_SECP384R1 = der.encode_oid("1.3.132.0.34")
# Before the coordinates in a BIT STRING: no unused bits, and the mark of an uncompressed point.
_POINT_PREFIX = b"\x00\x04"
_ALGORITHM = der.encode_sequence(OID_EC_PUBLIC_KEY, OID_SECP384R1)
# Spec: RFC 5480 section 2; 120 bytes for this curve.
SPKI_SIZE = len(
    der.encode_sequence(_ALGORITHM, der.encode(der.BIT_STRING, _POINT_PREFIX, bytes(RAW_SIZE))),
)
_ALGORITHM_ECDSA = ec.ECDSA(hashes.SHA384())


@dataclass(frozen=True)
class Signature:
    """One signature; both numbers are from 1 to the order minus 1."""

    r: int
    s: int

    @classmethod
    def from_raw(cls, data: bytes, source: str) -> Signature:
        """The signature of 96 bytes, r then s.

        Raises:
            FormatError: another length, or a number that no signature has.
        """
        if len(data) != RAW_SIZE:
            raise FormatError(source, f"signature of {len(data)} bytes, expected {RAW_SIZE} (r, then s)")
        return cls._checked(
            int.from_bytes(data[:COORDINATE_SIZE], "big"),
            int.from_bytes(data[COORDINATE_SIZE:], "big"),
            source,
        )

    @classmethod
    def from_der(cls, data: bytes, source: str) -> Signature:
        """The signature of an ECDSA-Sig-Value. Spec: RFC 5480 appendix A.

        Raises:
            FormatError: not strict DER of two integers, or a number that no signature has.
        """
        element = der.read(data, source).expect(der.SEQUENCE, "the signature")
        numbers = element.children()
        if len(numbers) != 2:
            raise element.error(f"the signature has {len(numbers)} fields, expected r and s")
        return cls._checked(numbers[0].integer("r"), numbers[1].integer("s"), source)

    @classmethod
    def _checked(cls, r: int, s: int, source: str) -> Signature:
        for name, value in (("r", r), ("s", s)):
            if not 1 <= value < ORDER:
                size = "zero or negative" if value < 1 else "not below the order of P-384"
                raise FormatError(
                    source, f"{name} of the signature is {size}", spec="FIPS 186-5 section 6.4.2"
                )
        return cls(r, s)

    @property
    def raw(self) -> bytes:
        """96 bytes, r then s."""
        return self.r.to_bytes(COORDINATE_SIZE, "big") + self.s.to_bytes(COORDINATE_SIZE, "big")

    @property
    def der(self) -> bytes:
        """ECDSA-Sig-Value in DER, at most 104 bytes."""
        return der.encode_sequence(der.encode_integer(self.r), der.encode_integer(self.s))


@dataclass(frozen=True)
class PublicKey:
    """A point that is known to be on the curve; made by the ``from_`` functions.

    Attributes:
        point: 96 bytes, X then Y.
    """

    point: bytes

    @classmethod
    def from_point(cls, data: bytes, source: str) -> PublicKey:
        """The key of 96 bytes, X then Y.

        Raises:
            FormatError: another length, or not a point of the curve.
        """
        if len(data) != RAW_SIZE:
            raise FormatError(source, f"public key of {len(data)} bytes, expected {RAW_SIZE} (X, then Y)")
        key = cls(bytes(data))
        try:
            key._load()
        except ValueError:
            raise FormatError(source, "the public key is not a point of the curve P-384") from None
        return key

    @classmethod
    def from_der(cls, data: bytes, source: str) -> PublicKey:
        """The key of a SubjectPublicKeyInfo with an uncompressed point, 120 bytes.

        Raises:
            FormatError: anything else, or not a point of the curve.
        """
        key = cls(bytes(data[-RAW_SIZE:]))
        if len(data) != SPKI_SIZE or key.der != data:
            raise FormatError(
                source,
                f"{len(data)} bytes that are not a P-384 public key, expected {SPKI_SIZE} bytes of "
                "SubjectPublicKeyInfo; write one with `openssl ec -in KEY -pubout -outform DER`",
                spec="RFC 5480 section 2",
            )
        return cls.from_point(key.point, source)

    @property
    def der(self) -> bytes:
        """SubjectPublicKeyInfo in DER, 120 bytes: what Islet calls a ``.pub`` file."""
        return der.encode_sequence(_ALGORITHM, der.encode(der.BIT_STRING, _POINT_PREFIX, self.point))

    def verify(self, data: bytes, signature: Signature) -> bool:
        """Whether this key signed the SHA-384 of ``data``."""
        try:
            self._load().verify(utils.encode_dss_signature(signature.r, signature.s), data, _ALGORITHM_ECDSA)
        except InvalidSignature:
            return False
        return True

    def _load(self) -> ec.EllipticCurvePublicKey:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), b"\x04" + self.point)


@dataclass(frozen=True)
class SigningKey:
    """A private key; it is never printed, and two are equal when their public keys are."""

    public: PublicKey
    _key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls) -> SigningKey:
        """A new random key."""
        return cls._of(ec.generate_private_key(ec.SECP384R1()))

    @classmethod
    def from_scalar(cls, scalar: int, source: str) -> SigningKey:
        """The key of a secret number.

        Raises:
            FormatError: the number is not from 1 to the order minus 1.
        """
        if not 1 <= scalar < ORDER:
            raise FormatError(source, "the private key is zero or not below the order of P-384")
        return cls._of(ec.derive_private_key(scalar, ec.SECP384R1()))

    @classmethod
    def _of(cls, key: ec.EllipticCurvePrivateKey) -> SigningKey:
        point = key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        return cls(PublicKey(point[1:]), key)

    def sign(self, data: bytes) -> Signature:
        """The signature over the SHA-384 of ``data``; always the same one. Spec: RFC 6979 section 3.2.

        Raises:
            FormatError: the OpenSSL below this Python cannot sign deterministically.
        """
        try:
            algorithm = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)
            encoded = self._key.sign(data, algorithm)
        except UnsupportedAlgorithm:
            raise FormatError(
                "P-384 key",
                "this OpenSSL cannot make deterministic signatures; use the locked cryptography package, "
                "or one that is linked with OpenSSL 3.2 or newer",
                spec="RFC 6979",
            ) from None
        return Signature(*utils.decode_dss_signature(encoded))

    @property
    def pem(self) -> bytes:
        """The key as SEC1 PEM, the form that realm-metadata-tool reads. Secret."""
        return self._encoded(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The key as SEC1 DER, the ``.prv`` form that ir-sign reads. Secret."""
        return self._encoded(serialization.Encoding.DER)

    def _encoded(self, encoding: serialization.Encoding) -> bytes:
        return self._key.private_bytes(
            encoding, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
