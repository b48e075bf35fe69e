"""Keys in escrow: what the helper encrypts, other programs decrypt; and the files it does not take."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import random
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.support import ROOT, require_tool
from tests.tool.built_helpers import SANITIZER_OPTIONS, helper

pytestmark = pytest.mark.tool

PREFIX = b"RSA-OAEP-SHA256:"
OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
VOLUME_KEY = hashlib.shake_256(b"a volume key").digest(64)
ADVICE = "give the RSA public key that `openssl pkey -in KEY -pubout` writes"
SPKI = PublicFormat.SubjectPublicKeyInfo


@dataclass(frozen=True)
class Outcome:
    code: int
    line: bytes
    words: str


def escrow(pem: Path, key: bytes = VOLUME_KEY, *, sanitized: bool = False, **environment: str) -> Outcome:
    done = subprocess.run(
        [helper("escrow", sanitized=sanitized), pem],
        input=key,
        capture_output=True,
        env=os.environ | SANITIZER_OPTIONS | environment,
    )
    return Outcome(done.returncode, done.stdout, done.stderr.decode())


def public_pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, SPKI)


def armour(der: bytes, label: str = "PUBLIC KEY") -> bytes:
    text = base64.encodebytes(der).replace(b"\n", b"")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----".encode(), b""])


def forged(bits: int) -> rsa.RSAPublicKey:
    """A public key of exactly so many bits whose factors nobody knows; as good as any to encrypt to."""
    numbers = random.Random(bits)
    small = math.prod(range(3, 1000, 2))
    while True:
        # Two bits at the top of either factor give the product all of its own.
        sizes = (bits // 2, bits - bits // 2)
        left, right = (numbers.getrandbits(size) | 3 << (size - 2) | 1 for size in sizes)
        if math.gcd(left * right, small) == 1:
            return rsa.RSAPublicNumbers(65537, left * right).public_key()


@pytest.fixture(scope="module")
def private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def pem(private: rsa.RSAPrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "escrow.pem"
    path.write_bytes(public_pem(private.public_key()))
    return path


def ciphertext(outcome: Outcome) -> bytes:
    assert (outcome.code, outcome.words) == (0, "")
    assert outcome.line.startswith(PREFIX)
    assert outcome.line.endswith(b"\n")
    assert outcome.line.count(b"\n") == 1
    return base64.b64decode(outcome.line[len(PREFIX) : -1], validate=True)


@pytest.mark.parametrize("size", [1, 16, 64, 189, 190])
def test_the_owner_gets_the_key_back(private: rsa.RSAPrivateKey, pem: Path, size: int) -> None:
    key = hashlib.shake_256(b"key").digest(size)
    assert private.decrypt(ciphertext(escrow(pem, key)), OAEP) == key


def test_a_key_is_bytes_and_no_text(private: rsa.RSAPrivateKey, pem: Path) -> None:
    for key in (b"\0" * 64, b"\n", b"word\n", bytes(range(128))):
        assert private.decrypt(ciphertext(escrow(pem, key)), OAEP) == key


def test_openssl_opens_it_as_the_helper_says(private: rsa.RSAPrivateKey, pem: Path, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    options = ("rsa_padding_mode:oaep", "rsa_oaep_md:sha256")
    argv = [require_tool("openssl"), "pkeyutl", "-decrypt", "-inkey", str(path)]
    argv += [word for option in options for word in ("-pkeyopt", option)]
    done = subprocess.run(argv, input=ciphertext(escrow(pem)), capture_output=True)
    assert (done.returncode, done.stdout) == (0, VOLUME_KEY)


def test_no_two_lines_are_alike(pem: Path) -> None:
    assert escrow(pem).line != escrow(pem).line


def test_the_line_says_nothing_about_the_key(private: rsa.RSAPrivateKey, pem: Path) -> None:
    line = ciphertext(escrow(pem))
    assert len(line) == 256
    assert VOLUME_KEY not in line
    other = padding.OAEP(padding.MGF1(SHA256()), SHA256(), b"label")
    with pytest.raises(ValueError, match=r"(?i)decrypt"):
        private.decrypt(line, other)


@pytest.mark.parametrize(("bits", "most"), [(2048, 190), (2049, 191), (3072, 318), (4096, 446)])
def test_sizes_of_rsa_keys(tmp_path: Path, bits: int, most: int) -> None:
    path = tmp_path / "escrow.pem"
    path.write_bytes(public_pem(forged(bits)))
    assert len(ciphertext(escrow(path, b"k" * most, sanitized=True))) == -(-bits // 8)
    refused = escrow(path, b"k" * (most + 1), sanitized=True)
    assert (refused.code, refused.line) == (40, b"")
    what = f"{most + 1} bytes, an RSA key of {bits} bits takes {most}; {path}: give a larger one"
    assert refused.words == f"escrow: standard input: {what}\n"


@pytest.mark.parametrize("bits", [1024, 2047, 4097, 8192])
def test_keys_too_small_and_too_large(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "escrow.pem"
    path.write_bytes(public_pem(forged(bits)))
    said = f"escrow: {path}: is an RSA key of {bits} bits, not 2048 to 4096; make another\n"
    assert escrow(path) == Outcome(40, b"", said)


# What the driver does with the line; a file of ours in the place of the kernel's log.
FRAME = """\
volume=sixteen-letters0 ESCROW={pem} key={folder}/key words={folder}/words
finish() {{ shift 2; echo "finish: $*"; exit 1; }}
{function}
escrow_key
"""


@pytest.mark.parametrize("shell", ["dash", "busybox"])
def test_the_kernel_log_takes_the_line_of_the_largest_key(tmp_path: Path, shell: str) -> None:
    """It takes what is written at once, or nothing: 1024 bytes, 976 before Linux 6.4 (LOG_LINE_MAX)."""
    pem = tmp_path / "escrow.pem"
    pem.write_bytes(public_pem(forged(4096)))
    (tmp_path / "key").write_bytes(b"k" * 446)
    driver = (ROOT / "initrd" / "unlock").read_text()
    function = driver[driver.index("escrow_key() {") :].partition("\n}\n")[0] + "\n}"
    assert function.count("/usr/lib/goldsmith/escrow") == function.count(">/dev/kmsg") == 1
    function = function.replace("/usr/lib/goldsmith/escrow", str(helper("escrow")))
    script = FRAME.format(pem=pem, folder=tmp_path, function=function.replace("/dev/kmsg", "&1"))
    program = [require_tool(shell), *(["sh"] if shell == "busybox" else []), "-c", script]
    # A pipe in packet mode (pipe(2), O_DIRECT) gives back what was written at once.
    reader, writer = os.pipe2(os.O_DIRECT)
    with os.fdopen(reader, "rb", buffering=0) as log:
        with os.fdopen(writer, "wb", buffering=0) as out:
            done = subprocess.run(program, stdout=out, stderr=subprocess.PIPE)
        packets = [log.read(4096), log.read(4096)]
    assert (done.returncode, done.stderr) == (0, b"")
    line, end = packets
    assert re.fullmatch(
        rb"<3>goldsmith: escrow sixteen-letters0: RSA-OAEP-SHA256:[A-Za-z0-9+/]{683}=\n", line
    )
    assert len(line) <= 976
    assert end == b""


def weak_keys() -> dict[str, bytes]:
    """Keys of the right size that hide nothing, or not enough."""
    der = forged(2048).public_bytes(Encoding.DER, SPKI)
    assert der.endswith(b"\x02\x03\x01\x00\x01")
    numbers = random.Random(1)
    even = rsa.RSAPublicNumbers(65537, (1 << 2047) + (numbers.getrandbits(2040) << 3) + 1).public_key()
    flat = even.public_bytes(Encoding.DER, SPKI)
    place = len(flat) - 6
    return {
        # In three bytes, so that no length around it changes.
        "exponent 1": armour(der[:-3] + b"\x00\x00\x01"),
        "even modulus": armour(flat[:place] + bytes([flat[place] & 0xFE]) + flat[place + 1 :]),
        "small factor": public_pem(
            rsa.RSAPublicNumbers(65537, 3 * (forged(2047).public_numbers().n)).public_key()
        ),
        "prime": public_pem(rsa.RSAPublicNumbers(65537, MERSENNE).public_key()),
    }


# 2^2203 - 1, a prime (OEIS A000043).
MERSENNE = (1 << 2203) - 1


@pytest.mark.parametrize("name", ["exponent 1", "even modulus", "small factor", "prime"])
def test_keys_that_hide_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "escrow.pem"
    path.write_bytes(weak_keys()[name])
    said = f"escrow: {path}: is an RSA key with a bad modulus or exponent; make another\n"
    assert escrow(path) == Outcome(40, b"", said)


def certificate(private: rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "escrow")])
    builder = x509.CertificateBuilder(name, name, private.public_key(), 1)
    builder = builder.not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2040, 1, 1))
    return builder.sign(private, SHA256()).public_bytes(Encoding.PEM)


PRIVATE = f"is a private key, which belongs nowhere but to its owner; {ADVICE}"
BEGIN = f"does not begin with -----BEGIN PUBLIC KEY-----; {ADVICE}"
END = f"does not end with the end of its public key; {ADVICE}"
NONE = f"is no public key in PEM; {ADVICE}"


WRONG = (
    "private", "private, PKCS#1", "private, locked", "private, EC", "private behind public",
    "private before public", "private in a public one's clothes", "EC", "Ed25519", "PKCS#1", "certificate",
    "two", "text behind", "text before", "no end", "a NUL", "DER", "empty", "garbage", "no base64", "cut",
    "a byte more", "headers", "long",
)  # fmt: skip


def wrong_files(private: rsa.RSAPrivateKey) -> dict[str, tuple[bytes, str]]:
    good = public_pem(private.public_key())
    der = private.public_key().public_bytes(Encoding.DER, SPKI)
    curve = ec.generate_private_key(ec.SECP256R1())
    pkcs8, traditional = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL
    locked = BestAvailableEncryption(b"pass")
    own = private.private_bytes(Encoding.PEM, pkcs8, NoEncryption())
    return {
        "private": (own, PRIVATE),
        "private, PKCS#1": (private.private_bytes(Encoding.PEM, traditional, NoEncryption()), PRIVATE),
        "private, locked": (private.private_bytes(Encoding.PEM, pkcs8, locked), PRIVATE),
        "private, EC": (curve.private_bytes(Encoding.PEM, traditional, NoEncryption()), PRIVATE),
        "private behind public": (good + own, PRIVATE),
        "private before public": (own + good, PRIVATE),
        "private in a public one's clothes": (
            armour(private.private_bytes(Encoding.DER, pkcs8, NoEncryption())),
            NONE,
        ),
        "EC": (public_pem(curve.public_key()), f"is a key of type EC, not RSA; {ADVICE}"),
        "Ed25519": (
            public_pem(ed25519.Ed25519PrivateKey.generate().public_key()),
            f"is a key of type ED25519, not RSA; {ADVICE}",
        ),
        "PKCS#1": (private.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1), BEGIN),
        "certificate": (certificate(private), BEGIN),
        "two": (good + good, END),
        "text behind": (good + b"x\n", END),
        "text before": (b"x\n" + good, BEGIN),
        "no end": (good[: good.index(b"-----END")], END),
        "a NUL": (good + b"\0", f"has a NUL byte; {ADVICE}"),
        "DER": (der, f"has a NUL byte; {ADVICE}"),
        "empty": (b"", BEGIN),
        "garbage": (armour(b"\xff" * 300), NONE),
        "no base64": (good.replace(b"\nM", b"\n*", 1), NONE),
        "cut": (armour(der[:-1]), NONE),
        "a byte more": (armour(der + b"\0"), NONE),
        "headers": (
            good.replace(b"KEY-----\n", b"KEY-----\nProc-Type: 4,CLEAR\n\n", 1),
            NONE,
        ),
        "long": (b" " * 16384, f"is longer than 16383 bytes; {ADVICE}"),
    }


@pytest.fixture(scope="module")
def files(private: rsa.RSAPrivateKey) -> dict[str, tuple[bytes, str]]:
    return wrong_files(private)


def test_each_wrong_file_is_tried(files: dict[str, tuple[bytes, str]]) -> None:
    assert sorted(files) == sorted(WRONG)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files(files: dict[str, tuple[bytes, str]], tmp_path: Path, name: str) -> None:
    content, what = files[name]
    path = tmp_path / "escrow.pem"
    path.write_bytes(content)
    assert escrow(path, sanitized=True) == Outcome(40, b"", f"escrow: {path}: {what}\n")


def test_white_space_around_a_key_is_no_fault(private: rsa.RSAPrivateKey, pem: Path) -> None:
    text = pem.read_bytes()
    for content in (b"\n \t" + text + b"\r\n \n", text.replace(b"\n", b"\r\n"), text.rstrip(b"\n")):
        pem.write_bytes(content)
        assert private.decrypt(ciphertext(escrow(pem)), OAEP) == VOLUME_KEY


def test_pss_keys_are_for_signatures(tmp_path: Path) -> None:
    openssl, path = require_tool("openssl"), tmp_path / "escrow.pem"
    made = subprocess.run(
        [openssl, "genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:1024"],
        capture_output=True,
        check=True,
    ).stdout
    subprocess.run([openssl, "pkey", "-pubout", "-out", path], input=made, check=True)
    assert escrow(path) == Outcome(40, b"", f"escrow: {path}: is a key of type RSA-PSS, not RSA; {ADVICE}\n")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    said = f"escrow: {nowhere}: No such file or directory; {ADVICE}\n"
    assert escrow(nowhere) == Outcome(40, b"", said)
    assert escrow(tmp_path) == Outcome(40, b"", f"escrow: {tmp_path}: Is a directory; {ADVICE}\n")


def test_nothing_to_encrypt(pem: Path) -> None:
    said = "escrow: standard input: is empty; give the key there\n"
    assert escrow(pem, b"") == Outcome(40, b"", said)


def test_more_than_a_key(pem: Path) -> None:
    said = "escrow: standard input: is longer than a key's 512 bytes\n"
    assert escrow(pem, b"k" * 513) == Outcome(40, b"", said)
    assert escrow(pem, b"k" * 100_000) == Outcome(40, b"", said)


def test_a_line_that_goes_nowhere(pem: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([helper("escrow"), pem], input=VOLUME_KEY, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"escrow: standard output: No space left on device\n")


def test_the_environment_decides_nothing(private: rsa.RSAPrivateKey, pem: Path, tmp_path: Path) -> None:
    config = tmp_path / "openssl.cnf"
    config.write_text("openssl_conf = all\n[all]\nproviders = p\n[p]\nnowhere = n\n[n]\nactivate = 1\n")
    outcome = escrow(pem, OPENSSL_CONF=str(config))
    assert private.decrypt(ciphertext(outcome), OAEP) == VOLUME_KEY


def test_wrong_use() -> None:
    for words in ([], ["a", "b"]):
        done = subprocess.run([helper("escrow"), *words], input=b"", capture_output=True)
        assert (done.returncode, done.stdout) == (40, b"")
        assert done.stderr == b"escrow: usage: escrow PEM <KEY\n"
