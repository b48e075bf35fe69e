"""Key files of Islet's tools: read as strictly as those tools read them, with the command that converts.

realm-metadata-tool takes SEC1 PEM only, ir-sign takes SEC1 DER only; neither takes PKCS #8 nor an encrypted
key. A key that is read here is one that those tools can use as well.

Spec: SEC 1 version 2.0 section C.4 and RFC 5915 section 3 (ECPrivateKey); RFC 7468 sections 2 and 3 (PEM);
realm-metadata-tool f08738d ``src/crypto.rs``, image-registry 92e5635 ``ir-sign/src/crypto.rs``.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex

from ..errors import FormatError
from . import der
from .p384 import COORDINATE_SIZE, OID_SECP384R1, PublicKey, SigningKey

# Ours: a P-384 key in any form has a few hundred bytes.
MAX_KEY_FILE = 16384
_SEC1 = "EC PRIVATE KEY"
_SPKI = "PUBLIC KEY"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n(.*?)-----END ([A-Z0-9 ]+)-----\s*", re.DOTALL)
# For messages: the curves that people have keys on. Spec: RFC 5480 section 2.1.1.1, SEC 2 version 2.0.
_CURVES = {
    der.encode_oid("1.2.840.10045.3.1.7"): "P-256",
    der.encode_oid("1.3.132.0.35"): "P-521",
    der.encode_oid("1.3.132.0.33"): "P-224",
    der.encode_oid("1.3.132.0.10"): "secp256k1",
    der.encode_oid("1.3.36.3.3.2.8.1.1.11"): "brainpoolP384r1",
}
_MAKE = "make one with `openssl ecparam -genkey -name secp384r1 -noout`"


def read_metadata_key(data: bytes, source: str) -> SigningKey:
    """The key of a SEC1 PEM file, which is the only form that realm-metadata-tool reads.

    Raises:
        FormatError: another form, encrypted, another curve, or damaged; says how to convert it.
    """
    _check_size(data, source)
    fix = _conversion(source, data, "PEM")
    if b"-----BEGIN " not in data:
        if data[:1] == b"\x30":
            raise FormatError(source, f"the key is in DER, realm metadata takes SEC1 PEM; {fix}")
        raise FormatError(source, f"not a PEM file; {_MAKE}")
    return _sec1(_pem(data, source, fix), source, fix)


def read_image_key(data: bytes, source: str) -> SigningKey:
    """The key of a SEC1 DER file (``*.prv``), which is the only form that ir-sign reads.

    Raises:
        FormatError: another form, encrypted, another curve, or damaged; says how to convert it.
    """
    _check_size(data, source)
    fix = _conversion(source, data, "DER")
    if b"-----BEGIN " in data:
        raise FormatError(source, f"the key is in PEM, application images take SEC1 DER; {fix}")
    return _sec1(data, source, fix)


def read_public_key(data: bytes, source: str) -> PublicKey:
    """The key of a SubjectPublicKeyInfo in DER (``*.pub``) or PEM.

    Raises:
        FormatError: anything else, another curve, or not a point of it.
    """
    _check_size(data, source)
    if b"-----BEGIN " in data:
        label, body = _block(data, source)
        if label != _SPKI:
            fix = f"write the public key with `openssl ec -in {shlex.quote(source)} -pubout`"
            raise FormatError(source, f"PEM of {label!r}, expected {_SPKI!r}; {fix}")
        data = _base64(body, source)
    return PublicKey.from_der(data, source)


def _check_size(data: bytes, source: str) -> None:
    if len(data) > MAX_KEY_FILE:
        raise FormatError(source, f"more than {MAX_KEY_FILE} bytes; a P-384 key file has a few hundred")


def _conversion(source: str, data: bytes, form: str) -> str:
    """The command that puts the key in the form that is read in the file's place.

    At no time is there a file that others can read, and none is left that nothing looks after.
    """
    inform = "" if b"-----BEGIN " in data else " -inform DER"
    outform = " -outform DER" if form == "DER" else ""
    name = shlex.quote(source)
    fresh = shlex.quote(f"{source}.new")
    command = f"openssl ec -param_enc named_curve -in {name}{inform}{outform} -out {fresh}"
    return f"convert it with `(umask 077; {command}) && mv {fresh} {name}`"


def _block(data: bytes, source: str) -> tuple[str, bytes]:
    """Label and body of the only PEM block; text before it is a comment. Spec: RFC 7468 section 2."""
    start = data.find(b"-----BEGIN ")
    match = _BLOCK.fullmatch(data, start)
    if match is None or match[1] != match[3] or b"-----BEGIN" in match[2]:
        # The first block names what people have, when several are in the file.
        if re.match(rb"-----BEGIN EC PARAMETERS-----", data[start:]):
            return "EC PARAMETERS", b""
        raise FormatError(source, f"not one PEM block from BEGIN to END; {_MAKE}")
    return match[1].decode("ascii"), match[2]


def _base64(body: bytes, source: str) -> bytes:
    try:
        return base64.b64decode(re.sub(rb"[\r\n]", b"", body), validate=True)
    except binascii.Error:
        raise FormatError(source, "the PEM block is not base64; the file is damaged") from None


def _pem(data: bytes, source: str, fix: str) -> bytes:
    """The contents of a block ``EC PRIVATE KEY``."""
    label, body = _block(data, source)
    if label == "ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in body:
        raise FormatError(source, f"the key is encrypted, Islet's tools read plain keys; {fix}")
    if label == "PRIVATE KEY":
        raise FormatError(source, f"the key is PKCS #8, realm metadata takes SEC1 PEM; {fix}")
    if label == "EC PARAMETERS":
        raise FormatError(source, f"'EC PARAMETERS' stand before the key, which must be alone; {fix}")
    if label != _SEC1:
        raise FormatError(source, f"PEM of {label!r}, expected {_SEC1!r}; {_MAKE}")
    return _base64(body, source)


def _sec1(data: bytes, source: str, fix: str) -> SigningKey:
    """The key of an ECPrivateKey. Spec: RFC 5915 section 3."""
    try:
        root = der.read(data, source).expect(der.SEQUENCE, "the key")
        fields = root.children()
    except FormatError:
        raise FormatError(source, f"not a SEC1 private key; {_MAKE}") from None
    tags = tuple(item.tag for item in fields)
    if tags[:3] == (der.INTEGER, der.SEQUENCE, der.OCTET_STRING):
        raise FormatError(source, f"the key is PKCS #8, Islet's tools take SEC1; {fix}")
    if tags == (der.SEQUENCE, der.OCTET_STRING):
        raise FormatError(source, f"the key is encrypted, Islet's tools read plain keys; {fix}")
    if tags == (der.SEQUENCE, der.BIT_STRING):
        raise FormatError(source, "this is a public key; the private key belongs here")
    if tags[:2] != (der.INTEGER, der.OCTET_STRING) or fields[0].content != b"\x01":
        raise FormatError(source, f"not a SEC1 private key; {_MAKE}")
    optional = fields[2:]
    if tags[2:] not in ((der.context(0),), (der.context(0), der.context(1))):
        raise FormatError(source, f"a SEC1 private key that does not name its curve; {_MAKE}")
    _check_curve(optional[0].content, source, fix)
    secret = fields[1].content
    if len(secret) != COORDINATE_SIZE:
        raise FormatError(source, f"private key of {len(secret)} bytes, P-384 has {COORDINATE_SIZE}")
    key = SigningKey.from_scalar(int.from_bytes(secret, "big"), source)
    if len(optional) == 2:
        _check_public(optional[1].content, key.public, source)
    return key


def _check_curve(parameters: bytes, source: str, fix: str) -> None:
    if parameters == OID_SECP384R1:
        return
    if parameters[:1] == bytes((der.SEQUENCE,)):
        raise FormatError(source, f"the key does not name its curve; {fix}")
    curve = _CURVES.get(parameters, "a curve with OID bytes " + parameters[:16].hex())
    raise FormatError(source, f"the key is on {curve}, Islet needs P-384 (secp384r1); {_MAKE}")


def _check_public(content: bytes, public: PublicKey, source: str) -> None:
    """The public key in the file must be that of the private one, in either form of SEC 1 section 2.3.3."""
    x, y = public.point[:COORDINATE_SIZE], public.point[COORDINATE_SIZE:]
    forms = (b"\x00\x04" + x + y, bytes((0, 2 + (y[-1] & 1))) + x)
    if content not in [der.encode(der.BIT_STRING, form) for form in forms]:
        raise FormatError(source, "public and private key in the file do not belong together; it is damaged")
