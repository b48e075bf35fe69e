"""Secrets that must not be in an image: private keys, tokens of cloud services, passwords, keys of demos.

Whatever is in a measured or plaintext partition is public. Each pattern has an anchor, a text that is
searched for with ``bytes.find``; only around an anchor is the full pattern tried, so a whole root file system
takes about a second. Compressed files and archives are not opened.

Spec: RFC 7468 (PEM), RFC 4880 section 6.2, PROTOCOL.key of OpenSSH, crypt(5) of libxcrypt 4.4, RFC 7519
(JWT); the forms of tokens are those their services document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import SpecError
from ..formats.tree import FileTree, Node, NodeType

_OVERLAP = 8192  # bytes seen again with the next piece; longer than any pattern
_BEFORE, _AFTER = 64, 4096  # what a pattern may need around its anchor
_ELF = b"\x7fELF"
_DER_LIMIT = 16384  # an RSA key of 16384 bits has 9 KiB
_SHORT_KEY = 16  # own keys below this length are compared with whole files only


@dataclass(frozen=True, order=True)
class Finding:
    """One secret.

    Attributes:
        path: tree path.
        line: counts from 1; 0 when it is the file as a whole.
        what: the kind of secret; never the secret itself.
    """

    path: str
    line: int
    what: str


@dataclass(frozen=True)
class OwnKey:
    """A private key of this project that must stay out: a name for messages, and its file's content."""

    name: str
    data: bytes


@dataclass(frozen=True)
class _Pattern:
    """A secret in running text.

    Attributes:
        programs: also looked for inside ELF files; patterns that are too short for that are not.
    """

    what: str
    anchor: bytes
    regex: re.Pattern[bytes]
    programs: bool = True


_NEWLINE = rb"(?:\r?\n|\\r\\n|\\n)"  # a real one, or one inside a JSON string
_MARGIN = rb"[ \t]*(?:(?:#|//|>|;|\*)+[ \t]*)?"  # a key that is commented out or quoted is as public
_BASE64_BODY = b"".join(
    (
        *(rb"[ \t]*", _NEWLINE),
        *(rb"(?:", _MARGIN, rb"[A-Za-z0-9-]+: [^\n\\]*", _NEWLINE, rb")*"),
        *(rb"(?:", _MARGIN, _NEWLINE, rb")?"),
        *(_MARGIN, rb"[A-Za-z0-9+/=]{20}"),
    )
)


def _token(what: str, anchor: bytes, rest: bytes, *, programs: bool = True) -> _Pattern:
    """A token that begins with its anchor and stands alone."""
    regex = re.compile(rb"(?<![A-Za-z0-9_/+-])" + re.escape(anchor) + rest + rb"(?![A-Za-z0-9_/+-])")
    return _Pattern(what, anchor, regex, programs)


def _assigned(what: str, anchor: bytes, value: bytes, *, programs: bool = True) -> _Pattern:
    """A value that is given to the name its anchor ends, in a shell, INI, YAML or JSON file."""
    regex = re.compile(re.escape(anchor) + rb"[\"']?\s*[=:]\s*[\"']?" + value)
    return _Pattern(what, anchor, regex, programs)


# 40 characters; the one of the service's manual ends in EXAMPLEKEY.
_AWS_SECRET = rb"[A-Za-z0-9/+]{30}(?!EXAMPLEKEY)[A-Za-z0-9/+]{10}"
# Of OAuth clients: with letters and digits, which a placeholder has not, and no call or index of a program.
_CLIENT_SECRET = rb"(?=[A-Za-z_.~-]*\d)(?=[\d_.~-]*[A-Za-z])[A-Za-z0-9_.~-]{16,}(?![A-Za-z0-9_.~(\[-])"


def _crypt(anchor: bytes, rest: bytes) -> _Pattern:
    regex = re.compile(rb"(?<![A-Za-z0-9$./])" + re.escape(anchor) + rest + rb"(?![A-Za-z0-9$./])")
    return _Pattern("a password hash", anchor, regex, programs=False)


