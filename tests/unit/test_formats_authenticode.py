from __future__ import annotations

import hashlib
import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, VerifyError
from recipes.formats import authenticode, der, secureboot_keys
from recipes.formats.authenticode import image_digest, image_digests, sign, strip_signature
from recipes.formats.authenticode_verify import read_signatures, verify
from recipes.formats.pe import PeImage
from tests.unit.boot_images import (
    CERTIFICATES,
    CHECKSUM,
    COFF,
    DIRECTORIES,
    OPTIONAL,
    SECTIONS,
    kernel,
    key_pair,
    le32,
    patched,
    stub,
)

FUZZ = settings(max_examples=100)

# "Calculated message digest" of osslsigncode 2.9 after signing with -h sha1, sha256, sha384.
STUB_DIGESTS = {
    "sha1": "df8313611e4bfede7a69fb5a00a4f56bf93b806a",
    "sha256": "67bef9a6389a20aed82f1ff17096fb21e28140b7f4456c437cb2f3030a93d5bd",
    "sha384": "e1e48a26ed74f0da6308988d2d77b8e15bdfa537085816d749ce373e2574b824"
    "d2ab56d7ce7925060069eb56b2b1c7f9",
}
KERNEL_DIGEST = "cf9f98edc997e3717bb93a395c6a0aed30b1274ff46f19143f3b72e7aa90edca"


@pytest.mark.parametrize(("algorithm", "digest"), STUB_DIGESTS.items())
def test_digest(algorithm: str, digest: str) -> None:
    assert image_digest(stub(), algorithm).hex() == digest
    assert image_digests(stub())[algorithm].hex() == digest


def test_digests_in_every_bank() -> None:
    digests = image_digests(kernel())
    assert list(digests) == ["sha1", "sha256", "sha384", "sha512"]
    assert digests["sha256"].hex() == KERNEL_DIGEST
    assert [len(value) for value in digests.values()] == [20, 32, 48, 64]


def test_checksum_and_certificates_do_not_count() -> None:
    changed = patched(patched(stub(), CHECKSUM, b"\1\2\3\4"), CERTIFICATES, le32(len(stub())) + le32(16))
    assert image_digest(changed + bytes(16), "sha256").hex() == STUB_DIGESTS["sha256"]


def test_sections_count_in_the_order_of_the_file() -> None:
    first, second = stub()[SECTIONS : SECTIONS + 40], stub()[SECTIONS + 40 : SECTIONS + 80]
    swapped = patched(stub(), SECTIONS, second + first)
    # The same hash as over the whole file less the skipped fields, where nothing lies between sections.
    whole = swapped[:CHECKSUM] + swapped[CHECKSUM + 4 : CERTIFICATES] + swapped[CERTIFICATES + 8 :]
    assert image_digest(swapped, "sha256") == hashlib.sha256(whole).digest()


def test_trailing_bytes_count_and_are_not_padded() -> None:
    data = stub() + b"tail!"
    whole = data[:CHECKSUM] + data[CHECKSUM + 4 : CERTIFICATES] + data[CERTIFICATES + 8 :]
    assert image_digest(data, "sha256") == hashlib.sha256(whole).digest()


def test_gap_follows_the_specification_to_the_letter() -> None:
    # Headers say that they end 0x200 earlier: the tail starts at the count of bytes hashed.
    data = patched(stub(), OPTIONAL + 60, le32(0x400))
    headers = data[:CHECKSUM] + data[CHECKSUM + 4 : CERTIFICATES] + data[CERTIFICATES + 8 : 0x400]
    expected = hashlib.sha256(headers + data[0x600:] + data[-0x200:]).digest()
    assert image_digest(data, "sha256") == expected
    with pytest.raises(FormatError) as caught:
        sign(data, *key_pair())
    assert str(caught.value) == (
        "PE image: offset 0x400: no section covers 0x400 to 0x600; tools hash such images differently "
        "[Authenticode PE, section 'Calculating the PE Image Hash']"
    )


