"""Public areas of RSA and ECC keys in a TPM: read, written, named, and turned into keys that verify.

Spec: TCG TPM 2.0 Library part 2 sections 8.3 (TPMA_OBJECT), 11.1.6 (symmetric), 11.2.4 and 11.2.5 (RSA and
ECC) and 12.2 (TPMT_PUBLIC).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..errors import FormatError
from .tpm2 import HASHES, SPEC, Alg, Reader, entity_name, hash_size, sized

# Sizes of RSA keys that TPMs have and that still mean something. Spec: NIST SP 800-131A revision 2 section 3.
RSA_BITS = (2048, 3072, 4096)
# What an exponent field of zero stands for. Spec: part 2 section 12.2.3.5 (TPMS_RSA_PARMS).
_DEFAULT_EXPONENT = 65537


class Attribute(IntFlag):
    """TPMA_OBJECT; all other bits are reserved. Spec: part 2 section 8.3.2."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


_RESERVED = 0xFFFFFFFF & ~sum(Attribute)


class Curve(IntEnum):
    """TPM_ECC_CURVE. Spec: part 2 section 6.4."""

    NIST_P256 = 0x0003
    NIST_P384 = 0x0004
    NIST_P521 = 0x0005

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve as the library knows it."""
        return _CURVES[self]

    @property
    def size(self) -> int:
        """Bytes of a coordinate."""
        return (self.curve.key_size + 7) // 8


_CURVES: dict[Curve, ec.EllipticCurve] = {
    Curve.NIST_P256: ec.SECP256R1(),
    Curve.NIST_P384: ec.SECP384R1(),
    Curve.NIST_P521: ec.SECP521R1(),
}


@dataclass(frozen=True)
class Scheme:
    """A signing or decryption scheme; ``hash`` is NULL where the scheme has none."""

    algorithm: Alg = Alg.NULL
    hash: Alg = Alg.NULL

    def pack(self) -> bytes:
        """TPMT_RSA_SCHEME or TPMT_ECC_SCHEME; they are stored alike."""
        if self.hash is Alg.NULL:
            return struct.pack(">H", self.algorithm)
        return struct.pack(">HH", self.algorithm, self.hash)


@dataclass(frozen=True)
class Symmetric:
    """TPMT_SYM_DEF_OBJECT: AES in CFB mode with ``key_bits`` bits, or nothing with 0."""

    key_bits: int = 0

    def pack(self) -> bytes:
        """The bytes of this structure. Spec: part 2 section 11.1.7; a storage key's mode is CFB."""
        if not self.key_bits:
            return struct.pack(">H", Alg.NULL)
        return struct.pack(">HHH", Alg.AES, self.key_bits, Alg.CFB)


@dataclass(frozen=True)
class RsaKey:
    """The RSA part of a public area; an ``exponent`` of 0 stands for 65537, and the name tells them apart."""

    modulus: bytes
    exponent: int = 0


@dataclass(frozen=True)
class EccKey:
    """The ECC part of a public area; coordinates are kept as they were stored, for the name covers them."""

    curve: Curve
    x: bytes
    y: bytes


PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, kw_only=True)
class Public:
    """TPMT_PUBLIC of an RSA or ECC key. Spec: part 2 section 12.2.4.

    Attributes:
        policy: authPolicy, empty or a digest of ``name_algorithm``.
        symmetric: what a storage or endorsement key protects its children with.
    """

    name_algorithm: Alg
    attributes: Attribute
    key: RsaKey | EccKey
    policy: bytes = b""
    symmetric: Symmetric = Symmetric()
    scheme: Scheme = Scheme()

    @property
    def name(self) -> bytes:
        """TPM2B_NAME without its size: nameAlg and the hash of this structure."""
        return entity_name(self.name_algorithm, self.pack())

    def pack(self) -> bytes:
        """The bytes of this structure.

        Raises:
            FormatError: a part is longer than a TPM2B holds.
        """
        kind = Alg.RSA if isinstance(self.key, RsaKey) else Alg.ECC
        head = struct.pack(">HHI", kind, self.name_algorithm, self.attributes) + sized(self.policy)
        head += self.symmetric.pack() + self.scheme.pack()
        if isinstance(self.key, RsaKey):
            numbers = struct.pack(">HI", 8 * len(self.key.modulus), self.key.exponent)
            return head + numbers + sized(self.key.modulus)
        # TPMS_ECC_PARMS ends in a KDF that no command uses. Spec: part 2 section 12.2.3.6.
        curve = struct.pack(">HH", self.key.curve, Alg.NULL)
        return head + curve + sized(self.key.x) + sized(self.key.y)

    def public_key(self, source: str = "TPMT_PUBLIC") -> PublicKey:
        """The key for verifying or encrypting.

        Raises:
            FormatError: the numbers are no key: an even exponent, a point that is not on its curve.
        """
        try:
            if isinstance(self.key, RsaKey):
                modulus = int.from_bytes(self.key.modulus, "big")
                return rsa.RSAPublicNumbers(self.key.exponent or _DEFAULT_EXPONENT, modulus).public_key()
            x, y = int.from_bytes(self.key.x, "big"), int.from_bytes(self.key.y, "big")
            return ec.EllipticCurvePublicNumbers(x, y, self.key.curve.curve).public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError(source, f"the numbers are no public key ({error})", spec=SPEC) from None