_PATTERNS: tuple[_Pattern, ...] = (
    _Pattern(
        "a private key (PEM)",
        b"PRIVATE KEY",
        re.compile(rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----" + _BASE64_BODY),
    ),
    _Pattern(
        "a private key (SSH2)",
        b"---- BEGIN SSH2",
        re.compile(rb"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----" + _BASE64_BODY),
    ),
    _Pattern(
        "a private key (PuTTY)",
        b"PuTTY-User-Key-File-",
        re.compile(rb"PuTTY-User-Key-File-[123]: [a-z0-9@.-]+\r?\nEncryption: "),
    ),
    _token("an age identity", b"AGE-SECRET-KEY-1", rb"[0-9A-Z]{58}"),
    _token("an AWS access key", b"AKIA", rb"[0-9A-Z]{9}(?!EXAMPLE)[0-9A-Z]{7}"),
    _token("an AWS session key", b"ASIA", rb"[0-9A-Z]{9}(?!EXAMPLE)[0-9A-Z]{7}", programs=False),
    _assigned("an AWS secret key", b"ecret_access_key", _AWS_SECRET),
    _assigned("an AWS secret key", b"ECRET_ACCESS_KEY", _AWS_SECRET),
    _assigned("an AWS secret key", b"ecretAccessKey", _AWS_SECRET),
    _assigned("a client secret", b"client_secret", _CLIENT_SECRET, programs=False),
    _assigned("a client secret", b"CLIENT_SECRET", _CLIENT_SECRET, programs=False),
    _assigned("a client secret", b"lientSecret", _CLIENT_SECRET, programs=False),
    _token("a Google API key", b"AIza", rb"[0-9A-Za-z_-]{35}"),
    _Pattern("an Azure storage key", b"AccountKey=", re.compile(rb"AccountKey=[A-Za-z0-9+/]{86}==")),
    _Pattern("an Azure access key", b"SharedAccessKey=", re.compile(rb"SharedAccessKey=[A-Za-z0-9+/]{43}=")),
    _token("a GitHub token", b"ghp_", rb"[A-Za-z0-9]{36,251}"),
    _token("a GitHub token", b"ghs_", rb"[A-Za-z0-9]{36,251}"),
    _token("a GitHub token", b"gho_", rb"[A-Za-z0-9]{36,251}", programs=False),
    _token("a GitHub token", b"ghu_", rb"[A-Za-z0-9]{36,251}", programs=False),
    _token("a GitHub token", b"ghr_", rb"[A-Za-z0-9]{36,251}", programs=False),
    _token("a GitHub token", b"github_pat_", rb"[A-Za-z0-9_]{82}"),
    _token("a GitLab token", b"glpat-", rb"[0-9A-Za-z_-]{20,}"),
    _token("a Slack token", b"xox", rb"[abeprs](?:\.[a-z]+)?-[0-9A-Za-z-]{10,}", programs=False),
    _token("a signed token (JWT)", b"eyJ", rb"[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}", programs=False),
    _crypt(b"$6$", rb"(?:rounds=\d+\$)?[A-Za-z0-9./]{1,16}\$[A-Za-z0-9./]{86}"),
    _crypt(b"$5$", rb"(?:rounds=\d+\$)?[A-Za-z0-9./]{1,16}\$[A-Za-z0-9./]{43}"),
    _crypt(b"$y$", rb"[A-Za-z0-9./]+\$[A-Za-z0-9./]{1,86}\$[A-Za-z0-9./]{43}"),
    _crypt(b"$2", rb"[aby]\$\d\d\$[A-Za-z0-9./]{53}"),
    _Pattern("the password of a published demo", b"DummyPassword123", re.compile(rb"DummyPassword123")),
)

# Names that only a secret has: of OpenSSH, and of what reference systems ship (JinDisk's preset disk
# password, Islet's root key, the unmeasured folder of the Automata workload).
_NAMES: tuple[tuple[str, str], ...] = (
    ("*/id_rsa", "an SSH key"),
    ("*/id_dsa", "an SSH key"),
    ("*/id_ecdsa", "an SSH key"),
    ("*/id_ed25519", "an SSH key"),
    ("*/ssh_host_*_key", "an SSH host key"),
    ("*/key.example", "the disk password of a published demo"),
    ("*/root-ca.prv", "the root key of a published demo"),
    ("*/workload/secrets/*", "a file of a folder for secrets"),
)
_DER_KEYS: tuple[tuple[str, bytes], ...] = (
    ("a private key (DER, RSA)", bytes.fromhex("020100300d06092a864886f70d0101010500")),  # RFC 5958, RFC 8017
    ("a private key (DER, EC)", bytes.fromhex("020100301306072a8648ce3d0201")),  # RFC 5958, RFC 5480
    ("a private key (DER, Ed25519)", bytes.fromhex("020100300506032b6570")),  # RFC 8410
    ("a private key (DER, EC)", bytes.fromhex("0201010420")),  # RFC 5915, 256 bits
    ("a private key (DER, EC)", bytes.fromhex("0201010430")),  # RFC 5915, 384 bits
)


def _needles(key: OwnKey) -> list[bytes]:
    """The secret numbers of a key as every binary encoding holds them; the content when it is no key file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    secret: object = None
    for load in (serialization.load_pem_private_key, serialization.load_der_private_key):
        try:
            # Whether the key is a good one is no question here, and asking it takes a tenth of a second.
            secret = load(key.data, password=None, unsafe_skip_rsa_key_validation=True)
            break
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
    if isinstance(secret, rsa.RSAPrivateKey):
        numbers = secret.private_numbers()
        return [number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (numbers.p, numbers.q)]
    if isinstance(secret, ec.EllipticCurvePrivateKey):
        value = secret.private_numbers().private_value
        return [value.to_bytes((secret.key_size + 7) // 8, "big")]
    if isinstance(secret, ed25519.Ed25519PrivateKey):
        return [secret.private_bytes_raw()]
    return [key.data.strip()]


def _own_patterns(keys: Sequence[OwnKey]) -> list[_Pattern]:
    needles = ((key.name, needle) for key in keys for needle in _needles(key) if len(needle) >= _SHORT_KEY)
    return [
        _Pattern(f"our own key {name}", needle, re.compile(re.escape(needle))) for name, needle in needles
    ]


def _pieces(node: Node) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of a file, each piece beginning with the end of the one before."""
    if node.payload is None:
        return
    offset, tail = 0, b""
    for chunk in node.payload.chunks():
        piece = tail + chunk
        yield offset, piece
        tail = piece[-_OVERLAP:]
        offset += len(piece) - len(tail)


def _hits(node: Node, patterns: Sequence[_Pattern]) -> Iterator[tuple[int, str]]:
    """Offset in the file and kind of every match; one that lies in two pieces comes twice."""
    active: Sequence[_Pattern] | None = None
    for offset, piece in _pieces(node):
        if active is None:
            active = [p for p in patterns if p.programs] if piece.startswith(_ELF) else patterns
        for pattern in active:
            at = piece.find(pattern.anchor)
            while at >= 0:
                start = max(at - _BEFORE, 0)
                for match in pattern.regex.finditer(piece, start, at + len(pattern.anchor) + _AFTER):
                    if match.start() <= at < match.end():
                        yield offset + match.start(), pattern.what
                        break
                at = piece.find(pattern.anchor, at + 1)


def _line(node: Node, offset: int) -> int:
    """The line, counted from 1, that an offset of a file is in."""
    line, done = 1, 0
    for chunk in node.payload.chunks() if node.payload else ():
        line += chunk.count(b"\n", 0, offset - done)
        done += len(chunk)
        if done >= offset:
            break
    return line


def _passwords(path: str, node: Node) -> Iterator[Finding]:
    """Accounts that somebody could log in to: a password hash, or no password at all."""
    name = path.rpartition("/")[2].rstrip("-")
    if name not in ("shadow", "gshadow", "passwd", "group"):
        return
    for number, line in enumerate(node.read().split(b"\n"), start=1):
        fields = line.split(b":")
        if len(fields) < 4 or line.startswith((b"#", b"+", b"-")):
            continue
        account = fields[0].decode("utf-8", "replace")
        if not fields[1] and name in ("shadow", "passwd"):
            yield Finding(path, number, f"account {account!r} has no password")
        elif fields[1] not in (b"", b"x") and fields[1][:1] not in (b"!", b"*"):
            yield Finding(path, number, f"the password of {account!r}")


def _whole_file(path: str, node: Node, keys: Sequence[OwnKey]) -> Iterator[Finding]:
    size = node.payload.size if node.payload else 0
    for pattern, what in _NAMES:
        if size and fnmatchcase(f"/{path}", pattern):
            yield Finding(path, 0, f"{what} (by its name)")
    if path.startswith("etc/") and size <= 1 << 20:
        yield from _passwords(path, node)
    if 16 <= size <= _DER_LIMIT:
        data = node.read()
        if data[0] == 0x30:
            yield from (Finding(path, 0, what) for what, mark in _DER_KEYS if mark in data[:64])
        for key in keys:
            if data.strip() == key.data.strip():
                yield Finding(path, 0, f"our own key {key.name}")


def scan(tree: FileTree, own_keys: Sequence[OwnKey] = ()) -> tuple[Finding, ...]:
    """Every secret in the files of a tree, by path and line.

    Args:
        own_keys: private keys that must not occur, in whatever encoding.
    """
    patterns = (*_own_patterns(own_keys), *_PATTERNS)
    found: set[Finding] = set()
    for path, node in tree.nodes.items():
        if node.type is not NodeType.FILE:
            continue
        found.update(_whole_file(path, node, own_keys))
        for offset, what in set(_hits(node, patterns)):
            found.add(Finding(path, _line(node, offset), what))
    return tuple(sorted(found))


def refuse_secrets(tree: FileTree, where: str, own_keys: Sequence[OwnKey] = ()) -> None:
    """Nothing, when a tree has no secrets.

    Args:
        where: what the tree is, for the message: ``root file system``.

    Raises:
        SpecError: names every secret by path and line.
    """
    problems = []
    for finding in scan(tree, own_keys):
        place = f"{finding.path}:{finding.line}" if finding.line else finding.path
        origin = tree[finding.path].source
        fix = f"remove it from {origin}" if origin else "remove it"
        problems.append(f"{where}: {place}: {finding.what} would be public in an image; {fix}")
    if problems:
        raise SpecError("\n".join(problems))
