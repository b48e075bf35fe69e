"""Which trusted certificate verifies a signed PE image, decided as UEFI firmware decides it.

Spec: UEFI 2.10 section 32.5.3.3 (authorization process); RFC 2315 section 9; Authenticode PE, "Authenticode
Signature".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ..errors import FormatError, VerifyError
from ..units import align_up
from . import der
from .authenticode import (
    CERTIFICATE_ALIGNMENT,
    OID_CONTENT_TYPE,
    OID_MESSAGE_DIGEST,
    OID_RSA_ENCRYPTION,
    OID_SIGNED_DATA,
    OID_SPC_INDIRECT_DATA,
    OID_SPC_PE_IMAGE_DATA,
    WIN_CERT_REVISION,
    WIN_CERT_TYPE_PKCS_SIGNED_DATA,
    WinCertificate,
    image_digest,
)
from .pe import PeImage

# Spec: RFC 8017 appendix A.2.4 and RFC 5754; SHA-1 signatures are refused.
_HASHES: dict[bytes, tuple[str, hashes.HashAlgorithm]] = {
    der.encode_oid("2.16.840.1.101.3.4.2.1"): ("sha256", hashes.SHA256()),
    der.encode_oid("2.16.840.1.101.3.4.2.2"): ("sha384", hashes.SHA384()),
    der.encode_oid("2.16.840.1.101.3.4.2.3"): ("sha512", hashes.SHA512()),
}
_RSA = {der.encode_oid(OID_RSA_ENCRYPTION)} | {
    der.encode_oid(f"1.2.840.113549.1.1.{number}") for number in (11, 12, 13)
}

# Ours: a chain from a signer to a trusted certificate is not longer than this.
_CHAIN_LIMIT = 8


@dataclass(frozen=True)
class Signature:
    """One parsed signature.

    Attributes:
        digest_algorithm: hashlib's name of the algorithm of ``image_digest``.
        image_digest: the Authenticode digest that was signed.
        content: what the message digest covers.
        attributes: the signed attributes, encoded as the SET OF that was signed.
        signer: the certificate of the key that signed.
        chain: every certificate that came with the signature.
    """

    digest_algorithm: str
    image_digest: bytes
    content: bytes
    message_digest: bytes
    attributes: bytes
    hash: hashes.HashAlgorithm
    signature: bytes
    signer: x509.Certificate
    chain: tuple[x509.Certificate, ...]


def verify(
    data: bytes | memoryview, certificates: Sequence[x509.Certificate], *, source: str = "PE image"
) -> x509.Certificate:
    """The first of the trusted certificates that verifies the image.

    As in edk2 (stable202502, DxeImageVerificationLib): signatures in file order, trusted certificates in the
    order given, a chain may end at any trusted certificate, and validity periods and key usage do not count.

    Raises:
        FormatError: not a PE32+ image, or a signature that cannot be read.
        VerifyError: unsigned, changed since it was signed, or signed by nobody who is trusted.
    """
    signatures = list(read_signatures(PeImage.parse(data, source)))
    if not signatures:
        raise VerifyError(f"{source}: the image is not signed; sign it with a key of db")
    failures: list[VerifyError] = []
    for signature in signatures:
        try:
            _check(signature, data, source)
        except VerifyError as error:
            failures.append(error)
            continue
        for certificate in certificates:
            if _leads_to(signature, certificate):
                return certificate
    if failures:
        raise failures[0]
    names = ", ".join(signature.signer.subject.rfc4514_string() for signature in signatures)
    raise VerifyError(
        f"{source}: signed by {names}, which none of {len(certificates)} trusted certificates issued; "
        "enroll that certificate in db or sign with another key"
    )


def read_signatures(image: PeImage) -> Iterator[Signature]:
    """The signatures of an image, in file order; nothing is verified yet.

    Raises:
        FormatError: a table entry, the SignedData or a certificate cannot be read.
    """
    offset, size = image.certificates
    end = offset + size
    if offset % CERTIFICATE_ALIGNMENT:
        raise FormatError(
            image.source, "the certificate table does not start at a multiple of 8", offset=offset
        )
    while offset < end:
        entry = WinCertificate.unpack(image.data[:end], offset, source=image.source)
        if not WinCertificate.SIZE < entry.length <= end - offset:
            what = f"certificate entry of {entry.length} bytes in a table with {end - offset} left"
            raise FormatError(image.source, what, offset=offset)
        kind = (entry.revision, entry.certificate_type)
        if kind != (WIN_CERT_REVISION, WIN_CERT_TYPE_PKCS_SIGNED_DATA):
            what = f"certificate entry {kind[0]:#06x}/{kind[1]:#06x}, expected 0x0200/0x0002 (PKCS #7)"
            raise FormatError(image.source, what, offset=offset, spec="UEFI 2.10 section 32.2.4")
        blob = bytes(image.data[offset + WinCertificate.SIZE : offset + entry.length])
        yield _read_signed_data(blob, f"{image.source} signature at {offset:#x}")
        offset += align_up(entry.length, CERTIFICATE_ALIGNMENT)


def _check(signature: Signature, data: bytes | memoryview, source: str) -> None:
    """Refuses a signature that is not the signer's, or not about this image."""
    computed = image_digest(data, signature.digest_algorithm, source=source)
    if computed != signature.image_digest:
        raise VerifyError(
            f"{source}: {signature.digest_algorithm} digest is {computed.hex()}, "
            f"{signature.image_digest.hex()} was signed; the image changed after it was signed"
        )
    name = signature.hash.name
    content = hashlib.new(name, signature.content).digest()
    if content != signature.message_digest:
        raise VerifyError(
            f"{source}: {name} digest of the signed content is {content.hex()}, "
            f"the signature says {signature.message_digest.hex()}"
        )
    key = signature.signer.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise FormatError(source, "the signer's key is not RSA; sign with RSA-2048")
    try:
        key.verify(signature.signature, signature.attributes, padding.PKCS1v15(), signature.hash)
    except InvalidSignature:
        signer = signature.signer.subject.rfc4514_string()
        raise VerifyError(f"{source}: the signature was not made with the key of {signer}") from None


