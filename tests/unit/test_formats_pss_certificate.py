from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import given, settings

from recipes.errors import FormatError
from recipes.formats import der
from recipes.formats.pss_certificate import read_certificate, read_pem
from tests.unit.snp_samples import (
    FOLDER,
    NOW,
    REAL,
    Issued,
    chip,
    issue,
    real_certificate,
    real_roots,
)
from tests.unit.tpm2_vectors import mutations

UTC = dt.UTC


@pytest.mark.parametrize("name", ["milan", "genoa", "turin"])
def test_authorities_as_the_library_reads_them(name: str) -> None:
    """The library reads these, whose serial numbers are positive."""
    pem = real_roots(name)
    theirs = x509.load_pem_x509_certificates(pem)
    ours = read_pem(pem, name)
    assert len(ours) == 2
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.encoded == other.public_bytes(Encoding.DER)
        assert (mine.signed, mine.signature) == (other.tbs_certificate_bytes, other.signature)
        assert (mine.issuer, mine.subject) == (other.issuer.public_bytes(), other.subject.public_bytes())
        assert mine.not_before == other.not_valid_before_utc
        assert mine.not_after == other.not_valid_after_utc
        key = other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert mine.public_key == key
        assert mine.is_authority


@pytest.mark.parametrize("name", REAL)
def test_certificates_that_libraries_begin_to_refuse(name: str) -> None:
    data = real_certificate(name)
    with pytest.warns(CryptographyDeprecationWarning, match="serial number"):
        other = x509.load_der_x509_certificate(data)
    found = read_certificate(data, name)
    assert read_pem((FOLDER / f"{name}.pem").read_bytes(), name) == (read_certificate(data, name),)
    assert (found.signed, found.signature) == (other.tbs_certificate_bytes, other.signature)
    assert (found.not_before, found.not_after) == (other.not_valid_before_utc, other.not_valid_after_utc)
    assert not found.is_authority


def test_who_may_certify() -> None:
    def usage(signs: bool) -> x509.KeyUsage:
        names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        others = dict.fromkeys((*names, "encipher_only", "decipher_only", "crl_sign"), False)
        return x509.KeyUsage(digital_signature=True, key_cert_sign=signs, **others)

    authority = x509.BasicConstraints(ca=True, path_length=0)
    cases: list[tuple[tuple[x509.ExtensionType, ...], bool]] = [
        ((authority,), True),
        ((authority, usage(True)), True),
        ((authority, usage(False)), False),
        ((x509.BasicConstraints(ca=False, path_length=None), usage(True)), False),
        ((usage(True),), False),
        ((x509.SubjectKeyIdentifier(b"key"),), False),
    ]
    for extensions, expected in cases:
        assert read_certificate(issue("A", extensions=extensions).der, "x").is_authority is expected


def test_times_of_two_forms() -> None:
    """Years from 2050 on are written with four digits."""
    found = read_certificate(issue("A", days=(-365 * 40, 365 * 40)).der, "x")
    assert found.not_before == NOW - dt.timedelta(days=365 * 40)
    assert found.not_after == NOW + dt.timedelta(days=365 * 40)
    assert (found.not_before.year, found.not_after.year) == (1986, 2065)


def other(**changes: object) -> Callable[[], bytes]:
    return lambda: issue("A", **changes).der  # type: ignore[arg-type]


def rebuilt(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[], bytes]:
    """A certificate with other fields in tbsCertificate; the signature does not matter here."""

    def make() -> bytes:
        signed, algorithm, signature = der.read(chip().ark.der, "x").children()
        fields = change([each.encoded for each in signed.children()])
        return der.encode_sequence(der.encode_sequence(*fields), algorithm.encoded, signature.encoded)

    return make


def replaced(index: int, data: bytes) -> Callable[[], bytes]:
    return rebuilt(lambda fields: [*fields[:index], data, *fields[index + 1 :]])


def extension(*parts: bytes) -> bytes:
    return der.encode(der.context(3), der.encode_sequence(der.encode_sequence(*parts)))


def validity(first: bytes, tag: int = 0x17) -> Callable[[], bytes]:
    return replaced(4, der.encode_sequence(der.encode(tag, first), der.encode(0x17, b"300101000000Z")))


