from __future__ import annotations

import pytest

from recipes.vmm.aperture import AddressLayout, CpuAddressing, aperture_base
from recipes.vmm.fwcfg import E820Entry

NEW = AddressLayout(pciexbar=0xE0000000, avoids_reservations=True)
OLD = AddressLayout(pciexbar=0xB0000000, avoids_reservations=False)
GIB = 1 << 30
QEMU64 = CpuAddressing("AuthenticAMD", 40, gib_pages=False)
NEHALEM = CpuAddressing("GenuineIntel", 40, gib_pages=False)


def memory(*ram: tuple[int, int], hole: bool = True) -> list[E820Entry]:
    """A memory map: with a 40-bit AMD processor QEMU keeps the top 12 GiB of the first TiB free."""
    entries = [E820Entry(address=0xFD00000000, length=0x300000000, type=2)] if hole else []
    return entries + [E820Entry(address=address, length=length, type=1) for address, length in ram]


SMALL = memory((0, GIB // 2))
LARGE = memory((0, 2 * GIB), (4 * GIB, 62 * GIB), hole=False)


@pytest.mark.parametrize(
    ("cpu", "ranges", "layout", "base"),
    [
        # Seen in `info pci` of QEMU 7.2.22 with OVMF 2025.02 and 2022.11.
        (QEMU64, SMALL, NEW, 0xC000000000),
        (QEMU64, SMALL, OLD, 0xE000000000),
        (CpuAddressing("AuthenticAMD", 40, gib_pages=True), SMALL, NEW, 0xC000000000),
        (NEHALEM, memory((0, GIB // 2), hole=False), NEW, 0x800000000),
        # From the rules alone: a window of an eighth of the address space at its end.
        (CpuAddressing("GenuineIntel", 39, gib_pages=True), memory(hole=False), NEW, 0x7000000000),
        (CpuAddressing("GenuineIntel", 36, gib_pages=True), memory(hole=False), NEW, 0x800000000),
        (CpuAddressing("GenuineIntel", 46, gib_pages=True), memory(hole=False), NEW, 0x380000000000),
        (CpuAddressing("AuthenticAMD", 48, gib_pages=True), memory(hole=False), NEW, 0x380000000000),
        (CpuAddressing("AuthenticAMD", 48, gib_pages=False), memory(hole=False), NEW, 0xE000000000),
        (CpuAddressing("HygonGenuine", 40, gib_pages=True), memory(hole=False), NEW, 0x800000000),
        (NEHALEM, LARGE, NEW, 96 * GIB),
        (QEMU64, memory((0, 4 * GIB), (4 * GIB, 900 * GIB), hole=False), NEW, 928 * GIB),
    ],
)
def test_start_of_the_window(
    cpu: CpuAddressing, ranges: list[E820Entry], layout: AddressLayout, base: int
) -> None:
    assert aperture_base(cpu, ranges, layout) == base
