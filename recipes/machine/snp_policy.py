"""The policy of a guest with SEV-SNP: what its owner asks of the processor, and lets the host do."""

from __future__ import annotations

from enum import IntFlag


class Policy(IntFlag):
    """Bits of the guest's policy, above the ABI's minor and major number. Spec: AMD 56860 section 4.3."""

    SMT = 1 << 16
    RESERVED_ONE = 1 << 17
    MIGRATE_MA = 1 << 18
    DEBUG = 1 << 19
    SINGLE_SOCKET = 1 << 20
    CXL_ALLOW = 1 << 21
    MEM_AES_256_XTS = 1 << 22
    RAPL_DIS = 1 << 23
    CIPHERTEXT_HIDING_DRAM = 1 << 24
    PAGE_SWAP_DISABLE = 1 << 25


# Bits that have no name. Spec: as above.
POLICY_RESERVED = 0xFFFFFFFFFFFFFFFF & ~(sum(Policy) | 0xFFFF)
