"""Where OVMF puts 64-bit PCI addresses: the start of the window stands in the ACPI tables of the machine.

QEMU writes the lowest 64-bit address it finds in a device into the DSDT, so the window the firmware would
choose has to be known before the tables are read from a machine that never ran.

Spec: edk2 OvmfPkg/Library/PlatformInitLib/MemDetect.c at 0d5afd18 (PlatformGetFirstNonAddress,
PlatformAddressWidthFromCpuid, PlatformDynamicMmioWindow, PlatformReservationConflictCB); checked against
OVMF 2025.02 and 2022.11 running in QEMU 7.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..units import GIB, align_up
from .fwcfg import E820_RAM, E820Entry

CLASSIC_SIZE = 32 * GIB
"""Size of the window when the address width is not known (PcdPciMmio64Size of OvmfPkg)."""

_MAX_WIDTH = 46
_MAX_WIDTH_WITHOUT_GIB_PAGES = 40


@dataclass(frozen=True)
class AddressLayout:
    """What differs between firmware builds.

    Attributes:
        pciexbar: base of the q35 memory-mapped configuration space (PcdPciExpressBaseAddress).
        avoids_reservations: the window moves below a reserved range it would overlap (not in 2022.11).
    """

    pciexbar: int
    avoids_reservations: bool


@dataclass(frozen=True)
class CpuAddressing:
    """What CPUID tells about addresses.

    Attributes:
        width: physical address bits, CPUID 0x80000008 EAX.
        gib_pages: pages of 1 GiB exist, CPUID 0x80000001 EDX bit 26.
    """

    vendor: str
    width: int
    gib_pages: bool


def aperture_base(cpu: CpuAddressing, memory: Sequence[E820Entry], layout: AddressLayout) -> int:
    """The guest address at which OVMF starts to place 64-bit PCI regions."""
    ram_end = max((entry.address + entry.length for entry in memory if entry.type == E820_RAM), default=0)
    base, size = align_up(max(ram_end, 4 * GIB), CLASSIC_SIZE), CLASSIC_SIZE
    width = _usable_width(cpu)
    if width is None:
        return base
    space, window = 1 << width, 1 << (width - 3)
    if not (size < window and base + window < space):
        return base
    base, size = space - window, window
    for entry in memory if layout.avoids_reservations else ():
        if max(entry.address, base) < min(entry.address + entry.length, base + size):
            base = (entry.address - size) & ~(size - 1)
    return base


def _usable_width(cpu: CpuAddressing) -> int | None:
    """The address width OVMF believes: it knows that QEMU says 40 on hosts that have 36 or 39."""
    known_good = {"GenuineIntel": (36, 39), "AuthenticAMD": (40,)}.get(cpu.vendor, ())
    if cpu.width < 41 and cpu.width not in known_good:
        return None
    return min(cpu.width, _MAX_WIDTH if cpu.gib_pages else _MAX_WIDTH_WITHOUT_GIB_PAGES)