def test_header_without_certificate_entry() -> None:
    small = patched(stub(), COFF + 16, (112 + 32).to_bytes(2, "little"))
    small = patched(small, OPTIONAL + 108, le32(4))
    small = patched(small, DIRECTORIES + 32, stub()[SECTIONS : SECTIONS + 240])
    whole = small[:CHECKSUM] + small[CHECKSUM + 4 :]
    assert image_digest(small, "sha256") == hashlib.sha256(whole).digest()
    with pytest.raises(FormatError, match=r"^PE image: 4 data directories leave no room for a signature$"):
        sign(small, *key_pair())


def test_sign_and_verify() -> None:
    key, certificate = key_pair()
    _, other = key_pair("somebody else")
    signed = sign(stub(), key, certificate)
    assert signed == sign(stub(), key, certificate)
    assert signed[: len(stub())] == patched(
        stub(), CERTIFICATES, le32(len(stub())) + le32(len(signed) - len(stub()))
    )
    assert len(signed) % 8 == 0
    assert verify(signed, [certificate]) == certificate
    assert verify(signed, [other, certificate]) == certificate
    assert image_digest(signed, "sha256").hex() == STUB_DIGESTS["sha256"]
    assert strip_signature(signed) == stub()
    assert strip_signature(stub()) == stub()


def test_sign_pads_before_it_hashes() -> None:
    signed = sign(stub() + b"odd", *key_pair())
    assert image_digest(signed, "sha256") == image_digest(stub() + b"odd" + bytes(5), "sha256")
    assert verify(signed, [key_pair()[1]]) == key_pair()[1]


def test_sign_refuses() -> None:
    key, certificate = key_pair()
    signed = sign(stub(), key, certificate)
    with pytest.raises(FormatError) as caught:
        sign(signed, key, certificate, source="a.efi")
    assert str(caught.value) == "a.efi: the image is already signed; ask for the signature to be replaced"
    assert sign(signed, key, certificate, replace=True) == signed
    with pytest.raises(FormatError) as caught:
        sign(stub(), key, key_pair("somebody else")[1], source="a.efi")
    assert str(caught.value) == "a.efi: the certificate is for another key than the one to sign with"


def test_verify_refuses_the_unsigned_and_the_unknown() -> None:
    _, certificate = key_pair()
    with pytest.raises(VerifyError) as caught:
        verify(stub(), [certificate], source="a.efi")
    assert str(caught.value) == "a.efi: the image is not signed; sign it with a key of db"
    with pytest.raises(VerifyError) as caught:
        verify(sign(stub(), *key_pair()), [key_pair("somebody else")[1]], source="a.efi")
    assert str(caught.value) == (
        "a.efi: signed by CN=test db, which none of 1 trusted certificates issued; "
        "enroll that certificate in db or sign with another key"
    )


def test_issuer_of_the_signer_may_be_the_trusted_one() -> None:
    ca_key, ca = key_pair("some ca")
    key, _ = key_pair()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(secureboot_keys.NOT_BEFORE)
        .not_valid_after(secureboot_keys.NOT_AFTER)
        .sign(ca_key, hashes.SHA256())
    )
    signed = sign(stub(), key, leaf)
    assert verify(signed, [key_pair("somebody else")[1], ca, leaf]) == ca
    assert verify(signed, [leaf, ca]) == leaf


def test_any_hashed_byte_breaks_the_signature() -> None:
    key, certificate = key_pair()
    signed = sign(kernel(), key, certificate)
    skipped = {*range(CHECKSUM, CHECKSUM + 4)}
    # Every byte of the headers, and every 17th of the section that follows them.
    for offset in (*range(0x400), *range(0x400, len(kernel()), 17)):
        changed = patched(signed, offset, bytes((signed[offset] ^ 0x10,)))
        if offset in skipped:
            assert verify(changed, [certificate]) == certificate
            continue
        with pytest.raises((VerifyError, FormatError)):
            verify(changed, [certificate])