def read_public(data: bytes, source: str) -> Public:
    """The public area that ``data`` holds, a TPMT_PUBLIC.

    Raises:
        FormatError: it is not exactly one, of an RSA key of 2048 to 4096 bits or an ECC key on a NIST curve.
    """
    reader = Reader(data, source)
    public = _public(reader)
    reader.finish()
    return public


def read_sized_public(data: bytes, source: str) -> Public:
    """The public area in a TPM2B_PUBLIC, as tpm2-tools keep it in files.

    Raises:
        FormatError: the size does not fit, or it holds no such public area.
    """
    reader = Reader(data, source)
    inner = reader.sized("TPM2B_PUBLIC", len(data))
    reader.finish()
    return read_public(inner, source)


def _public(reader: Reader) -> Public:
    kind = reader.algorithm("type", (Alg.RSA, Alg.ECC))
    name_algorithm = reader.hash("nameAlg")
    start = reader.offset
    bits = reader.number(4, "objectAttributes")
    if bits & _RESERVED:
        raise reader.error(f"objectAttributes {bits:#010x} have reserved bits {bits & _RESERVED:#x}", start)
    start = reader.offset
    policy = reader.sized("authPolicy", 64)
    if policy and len(policy) != hash_size(name_algorithm):
        what = f"authPolicy of {len(policy)} bytes, expected none or {hash_size(name_algorithm)}"
        raise reader.error(what, start)
    symmetric = _symmetric(reader)
    if kind is Alg.RSA:
        scheme = _scheme(reader, "scheme", (Alg.NULL, Alg.RSASSA, Alg.RSAPSS, Alg.RSAES, Alg.OAEP))
    else:
        scheme = _scheme(reader, "scheme", (Alg.NULL, Alg.ECDSA, Alg.ECDH))
    return Public(
        name_algorithm=name_algorithm,
        attributes=Attribute(bits),
        key=_rsa(reader) if kind is Alg.RSA else _ecc(reader),
        policy=policy,
        symmetric=symmetric,
        scheme=scheme,
    )


def _symmetric(reader: Reader) -> Symmetric:
    if reader.algorithm("symmetric", (Alg.NULL, Alg.AES)) is Alg.NULL:
        return Symmetric()
    start = reader.offset
    bits = reader.number(2, "symmetric keyBits")
    if bits not in (128, 192, 256):
        raise reader.error(f"symmetric keyBits is {bits}, expected 128, 192 or 256", start)
    reader.algorithm("symmetric mode", (Alg.CFB,))
    return Symmetric(bits)


def _scheme(reader: Reader, what: str, allowed: tuple[Alg, ...]) -> Scheme:
    algorithm = reader.algorithm(what, allowed)
    if algorithm in (Alg.NULL, Alg.RSAES):
        return Scheme(algorithm)
    return Scheme(algorithm, reader.hash(f"{what} hash"))


