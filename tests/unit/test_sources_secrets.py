from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from recipes.errors import SpecError
from recipes.formats.tree import FileTree, Node, NodeType
from recipes.sources.secrets import Finding, OwnKey, refuse_secrets, scan

# Every secret here is put together at run time, so that this file has none.
B64 = base64.b64encode(bytes(range(96))).decode()
ALNUM = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t0"


def _pem(label: str, newline: str = "\n", headers: str = "") -> str:
    body = f"{headers}{B64[:64]}{newline}{B64[64:]}"
    return newline.join((f"-----BEGIN {label}-----", body, f"-----END {label}-----"))


TEXTS = (
    (_pem("PRIVATE " + "KEY"), "a private key (PEM)"),
    (
        _pem("RSA PRIVATE " + "KEY", headers="Proc-Type: 4,ENCRYPTED\nDEK-Info: AES,00\n\n"),
        "a private key (PEM)",
    ),
    (_pem("OPENSSH PRIVATE " + "KEY", "\r\n"), "a private key (PEM)"),
    (_pem("ENCRYPTED PRIVATE " + "KEY", "\\n"), "a private key (PEM)"),
    (_pem("PGP PRIVATE " + "KEY BLOCK", headers="\n"), "a private key (PEM)"),
    ("---- BEGIN SSH2 ENCRYPTED PRIVATE " + "KEY ----\nComment: x\n" + B64, "a private key (SSH2)"),
    ("PuTTY-User-Key-File-" + "3: ssh-ed25519\nEncryption: none\n", "a private key (PuTTY)"),
    ("AGE-SECRET-" + "KEY-1" + "Q" * 58, "an age identity"),
    ("id = AKIA" + "IOSFODNN7ABCDEFG", "an AWS access key"),
    ("id = ASIA" + "IOSFODNN7ABCDEFG", "an AWS session key"),
    ("aws_secret_" + f'access_key = "{ALNUM}"', "an AWS secret key"),
    ("export AWS_SECRET_" + f"ACCESS_KEY={ALNUM}", "an AWS secret key"),
    ('"Secret' + f'AccessKey": "{ALNUM}"', "an AWS secret key"),
    ("client_" + f"secret={ALNUM[:16]}", "a client secret"),
    ("OAUTH_CLIENT_" + f"SECRET='{ALNUM[:34]}~'", "a client secret"),
    ('{"client' + f'Secret": "abc-{ALNUM}"', "a client secret"),
    *(
        (f"{margin}{_pem('RSA PRIVATE ' + 'KEY', newline + margin)}", "a private key (PEM)")
        for newline in ("\n", "\r\n")
        for margin in ("# ", "#", "// ", "> ", ">> ", " * ", "; ", "\t")
    ),
    (
        "# " + _pem("RSA PRIVATE " + "KEY", "\n# ", "Proc-Type: 4,ENCRYPTED\n# DEK-Info: AES,00\n#\n# "),
        "a private key (PEM)",
    ),
    ("key: AIza" + ALNUM[:35], "a Google API key"),
    ("AccountKey" + "=" + "a" * 86 + "==;", "an Azure storage key"),
    ("SharedAccessKey" + "=" + "a" * 43 + "=", "an Azure access key"),
    ("token ghp" + "_" + ALNUM[:36], "a GitHub token"),
    ("token ghr" + "_" + ALNUM[:36], "a GitHub token"),
    ("token github" + "_pat_" + ALNUM * 2 + "ab", "a GitHub token"),
    ("glp" + "at-" + ALNUM[:20], "a GitLab token"),
    ("xo" + "xb-" + "123456789012-abc", "a Slack token"),
    (
        ".".join(("ey" + "JhbGciOiJIUzI1NiJ9", "ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0", ALNUM)),
        "a signed token (JWT)",
    ),
    ("p: $6" + "$salt$" + "a" * 86, "a password hash"),
    ("p: $5" + "$rounds=5000$salt$" + "a" * 43, "a password hash"),
    ("p: $y" + "$j9T$salt$" + "a" * 43, "a password hash"),
    ("p: $2" + "b$12$" + "a" * 53, "a password hash"),
    ("DummyPassword" + "123", "the password of a published demo"),
)


def _tree(path: str, data: bytes) -> FileTree:
    tree = FileTree()
    tree.add_file(path, data)
    return tree


@pytest.mark.parametrize(("text", "what"), TEXTS)
def test_found_with_its_line(text: str, what: str) -> None:
    assert scan(_tree("srv/x", b"one\ntwo\n" + text.encode() + b"\n")) == (Finding("srv/x", 3, what),)


HARMLESS = (
    "-----BEGIN PRIVATE " + "KEY-----\0-----END PRIVATE " + "KEY-----",  # the strings of a library
    "-----BEGIN PRIVATE " + "KEY-----\n...\n",
    _pem("PUBLIC KEY"),
    "AKIA" + "IOSFODNN7EXAMPLE",  # the example of the service's manual
    "xAKIA" + "IOSFODNN7ABCDEFG",
    "AIza" + ALNUM[:34],
    "$6" + "$salt$" + "a" * 85,
    "$y" + "$",
    "xox" + "y-",
    "ey" + "J0.x.y",
    "AWS_SECRET_" + "ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY",  # likewise
    "AWS_SECRET_" + "ACCESS_KEY=$2",
    "# -----BEGIN PRIVATE " + "KEY-----\n# and so on\n",
    "client_" + "secret=YOUR_CLIENT_SECRET_HERE",
    "client_" + "secret=12345678901234567890",
    "client_" + "secret=self.get_secret_v2_from(x)",
    "client_" + f"secret={ALNUM[:15]}",
)


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless(text: str) -> None:
    assert scan(_tree("srv/x", text.encode())) == ()