def _leads_to(signature: Signature, trusted: x509.Certificate) -> bool:
    """Whether issuers, taken from the certificates that came along, lead from the signer to ``trusted``."""
    current = signature.signer
    for _ in range(_CHAIN_LIMIT):
        if current == trusted or _issued(trusted, current):
            return True
        issuer = next((each for each in signature.chain if each != current and _issued(each, current)), None)
        if issuer is None:
            return False
        current = issuer
    return False


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _read_signed_data(blob: bytes, source: str) -> Signature:
    outer = der.read(blob, source, trailing=True)
    rest = blob[len(outer.encoded) :]
    if len(rest) >= CERTIFICATE_ALIGNMENT or any(rest):
        what = f"{len(rest)} bytes follow the SignedData, expected fewer than 8 zeros"
        raise FormatError(source, what, offset=len(outer.encoded))
    content_info = _parts(outer, der.SEQUENCE, "ContentInfo", 2)
    if content_info[0].encoded != der.encode_oid(OID_SIGNED_DATA):
        raise content_info[0].error("ContentInfo is not signedData")
    fields = (
        _only(content_info[1], der.context(0), "ContentInfo").expect(der.SEQUENCE, "SignedData").children()
    )
    # crls, [1], may follow the certificates; signing tools never write them.
    if [field.tag for field in fields] != [der.INTEGER, der.SET, der.SEQUENCE, der.context(0), der.SET]:
        tags = " ".join(f"{field.tag:02x}" for field in fields)
        raise FormatError(
            source, f"SignedData has fields {tags}, expected 02 31 30 a0 31", spec="RFC 2315 section 9.1"
        )
    if fields[0].integer("SignedData version") != 1:
        raise fields[0].error("SignedData version is not 1")
    content, algorithm, digest = _read_content(fields[2])
    chain = tuple(_certificate(element) for element in fields[3].children())
    return _read_signer(_only(fields[4], der.SET, "signerInfos"), content, algorithm, digest, chain)


def _read_content(element: der.Element) -> tuple[bytes, str, bytes]:
    """What the message digest covers, the image digest's algorithm and the image digest."""
    kind, wrapped = _parts(element, der.SEQUENCE, "contentInfo", 2)
    if kind.encoded != der.encode_oid(OID_SPC_INDIRECT_DATA):
        raise kind.error("the signed content is not SPC_INDIRECT_DATA; this is not an Authenticode signature")
    indirect = _only(wrapped, der.context(0), "contentInfo")
    data, digest_info = _parts(indirect, der.SEQUENCE, "SpcIndirectDataContent", 2)
    image_data = _parts(data, der.SEQUENCE, "SpcAttributeTypeAndOptionalValue", 2)
    if image_data[0].encoded != der.encode_oid(OID_SPC_PE_IMAGE_DATA):
        raise image_data[0].error("the signature is not about a PE image")
    algorithm, digest = _parts(digest_info, der.SEQUENCE, "DigestInfo", 2)
    name, function = _hash(algorithm, "DigestInfo algorithm")
    value = digest.expect(der.OCTET_STRING, "image digest").content
    if len(value) != function.digest_size:
        raise digest.error(f"{name} image digest of {len(value)} bytes, expected {function.digest_size}")
    return indirect.content, name, value