def _rsa(reader: Reader) -> RsaKey:
    start = reader.offset
    bits = reader.number(2, "keyBits")
    if bits not in RSA_BITS:
        raise reader.error(f"keyBits is {bits}, expected {', '.join(map(str, RSA_BITS))}", start)
    exponent = reader.number(4, "exponent")
    start = reader.offset
    modulus = reader.sized("modulus", bits // 8)
    if len(modulus) != bits // 8 or not modulus[0] & 0x80 or not modulus[-1] & 1:
        raise reader.error(f"modulus is not an odd number of {bits} bits", start)
    return RsaKey(modulus, exponent)


def _ecc(reader: Reader) -> EccKey:
    start = reader.offset
    value = reader.number(2, "curveID")
    curve = next((each for each in Curve if each == value), None)
    if curve is None:
        names = ", ".join(f"{each:#06x} ({each.name})" for each in Curve)
        raise reader.error(f"curveID is {value:#06x}, expected {names}", start)
    reader.algorithm("kdf", (Alg.NULL,))
    x, y = (reader.sized(name, curve.size) for name in ("x", "y"))
    return EccKey(curve, x, y)


def stored_key(key: PublicKey) -> RsaKey | EccKey:
    """A key as a public area holds it, its exponent written out.

    Raises:
        FormatError: the key is of a kind or size that no TPM here has.
    """
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        if key.key_size not in RSA_BITS or numbers.e >= 1 << 32:
            what = f"RSA-{key.key_size} with exponent {numbers.e} does not fit; use RSA-2048"
            raise FormatError("TPM public area", what, spec=SPEC)
        return RsaKey(numbers.n.to_bytes(key.key_size // 8, "big"), numbers.e)
    curve = next((each for each in Curve if each.curve.name == key.curve.name), None)
    if curve is None:
        raise FormatError("TPM public area", f"curve {key.curve.name} is not known here; use P-256")
    point = key.public_numbers()
    return EccKey(curve, *(each.to_bytes(curve.size, "big") for each in (point.x, point.y)))


# How TPM2_LoadExternal gets a key that only verifies. The choice is part of the key's name and so of every
# PolicyAuthorize, and so is that 65537 is written out instead of as 0. Spec: what systemd 252
# (src/shared/tpm2-util.c openssl_pubkey_to_tpm2_pubkey) and tpm2-tools 5.4 (tpm2_loadexternal) load.
EXTERNAL_ATTRIBUTES = Attribute.USER_WITH_AUTH | Attribute.DECRYPT | Attribute.SIGN


def external_public(key: PublicKey, name_algorithm: Alg = Alg.SHA256) -> Public:
    """The public area under which systemd and tpm2-tools load a key from a PEM file.

    Raises:
        FormatError: the key is of a kind or size that no TPM here has, or ``name_algorithm`` is no hash.
    """
    if name_algorithm not in HASHES:
        raise FormatError("TPM public area", f"nameAlg {name_algorithm.name} is no hash; use sha256")
    return Public(name_algorithm=name_algorithm, attributes=EXTERNAL_ATTRIBUTES, key=stored_key(key))


# PolicySecret(TPM_RH_ENDORSEMENT). Spec: TCG EK Credential Profile 2.5 section B.3 (default templates) and
# B.6.2 (PolicyA); measure.tpm_policy computes it.
ENDORSEMENT_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
ENDORSEMENT_ATTRIBUTES = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.ADMIN_WITH_POLICY
    | Attribute.RESTRICTED
    | Attribute.DECRYPT
)


def endorsement_public(key: PublicKey) -> Public:
    """The public area of an endorsement key made by a default template, from the key of its certificate.

    Raises:
        FormatError: the key is neither RSA-2048 nor on P-256.

    Spec: TCG EK Credential Profile 2.5 section B.3.3 (template L-1, RSA-2048) and B.3.4 (L-2, P-256).
    """
    stored = stored_key(key)
    if (isinstance(stored, RsaKey) and len(stored.modulus) != 256) or (
        isinstance(stored, EccKey) and stored.curve is not Curve.NIST_P256
    ):
        what = "neither RSA-2048 nor on P-256, so it was not made by template L-1 or L-2"
        raise FormatError("endorsement key", what)
    if isinstance(stored, RsaKey):
        # The templates ask for the default exponent, and so it stays 0 in the key.
        stored = RsaKey(stored.modulus, 0 if stored.exponent == _DEFAULT_EXPONENT else stored.exponent)
    return Public(
        name_algorithm=Alg.SHA256,
        attributes=ENDORSEMENT_ATTRIBUTES,
        key=stored,
        policy=ENDORSEMENT_POLICY,
        symmetric=Symmetric(128),
    )
