"""Which RTT entries a range is made of when its RIPAS is set: each one is measured by itself.

Spec: TF-RMM v0.5.0, runtime/rmi/rtt.c, smc_rtt_init_ripas; islet-project/3rd-kvmtool 61403e79.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ..errors import MeasureError
from ..units import align_up
from .rmm_params import GRANULE_SIZE, MAX_IPA_BITS_LPA2, MIN_IPA_BITS

# Spec: TF-RMM, lib/s2tt/include/s2tt.h: a table resolves S2TTE_STRIDE bits, and the start level may be up to
# 16 concatenated tables, which saves a level when no more than four bits are left for it.
_STRIDE = 9
_CONCATENATED_BITS = 4
_GRANULE_SHIFT = GRANULE_SIZE.bit_length() - 1
# The choice where every entry is one granule.
PAGES = (GRANULE_SIZE,)


@dataclass(frozen=True)
class BlockRun:
    """Neighbouring RTT entries of one size.

    Attributes:
        base: guest address of the first.
        block: bytes that each covers.
        count: how many they are.
    """

    base: int
    block: int
    count: int

    @property
    def top(self) -> int:
        """Guest address behind the last."""
        return self.base + self.block * self.count


def block_sizes(s2sz: int) -> tuple[int, ...]:
    """Bytes that an RTT entry covers at each level of a realm's tables, smallest first: 4 KiB, 2 MiB ...

    Args:
        s2sz: width of the realm's IPA space in bits.

    Raises:
        MeasureError: no such IPA space.
    """
    if not MIN_IPA_BITS <= s2sz <= MAX_IPA_BITS_LPA2:
        raise MeasureError(
            f"ripas: s2sz {s2sz} is no width of an IPA space; use {MIN_IPA_BITS} to {MAX_IPA_BITS_LPA2}"
        )
    whole, left = divmod(s2sz - _GRANULE_SHIFT, _STRIDE)
    levels = whole + (left > _CONCATENATED_BITS)
    return tuple(GRANULE_SIZE << _STRIDE * level for level in range(levels))


def split_blocks(base: int, top: int, sizes: tuple[int, ...]) -> tuple[BlockRun, ...]:
    """The entries from ``base`` to ``top``, each the largest that is aligned and fits, in ascending order.

    Args:
        base: guest address, a multiple of 4096.
        top: guest address behind the range, likewise.
        sizes: that an entry may have, smallest first, each a multiple of the one before.

    Raises:
        MeasureError: no such sizes, or an address is not a multiple of the smallest.
    """
    if not sizes or any(small >= large or large % small for small, large in pairwise((1, *sizes))):
        listed = ", ".join(f"{size:#x}" for size in sizes)
        raise MeasureError(f"ripas: blocks of {listed} bytes are no levels of a table; use block_sizes()")
    if base % sizes[0] or top % sizes[0]:
        raise MeasureError(f"ripas: {base:#x}..{top:#x} is not made of blocks of {sizes[0]:#x} bytes")
    runs = []
    while base < top:
        size = max(size for size in sizes if base % size == 0 and size <= top - base)
        # As many as fit, but only up to where a larger one does.
        end = top - (top - base) % size
        for larger in sizes[sizes.index(size) + 1 :]:
            aligned = align_up(base, larger)
            if aligned + larger <= top:
                end = min(end, aligned)
        runs.append(BlockRun(base, size, (end - base) // size))
        base = end
    return tuple(runs)
