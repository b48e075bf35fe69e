"""A CA and the certificate of a server that it vouches for: what a key broker needs to be reached by HTTPS.

Spec: RFC 5280 (profile), RFC 5480 (P-256), RFC 9525 (names of a service).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import FormatError
from .secureboot_keys import NOT_AFTER, NOT_BEFORE

KeyPair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def make_key() -> bytes:
    """A new private key on P-256, PKCS #8 PEM, not encrypted."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes, source: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 private key of a PEM file.

    Raises:
        FormatError: it is none, or is encrypted.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise FormatError(source, f"not an unencrypted PEM private key ({error})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FormatError(source, "the key is not on P-256; make a new one")
    return key


def check_certificate(pem: bytes, source: str, *, whom: str = "the broker") -> None:
    """Stops at whatever is not exactly one X.509 certificate: the guest trusts one CA and no list of them.

    Args:
        whom: it vouches for, in a message.

    Raises:
        FormatError: there is none or more than one, or it does not parse.
    """
    remedy = f"give the one CA certificate that vouches for {whom}, in PEM"
    # Blocks of other labels count too: the guest's reader passes over them in silence.
    # Spec: RFC 7468 section 2.
    blocks = pem.count(b"-----BEGIN ")
    if blocks != 1 or pem.count(b"-----BEGIN CERTIFICATE-----") != 1:
        raise FormatError(source, f"{blocks} PEM blocks, expected one certificate and nothing else; {remedy}")
    try:
        x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise FormatError(source, f"not a certificate ({error}); {remedy}") from None


def make_ca(key: ec.EllipticCurvePrivateKey, common_name: str) -> x509.Certificate:
    """A self-signed CA certificate that may sign no other CA."""
    name = _name(common_name)
    builder = _builder(key.public_key(), name, name)
    usage = _usage(certificates=True)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_server(ca: KeyPair, key: ec.EllipticCurvePublicKey, hosts: Sequence[str]) -> x509.Certificate:
    """A server's certificate for its host names and addresses, signed by a CA."""
    signer, issuer = ca
    names: list[x509.GeneralName] = [_general_name(host) for host in hosts]
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        _builder(key, _name(hosts[0]), issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(identifier, critical=False)
        .sign(signer, hashes.SHA256())
    )


def make_client(key: ec.EllipticCurvePrivateKey, common_name: str) -> x509.Certificate:
    """A client's certificate that vouches for itself alone: whoever trusts it, trusts exactly this key."""
    name = _name(common_name)
    return (
        _builder(key.public_key(), name, name)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def public_key_info(certificate: bytes, source: str) -> bytes:
    """The SubjectPublicKeyInfo of a certificate in DER, itself in DER. Spec: RFC 5280 section 4.1.

    Raises:
        FormatError: it is no certificate, or has a key of no known kind.
    """
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise FormatError(source, f"not a certificate ({error})") from None
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _builder(
    key: ec.EllipticCurvePublicKey, subject: x509.Name, issuer: x509.Name
) -> x509.CertificateBuilder:
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    # Positive and at most 20 octets. Spec: RFC 5280 section 4.1.2.2.
    serial = int.from_bytes(hashlib.sha256(spki).digest()[:16], "big") | 1
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(serial).not_valid_before(NOT_BEFORE).not_valid_after(NOT_AFTER)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