def test_programs_are_searched_for_what_is_long_enough() -> None:
    elf = b"\x7fELF" + bytes(100)
    key = _pem("PRIVATE " + "KEY").encode()
    assert scan(_tree("bin/x", elf + key))[0].what == "a private key (PEM)"
    assert scan(_tree("bin/x", elf + b"$6" + b"$salt$" + b"a" * 86)) == ()


@dataclass(frozen=True)
class Pieces:
    """Content that comes in the pieces given."""

    parts: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))

    def chunks(self) -> Iterator[bytes]:
        yield from self.parts


@pytest.mark.parametrize("cut", [1, 30, 5000, 5001, 5010, 5031, 5040, 5100])
def test_secrets_across_pieces(cut: int) -> None:
    data = b"\n" * 5000 + _pem("PRIVATE " + "KEY").encode() + b"\n" * 20000
    tree = FileTree()
    tree["x"] = Node(type=NodeType.FILE, mode=0o644, payload=Pieces((data[:cut], data[cut:])))
    assert scan(tree) == (Finding("x", 5001, "a private key (PEM)"),)


def test_accounts() -> None:
    usable = "$y" + "$j9T$s$x"
    fields = (f"root:{usable}", "daemon:*", "open:", f"locked:!{usable}", "old:abXYabXYabXYa")
    shadow = "".join(f"{field}:1:::::\n" for field in fields)
    assert scan(_tree("etc/shadow", shadow.encode())) == (
        Finding("etc/shadow", 1, "the password of 'root'"),
        Finding("etc/shadow", 3, "account 'open' has no password"),
        Finding("etc/shadow", 5, "the password of 'old'"),
    )
    assert scan(_tree("etc/passwd", b"root:x:0:0::/root:/bin/sh\n")) == ()
    assert (
        scan(_tree("etc/passwd", b"root::0:0::/root:/bin/sh\n"))[0].what == "account 'root' has no password"
    )
    assert scan(_tree("etc/gshadow", b"root:*::\nadm:::\n")) == ()
    assert scan(_tree("etc/pam.d/passwd", b"@include common-password\n")) == ()


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("root/.ssh/id_ed25519", "an SSH key (by its name)"),
        ("etc/ssh/ssh_host_rsa_key", "an SSH host key (by its name)"),
        ("sbin/key.example", "the disk password of a published demo (by its name)"),
        ("keys/root-ca.prv", "the root key of a published demo (by its name)"),
        ("srv/workload/secrets/token", "a file of a folder for secrets (by its name)"),
    ],
)
def test_names(path: str, what: str) -> None:
    assert scan(_tree(path, b"2333")) == (Finding(path, 0, what),)
    assert scan(_tree(path + ".pub", b"2333")) == () or "/secrets/" in path


def _encodings(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
) -> tuple[bytes, bytes]:
    private = [
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
    ]
    return private[0], private[1]


KEYS = (
    ("RSA", rsa.generate_private_key(65537, 2048)),
    ("EC", ec.derive_private_key(12345678901234567890, ec.SECP256R1())),
    ("Ed25519", ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))),
)


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_own_keys(
    kind: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    pem, der = _encodings(key)
    own = [OwnKey("db.key", pem)]
    assert scan(_tree("a", der)) == (Finding("a", 0, f"a private key (DER, {kind})"),)
    found = scan(_tree("a", b"\n\n" + bytes(70) + der + bytes(20000)), own)
    assert {(finding.path, finding.what) for finding in found} == {("a", "our own key db.key")}
    assert scan(_tree("a", pem), own) == (
        Finding("a", 0, "our own key db.key"),
        Finding("a", 1, "a private key (PEM)"),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert scan(_tree("a", bytes(64) + public), own) == ()


def test_own_passphrases() -> None:
    own = [OwnKey("long", b"0123456789abcdef\n"), OwnKey("short", b"hunter2hunter2")]
    assert scan(_tree("a", b"x\ny 0123456789abcdef z"), own) == (Finding("a", 2, "our own key long"),)
    assert scan(_tree("a", b"x hunter2hunter2 y    "), own) == ()


def test_refuse() -> None:
    refuse_secrets(_tree("a", b"fine"), "root file system")
    tree = _tree("srv/key.example", b"2333")
    tree.add_file("etc/x", b"\ntoken ghp" + b"_" + ALNUM[:36].encode(), source="overlay base")
    with pytest.raises(SpecError) as caught:
        refuse_secrets(tree, "root file system")
    by_name = "the disk password of a published demo (by its name) would be public in an image"
    assert str(caught.value).splitlines() == [
        "root file system: etc/x:2: a GitHub token would be public in an image; remove it from overlay base",
        f"root file system: srv/key.example: {by_name}; remove it from generated",
    ]
    assert ALNUM not in str(caught.value)