def test_any_signed_byte_breaks_the_signature() -> None:
    key, certificate = key_pair()
    signed = sign(kernel(), key, certificate)
    (signature,) = read_signatures(PeImage.parse(signed, "signed"))
    content = signed.index(signature.content)
    value = signed.index(signature.signature)
    attributes = signed.index(signature.attributes[4:])
    spans = [(content, len(signature.content)), (value, len(signature.signature))]
    spans.append((attributes, len(signature.attributes) - 4))
    for start, size in spans:
        for offset in range(start, start + size):
            with pytest.raises((VerifyError, FormatError)):
                verify(patched(signed, offset, bytes((signed[offset] ^ 1,))), [certificate])


def test_verify_names_both_digests() -> None:
    key, certificate = key_pair()
    changed = patched(sign(stub(), key, certificate), 0x700, b"\xcc\xcc\xcc")
    with pytest.raises(VerifyError) as caught:
        verify(changed, [certificate], source="a.efi")
    assert str(caught.value) == (
        f"a.efi: sha256 digest is {image_digest(changed, 'sha256').hex()}, "
        f"{STUB_DIGESTS['sha256']} was signed; the image changed after it was signed"
    )


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (0, le32(8), "a: offset 0x16800: certificate entry of 8 bytes in a table with 1288 left"),
        (0, le32(1296), "a: offset 0x16800: certificate entry of 1296 bytes in a table with 1288 left"),
        (
            4,
            b"\x00\x02\xf1\x0e",
            "a: offset 0x16800: certificate entry 0x0200/0x0ef1, expected 0x0200/0x0002 (PKCS #7)",
        ),
        (8, b"\x30\x80", "a signature at 0x16800: offset 0x0: length octet 0x80 is not a definite length"),
        (8, b"\x31", "a signature at 0x16800: offset 0x0: ContentInfo has tag 0x31, expected 0x30 [X.690]"),
        (10, b"\xff\xff", "a signature at 0x16800: offset 0x0: an element of 65535 bytes has"),
        (14, b"\0", "a signature at 0x16800: offset 0x4: ContentInfo is not signedData [X.690]"),
    ],
)
def test_bad_signatures(offset: int, new: bytes, message: str) -> None:
    signed = sign(stub(), *key_pair())
    table = len(stub())
    size = len(signed) - table
    message = message.replace("1288", str(size)).replace("1296", str(size + 8))
    new = le32(size + 8) if new == le32(1296) else new
    with pytest.raises(FormatError) as caught:
        verify(patched(signed, table + offset, new), [], source="a")
    assert str(caught.value).startswith(message)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3))
def test_fuzz_signature(edits: list[tuple[int, bytes]]) -> None:
    _, certificate = key_pair()
    signed = sign(kernel(), *key_pair())
    data = signed
    for offset, new in edits:
        where = len(kernel()) + offset % (len(signed) - len(kernel()) - len(new))
        data = patched(data, where, new)
    try:
        assert verify(data, [certificate]) == certificate
    except (FormatError, VerifyError):
        return


@FUZZ
@given(st.binary(max_size=300))
def test_fuzz_random_signature(blob: bytes) -> None:
    entry = (
        authenticode.WinCertificate(length=8 + len(blob), revision=0x200, certificate_type=2).pack() + blob
    )
    entry += bytes(-len(entry) % 8)
    data = patched(kernel(), CERTIFICATES, le32(len(kernel())) + le32(len(entry))) + entry
    with pytest.raises((FormatError, VerifyError)):
        verify(data, [key_pair()[1]])


