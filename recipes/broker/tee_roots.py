"""Whom AMD's signatures are believed from: files of the operator's, and nothing that is built in or fetched.

A folder of PEM files holds AMD's root keys (ARK), keys that they signed (ASK, and ASVK for providers' keys)
and, where hosts give their guests none, certificates of the chips' keys (VCEK). The folder is read once, as
the broker starts. What AMD has revoked is not looked up: take it out of the folder and start the broker anew.

Spec: AMD 57230 section 3 (VCEK, ASK, ARK), section 3.2 (VLEK, ASVK); RFC 8017 section 8.1 (RSASSA-PSS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ..errors import FormatError, ImageError, VerifyError
from ..formats.pss_certificate import Certificate, read_pem
from ..formats.snp_certificates import Endorsement, is_endorsement, read_endorsement
from ..units import KIB
from .owned import OwnedFolder, open_owned
from .refusal import RefusedError

# Ours: a file with all of AMD's roots has less than 20 KiB.
_MAX_FILE = 64 * KIB
_SALT = 48
_PUT_THERE = "put AMD's cert_chain of the product there, as PEM"


@dataclass(frozen=True)
class Authority:
    """A key that certifies keys of chips or providers, and the root that certified it."""

    certificate: Certificate
    root: Certificate


@dataclass(frozen=True)
class TeeRoots:
    """What an operator's folder holds.

    Attributes:
        endorsements: certificates of keys that sign reports, for guests that bring none.
    """

    authorities: tuple[Authority, ...]
    endorsements: tuple[Endorsement, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> TeeRoots:
        """The certificates in a folder's ``*.pem``.

        Raises:
            ImageError: there is no such folder, others may write it or a file in it, or no root is there.
            FormatError: a file holds no certificates, or one of another kind.
            VerifyError: a certificate leads to no root in the folder.
        """
        try:
            with open_owned(folder, f"and {_PUT_THERE}") as opened:
                found = [each for name in opened.names(".pem") for each in _read_file(opened, name)]
        except OSError as error:
            raise ImageError(f"{error.filename}: {error.strerror}; {_PUT_THERE}") from None
        return sort_certificates(found, str(folder))

    def verify(self, endorsement: Endorsement, now: datetime) -> None:
        """Returns if the certificate leads to a root, and all on the way are valid.

        Raises:
            RefusedError: it does not; 403.
        """
        name = endorsement.kind.name
        leaf = endorsement.certificate
        signer = next((each for each in self.authorities if is_signed_by(leaf, each)), None)
        if signer is None:
            what = f"{name}: its certificate is signed by no ASK or ASVK of the operator's"
            raise RefusedError(403, "report", what)
        for what, each in ((name, leaf), ("ASK", signer.certificate), ("ARK", signer.root)):
            if not each.not_before <= now <= each.not_after:
                span = f"{each.not_before:%Y-%m-%d} to {each.not_after:%Y-%m-%d}"
                raise RefusedError(403, "report", f"{what}: its certificate is valid from {span}")


def sort_certificates(certificates: Sequence[Certificate], source: str) -> TeeRoots:
    """What certificates are for.

    Raises:
        ImageError: no ASK is among them.
        FormatError: one is of another kind.
        VerifyError: an authority, or a chip's certificate, leads to no root among them.
    """
    endorsements = tuple(read_endorsement(each) for each in certificates if is_endorsement(each))
    others = [each for each in certificates if not is_endorsement(each)]
    for each in others:
        if not each.is_authority:
            what = "a certificate that is neither AMD's authority nor of a key that signs reports; remove it"
            raise FormatError(each.source, what)
    roots = [each for each in others if each.issuer == each.subject and _is_signed(each, each)]
    authorities = tuple(_authority(each, roots) for each in others if each not in roots)
    if not authorities:
        raise ImageError(f"{source}: no ASK in a PEM file, so no report is believed; {_PUT_THERE}")
    for endorsement in endorsements:
        certificate = endorsement.certificate
        if not any(is_signed_by(certificate, each) for each in authorities):
            what = f"the {endorsement.kind.name} there is signed by no ASK of the folder; {_PUT_THERE}"
            raise VerifyError(f"{certificate.source}: {what}")
    return TeeRoots(authorities, endorsements)


def is_signed_by(certificate: Certificate, authority: Authority) -> bool:
    """Whether an authority has signed a certificate; their dates are not looked at."""
    return certificate.issuer == authority.certificate.subject and _is_signed(
        certificate, authority.certificate
    )


def _read_file(folder: OwnedFolder, name: str) -> tuple[Certificate, ...]:
    data, source = folder.read(name, _MAX_FILE + 1), str(folder.path / name)
    if len(data) > _MAX_FILE:
        raise FormatError(source, f"more than {_MAX_FILE} bytes; keep only AMD's certificates there")
    return read_pem(data, source)


def _authority(certificate: Certificate, roots: Sequence[Certificate]) -> Authority:
    for root in roots:
        if certificate.issuer == root.subject and _is_signed(certificate, root):
            return Authority(certificate, root)
    raise VerifyError(f"{certificate.source}: an authority that no ARK there has signed; {_PUT_THERE}")


def _is_signed(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether the issuer's key has made the signature."""
    try:
        key = serialization.load_der_public_key(issuer.public_key)
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError(issuer.source, "the key of a certificate does not parse") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise FormatError(issuer.source, "the key of an authority is not RSA; it is none of AMD's")
    scheme = padding.PSS(padding.MGF1(hashes.SHA384()), _SALT)
    try:
        key.verify(certificate.signature, certificate.signed, scheme, hashes.SHA384())
    except InvalidSignature:
        return False
    return True
