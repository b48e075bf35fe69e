"""NV indexes of a TPM: their public area and name, and the counter that forbids rollback.

Spec: TCG TPM 2.0 Library part 2 sections 13.2 (TPM_NT), 13.4 (TPMA_NV) and 13.5 (TPMS_NV_PUBLIC).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntFlag

from .tpm2 import Alg, Reader, entity_name, hash_size, sized

# First octet of a handle of an NV index. Spec: part 2 section 7.2 (TPM_HT_NV_INDEX).
_HANDLE_TYPE = 0x01
# Bytes of a counter. Spec: part 1 section 37.2 (NV counters are 64 bits).
COUNTER_SIZE = 8
# Indexes of our own: the counter that forbids rollback, and the mark of a volume that was formatted.
# Spec: TCG Registry of Reserved TPM 2.0 Handles and Localities 1.1 section 2.2.2 (owner: 0x01800000 on).
ROLLBACK_COUNTER = 0x01801C00
FORMAT_MARKER = 0x01801C01
# Largest index that every PC Client TPM can hold. Spec: PC Client Platform TPM Profile 1.05 section 4.4.
_MAX_DATA = 2048


class NvAttribute(IntFlag):
    """TPMA_NV; bits 4 to 7 are a TPM_NT, whose values that are used stand here too. Spec: part 2 13.4."""

    PP_WRITE = 1 << 0
    OWNER_WRITE = 1 << 1
    AUTH_WRITE = 1 << 2
    POLICY_WRITE = 1 << 3
    COUNTER = 1 << 4
    BITS = 1 << 5
    EXTEND = 1 << 6
    PIN = 1 << 7
    POLICY_DELETE = 1 << 10
    WRITE_LOCKED = 1 << 11
    WRITE_ALL = 1 << 12
    WRITE_DEFINE = 1 << 13
    WRITE_STCLEAR = 1 << 14
    GLOBAL_LOCK = 1 << 15
    PP_READ = 1 << 16
    OWNER_READ = 1 << 17
    AUTH_READ = 1 << 18
    POLICY_READ = 1 << 19
    NO_DA = 1 << 25
    ORDERLY = 1 << 26
    CLEAR_STCLEAR = 1 << 27
    READ_LOCKED = 1 << 28
    WRITTEN = 1 << 29
    PLATFORM_CREATE = 1 << 30
    READ_STCLEAR = 1 << 31


_RESERVED = 0xFFFFFFFF & ~sum(NvAttribute)


@dataclass(frozen=True, kw_only=True)
class NvPublic:
    """TPMS_NV_PUBLIC. Spec: part 2 section 13.5.

    Attributes:
        index: the handle, 0x01000000 to 0x01ffffff.
        size: bytes of data.
    """

    index: int
    attributes: NvAttribute
    size: int
    name_algorithm: Alg = Alg.SHA256
    policy: bytes = b""

    @property
    def name(self) -> bytes:
        """TPM2B_NAME without its size. It changes with ``WRITTEN``: a policy needs the written one."""
        return entity_name(self.name_algorithm, self.pack())

    def written(self) -> NvPublic:
        """The same index once it has been written or incremented."""
        return replace(self, attributes=self.attributes | NvAttribute.WRITTEN)

    def pack(self) -> bytes:
        """The bytes of this structure.

        Raises:
            FormatError: the policy is longer than a TPM2B holds.
        """
        head = struct.pack(">IHI", self.index, self.name_algorithm, self.attributes)
        return head + sized(self.policy) + struct.pack(">H", self.size)


def rollback_counter(index: int) -> NvPublic:
    """A counter that the owner raises, everybody reads, and nobody lowers.

    Deleting and defining it anew does not lower it: a new counter starts above the highest value of every
    counter that was deleted, and so above its own (Spec: part 3 section 31.3, TPM2_NV_DefineSpace, and 31.8,
    TPM2_NV_Increment).
    """
    attributes = NvAttribute.OWNER_WRITE | NvAttribute.OWNER_READ | NvAttribute.AUTH_READ
    attributes |= NvAttribute.COUNTER | NvAttribute.NO_DA
    return NvPublic(index=index, attributes=attributes, size=COUNTER_SIZE)


def read_nv_public(data: bytes, source: str) -> NvPublic:
    """The public area in ``data``, a TPMS_NV_PUBLIC.

    Raises:
        FormatError: a handle of another type, a reserved attribute, or a size that does not fit.
    """
    reader = Reader(data, source)
    index = reader.number(4, "nvIndex")
    if index >> 24 != _HANDLE_TYPE:
        raise reader.error(f"nvIndex is {index:#010x}, expected 0x01000000 to 0x01ffffff", 0)
    name_algorithm = reader.hash("nameAlg")
    start = reader.offset
    bits = reader.number(4, "attributes")
    if bits & _RESERVED:
        raise reader.error(f"attributes {bits:#010x} have reserved bits {bits & _RESERVED:#x}", start)
    start = reader.offset
    policy = reader.sized("authPolicy", 64)
    if policy and len(policy) != hash_size(name_algorithm):
        what = f"authPolicy of {len(policy)} bytes, expected none or {hash_size(name_algorithm)}"
        raise reader.error(what, start)
    start = reader.offset
    size = reader.number(2, "dataSize")
    attributes = NvAttribute(bits)
    if size > _MAX_DATA or (_is_counter(attributes) and size != COUNTER_SIZE):
        what = f"dataSize is {size}, expected {COUNTER_SIZE} for a counter, at most {_MAX_DATA} otherwise"
        raise reader.error(what, start)
    reader.finish()
    return NvPublic(
        index=index, attributes=attributes, size=size, name_algorithm=name_algorithm, policy=policy
    )


def _is_counter(attributes: NvAttribute) -> bool:
    return attributes & 0xF0 == NvAttribute.COUNTER
