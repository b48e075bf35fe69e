"""Signed writes of UEFI variables, what ``.auth`` files hold: EFI_VARIABLE_AUTHENTICATION_2 and the value.

    EFI_TIME | u32 length | u16 revision | u16 type | GUID | SignedData | new value of the variable

The signature covers name, vendor, attributes, time and value. Firmware takes an update if its time is later
than that of the last one, and if the key may: the platform key updates itself and KEK, a key of KEK updates
db and dbx.

Spec: UEFI 2.10 sections 8.2.2 (Using the EFI_VARIABLE_AUTHENTICATION_2 descriptor), 8.3 (EFI_TIME) and 32.2.4
(WIN_CERTIFICATE_UEFI_GUID); RFC 2315 sections 9.1 and 9.2.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ..binary import Struct, guid, u8, u16, u32
from ..errors import FormatError
from . import der
from .authenticode import OID_RSA_ENCRYPTION, OID_SHA256, WIN_CERT_REVISION
from .efi import EFI_CERT_TYPE_PKCS7_GUID, Variable, encode_utf16

_SPEC = "UEFI 2.10 section 8.2.2"
# Spec: UEFI 2.10 section 32.2.4.
WIN_CERT_TYPE_EFI_GUID = 0x0EF1
# Spec: RFC 5652 section 4.
OID_DATA = "1.2.840.113549.1.7.1"
# The same for every key that is enrolled first; an update needs a later one.
FIRST_TIME = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

Signer = Callable[[bytes], bytes]


class EfiTime(Struct):
    """EFI_TIME; only the fields down to seconds may be other than zero here."""

    year: u16
    month: u8
    day: u8
    hour: u8
    minute: u8
    second: u8
    pad1: u8
    nanosecond: u32
    time_zone: u16
    daylight: u8
    pad2: u8


class WinCertificateUefiGuid(Struct):
    """WIN_CERTIFICATE_UEFI_GUID; ``length`` covers it and the SignedData behind it."""

    length: u32
    revision: u16
    certificate_type: u16
    cert_type: guid


def rsa_signer(key: rsa.RSAPrivateKey) -> Signer:
    """The function that signs with this key, the same bytes always alike: RSA PKCS #1 v1.5 with SHA-256."""
    return lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def authenticated_write(
    variable: Variable, certificate: bytes, sign: Signer, time: dt.datetime = FIRST_TIME
) -> bytes:
    """The bytes that firmware takes as a new value of the variable.

    Args:
        variable: with the attributes that it is written with.
        certificate: of the key that signs, DER.
        sign: gives the RSA PKCS #1 v1.5 SHA-256 signature of what it is handed.
        time: in UTC; what is less than a second is dropped.

    Raises:
        FormatError: no RSA certificate, or the signature is not of its key.
    """
    packed = _pack_time(time)
    covered = b"".join(
        (
            encode_utf16(variable.name),
            variable.vendor.bytes_le,
            variable.attributes.to_bytes(4, "little"),
            packed,
            variable.data,
        )
    )
    signed = _signed_data(covered, certificate, sign, f"signature of {variable.name}")
    head = WinCertificateUefiGuid(
        length=WinCertificateUefiGuid.SIZE + len(signed),
        revision=WIN_CERT_REVISION,
        certificate_type=WIN_CERT_TYPE_EFI_GUID,
        cert_type=EFI_CERT_TYPE_PKCS7_GUID,
    )
    return packed + head.pack() + signed + variable.data


def _pack_time(time: dt.datetime) -> bytes:
    return EfiTime(
        year=time.year,
        month=time.month,
        day=time.day,
        hour=time.hour,
        minute=time.minute,
        second=time.second,
        pad1=0,
        nanosecond=0,
        time_zone=0,
        daylight=0,
        pad2=0,
    ).pack()


def _signed_data(covered: bytes, der_certificate: bytes, sign: Signer, source: str) -> bytes:
    """DER of a SignedData without its content and without the ContentInfo around it.

    The specification forbids authenticated attributes, so the content itself is signed. Firmware finds the
    digest algorithm by its place behind a length of two octets (edk2-stable202502
    SecurityPkg/Library/AuthVariableLib/AuthService.c VerifyTimeBasedPayload).
    """
    certificate, public = _load(der_certificate, source)
    signature = sign(covered)
    try:
        public.verify(signature, covered, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        what = "it was not made with the key of the certificate; sign with the key that belongs to it"
        raise FormatError(source, what, spec=_SPEC) from None
    sha256 = _algorithm(OID_SHA256)
    signer = der.encode_sequence(
        der.encode_integer(1),
        der.encode_sequence(certificate.issuer.public_bytes(), der.encode_integer(certificate.serial_number)),
        sha256,
        _algorithm(OID_RSA_ENCRYPTION),
        der.encode(der.OCTET_STRING, signature),
    )
    return der.encode_sequence(
        der.encode_integer(1),
        der.encode_set_of([sha256]),
        der.encode_sequence(der.encode_oid(OID_DATA)),
        der.encode(der.context(0), certificate.public_bytes(serialization.Encoding.DER)),
        der.encode_set_of([signer]),
    )


def _algorithm(oid: str) -> bytes:
    return der.encode_sequence(der.encode_oid(oid), der.encode(der.NULL))


def _load(data: bytes, source: str) -> tuple[x509.Certificate, rsa.RSAPublicKey]:
    try:
        certificate = x509.load_der_x509_certificate(data)
        public = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FormatError(source, "what should be a DER certificate of an RSA key is none") from None
    if not isinstance(public, rsa.RSAPublicKey):
        raise FormatError(source, "the certificate is not for an RSA key; make one with RSA-2048", spec=_SPEC)
    return certificate, public
