"""The launch digest of an SEV-SNP guest: what the firmware of the AMD Secure Processor makes of each page.

Spec: AMD SEV-SNP Firmware ABI (56860) 1.58, section 8.17.2: table 67 PAGE_INFO, SNP_LAUNCH_UPDATE.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum

from ..errors import MeasureError
from ..units import PAGE_SIZE

DIGEST_SIZE = 48
# The guest address that is measured of every page of type VMSA: all bits that a page address of 48 bits has.
# Spec: 56860, section 8.17.
VMSA_ADDRESS = 0xFFFF_FFFF_F000
# PAGE_INFO, the bytes that are hashed for a page; a plain codec, because one is packed for each page.
_PAGE_INFO = struct.Struct(
    "<48s"  # (0x00) digest so far
    "48s"  # (0x30) digest of the page
    "HB"  # (0x60) length, (0x62) page type
    "5x"  # (0x63) IMI page, permissions of VMPL 3 to 1, zero
    "Q"  # (0x68) guest address
)
_NO_CONTENT = bytes(DIGEST_SIZE)


class PageType(IntEnum):
    """How a page becomes part of the guest. Spec: 56860, table 66."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6

    @property
    def has_content(self) -> bool:
        """Whether the content of such a page is measured, not its place alone."""
        return self in (PageType.NORMAL, PageType.VMSA)


class LaunchDigest:
    """The launch digest of one guest; each method is one or more SNP_LAUNCH_UPDATE, in order.

    Attributes:
        value: 48 bytes, zero before the first page.
    """

    def __init__(self, value: bytes = _NO_CONTENT) -> None:
        """A digest to go on from.

        Raises:
            MeasureError: not 48 bytes.
        """
        if len(value) != DIGEST_SIZE:
            raise MeasureError(f"launch digest: has {DIGEST_SIZE} bytes, this has {len(value)}")
        self.value = value

    def pages(self, address: int, digests: bytes, page_type: PageType = PageType.NORMAL) -> None:
        """Consecutive pages whose content is measured.

        Args:
            address: guest address of the first page.
            digests: SHA-384 of each page, one behind the other.

        Raises:
            MeasureError: not whole digests, not a page address, or pages of that type have no content.
        """
        if not digests or len(digests) % DIGEST_SIZE or not page_type.has_content:
            what = f"{len(digests)} bytes are not the digests of {page_type.name} pages"
            raise MeasureError(f"launch digest: {what}")
        _check_address(address)
        value, new, pack, kind = self.value, hashlib.sha384, _PAGE_INFO.pack, int(page_type)
        for (digest,) in struct.iter_unpack("48s", digests):
            value = new(pack(value, digest, _PAGE_INFO.size, kind, address)).digest()
            address += PAGE_SIZE
        self.value = value

    def empty_pages(self, address: int, size: int, page_type: PageType) -> None:
        """Consecutive pages of which only type and place are measured.

        Args:
            address: guest address of the first page.
            size: bytes, a multiple of 4096.

        Raises:
            MeasureError: not whole pages, or pages of that type have content.
        """
        if size <= 0 or size % PAGE_SIZE or page_type.has_content:
            raise MeasureError(f"launch digest: {size} bytes are not whole {page_type.name} pages")
        _check_address(address)
        value, new, pack, kind = self.value, hashlib.sha384, _PAGE_INFO.pack, int(page_type)
        for place in range(address, address + size, PAGE_SIZE):
            value = new(pack(value, _NO_CONTENT, _PAGE_INFO.size, kind, place)).digest()
        self.value = value

    def vcpu(self, digest: bytes) -> None:
        """One virtual CPU's first state.

        Args:
            digest: SHA-384 of its VMSA page.

        Raises:
            MeasureError: not 48 bytes.
        """
        if len(digest) != DIGEST_SIZE:
            raise MeasureError(f"launch digest: a VMSA hashes to {DIGEST_SIZE} bytes, not {len(digest)}")
        self.pages(VMSA_ADDRESS, digest, PageType.VMSA)


def page_digests(data: bytes | memoryview) -> bytes:
    """SHA-384 of each page of ``data``, one behind the other; ``data`` is whole pages."""
    view, new = memoryview(data), hashlib.sha384
    starts = range(0, len(view), PAGE_SIZE)
    return b"".join([new(view[start : start + PAGE_SIZE]).digest() for start in starts])


def _check_address(address: int) -> None:
    if address < 0 or address % PAGE_SIZE:
        raise MeasureError(f"launch digest: {address:#x} is not the address of a page")
