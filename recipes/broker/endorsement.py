"""Certificates of endorsement keys, up to a CA that is pinned.

The signatures, dates and constraints are the library's to check; what makes a certificate one of an
endorsement key is checked here, because a CA may also certify keys that live in no TPM.

Spec: TCG EK Credential Profile 2.5 section 3.2 (fields of the certificate), RFC 5280 section 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification

from ..errors import FormatError, ImageError
from ..formats.tpm2_public import PublicKey
from ..units import MIB
from .owned import read_owned
from .refusal import RefusedError

# tcg-kp-EKCertificate. Spec: TCG EK Credential Profile 2.5 section 3.2.16.
EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
# Ours: CAs between the endorsement key's certificate and the pinned one, which counts too.
MAX_DEPTH = 4
# Ours: all CAs of all makers of TPMs have less.
_MAX_FILE = MIB


@dataclass(frozen=True)
class EndorsementKey:
    """A certified endorsement key."""

    certificate: x509.Certificate
    key: PublicKey


def read_authorities(paths: Sequence[Path]) -> tuple[x509.Certificate, ...]:
    """The certificates in PEM files.

    Raises:
        ImageError: a file cannot be read, or others may write it.
        FormatError: a file holds none, or is too large to hold only them.
    """
    found: list[x509.Certificate] = []
    for path in paths:
        try:
            data = read_owned(path, _MAX_FILE + 1)
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}; give the PEM file of a CA") from None
        if len(data) > _MAX_FILE:
            raise FormatError(str(path), f"more than {_MAX_FILE} bytes; keep only certificates of CAs there")
        try:
            found += x509.load_pem_x509_certificates(data)
        except ValueError as error:
            raise FormatError(str(path), f"no certificates in PEM: {error}") from None
    return tuple(found)


def fingerprint(certificate: x509.Certificate) -> str:
    """``ek:`` and the SHA-256 of a certificate."""
    return "ek:" + hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def verify_endorsement(
    certificates: Sequence[bytes], authorities: Sequence[x509.Certificate], now: datetime
) -> EndorsementKey:
    """The endorsement key of the first certificate.

    Args:
        certificates: in DER; the endorsement key's own, then CAs on the way to a pinned one.

    Raises:
        RefusedError: one does not parse (400), or they do not lead to a pinned CA (403).
    """
    try:
        leaf, *others = [x509.load_der_x509_certificate(each) for each in certificates]
    except ValueError:
        raise RefusedError(400, "ek_certificates", "not a certificate in DER") from None
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(list(authorities)))
        .time(now)
        .max_chain_depth(MAX_DEPTH)
        .extension_policies(ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=_policy())
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, others)
        key = leaf.public_key()
    except (verification.VerificationError, UnsupportedAlgorithm, ValueError) as error:
        what = str(error).splitlines()[0] if str(error) else "not verified"
        raise RefusedError(403, "ek", f"its certificate does not lead to a pinned CA ({what})") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise RefusedError(403, "ek", "its certificate is for a key that no TPM has")
    return EndorsementKey(leaf, key)


def _policy() -> verification.ExtensionPolicy:
    """What the endorsement key's own certificate has to say.

    Its subject is usually empty and its alternative name that of a TPM model, so names decide nothing.
    """
    agnostic = verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.ExtendedKeyUsage, agnostic, _is_endorsement)
        .may_be_present(x509.BasicConstraints, agnostic, _is_no_authority)
    )


def _is_endorsement(
    policy: verification.Policy, certificate: x509.Certificate, usage: x509.ExtendedKeyUsage
) -> None:
    if EK_USAGE not in usage:
        raise ValueError("it is no certificate of an endorsement key")


def _is_no_authority(
    policy: verification.Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints | None
) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("it is a CA's certificate")
