"""``goldsmith metadata show|verify FILE``: an Islet ``metadata.bin`` read back."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..errors import FormatError
from ..formats.islet_metadata import SignedManifest, read
from ..formats.p384 import PublicKey
from ..formats.p384_files import MAX_KEY_FILE, read_public_key
from ..units import PAGE_SIZE


def show(path: Path, *, as_json: bool = False) -> str:
    """What the file says, for people or as a JSON object; a wrong signature is shown, not refused.

    Raises:
        FormatError: the file is no metadata.
        OSError: it cannot be read.
    """
    signed = _load(path)
    manifest, old = signed.manifest, signed.old_reading
    state = "valid" if signed.signed else "wrong"
    if as_json:
        document = {
            "realm_id": manifest.realm_id,
            "version": manifest.version_text,
            "svn": manifest.svn,
            "rim": manifest.rim.hex(),
            "hash_algo": manifest.algorithm.value,
            "public_key": signed.public_key.point.hex(),
            "signature": signed.signature.raw.hex(),
            "signature_state": state,
        }
        return json.dumps(document, indent=1)
    lines = [
        f"realm_id    {manifest.realm_id}",
        f"version     {manifest.version_text}",
        f"svn         {manifest.svn}",
        f"rim         {manifest.rim.hex()}",
        f"hash_algo   {manifest.algorithm.value}",
        f"public_key  {signed.public_key.point.hex()}",
        f"signature   {state}, {signed.signature.raw.hex()}",
    ]
    if old is not None:
        # The bytes do not tell who wrote them, and the signature is valid either way.
        version = ".".join(map(str, old[0]))
        lines.append(f"note        from a tool older than f08738d this is version {version}, svn {old[1]}")
    return "\n".join(lines)


def verify(path: Path, public_key: Path | None = None, rim: str | None = None) -> str:
    """One line that says what was found good.

    Args:
        public_key: file with the key that must have signed, DER or PEM; without one the file's own key is
            used, and who it belongs to stays open.
        rim: hexadecimal digits of the RIM that must be in the file.

    Raises:
        FormatError: a file is not what it should be, or ``rim`` is no RIM of that algorithm.
        VerifyError: the signature, the key or the RIM is another one.
        OSError: a file cannot be read.
    """
    signed = _load(path)
    key = _load_key(public_key) if public_key else None
    signed.verify(key=key)
    manifest = signed.manifest
    if rim is not None:
        size = manifest.algorithm.size
        if re.fullmatch(r"[0-9a-fA-F]*", rim, re.ASCII) is None:
            raise FormatError("rim", f"{rim!a} is not hexadecimal")
        if len(rim) != 2 * size:
            what = f"{len(rim)} hexadecimal digits, a RIM of {manifest.algorithm.value} has {2 * size}"
            raise FormatError("rim", what)
        signed.verify(rim=bytes.fromhex(rim))
    said = [f"signature valid{'' if key else ' by the key in the file'}"]
    said += ["signed by the expected key"] if key else []
    said += ["rim as expected"] if rim else []
    return f"{path}: {manifest.realm_id} {manifest.version_text} svn {manifest.svn}: {', '.join(said)}"


def _load(path: Path) -> SignedManifest:
    return read(_read(path, PAGE_SIZE), str(path))


def _load_key(path: Path) -> PublicKey:
    return read_public_key(_read(path, MAX_KEY_FILE), str(path))


def _read(path: Path, limit: int) -> bytes:
    """The file, or enough of a larger one for its reader to see that it is too long."""
    with path.open("rb") as file:
        return file.read(limit + 1)
