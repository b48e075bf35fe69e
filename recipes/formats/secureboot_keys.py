"""Secure Boot keys: RSA-2048 and self-signed certificates for PK, KEK and db, as PEM bytes.

Spec: UEFI 2.10 section 32.3 (platform key, key exchange keys) and section 32.4.1 (EFI_CERT_X509_GUID;
RSA-2048 is what every implementation supports).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from ..errors import FormatError

KEY_BITS = 2048
# Firmware does not look at validity (a clock proves nothing before boot); dates up to 2049 stay in UTCTime.
# Spec: RFC 5280 section 4.1.2.5.
NOT_BEFORE = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
NOT_AFTER = dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


@dataclass(frozen=True)
class SigningKey:
    """A private key (PKCS #8 PEM, not encrypted) and its self-signed certificate (PEM)."""

    private_key: bytes
    certificate: bytes


@dataclass(frozen=True)
class SecureBootKeys:
    """The three key pairs of one platform owner."""

    pk: SigningKey
    kek: SigningKey
    db: SigningKey


def make_keys(common_name: str) -> SecureBootKeys:
    """Three new random key pairs; the certificates are called ``common_name`` and PK, KEK or db.

    Raises:
        FormatError: the name is empty or too long for a certificate.
    """
    pk, kek, db = (make_key(f"{common_name} {role}") for role in ("PK", "KEK", "db"))
    return SecureBootKeys(pk=pk, kek=kek, db=db)


def make_key(common_name: str) -> SigningKey:
    """One new random key pair.

    Raises:
        FormatError: the name is empty or too long for a certificate.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return SigningKey(pem, make_certificate(key, common_name).public_bytes(serialization.Encoding.PEM))


def make_certificate(key: rsa.RSAPrivateKey, common_name: str) -> x509.Certificate:
    """A self-signed certificate that is a function of the key and the name alone.

    It is a CA certificate: sbverify and osslsigncode hand it to OpenSSL as trust anchor, which accepts a
    self-signed certificate as issuer only with ``CA:TRUE`` and keyCertSign (RFC 5280 sections 4.2.1.3 and
    4.2.1.9); firmware does not look at either.

    Raises:
        FormatError: the name is empty or too long for a certificate.
    """
    if not 1 <= len(common_name) <= 64:
        what = f"common name of {len(common_name)} characters, expected 1 to 64; shorten it"
        raise FormatError("certificate", what, spec="RFC 5280 appendix A.1, ub-common-name")
    public = key.public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    # Positive and at most 20 octets. Spec: RFC 5280 section 4.1.2.2.
    serial = int.from_bytes(hashlib.sha256(spki).digest()[:16], "big") | 1
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def load_key(pem: bytes, source: str) -> rsa.RSAPrivateKey:
    """The RSA private key of a PEM file.

    Raises:
        FormatError: not an unencrypted PEM private key, or not RSA.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError(source, f"not an unencrypted PEM private key ({error})") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise FormatError(source, "the key is not RSA; Secure Boot needs RSA-2048")
    return key


def load_certificate(pem: bytes, source: str) -> x509.Certificate:
    """The X.509 certificate of a PEM file.

    Raises:
        FormatError: not a PEM certificate.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise FormatError(source, f"not a PEM certificate ({error})") from None
