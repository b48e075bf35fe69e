"""Signed writes taken apart field by field; ``tests/tool`` has them judged by others."""

from __future__ import annotations

import datetime as dt
import struct
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding

from recipes.errors import FormatError
from recipes.formats import der
from recipes.formats.efi import EFI_GLOBAL_VARIABLE, Variable
from recipes.formats.efi_auth import EfiTime, WinCertificateUefiGuid, authenticated_write, rsa_signer
from tests.unit.boot_images import key_pair

KEY, CERTIFICATE = key_pair("PK")
DER = CERTIFICATE.public_bytes(Encoding.DER)
VARIABLE = Variable("KEK", EFI_GLOBAL_VARIABLE, 0x27, b"new value")
TIME = dt.datetime(2024, 2, 29, 23, 59, 58, 123456, tzinfo=dt.UTC)
# EFI_TIME of it, without the fraction.
PACKED = bytes.fromhex("e807 021d 173b 3a00 00000000 0000 0000")
CERT_TYPE_PKCS7 = UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")


def made(time: dt.datetime = TIME) -> bytes:
    return authenticated_write(VARIABLE, DER, rsa_signer(KEY), time)


def test_sizes() -> None:
    assert (EfiTime.SIZE, WinCertificateUefiGuid.SIZE) == (16, 24)


def test_fields_in_order() -> None:
    data = made()
    assert data[:16] == PACKED
    length, revision, kind = struct.unpack("<IHH", data[16:24])
    assert (revision, kind) == (0x0200, 0x0EF1)
    assert data[24:40] == CERT_TYPE_PKCS7.bytes_le
    assert data[16 + length :] == b"new value"
    assert data[40:42] == b"\x30\x82"  # a length of two octets, behind which firmware looks for SHA-256
    assert data[53:62] == bytes.fromhex("608648016503040201")


def test_signed_data() -> None:
    data = made()
    length = int.from_bytes(data[16:20], "little")
    version, algorithms, content, certificates, signers = der.read(data[40 : 16 + length], "x").children()
    assert (version.integer("version"), len(algorithms.children())) == (1, 1)
    assert content.content == bytes.fromhex("06092a864886f70d010701")  # data, and nothing of it
    assert certificates.content == DER
    (signer,) = signers.children()
    one, issuer, digest, encryption, signature = signer.children()  # no authenticated attributes
    assert one.integer("version") == 1
    assert issuer.children()[0].encoded == CERTIFICATE.issuer.public_bytes()
    assert issuer.children()[1].integer("serial") == CERTIFICATE.serial_number
    assert digest.encoded == algorithms.children()[0].encoded
    assert encryption.content == bytes.fromhex("06092a864886f70d0101010500")
    covered = "KEK".encode("utf-16-le") + EFI_GLOBAL_VARIABLE.bytes_le + struct.pack("<I", 0x27) + PACKED
    KEY.public_key().verify(signature.content, covered + b"new value", padding.PKCS1v15(), hashes.SHA256())


def test_the_same_bytes_every_time_and_others_at_another_time() -> None:
    assert made() == made()
    assert made() != made(TIME.replace(second=59))
    assert authenticated_write(VARIABLE, DER, rsa_signer(KEY))[:16] == bytes.fromhex("e40701010000") + bytes(
        10
    )


def elliptic() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "elliptic")])
    day = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day.replace(year=2044))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


SPEC = " [UEFI 2.10 section 8.2.2]"


@pytest.mark.parametrize(
    ("certificate", "by", "message"),
    [
        (b"no DER", "PK", "what should be a DER certificate of an RSA key is none"),
        (
            CERTIFICATE.public_bytes(Encoding.PEM),
            "PK",
            "what should be a DER certificate of an RSA key is none",
        ),
        (elliptic(), "PK", f"the certificate is not for an RSA key; make one with RSA-2048{SPEC}"),
        (
            DER,
            "KEK",
            f"it was not made with the key of the certificate; sign with the key that belongs to it{SPEC}",
        ),
    ],
)
def test_what_cannot_be_signed(certificate: bytes, by: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        authenticated_write(VARIABLE, certificate, rsa_signer(key_pair(by)[0]))
    assert str(caught.value) == f"signature of KEK: {message}"