def _read_signer(
    element: der.Element, content: bytes, algorithm: str, digest: bytes, chain: tuple[x509.Certificate, ...]
) -> Signature:
    # Unauthenticated attributes, [1], carry counter-signatures (time stamps): not signed, not used.
    fields = element.expect(der.SEQUENCE, "SignerInfo").children()
    if len(fields) == 7 and fields[6].tag == der.context(1):
        fields = fields[:6]
    if len(fields) != 6:
        raise element.error(f"SignerInfo has {len(fields)} fields, expected 6")
    if fields[0].integer("SignerInfo version") != 1:
        raise fields[0].error("SignerInfo version is not 1")
    _, function = _hash(fields[2], "SignerInfo digest algorithm")
    message_digest = _read_attributes(fields[3].expect(der.context(0), "authenticatedAttributes"))
    encryption = fields[4].expect(der.SEQUENCE, "signature algorithm").children()
    if not encryption or encryption[0].encoded not in _RSA:
        raise fields[4].error("the signature algorithm is not RSA PKCS #1 v1.5")
    # A pair of issuer and serial number. Spec: RFC 2315 section 6.7.
    issuer, serial = _parts(fields[1], der.SEQUENCE, "issuerAndSerialNumber", 2)
    number = serial.integer("serial number")
    signer = next((each for each in chain if _is_named(each, issuer.encoded, number)), None)
    if signer is None:
        raise fields[1].error("the signer's certificate is not among those of the signature")
    return Signature(
        digest_algorithm=algorithm,
        image_digest=digest,
        content=content,
        message_digest=message_digest,
        attributes=der.encode(der.SET, fields[3].content),
        hash=function,
        signature=fields[5].expect(der.OCTET_STRING, "signature").content,
        signer=signer,
        chain=chain,
    )


def _read_attributes(element: der.Element) -> bytes:
    """The message digest; the content type must be there too and must be ours."""
    values: dict[bytes, der.Element] = {}
    for attribute in element.children():
        kind, value = _parts(attribute, der.SEQUENCE, "attribute", 2)
        if kind.encoded in values:
            raise attribute.error("an attribute is there twice")
        values[kind.encoded] = value
    content_type = values.get(der.encode_oid(OID_CONTENT_TYPE))
    digest = values.get(der.encode_oid(OID_MESSAGE_DIGEST))
    if content_type is None or digest is None:
        raise element.error("the attributes contentType and messageDigest are not both there")
    if _only(content_type, der.SET, "contentType").encoded != der.encode_oid(OID_SPC_INDIRECT_DATA):
        raise content_type.error("the attribute contentType is not SPC_INDIRECT_DATA")
    return _only(digest, der.SET, "messageDigest").expect(der.OCTET_STRING, "messageDigest").content


def _hash(element: der.Element, what: str) -> tuple[str, hashes.HashAlgorithm]:
    fields = element.expect(der.SEQUENCE, what).children()
    found = _HASHES.get(fields[0].encoded) if fields else None
    if found is None:
        raise element.error(f"{what} is not SHA-256, SHA-384 or SHA-512")
    return found


def _is_named(certificate: x509.Certificate, issuer: bytes, serial: int) -> bool:
    return certificate.serial_number == serial and certificate.issuer.public_bytes() == issuer


def _certificate(element: der.Element) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(element.encoded)
        # Parsed on first use by the library; asked for here so that a bad one is found where it stands.
        certificate.issuer.public_bytes()
        certificate.subject.rfc4514_string()
        certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise element.error(f"the certificate cannot be read ({error})") from None
    return certificate


def _parts(element: der.Element, tag: int, what: str, count: int) -> list[der.Element]:
    """The children of an element that has this tag and exactly so many of them."""
    children = element.expect(tag, what).children()
    if len(children) != count:
        raise element.error(f"{what} has {len(children)} fields, expected {count}")
    return children


def _only(element: der.Element, tag: int, what: str) -> der.Element:
    return _parts(element, tag, what, 1)[0]
