"""X.509 certificates that AMD signs, taken apart as far as it takes to verify them.

The certificate of a chip's key has the serial number 0, and may write out a default in the parameters of its
signature: RFC 5280 and DER forbid both, and libraries begin to refuse it. The verifying itself is for who
reads them.

Spec: AMD 57230, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification, section 3
(certificates); RFC 5280 section 4.1, RFC 7468 section 5.1 (PEM).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..errors import FormatError
from . import der

# Ours: certificates of chips have 1.4 KiB, those of their CAs 1.7 KiB.
MAX_CERTIFICATE = 4096

# RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes; the second form writes out the default of
# trailerField. Spec: 57230 section 3.1, RFC 8017 appendix A.2.3, RFC 4055 section 3.1.
_SHA384 = der.encode_sequence(der.encode_oid("2.16.840.1.101.3.4.2.2"), der.encode(der.NULL))
_PSS_PARTS = (
    der.encode(der.context(0), _SHA384),
    der.encode(der.context(1), der.encode_sequence(der.encode_oid("1.2.840.113549.1.1.8"), _SHA384)),
    der.encode(der.context(2), der.encode_integer(48)),
)
_TRAILER = der.encode(der.context(3), der.encode_integer(1))
_ALGORITHMS = tuple(
    der.encode_sequence(der.encode_oid("1.2.840.113549.1.1.10"), der.encode_sequence(*_PSS_PARTS, *more))
    for more in ((), (_TRAILER,))
)

# Universal tags. Spec: X.680 section 8.6.
_BOOLEAN, _UTC_TIME, _GENERALIZED_TIME = 0x01, 0x17, 0x18
_TRUE = b"\xff"
# Basic constraints and key usage, with its bit keyCertSign. Spec: RFC 5280 sections 4.2.1.9 and 4.2.1.3.
_CONSTRAINTS, _USAGE = der.encode_oid("2.5.29.19"), der.encode_oid("2.5.29.15")
_KEY_CERT_SIGN = 0x04
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----[ \t]*\r?\n([A-Za-z0-9+/=\r\n]*)-----END CERTIFICATE-----", re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate, taken apart; what it says is not verified.

    Attributes:
        encoded: all of it, in DER.
        signed: what the signature is over.
        signature: RSASSA-PSS with SHA-384 and a salt of 48 bytes.
        issuer: name in DER, as ``subject``.
        public_key: SubjectPublicKeyInfo in DER.
        extensions: values by the encoded identifier.
    """

    encoded: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime
    public_key: bytes = field(repr=False)
    extensions: Mapping[bytes, bytes] = field(repr=False)
    source: str

    @property
    def is_authority(self) -> bool:
        """Whether it may certify other keys.

        Raises:
            FormatError: what it says of that does not parse.
        """
        value = self.extensions.get(_CONSTRAINTS)
        if value is None:
            return False
        children = der.read(value, self.source).expect(der.SEQUENCE, "basicConstraints").children()
        return bool(children) and (children[0].tag, children[0].content) == (_BOOLEAN, _TRUE) and self._signs

    @property
    def _signs(self) -> bool:
        value = self.extensions.get(_USAGE)
        if value is None:
            return True
        bits = der.read(value, self.source).expect(der.BIT_STRING, "keyUsage").content
        return len(bits) > 1 and bool(bits[1] & _KEY_CERT_SIGN)


def read_pem(data: bytes, source: str) -> tuple[Certificate, ...]:
    """The certificates of a PEM file.

    Raises:
        FormatError: there is none, or one does not parse.
    """
    found = []
    for match in _PEM.finditer(data):
        try:
            encoded = base64.b64decode(match[1].replace(b"\r", b"").replace(b"\n", b""), validate=True)
        except binascii.Error as error:
            raise FormatError(source, f"not base64 ({error})", offset=match.start(1)) from None
        found.append(read_certificate(encoded, source))
    if not found:
        raise FormatError(source, "no certificate in PEM; DER is converted by `openssl x509 -inform der`")
    return tuple(found)


def read_certificate(data: bytes, source: str) -> Certificate:
    """The certificate that ``data`` holds in DER.

    Raises:
        FormatError: it is none, or is signed otherwise than by RSASSA-PSS with SHA-384.
    """
    if len(data) > MAX_CERTIFICATE:
        raise FormatError(source, f"a certificate of {len(data)} bytes; at most {MAX_CERTIFICATE} are read")
    outer = der.read(data, source).expect(der.SEQUENCE, "certificate")
    signed, algorithm, signature = _some(outer, 3, "certificate")
    fields = signed.expect(der.SEQUENCE, "tbsCertificate").children()
    # Version 3, which has extensions, is written as [0] INTEGER 2.
    if not fields or fields[0].encoded != der.encode(der.context(0), der.encode_integer(2)):
        raise signed.error("not a certificate of version 3")
    if len(fields) != 8 or fields[7].tag != der.context(3):
        raise signed.error(f"{len(fields)} fields, expected 8 and extensions as the last")
    _, _, inner, issuer, validity, subject, key, extensions = fields
    if algorithm.encoded not in _ALGORITHMS or inner.encoded != algorithm.encoded:
        raise algorithm.error("signed otherwise than by RSASSA-PSS with SHA-384 and a salt of 48 bytes")
    bits = signature.expect(der.BIT_STRING, "signature").content
    if bits[:1] != b"\0":
        raise signature.error("the signature is no whole number of bytes")
    first, last = _some(validity, 2, "validity")
    return Certificate(
        encoded=data,
        signed=signed.encoded,
        signature=bits[1:],
        issuer=issuer.encoded,
        subject=subject.encoded,
        not_before=_time(first),
        not_after=_time(last),
        public_key=key.encoded,
        extensions=_extensions(extensions),
        source=source,
    )


def _some(element: der.Element, count: int, what: str) -> list[der.Element]:
    children = element.expect(der.SEQUENCE, what).children()
    if len(children) != count:
        raise element.error(f"{what} of {len(children)} parts, expected {count}")
    return children


def _time(element: der.Element) -> datetime:
    """Spec: RFC 5280 section 4.1.2.5: to the second, in UTC; two digits of a year from 50 on are 19xx."""
    size = {_UTC_TIME: 13, _GENERALIZED_TIME: 15}.get(element.tag, 0)
    text = element.content
    if len(text) != size or not text[:-1].isdigit() or text[-1:] != b"Z":
        raise element.error(f"{text[:20]!r} is no time")
    digits = text[:-1].decode("ascii")
    if element.tag == _UTC_TIME:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise element.error(f"{text[:20]!r} is no time") from None


def _extensions(element: der.Element) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    inner = element.children()
    if len(inner) != 1:
        raise element.error(f"{len(inner)} lists of extensions, expected one")
    for each in inner[0].expect(der.SEQUENCE, "extensions").children():
        parts = each.expect(der.SEQUENCE, "extension").children()
        if len(parts) not in (2, 3):
            raise each.error(f"an extension of {len(parts)} parts, expected 2 or 3")
        identifier = parts[0].expect(der.OID, "extension's identifier").encoded
        # What is not critical does not say so in DER.
        if len(parts) == 3 and parts[1].expect(_BOOLEAN, "critical").content != _TRUE:
            raise each.error("critical is no DER boolean")
        if len(parts) == 3 and identifier not in (_CONSTRAINTS, _USAGE):
            raise each.error("a critical extension that is not known here")
        if identifier in found:
            raise each.error("an extension is there twice")
        found[identifier] = parts[-1].expect(der.OCTET_STRING, "extension's value").content
    return found
