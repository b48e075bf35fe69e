"""Islet's signatures on an application image: three annotations of its manifest, made, replaced and checked.

The vendor's key signs the image configuration, which holds the digests of all layers; the root CA's key signs
the vendor's public key. A realm extends its REM by the vendor's key, the CA's signature over it and the
configuration, not by the manifest: an annotation more changes the manifest's digest and not the REM.

Spec: islet-project/image-registry 92e5635, ir-sign/src/oci.rs (sign_config, rehash_file, replace_hash_index,
verify_config).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import FormatError
from ..formats.oci import INDEX_FILE, Digest, Manifest, MediaType, read_index
from ..formats.oci_write import annotate_manifest, redirect_index
from ..formats.p384 import PublicKey, Signature
from .oci import Image, check_layers, read_image
from .oci_layout import Layout, open_layout, replace_index, write_blob

# Spec: ir-sign/src/oci.rs, ANNOTATION_SIGNATURE, ANNOTATION_VENDORPUB, ANNOTATION_VENDORPUB_SIGNATURE.
SIGNATURE = "com.samsung.islet.image.signature"
VENDOR_KEY = "com.samsung.islet.image.vendorpub"
VENDOR_SIGNATURE = "com.samsung.islet.image.vendorpub.signature"
MAX_NESTING = 16  # indexes below indexes; images have one level, or two


@dataclass(frozen=True, kw_only=True)
class ApplicationImage:
    """What identifies a signed application; the REM of a realm that runs it follows from it.

    Attributes:
        config: the configuration's bytes.
        config_digest_sha384: their SHA-384, which a realm extends whatever digest names the blob.
        vendor_spki: the vendor's public key, DER SubjectPublicKeyInfo, 120 bytes.
        vendor_signature: the root CA's signature over ``vendor_spki``, DER.
        tag: None where only its digest names the image.
    """

    config: bytes
    config_digest_sha384: bytes
    vendor_spki: bytes
    vendor_signature: bytes
    manifest_digest: Digest
    tag: str | None


def sign_image(
    folder: Path,
    manifest: Digest,
    sign_vendor: Callable[[bytes], bytes],
    vendor_spki: bytes,
    vendor_signature_by_ca: bytes,
) -> Digest:
    """Digest of the manifest with its annotations; it and every index above it are rewritten in the layout.

    Old signatures are replaced, and the old manifest is removed. The same keys give the same bytes.

    Args:
        sign_vendor: the signature (DER, ECDSA P-384 with SHA-384) by the vendor's key over some bytes.
        vendor_signature_by_ca: such a signature by the root CA's key over ``vendor_spki``.

    Raises:
        FormatError: the layout is damaged or has no such image, or key and signatures do not belong together.
    """
    layout = open_layout(folder)
    image = read_image(layout, str(manifest))
    signature = sign_vendor(image.config_data)
    vendor = PublicKey.from_der(vendor_spki, "vendor key")
    if not vendor.verify(image.config_data, Signature.from_der(signature, "signature of the image")):
        raise FormatError("vendor key", "it is not the key that signed the image; give the signer's own")
    Signature.from_der(vendor_signature_by_ca, "root CA's signature of the vendor key")
    values = {
        SIGNATURE: signature.hex(),
        VENDOR_KEY: vendor_spki.hex(),
        VENDOR_SIGNATURE: vendor_signature_by_ca.hex(),
    }
    data = annotate_manifest(image.manifest_data, layout.where("manifest", manifest), values)
    if data == image.manifest_data:
        return manifest
    rewrite = _Rewrite(layout)
    signed = rewrite.replace(manifest, data)
    index = rewrite.index(image.index_data, f"{layout.name}: {INDEX_FILE}")
    for digest, blob in rewrite.written.items():
        write_blob(folder, digest, blob)
    replace_index(folder, index)
    for digest in rewrite.targets:
        (folder / digest.path).unlink()
    return signed


@dataclass
class _Rewrite:
    """Blobs that take the place of others, and the indexes that change with them.

    Attributes:
        targets: by the old digest the new one and its size.
        written: the new blobs.
    """

    layout: Layout
    targets: dict[Digest, tuple[Digest, int]] = field(default_factory=dict)
    written: dict[Digest, bytes] = field(default_factory=dict)
    _seen: set[Digest] = field(default_factory=set)

    def replace(self, old: Digest, data: bytes) -> Digest:
        """Notes the new content of a blob; its digest keeps the old one's algorithm."""
        new = Digest.of(data, old.algorithm)
        self.targets[old] = (new, len(data))
        self.written[new] = data
        return new

    def index(self, data: bytes, source: str, depth: int = 0) -> bytes:
        """An index with its references led to the new blobs, those below it first."""
        if depth > MAX_NESTING:
            raise FormatError(source, f"indexes are nested more than {MAX_NESTING} levels deep")
        index = read_index(data, source)
        for item in index.manifests:
            if item.media_type is not MediaType.INDEX or item.digest in self._seen:
                continue
            self._seen.add(item.digest)
            inner = self.layout.document(item, "index")
            changed = self.index(inner, self.layout.where("index", item.digest), depth + 1)
            if changed != inner:
                self.replace(item.digest, changed)
        if any(item.digest in self.targets for item in index.manifests):
            return redirect_index(data, source, self.targets)
        return data


