"""Realm metadata of Islet: ``metadata.yaml``, and the signed ``metadata.bin`` for ``lkvm --metadata``.

A manifest that is accepted here is accepted by realm-metadata-tool and by Islet's RMM, which is stricter. The
RMM compares the RIM in it with the live one when the realm is activated: a wrong prediction means that the
realm does not start.

The signing key is part of every sealing key that the RMM derives: data that a realm sealed survives an update
of its image as long as that key, and whatever of realm id, RIM and svn the derivation asks for, stay as they
are. With another signing key sealed data is lost, so keep it. A key derived for a svn can be had again by
metadata of that svn or a higher one, never by a lower one.

Spec: realm-metadata-tool f08738d ``src/manifest.rs``, ``src/metadata.rs``; islet ``rmm/src/rmi/metadata.rs``
(field offsets, checks, what the sealing key takes).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from ..binary import Struct, raw, u64
from ..errors import FormatError, VerifyError
from ..units import PAGE_SIZE
from .p384 import RAW_SIZE, PublicKey, Signature, SigningKey

FMT_VERSION = 1
REALM_ID_SIZE = 128
# The RIM's field holds the longest hash; a shorter one stands in front.
RIM_FIELD_SIZE = 64
MIN_SVN = 1
_U64_MAX = (1 << 64) - 1
# Spec: Semantic Versioning 2.0.0 section 2, without what sections 9 and 10 add.
_VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)", re.ASCII)
# 20 digits hold every u64; longer numbers are not even converted.
_MAX_DIGITS = 20
_OLD_TOOL = "realm-metadata-tool older than f08738d (field order major, minor, patch, svn)"

Version = tuple[int, int, int]


class RimAlgorithm(Enum):
    """Hash algorithm of a RIM as manifests spell it; the names are also those of measurement algorithms."""

    SHA256 = "SHA256"
    SHA512 = "SHA512"

    @property
    def size(self) -> int:
        """Length of a RIM in bytes."""
        return {"SHA256": 32, "SHA512": 64}[self.value]

    @property
    def code(self) -> int:
        """The number in ``metadata.bin``; not that of the RMI, which starts at 0."""
        return {"SHA256": 1, "SHA512": 2}[self.value]


class MetadataHeader(Struct):
    """The part of ``metadata.bin`` that is signed, 0x150 bytes."""

    fmt_version: u64
    realm_id: Annotated[bytes, raw(REALM_ID_SIZE)]
    rim: Annotated[bytes, raw(RIM_FIELD_SIZE)]
    hash_algo: u64
    svn: u64
    version_major: u64
    version_minor: u64
    version_patch: u64
    public_key: Annotated[bytes, raw(RAW_SIZE)]


METADATA_SIZE = MetadataHeader.SIZE + RAW_SIZE


def parse_version(text: str, source: str = "version") -> Version:
    """Major, minor and patch of a version such as ``1.0.0``.

    Raises:
        FormatError: not three numbers below 2**64 without leading zeros, or with more behind them.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise FormatError(
            source, f"{text!r} is not a version; write MAJOR.MINOR.PATCH and nothing behind it, such as 1.0.0"
        )
    if max(len(part) for part in match.groups()) > _MAX_DIGITS:
        raise FormatError(source, f"a number of {text[:40]!r}... does not fit 64 bits")
    major, minor, patch = (int(part) for part in match.groups())
    for number in (major, minor, patch):
        if number > _U64_MAX:
            raise FormatError(source, f"{number} in version {text!r} does not fit 64 bits")
    return major, minor, patch


@dataclass(frozen=True, kw_only=True)
class RealmManifest:
    """What is said of a realm before it is launched; a value that exists is one that the RMM accepts.

    Attributes:
        realm_id: 1 to 128 printable ASCII characters.
        version: major, minor, patch; informative, no check of the RMM uses it.
        svn: security version number, at least 1.
        rim: the predicted RIM, as long as ``algorithm`` makes it.

    Raises:
        FormatError: a value that realm-metadata-tool or the RMM refuses.
    """

    realm_id: str
    version: Version
    svn: int
    rim: bytes
    algorithm: RimAlgorithm

    def __post_init__(self) -> None:
        _check_realm_id(self.realm_id, "realm_id")
        if len(self.version) != 3 or not all(0 <= number <= _U64_MAX for number in self.version):
            raise FormatError("version", f"{self.version} is not three numbers from 0 to 2**64-1")
        if not MIN_SVN <= self.svn <= _U64_MAX:
            raise FormatError("svn", f"{self.svn} is not from {MIN_SVN} to 2**64-1; the first is 1")
        if len(self.rim) != self.algorithm.size:
            raise FormatError(
                "rim",
                f"{len(self.rim)} bytes, {self.algorithm.value} has {self.algorithm.size} "
                f"({2 * self.algorithm.size} hexadecimal digits)",
            )
        _check_padded(self.rim, self.algorithm, "rim")

    @property
    def version_text(self) -> str:
        """The version as manifests write it: ``1.0.0``."""
        return ".".join(map(str, self.version))


