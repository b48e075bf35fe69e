from __future__ import annotations

import base64

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import der
from recipes.formats.p384 import ORDER, PublicKey, Signature, SigningKey
from recipes.formats.p384_files import read_image_key, read_metadata_key, read_public_key

FUZZ = settings(max_examples=150)

# RFC 6979 A.2.6: private key, public key, and the signatures with SHA-384.
SCALAR = 0x6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5
POINT = bytes.fromhex(
    "ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc13"
    "8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720"
)
RFC_SIGNATURES = {
    b"sample": (
        "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46"
        "99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8"
    ),
    b"test": (
        "8203b63d3c853e8d77227fb377bcf7b7b772e97892a80f36ab775d509d7a5feb0542a7f0812998da8f1dd3ca3cf023db"
        "ddd0760448d42d8a43af45af836fce4de8be06b485e9b61b827c2f13173923e06a739f040649a667bf3b828246baa5a5"
    ),
}
KEY = SigningKey.from_scalar(SCALAR, "key")
RSA = rsa.generate_private_key(65537, 1024)
FOREIGN = ec.derive_private_key(SCALAR, ec.SECP384R1())
MAKE = "make one with `openssl ecparam -genkey -name secp384r1 -noout`"
TO_PEM = (
    "convert it with `(umask 077; openssl ec -param_enc named_curve -in k.pem -out k.pem.new) "
    "&& mv k.pem.new k.pem`"
)
TO_PUBLIC = "write the public key with `openssl ec -in k.pub -pubout`"
TO_DER = (
    "convert it with `(umask 077; openssl ec -param_enc named_curve -in k.prv -inform DER -outform DER "
    "-out k.prv.new) && mv k.prv.new k.prv`"
)