OID, VALUE = der.encode_oid("1.2.3"), der.encode(der.OCTET_STRING, b"")
PSS_ONLY = "signed otherwise than by RSASSA-PSS with SHA-384 and a salt of 48 bytes [X.690]"
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "an element needs an identifier and a length; the data is truncated"),
    "too long": (lambda: bytes(4097), "a certificate of 4097 bytes; at most 4096 are read"),
    "more behind it": (lambda: chip().ark.der + b"\0", "1 bytes follow the outermost element"),
    "two parts": (lambda: der.encode_sequence(OID, OID), "certificate of 2 parts, expected 3"),
    "PKCS #1": (other(scheme=padding.PKCS1v15()), PSS_ONLY),
    "SHA-256": (
        other(
            scheme=padding.PSS(padding.MGF1(hashes.SHA256()), 32),
            algorithm=hashes.SHA256(),
        ),
        PSS_ONLY,
    ),
    "another salt": (other(scheme=padding.PSS(padding.MGF1(hashes.SHA384()), 32)), PSS_ONLY),
    "another algorithm inside": (replaced(2, der.encode_sequence(OID)), PSS_ONLY),
    "version 1": (rebuilt(lambda fields: fields[1:]), "not a certificate of version 3"),
    "no fields": (rebuilt(lambda fields: []), "not a certificate of version 3"),
    "no extensions": (rebuilt(lambda fields: fields[:7]), "7 fields, expected 8 and extensions as the last"),
    "no time": (validity(b"2301010000Z"), "b'2301010000Z' is no time"),
    "no such day": (validity(b"230231000000Z"), "b'230231000000Z' is no time"),
    "a local time": (validity(b"230201000000+"), "b'230201000000+' is no time"),
    "a time of another kind": (validity(b"230201000000Z", 0x16), "b'230201000000Z' is no time"),
    "two lists": (
        replaced(7, der.encode(der.context(3), der.encode_sequence(), der.encode_sequence())),
        "2 lists of extensions, expected one",
    ),
    "an extension of one part": (replaced(7, extension(OID)), "an extension of 1 parts, expected 2 or 3"),
    "an extension twice": (
        replaced(
            7,
            der.encode(
                der.context(3), der.encode_sequence(*(der.encode_sequence(OID, VALUE) for _ in range(2)))
            ),
        ),
        "an extension is there twice",
    ),
    "a critical one": (
        replaced(7, extension(OID, der.encode(1, b"\xff"), VALUE)),
        "a critical extension that is not known here",
    ),
    "one that is not critical": (
        replaced(7, extension(OID, der.encode(1, b"\0"), VALUE)),
        "critical is no DER boolean",
    ),
    "no octets": (replaced(7, extension(OID, OID)), "extension's value has tag 0x06, expected 0x04"),
}


@pytest.mark.parametrize("name", BAD)
def test_certificates_that_are_not_read(name: str) -> None:
    make, error = BAD[name]
    with pytest.raises(FormatError) as caught:
        read_certificate(make(), "x")
    assert error in str(caught.value)


def test_a_key_that_is_not_whole_bytes() -> None:
    signed, algorithm, _ = der.read(chip().ark.der, "x").children()
    data = der.encode_sequence(signed.encoded, algorithm.encoded, der.encode(der.BIT_STRING, b"\1\2"))
    with pytest.raises(FormatError, match="the signature is no whole number of bytes"):
        read_certificate(data, "x")


def test_files() -> None:
    ark = chip().ark
    assert [each.encoded for each in read_pem(b"# words\r\n" + ark.pem.replace(b"\n", b"\r\n"), "f")] == [
        ark.der
    ]
    for data in (b"", b"nothing", ark.der):
        with pytest.raises(FormatError) as caught:
            read_pem(data, "f")
        said = "f: no certificate in PEM; DER is converted by `openssl x509 -inform der`"
        assert str(caught.value) == said
    with pytest.raises(FormatError, match="f: offset 0x1c: not base64"):
        read_pem(b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n", "f")


def test_another_kind_of_key_signs_otherwise() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([]))
    builder = builder.public_key(key.public_key()).serial_number(1).not_valid_before(NOW).not_valid_after(NOW)
    found = Issued(key, builder.add_extension(x509.OCSPNoCheck(), False).sign(key, hashes.SHA384()))
    with pytest.raises(FormatError, match="signed otherwise"):
        read_certificate(found.der, "x")


@settings(max_examples=150)
@given(data=mutations(real_certificate("turin-v5"), chip().ark.der))
def test_whatever_the_bytes_are(data: bytes) -> None:
    for read in (
        lambda: read_certificate(data, "x").is_authority,
        lambda: read_pem(data, "x"),
        lambda: read_pem(
            b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(data) + b"\n-----END CERTIFICATE-----", "x"
        ),
    ):
        try:
            read()
        except FormatError:
            continue