def _check_realm_id(text: str, source: str) -> None:
    """The RMM wants 0x20 to 0x7e, the tool at least one character of ASCII."""
    if not 1 <= len(text) <= REALM_ID_SIZE:
        what = f"realm id of {len(text)} characters, expected 1 to {REALM_ID_SIZE}"
        raise FormatError(source, what)
    for position, letter in enumerate(text):
        if not " " <= letter <= "~":
            what = f"realm id {text!a}: {letter!a} at position {position + 1} is not printable ASCII"
            raise FormatError(source, f"{what}; the RMM refuses it, use characters from space to ~")


def _check_padded(rim: bytes, algorithm: RimAlgorithm, source: str, offset: int | None = None) -> None:
    """A SHA-256 value that somebody filled up with zeros can be no RIM of a SHA-512 realm."""
    if algorithm is RimAlgorithm.SHA512 and any(rim) and not any(rim[32:]):
        what = "rim of 32 bytes and zeros, SHA512 has 64; use hash_algo SHA256 or the SHA-512 rim"
        raise FormatError(source, what, offset=offset)


def manifest_yaml(manifest: RealmManifest) -> str:
    """``metadata.yaml`` as realm-metadata-tool reads it, fields in the tool's order.

    ``rim`` is quoted because hexadecimal digits can read as a number (``1e5``), the other strings because
    they could read as something else as well.
    """
    return (
        f"realm_id: {json.dumps(manifest.realm_id)}\n"  # ASCII in a JSON string is the same string in YAML
        f'version: "{manifest.version_text}"\n'
        f"svn: {manifest.svn}\n"
        f'rim: "{manifest.rim.hex()}"\n'
        f"hash_algo: {manifest.algorithm.value}\n"
    )


def sign(manifest: RealmManifest, key: SigningKey) -> bytes:
    """``metadata.bin``, 432 bytes; the same for the same manifest and key."""
    major, minor, patch = manifest.version
    header = MetadataHeader(
        fmt_version=FMT_VERSION,
        realm_id=manifest.realm_id.encode("ascii").ljust(REALM_ID_SIZE, b"\0"),
        rim=manifest.rim.ljust(RIM_FIELD_SIZE, b"\0"),
        hash_algo=manifest.algorithm.code,
        svn=manifest.svn,
        version_major=major,
        version_minor=minor,
        version_patch=patch,
        public_key=key.public.point,
    ).pack()
    return header + key.sign(header).raw