def private(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    encoding: Encoding = Encoding.PEM,
    form: PrivateFormat = PrivateFormat.TraditionalOpenSSL,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(encoding, form, encryption or NoEncryption())


def refused(text: str, call: object, *arguments: object) -> None:
    assert callable(call)
    with pytest.raises(FormatError) as caught:
        call(*arguments)
    assert str(caught.value) == text


@pytest.mark.parametrize("message", RFC_SIGNATURES)
def test_signatures_of_rfc_6979(message: bytes) -> None:
    signature = KEY.sign(message)
    assert signature.raw.hex() == RFC_SIGNATURES[message]
    assert KEY.sign(message) == signature
    assert KEY.public.point == POINT
    assert KEY.public.verify(message, signature)
    assert not KEY.public.verify(message + b"!", signature)
    assert not SigningKey.generate().public.verify(message, signature)


def test_an_openssl_that_signs_at_random_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(algorithm: object, *, deterministic_signing: bool) -> None:
        assert deterministic_signing
        raise UnsupportedAlgorithm("no")

    monkeypatch.setattr("recipes.formats.p384.ec.ECDSA", unsupported)
    refused(
        "P-384 key: this OpenSSL cannot make deterministic signatures; use the locked cryptography package, "
        "or one that is linked with OpenSSL 3.2 or newer [RFC 6979]",
        KEY.sign,
        b"x",
    )


def test_public_key_in_der() -> None:
    theirs = FOREIGN.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert len(theirs) == 120
    assert KEY.public.der == theirs
    assert PublicKey.from_der(theirs, "k.pub") == KEY.public
    pem = FOREIGN.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert read_public_key(pem, "k.pem") == read_public_key(theirs, "k.pub") == KEY.public


def test_a_secret_is_not_printed() -> None:
    text = repr(KEY)
    assert text == f"SigningKey(public={KEY.public!r})"
    assert str(SCALAR) not in text


def test_key_files_of_ours() -> None:
    assert KEY.pem == private(FOREIGN)
    assert KEY.der == private(FOREIGN, Encoding.DER)
    assert read_metadata_key(KEY.pem, "k.pem") == KEY
    assert read_image_key(KEY.der, "k.prv") == KEY
    assert read_image_key(KEY.der, "k.prv").sign(b"sample").raw.hex() == RFC_SIGNATURES[b"sample"]


def test_pem_as_others_write_it() -> None:
    crlf = KEY.pem.replace(b"\n", b"\r\n")
    assert read_metadata_key(crlf, "k.pem") == KEY
    assert read_metadata_key(b"a comment\n" + KEY.pem + b"\n\n", "k.pem") == KEY


def sec1(*, secret: bytes, curve: bytes | None, public: bytes | None, version: int = 1) -> bytes:
    parts = [der.encode_integer(version), der.encode(der.OCTET_STRING, secret)]
    if curve is not None:
        parts.append(der.encode(der.context(0), curve))
    if public is not None:
        parts.append(der.encode(der.context(1), der.encode(der.BIT_STRING, b"\0" + public)))
    return der.encode_sequence(*parts)


SECRET = SCALAR.to_bytes(48, "big")
CURVE = bytes.fromhex("06052b81040022")
COMPRESSED = b"\x02" + POINT[:48]


def test_sec1_is_built_as_openssl_builds_it() -> None:
    assert sec1(secret=SECRET, curve=CURVE, public=b"\x04" + POINT) == KEY.der


def test_public_key_of_a_private_one_is_optional_and_may_be_compressed() -> None:
    assert read_image_key(sec1(secret=SECRET, curve=CURVE, public=None), "k.prv") == KEY
    assert read_image_key(sec1(secret=SECRET, curve=CURVE, public=COMPRESSED), "k.prv") == KEY


DAMAGED = "public and private key in the file do not belong together; it is damaged"
BAD_IMAGE_KEYS = [
    (b"", f"not a SEC1 private key; {MAKE}"),
    (b"garbage", f"not a SEC1 private key; {MAKE}"),
    (bytes(20000), "more than 16384 bytes; a P-384 key file has a few hundred"),
    (KEY.der[:-1], f"not a SEC1 private key; {MAKE}"),
    (KEY.der + b"\0", f"not a SEC1 private key; {MAKE}"),
    (
        private(FOREIGN, Encoding.DER, PrivateFormat.PKCS8),
        f"the key is PKCS #8, Islet's tools take SEC1; {TO_DER}",
    ),
    (
        private(FOREIGN, Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")),
        f"the key is encrypted, Islet's tools read plain keys; {TO_DER}",
    ),
    (KEY.public.der, "this is a public key; the private key belongs here"),
    (
        private(RSA, Encoding.DER),
        f"not a SEC1 private key; {MAKE}",
    ),
    (
        private(ec.generate_private_key(ec.SECP256R1()), Encoding.DER),
        f"the key is on P-256, Islet needs P-384 (secp384r1); {MAKE}",
    ),
    (
        private(ec.generate_private_key(ec.SECP521R1()), Encoding.DER),
        f"the key is on P-521, Islet needs P-384 (secp384r1); {MAKE}",
    ),
    (
        private(ec.generate_private_key(ec.BrainpoolP384R1()), Encoding.DER),
        f"the key is on brainpoolP384r1, Islet needs P-384 (secp384r1); {MAKE}",
    ),
    (
        sec1(secret=SECRET, curve=bytes.fromhex("06022a03"), public=None),
        f"the key is on a curve with OID bytes 06022a03, Islet needs P-384 (secp384r1); {MAKE}",
    ),
    (
        sec1(secret=SECRET, curve=der.encode_sequence(b""), public=None),
        f"the key does not name its curve; {TO_DER}",
    ),
    (
        sec1(secret=SECRET, curve=None, public=None),
        f"a SEC1 private key that does not name its curve; {MAKE}",
    ),
    (sec1(secret=SECRET, curve=CURVE, public=None, version=2), f"not a SEC1 private key; {MAKE}"),
    (sec1(secret=SECRET[1:], curve=CURVE, public=None), "private key of 47 bytes, P-384 has 48"),
    (
        sec1(secret=bytes(48), curve=CURVE, public=None),
        "the private key is zero or not below the order of P-384",
    ),
    (
        sec1(secret=ORDER.to_bytes(48, "big"), curve=CURVE, public=None),
        "the private key is zero or not below the order of P-384",
    ),
    (sec1(secret=SECRET, curve=CURVE, public=b"\x03" + POINT[:48]), DAMAGED),
    (sec1(secret=SECRET, curve=CURVE, public=b"\x04" + POINT[::-1]), DAMAGED),
    (
        KEY.pem,
        f"the key is in PEM, application images take SEC1 DER; {TO_DER.replace(' -inform DER', '')}",
    ),
]


@pytest.mark.parametrize(("data", "text"), BAD_IMAGE_KEYS, ids=range(len(BAD_IMAGE_KEYS)))
def test_bad_image_keys(data: bytes, text: str) -> None:
    refused(f"k.prv: {text}", read_image_key, data, "k.prv")


def pem(label: str, body: bytes) -> bytes:
    text = base64.encodebytes(body).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


# Split, so that this file does not look as if it held a key.
BEGIN, END = b"-----BEGIN EC PRIVATE " + b"KEY-----\n", b"-----END EC PRIVATE " + b"KEY-----\n"
BAD_METADATA_KEYS = [
    (b"garbage", f"not a PEM file; {MAKE}"),
    (
        KEY.der,
        f"the key is in DER, realm metadata takes SEC1 PEM; {TO_PEM.replace(' -out', ' -inform DER -out')}",
    ),
    (
        private(FOREIGN, form=PrivateFormat.PKCS8),
        f"the key is PKCS #8, realm metadata takes SEC1 PEM; {TO_PEM}",
    ),
    (
        private(FOREIGN, form=PrivateFormat.PKCS8, encryption=BestAvailableEncryption(b"pass")),
        f"the key is encrypted, Islet's tools read plain keys; {TO_PEM}",
    ),
    (
        private(FOREIGN, encryption=BestAvailableEncryption(b"pass")),
        f"the key is encrypted, Islet's tools read plain keys; {TO_PEM}",
    ),
    (
        pem("EC PARAMETERS", CURVE) + KEY.pem,
        f"'EC PARAMETERS' stand before the key, which must be alone; {TO_PEM}",
    ),
    (
        private(RSA),
        f"PEM of 'RSA PRIVATE KEY', expected 'EC PRIVATE KEY'; {MAKE}",
    ),
    (pem("PUBLIC KEY", KEY.public.der), f"PEM of 'PUBLIC KEY', expected 'EC PRIVATE KEY'; {MAKE}"),
    (
        private(ec.generate_private_key(ec.SECP256R1())),
        f"the key is on P-256, Islet needs P-384 (secp384r1); {MAKE}",
    ),
    (KEY.pem + KEY.pem, f"not one PEM block from BEGIN to END; {MAKE}"),
    (KEY.pem[:-20], f"not one PEM block from BEGIN to END; {MAKE}"),
    (KEY.pem + b"more", f"not one PEM block from BEGIN to END; {MAKE}"),
    (BEGIN + b"####\n" + END, "the PEM block is not base64; the file is damaged"),
    (BEGIN + b"AAAA\n" + END, f"not a SEC1 private key; {MAKE}"),
    (b"\xff" * 20000, "more than 16384 bytes; a P-384 key file has a few hundred"),
]


@pytest.mark.parametrize(("data", "text"), BAD_METADATA_KEYS, ids=range(len(BAD_METADATA_KEYS)))
def test_bad_metadata_keys(data: bytes, text: str) -> None:
    refused(f"k.pem: {text}", read_metadata_key, data, "k.pem")


def test_a_name_is_quoted_for_the_shell() -> None:
    with pytest.raises(FormatError) as caught:
        read_image_key(KEY.pem, "my key; rm")
    assert "-in 'my key; rm' -outform DER -out 'my key; rm.new') && mv 'my key; rm.new' 'my key; rm'`" in str(
        caught.value
    )


SPKI = (
    "bytes that are not a P-384 public key, expected 120 bytes of SubjectPublicKeyInfo; "
    "write one with `openssl ec -in KEY -pubout -outform DER` [RFC 5480 section 2]"
)
P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
BAD_PUBLIC_KEYS = [
    (b"", f"0 {SPKI}"),
    (POINT, f"96 {SPKI}"),
    (KEY.public.der[:-1], f"119 {SPKI}"),
    (KEY.public.der + b"\0", f"121 {SPKI}"),
    (P256.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), f"91 {SPKI}"),
    (b"\x31" + KEY.public.der[1:], f"120 {SPKI}"),
    (KEY.public.der[:-1] + b"\0", "the public key is not a point of the curve P-384"),
    (
        KEY.pem,
        f"PEM of 'EC PRIVATE KEY', expected 'PUBLIC KEY'; {TO_PUBLIC}",
    ),
]


@pytest.mark.parametrize(("data", "text"), BAD_PUBLIC_KEYS, ids=range(len(BAD_PUBLIC_KEYS)))
def test_bad_public_keys(data: bytes, text: str) -> None:
    refused(f"k.pub: {text}", read_public_key, data, "k.pub")


def test_bad_points() -> None:
    text = "x: public key of 95 bytes, expected 96 (X, then Y)"
    refused(text, PublicKey.from_point, POINT[1:], "x")
    text = "x: the public key is not a point of the curve P-384"
    refused(text, PublicKey.from_point, bytes(96), "x")
    refused(text, PublicKey.from_point, b"\xff" * 96, "x")


LOW, HIGH = "zero or negative", "not below the order of P-384"
BAD_NUMBERS = [(0, 1, "r", LOW), (1, 0, "s", LOW), (ORDER, 1, "r", HIGH), (1, ORDER, "s", HIGH)]


@pytest.mark.parametrize(("r", "s", "name", "text"), BAD_NUMBERS)
def test_bad_numbers(r: int, s: int, name: str, text: str) -> None:
    message = f"x: {name} of the signature is {text} [FIPS 186-5 section 6.4.2]"
    refused(message, Signature.from_raw, r.to_bytes(48, "big") + s.to_bytes(48, "big"), "x")
    encoded = der.encode_sequence(der.encode_integer(r), der.encode_integer(s))
    refused(message, Signature.from_der, encoded, "x")


def test_bad_signatures() -> None:
    refused("x: signature of 95 bytes, expected 96 (r, then s)", Signature.from_raw, bytes(95), "x")
    one = der.encode_integer(1)
    text = "x: offset 0x0: the signature has 3 fields, expected r and s [X.690]"
    refused(text, Signature.from_der, der.encode_sequence(one, one, one), "x")
    text = "x: r of the signature is zero or negative [FIPS 186-5 section 6.4.2]"
    refused(text, Signature.from_der, der.encode_sequence(der.encode_integer(-1), one), "x")
    text = "x: offset 0x2: r is an integer of 2 octets, not its shortest form [X.690]"
    refused(text, Signature.from_der, bytes.fromhex("300702020001020101"), "x")


NUMBERS = st.integers(1, ORDER - 1) | st.integers(1, 300)


@FUZZ
@given(NUMBERS, NUMBERS)
def test_encodings_of_a_signature(r: int, s: int) -> None:
    signature = Signature(r, s)
    assert Signature.from_raw(signature.raw, "x") == signature
    assert Signature.from_der(signature.der, "x") == signature
    assert len(signature.der) <= 104


KEY_FILES = [KEY.pem, KEY.der, KEY.public.der, private(FOREIGN, form=PrivateFormat.PKCS8)]


@FUZZ
@given(st.data())
def test_nothing_but_a_format_error_comes_out(data: st.DataObject) -> None:
    valid = bytearray(data.draw(st.sampled_from(KEY_FILES)))
    for _ in range(data.draw(st.integers(0, 4))):
        valid[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
    content = data.draw(st.binary(max_size=300)) if data.draw(st.booleans()) else bytes(valid)
    for reader in (read_metadata_key, read_image_key, read_public_key):
        try:
            reader(content, "fuzz")
        except FormatError as error:
            assert str(error).startswith("fuzz: ")
    for parse in (Signature.from_raw, Signature.from_der, PublicKey.from_point):
        try:
            parse(content[:100], "fuzz")
        except FormatError as error:
            assert str(error).startswith("fuzz: ")
