"""Identifiers that must be the same in every build: derived from names, never drawn."""

from __future__ import annotations

import hashlib
import uuid

from ..schema import Buildable, ConvertedImage, Image

# Everything derived hangs below this namespace, which is a name-based UUID itself.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "goldsmith.invalid")


def derived_uuid(image: Buildable, role: str, content: bytes = b"") -> uuid.UUID:
    """The UUID of a part of an image; ``content`` makes it follow the bytes it names.

    Spec: RFC 9562 section 5.5 (name-based UUIDs).
    """
    return uuid.uuid5(NAMESPACE, f"{image.name}/{role}/{content.hex()}")


def derived_salt(image: Image, role: str) -> bytes:
    """32 bytes that differ for every image and role. A verity salt is public; it only has to be stable."""
    return hashlib.sha256(f"goldsmith/{image.name}/{role}".encode()).digest()


def data_partition(image: Image) -> uuid.UUID:
    """UUID of the data partition: fixed, because the initramfs has it before the root hash is known."""
    return derived_uuid(image, "data")


def root_partition(image: ConvertedImage) -> uuid.UUID:
    """UUID of an encrypted root's partition and of its LUKS2 header; the initramfs looks for both."""
    return derived_uuid(image, "root")