@dataclass(frozen=True, kw_only=True)
class SignedManifest:
    """A ``metadata.bin`` that was read; its signature is not checked yet.

    Attributes:
        header: the signed bytes.
        source: what was read, for messages.
    """

    manifest: RealmManifest
    public_key: PublicKey
    signature: Signature
    header: bytes
    source: str

    @property
    def signed(self) -> bool:
        """Whether the signature is that of the public key in the file, over the file's own bytes."""
        return self.public_key.verify(self.header, self.signature)

    @property
    def old_reading(self) -> tuple[Version, int] | None:
        """Version and svn if a tool older than f08738d wrote these bytes; None where it cannot have.

        Such a tool put the version before the svn. Its signature covers its own order, so it is valid: only
        who knows the version or the svn can tell.
        """
        major, (minor, patch, svn) = self.manifest.svn, self.manifest.version
        return ((major, minor, patch), svn) if svn >= MIN_SVN else None

    def verify(
        self,
        *,
        key: PublicKey | None = None,
        rim: bytes | None = None,
        manifest: RealmManifest | None = None,
    ) -> None:
        """Returns when the RMM would accept the file, and it says what is expected.

        Args:
            key: the public key that must have signed.
            rim: the RIM that must be in it.
            manifest: everything that must be in it.

        Raises:
            VerifyError: naming what is wrong.
        """
        if not self.signed:
            raise VerifyError(f"{self.source}: {self._why_invalid()}")
        if key is not None and key != self.public_key:
            theirs, ours = (each.point[:8].hex() for each in (self.public_key, key))
            what = f"signed by another key (X starts with {theirs}, expected {ours})"
            raise VerifyError(f"{self.source}: {what}; sign it with the expected key")
        if manifest is not None and manifest != self.manifest:
            raise VerifyError(f"{self.source}: {self._difference(manifest)}")
        if rim is not None and rim != self.manifest.rim:
            raise VerifyError(
                f"{self.source}: rim is {self.manifest.rim.hex()}, expected {rim.hex()}; the RMM would not "
                "activate the realm"
            )

    def _why_invalid(self) -> str:
        major, minor, patch = self.manifest.version
        fields = MetadataHeader.unpack(self.header)
        swapped = MetadataHeader(
            fmt_version=fields.fmt_version,
            realm_id=fields.realm_id,
            rim=fields.rim,
            hash_algo=fields.hash_algo,
            svn=major,
            version_major=minor,
            version_minor=patch,
            version_patch=self.manifest.svn,
            public_key=fields.public_key,
        )
        if self.public_key.verify(swapped.pack(), self.signature):
            return f"stale field order: the signature was made by {_OLD_TOOL}; sign it again"
        return "the signature is wrong: it was made over other content, or by another key; sign it again"

    def _difference(self, expected: RealmManifest) -> str:
        found = self.manifest
        if self.old_reading == (expected.version, expected.svn):
            return f"stale field order: written by {_OLD_TOOL}; sign it again"
        pairs = (
            ("realm_id", found.realm_id, expected.realm_id),
            ("version", found.version_text, expected.version_text),
            ("svn", str(found.svn), str(expected.svn)),
            ("hash_algo", found.algorithm.value, expected.algorithm.value),
            ("rim", found.rim.hex(), expected.rim.hex()),
        )
        name, has, wants = next(item for item in pairs if item[1] != item[2])
        return f"{name} is {has}, expected {wants}"


def read(data: bytes, source: str) -> SignedManifest:
    """The content of a ``metadata.bin``, padded with zeros or not; the signature is for ``verify`` to check.

    Raises:
        FormatError: a file that the tool or the RMM refuses, or with bytes that mean nothing.
    """
    if not METADATA_SIZE <= len(data) <= PAGE_SIZE:
        size = f"more than {PAGE_SIZE}" if len(data) > PAGE_SIZE else str(len(data))
        what = f"{size} bytes, metadata has {METADATA_SIZE}, or up to {PAGE_SIZE} with zeros behind"
        raise FormatError(source, what)
    if any(data[METADATA_SIZE:]):
        raise FormatError(source, "bytes behind the signature are not zero", offset=METADATA_SIZE)
    header = MetadataHeader.unpack(data, source=source)
    if header.fmt_version != FMT_VERSION:
        raise FormatError(source, f"fmt_version {header.fmt_version}, expected {FMT_VERSION}", offset=0)
    algorithm = next((each for each in RimAlgorithm if each.code == header.hash_algo), None)
    if algorithm is None:
        what = f"hash_algo {header.hash_algo}, expected 1 (SHA256) or 2 (SHA512)"
        raise FormatError(source, what, offset=0xC8)
    if any(header.rim[algorithm.size :]):
        what = f"rim of more than {algorithm.size} bytes, {algorithm.value} has {algorithm.size}"
        raise FormatError(source, f"{what}; the rest must be zero", offset=0x88 + algorithm.size)
    _check_padded(header.rim, algorithm, source, 0x88)
    if header.svn < MIN_SVN:
        what = f"svn 0, expected at least {MIN_SVN}"
        raise FormatError(source, f"{what}; or the file was written by {_OLD_TOOL}", offset=0xD0)
    manifest = RealmManifest(
        realm_id=_realm_id(header.realm_id, source),
        version=(header.version_major, header.version_minor, header.version_patch),
        svn=header.svn,
        rim=header.rim[: algorithm.size],
        algorithm=algorithm,
    )
    return SignedManifest(
        manifest=manifest,
        public_key=PublicKey.from_point(header.public_key, source),
        signature=Signature.from_raw(bytes(data[MetadataHeader.SIZE : METADATA_SIZE]), source),
        header=bytes(data[: MetadataHeader.SIZE]),
        source=source,
    )


def _realm_id(field: bytes, source: str) -> str:
    name, _, padding = field.partition(b"\0")
    if any(padding):
        raise FormatError(source, "bytes behind the end of the realm id are not zero", offset=8 + len(name))
    text = name.decode("latin-1")  # every byte is a character, so that the message can show it
    _check_realm_id(text, source)
    return text