def verify_image(folder: Path, ca_spki: bytes, wanted: str | None = None) -> ApplicationImage:
    """The identity of a signed image, everything about it checked: layout, every digest, layers, signatures.

    Args:
        ca_spki: the root CA's public key, DER SubjectPublicKeyInfo: the realm's ``root-ca.pub``.
        wanted: a tag or digest, as for ``oci.import_image``.

    Raises:
        FormatError: whatever a realm would refuse the image for, and more.
    """
    layout = open_layout(folder)
    image = read_image(layout, wanted)
    identity = _identity(layout, image, PublicKey.from_der(ca_spki, "root CA key"))
    for layer in image.manifest.layers:
        for _ in layout.pieces(layer, "layer"):
            pass
    check_layers(layout, image)
    return identity


def _identity(layout: Layout, image: Image, authority: PublicKey) -> ApplicationImage:
    """The image's identity, its two signatures checked."""
    where = layout.where("manifest", image.reference.descriptor.digest)
    spki = _annotation(image.manifest, VENDOR_KEY, where)
    certified = _annotation(image.manifest, VENDOR_SIGNATURE, where)
    signature = _annotation(image.manifest, SIGNATURE, where)
    vendor = PublicKey.from_der(spki, f"{where}: {VENDOR_KEY}")
    if not authority.verify(spki, Signature.from_der(certified, f"{where}: {VENDOR_SIGNATURE}")):
        what = f"{VENDOR_SIGNATURE} is not by this root CA; sign the image with a vendor key of it"
        raise FormatError(where, what)
    if not vendor.verify(image.config_data, Signature.from_der(signature, f"{where}: {SIGNATURE}")):
        raise FormatError(where, f"{SIGNATURE} does not fit the configuration; sign the image again")
    return ApplicationImage(
        config=image.config_data,
        config_digest_sha384=hashlib.sha384(image.config_data).digest(),
        vendor_spki=spki,
        vendor_signature=certified,
        manifest_digest=image.reference.descriptor.digest,
        tag=image.reference.tag,
    )


def _annotation(manifest: Manifest, name: str, where: str) -> bytes:
    """The bytes of an annotation in hexadecimal digits."""
    value = dict(manifest.annotations).get(name)
    if value is None:
        raise FormatError(where, f"annotation {name} is missing; sign the image")
    if re.fullmatch(r"([0-9a-f]{2}){1,1024}", value) is None:
        raise FormatError(where, f"annotation {name} is not bytes in lower-case hexadecimal digits")
    return bytes.fromhex(value)
