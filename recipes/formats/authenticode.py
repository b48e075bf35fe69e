"""Authenticode: the digest firmware measures, and signing.

Spec: Windows Authenticode Portable Executable Signature Format (2008), sections "Authenticode Signature" and
"Calculating the PE Image Hash"; UEFI 2.10 section 32.2.4. Reading signatures is in ``authenticode_verify``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ..binary import Struct, u16, u32
from ..errors import FormatError
from ..units import align_up, pad
from . import der
from .pe import PeImage

SPEC = "Authenticode PE, section 'Calculating the PE Image Hash'"

# Spec: UEFI 2.10 section 32.2.4, WIN_CERT_TYPE_PKCS_SIGNED_DATA and the revision.
WIN_CERT_REVISION = 0x0200
WIN_CERT_TYPE_PKCS_SIGNED_DATA = 0x0002
# The certificate table and each entry start on a quadword.
# Spec: Microsoft PE Format, "The Attribute Certificate Table".
CERTIFICATE_ALIGNMENT = 8

# Spec: RFC 5652 section 14 and RFC 8017 appendix A; the SPC ones: Authenticode PE, "Authenticode-specific
# structures".
OID_SIGNED_DATA = "1.2.840.113549.1.7.2"
OID_CONTENT_TYPE = "1.2.840.113549.1.9.3"
OID_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
OID_RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
OID_SHA256 = "2.16.840.1.101.3.4.2.1"
OID_SPC_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
OID_SPC_PE_IMAGE_DATA = "1.3.6.1.4.1.311.2.1.15"

ALGORITHMS = ("sha1", "sha256", "sha384", "sha512")


class WinCertificate(Struct):
    """Header of one entry of the certificate table; ``length`` covers header and data, without padding."""

    length: u32
    revision: u16
    certificate_type: u16


def image_digest(data: bytes | memoryview, algorithm: str, *, source: str = "PE image") -> bytes:
    """Authenticode digest of an image, as firmware measures it into PCR 4.

    An image whose length is no multiple of 8 is hashed as it is: firmware does not pad it (edk2
    stable202502, SecurityPkg/Library/DxeImageVerificationLib, HashPeImage). ``sign`` pads first.

    Args:
        algorithm: any name that ``hashlib`` knows.

    Raises:
        FormatError: not a PE32+ image, or one whose digest would be ambiguous.
    """
    return _digests(PeImage.parse(data, source), (algorithm,))[algorithm]


def image_digests(data: bytes | memoryview, *, source: str = "PE image") -> dict[str, bytes]:
    """Authenticode digests of an image in SHA-1, SHA-256, SHA-384 and SHA-512, by hashlib's names.

    Raises:
        FormatError: as for ``image_digest``.
    """
    return _digests(PeImage.parse(data, source), ALGORITHMS)


def _digests(image: PeImage, algorithms: tuple[str, ...]) -> dict[str, bytes]:
    states = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    for part in _hashed(image):
        for state in states.values():
            state.update(part)
    return {name: state.digest() for name, state in states.items()}


def _hashed(image: PeImage) -> Iterator[memoryview]:
    """The bytes that are hashed, in order: headers without two fields, sections, what follows them."""
    data, directory = image.data, image.certificate_directory_offset
    headers_end = image.optional.size_of_headers
    yield data[: image.checksum_offset]
    if directory is None:
        yield data[image.checksum_offset + 4 : headers_end]
    else:
        yield data[image.checksum_offset + 4 : directory]
        yield data[directory + 8 : headers_end]
    hashed = headers_end
    for span in sorted(
        (section.raw_range for section in image.sections if section.raw_range), key=lambda r: r.start
    ):
        yield data[span.start : span.stop]
        hashed += len(span)
    # The rest starts at the *count* of bytes hashed so far, not where the last section ends; the two differ
    # where there are gaps between sections.
    yield data[hashed : max(len(data) - image.certificates[1], hashed)]


def strip_signature(data: bytes, *, source: str = "PE image") -> bytes:
    """The image without its certificate table; the bytes that were padded before signing stay.

    Raises:
        FormatError: not a PE32+ image.
    """
    image = PeImage.parse(data, source)
    offset, size = image.certificates
    directory = image.certificate_directory_offset
    if not size or directory is None:
        return data
    return data[:directory] + bytes(8) + data[directory + 8 : offset]


def sign(
    data: bytes,
    key: rsa.RSAPrivateKey,
    certificate: x509.Certificate,
    *,
    source: str = "PE image",
    replace: bool = False,
) -> bytes:
    """The image with one RSA PKCS #1 v1.5 SHA-256 signature; the same input always gives the same bytes.

    The checksum is set to zero, the image is padded to 8 bytes before it is hashed, and no signing time is
    attested.

    Args:
        replace: drop the signatures the image already has.

    Raises:
        FormatError: not a PE32+ image, already signed, without room for the certificate table's entry, with
            gaps that tools hash differently, or the certificate is not the key's.
    """
    if certificate.public_key() != key.public_key():
        raise FormatError(source, "the certificate is for another key than the one to sign with")
    image = PeImage.parse(data, source)
    if image.certificates[1]:
        if not replace:
            raise FormatError(source, "the image is already signed; ask for the signature to be replaced")
        return sign(strip_signature(data, source=source), key, certificate, source=source)
    directory = image.certificate_directory_offset
    if directory is None:
        raise FormatError(source, f"{len(image.directories)} data directories leave no room for a signature")
    _refuse_gaps(image)

    unsigned = bytearray(data)
    unsigned += bytes(-len(data) % CERTIFICATE_ALIGNMENT)
    unsigned[image.checksum_offset : image.checksum_offset + 4] = bytes(4)
    digest = image_digest(memoryview(unsigned), "sha256", source=source)
    table = _certificate_entry(_signed_data(digest, key, certificate))
    unsigned[directory : directory + 8] = struct.pack("<2I", len(unsigned), len(table))
    return b"".join((unsigned, table))


def _refuse_gaps(image: PeImage) -> None:
    spans = sorted(
        (section.raw_range for section in image.sections if section.raw_range), key=lambda r: r.start
    )
    for before, after in pairwise((range(image.optional.size_of_headers), *spans)):
        if before.stop != after.start:
            what = (
                f"no section covers {before.stop:#x} to {after.start:#x}; tools hash such images differently"
            )
            raise FormatError(image.source, what, offset=before.stop, spec=SPEC)


def _certificate_entry(signed_data: bytes) -> bytes:
    # sbsign and firmware count the padding into the entry's length; both readings are accepted everywhere.
    padded = pad(signed_data, CERTIFICATE_ALIGNMENT)
    header = WinCertificate(
        length=align_up(WinCertificate.SIZE + len(signed_data), CERTIFICATE_ALIGNMENT),
        revision=WIN_CERT_REVISION,
        certificate_type=WIN_CERT_TYPE_PKCS_SIGNED_DATA,
    )
    return header.pack() + padded


def _algorithm(oid: str) -> bytes:
    return der.encode_sequence(der.encode_oid(oid), der.encode(der.NULL))


def _indirect_data(digest: bytes) -> bytes:
    """Contents of SpcIndirectDataContent: what is signed about a PE image with this SHA-256 digest."""
    # SpcPeImageData: no flags, and a file link that the specification fixes to this obsolete text.
    text = der.encode(der.context(0, constructed=False), "<<<Obsolete>>>".encode("utf-16-be"))
    link = der.encode(der.context(0), der.encode(der.context(2), text))
    image_data = der.encode_sequence(der.encode(der.BIT_STRING, b"\0"), link)
    kind = der.encode_sequence(der.encode_oid(OID_SPC_PE_IMAGE_DATA), image_data)
    return kind + der.encode_sequence(_algorithm(OID_SHA256), der.encode(der.OCTET_STRING, digest))


def _signed_data(digest: bytes, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> bytes:
    """DER of a ContentInfo that holds the SignedData. Spec: PKCS #7 1.5, RFC 2315 sections 7 and 9."""
    content = _indirect_data(digest)
    attributes = [
        _attribute(OID_CONTENT_TYPE, der.encode_oid(OID_SPC_INDIRECT_DATA)),
        _attribute(OID_MESSAGE_DIGEST, der.encode(der.OCTET_STRING, hashlib.sha256(content).digest())),
    ]
    # Signed as a SET OF, stored under a context tag. Spec: RFC 2315 section 9.3.
    signature = key.sign(der.encode_set_of(attributes), padding.PKCS1v15(), hashes.SHA256())
    signer = der.encode_sequence(
        der.encode_integer(1),
        der.encode_sequence(certificate.issuer.public_bytes(), der.encode_integer(certificate.serial_number)),
        _algorithm(OID_SHA256),
        der.encode_set_of(attributes, der.context(0)),
        _algorithm(OID_RSA_ENCRYPTION),
        der.encode(der.OCTET_STRING, signature),
    )
    signed_data = der.encode_sequence(
        der.encode_integer(1),
        der.encode_set_of([_algorithm(OID_SHA256)]),
        der.encode_sequence(
            der.encode_oid(OID_SPC_INDIRECT_DATA), der.encode(der.context(0), der.encode_sequence(content))
        ),
        der.encode(der.context(0), certificate.public_bytes(serialization.Encoding.DER)),
        der.encode_set_of([signer]),
    )
    return der.encode_sequence(der.encode_oid(OID_SIGNED_DATA), der.encode(der.context(0), signed_data))


def _attribute(oid: str, value: bytes) -> bytes:
    return der.encode_sequence(der.encode_oid(oid), der.encode_set_of([value]))