def test_der_known_encodings() -> None:
    # X.690 sections 8.1.3 and 8.3, and the examples of RFC 8017 and Kaliski's "A Layman's Guide".
    assert der.encode_integer(0) == bytes.fromhex("020100")
    assert der.encode_integer(127) == bytes.fromhex("02017f")
    assert der.encode_integer(128) == bytes.fromhex("02020080")
    assert der.encode_integer(256) == bytes.fromhex("02020100")
    assert der.encode_integer(-128) == bytes.fromhex("020180")
    assert der.encode_integer(-129) == bytes.fromhex("0202ff7f")
    assert der.encode_oid("1.2.840.113549.1.1.1") == bytes.fromhex("06092a864886f70d010101")
    assert der.encode(der.OCTET_STRING, bytes(200))[:3] == bytes.fromhex("0481c8")
    assert der.encode_set_of([b"\x04\x01\x02", b"\x02\x01\x05"]) == bytes.fromhex("3106020105040102")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "x: offset 0x0: an element needs an identifier and a length; the data is truncated [X.690]"),
        ("1f00", "x: offset 0x0: identifier 0x1f starts a tag above 30, which nothing here uses [X.690]"),
        ("048101ff", "x: offset 0x0: length 1 takes 2 octets, not the fewest [X.690]"),
        ("04820080", "x: offset 0x0: length 128 takes 3 octets, not the fewest [X.690]"),
        ("0485", "x: offset 0x0: length octet 0x85 is not a definite length of at most 4 octets [X.690]"),
        ("0482ff", "x: offset 0x0: the length is cut short; the data is truncated [X.690]"),
        ("0402ff", "x: offset 0x0: an element of 2 bytes has 1 left; the data is truncated [X.690]"),
        ("0400ff", "x: offset 0x2: 1 bytes follow the outermost element"),
    ],
)
def test_der_bad_bytes(data: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        der.read(bytes.fromhex(data), "x")
    assert str(caught.value) == message


@pytest.mark.parametrize("data", ["0200", "02020001", "0202ff80"])
def test_der_integer_must_be_short(data: str) -> None:
    with pytest.raises(FormatError, match="not its shortest form"):
        der.read(bytes.fromhex(data), "x").integer("n")


@FUZZ
@given(st.integers(-(1 << 200), 1 << 200), st.binary(max_size=300))
def test_der_round_trip(number: int, blob: bytes) -> None:
    outer = der.read(
        der.encode_sequence(der.encode_integer(number), der.encode(der.OCTET_STRING, blob)), "round trip"
    )
    first, second = outer.children()
    assert first.integer("n") == number
    assert second.content == blob
    assert second.offset == len(outer.encoded) - len(second.encoded)


def test_certificate_is_a_function_of_key_and_name() -> None:
    key, certificate = key_pair()
    assert secureboot_keys.make_certificate(key, "test db") == certificate
    assert secureboot_keys.make_certificate(key, "other").serial_number == certificate.serial_number
    assert certificate.not_valid_before_utc.isoformat() == "2020-01-01T00:00:00+00:00"
    assert certificate.not_valid_after_utc.isoformat() == "2049-12-31T23:59:59+00:00"
    assert key.key_size == 2048


def test_make_keys_makes_three() -> None:
    keys = secureboot_keys.make_keys("demo")
    names = []
    for made in (keys.pk, keys.kek, keys.db):
        key = secureboot_keys.load_key(made.private_key, "key")
        certificate = secureboot_keys.load_certificate(made.certificate, "certificate")
        assert certificate.public_key() == key.public_key()
        names.append(certificate.subject.rfc4514_string())
    assert names == ["CN=demo PK", "CN=demo KEK", "CN=demo db"]
    assert len({keys.pk.private_key, keys.kek.private_key, keys.db.private_key}) == 3


def test_key_errors() -> None:
    key, _ = key_pair()
    with pytest.raises(
        FormatError, match=r"^certificate: common name of 65 characters, expected 1 to 64; shorten it"
    ):
        secureboot_keys.make_certificate(key, "x" * 65)
    with pytest.raises(FormatError, match=r"^a\.key: not an unencrypted PEM private key "):
        secureboot_keys.load_key(random.Random(1).randbytes(99), "a.key")
    with pytest.raises(FormatError, match=r"^a\.pem: not a PEM certificate "):
        secureboot_keys.load_certificate(b"-----BEGIN CERTIFICATE-----\n", "a.pem")
