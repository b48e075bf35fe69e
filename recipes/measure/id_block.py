"""The ID block of an SEV-SNP launch: the owner's signed word on which launch digest may start.

QEMU takes both parts in base64, as ``id-block=`` and ``id-auth=`` of its ``sev-snp-guest`` object; the AMD
firmware refuses to start a guest with another digest or policy.

Spec: AMD SEV-SNP Firmware ABI (56860) 1.58, section 8.18, tables 75 (ID_BLOCK) and 76 (ID_AUTH_INFO);
chapter 10, ECDSA P-384 keys and signatures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

from ..binary import Struct, raw, u32, u64
from ..errors import MeasureError
from ..formats.p384 import COORDINATE_SIZE, PublicKey, Signature, SigningKey
from .gctx import DIGEST_SIZE

# Spec: 56860, table 75: the only version; tables 76 and 135: ECDSA P-384 with SHA-384; table 137: P-384.
_VERSION = 1
_ECDSA_P384_SHA384 = 1
_CURVE_P384 = 2
# Numbers are little endian, in fields of 72 bytes. Spec: 56860, chapter 10.
_NUMBER_SIZE = 72
_ID_SIZE = 16


class IdBlock(Struct):
    """What the owner signs. Spec: 56860, table 75."""

    digest: Annotated[bytes, raw(48)]
    family_id: Annotated[bytes, raw(16)]
    image_id: Annotated[bytes, raw(16)]
    version: u32
    guest_svn: u32
    policy: u64


class EcdsaKey(Struct):
    """A public key. Spec: 56860, table 137."""

    curve: u32
    x: Annotated[bytes, raw(72)]
    y: Annotated[bytes, raw(72)]
    reserved_0x94: Annotated[bytes, raw(880)] = b""


class EcdsaSignature(Struct):
    """A signature. Spec: 56860, table 138."""

    r: Annotated[bytes, raw(72)]
    s: Annotated[bytes, raw(72)]
    reserved_0x90: Annotated[bytes, raw(368)] = b""


class IdAuth(Struct):
    """The signature over the ID block, with the keys to check it. Spec: 56860, table 76."""

    id_key_algorithm: u32
    author_key_algorithm: u32
    reserved_0x8: Annotated[bytes, raw(56)] = b""
    id_block_signature: Annotated[bytes, raw(512)]
    id_key: Annotated[bytes, raw(1028)]
    reserved_0x644: Annotated[bytes, raw(60)] = b""
    id_key_signature: Annotated[bytes, raw(512)]
    author_key: Annotated[bytes, raw(1028)]
    reserved_0xc84: Annotated[bytes, raw(892)] = b""


@dataclass(frozen=True, kw_only=True)
class SignedIdBlock:
    """What QEMU is given, and what attestation reports then show.

    Attributes:
        block: 96 bytes.
        auth: 4096 bytes.
        id_key_digest: 48 bytes, ID_KEY_DIGEST of reports.
        author_key_digest: the same of the author key; zero without one.
    """

    block: bytes
    auth: bytes
    id_key_digest: bytes
    author_key_digest: bytes


def sign_id_block(
    digest: bytes,
    *,
    policy: int,
    id_key: SigningKey,
    author_key: SigningKey | None = None,
    family_id: bytes = bytes(_ID_SIZE),
    image_id: bytes = bytes(_ID_SIZE),
    guest_svn: int = 0,
) -> SignedIdBlock:
    """The ID block and its authentication for one launch digest.

    Args:
        digest: 48 bytes.
        policy: the guest's; the firmware compares it.
        author_key: vouches for the ID key, where one key is to stand behind many.
        family_id: 16 bytes that reports show, as ``image_id``.
        guest_svn: security version that reports show.

    Raises:
        FormatError: a number does not fit.
        MeasureError: another length of digest or identifier.
    """
    if len(digest) != DIGEST_SIZE or len(family_id) != _ID_SIZE or len(image_id) != _ID_SIZE:
        what = f"digest of {len(digest)}, family of {len(family_id)}, image of {len(image_id)} bytes"
        raise MeasureError(f"ID block: {what}; expected {DIGEST_SIZE}, {_ID_SIZE} and {_ID_SIZE} (SEV-SNP)")
    block = IdBlock(
        digest=digest,
        family_id=family_id,
        image_id=image_id,
        version=_VERSION,
        guest_svn=guest_svn,
        policy=policy,
    ).pack()
    public = pack_key(id_key.public)
    author = pack_key(author_key.public) if author_key else b""
    auth = IdAuth(
        id_key_algorithm=_ECDSA_P384_SHA384,
        author_key_algorithm=_ECDSA_P384_SHA384 if author_key else 0,
        id_block_signature=_pack_signature(id_key.sign(block)),
        id_key=public,
        id_key_signature=_pack_signature(author_key.sign(public)) if author_key else b"",
        author_key=author,
    ).pack()
    return SignedIdBlock(
        block=block,
        auth=auth,
        id_key_digest=hashlib.sha384(public).digest(),
        author_key_digest=hashlib.sha384(author).digest() if author else bytes(DIGEST_SIZE),
    )


def pack_key(key: PublicKey) -> bytes:
    """The 1028 bytes of a public key; its SHA-384 is what reports show."""
    x, y = key.point[:COORDINATE_SIZE], key.point[COORDINATE_SIZE:]
    return EcdsaKey(curve=_CURVE_P384, x=x[::-1], y=y[::-1]).pack()


def _pack_signature(signature: Signature) -> bytes:
    r, s = (number.to_bytes(_NUMBER_SIZE, "little") for number in (signature.r, signature.s))
    return EcdsaSignature(r=r, s=s).pack()
