"""The memory map that QEMU hands to firmware (``etc/e820``), and the one that stage0 makes of it.

Spec: QEMU 10.0 hw/i386/pc.c pc_memory_init(), hw/i386/microvm.c microvm_memory_init(), target/i386/kvm/kvm.c
kvm_arch_init(); project-oak/oak stage0/src/zero_page.rs (d88ccaf9), stage0/src/acpi/mod.rs (7c355e64).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum

from ..errors import MeasureError
from ..machine.qemu import Accelerator
from ..machine.stage0 import Stage0Chipset, Stage0Generation, Stage0Machine
from ..units import GIB, KIB, MIB, align_up, format_size
from .direct_boot import below_4g

_ENTRY = struct.Struct("<QQI")  # (0) address, (8) size, (16) type
_ABOVE_4G = 4 * GIB
# QEMU makes RAM whole units of 8 KiB. Spec: system/vl.c, hw/core/machine.c set_memory_options().
_MEMORY_UNIT = 8 * KIB
# What KVM keeps for itself on Intel CPUs, and QEMU reserves on all. Spec: kvm_arch_init(), identity_base.
_KVM_RESERVED = (0xFEFF_C000, 0x4000)
# Addresses that IOMMUs of AMD do not translate. Spec: hw/i386/pc.c AMD_HT_START, AMD_ABOVE_1TB_START.
_HYPERTRANSPORT = (0xFD_0000_0000, 0x3_0000_0000)
_HYPERTRANSPORT_BITS = 40
# Room for 64-bit PCI addresses behind RAM. Spec: include/hw/pci-host/q35.h Q35_PCI_HOST_HOLE64_SIZE_DEFAULT.
_PCI_HOLE64 = 32 * GIB
# The first machine type that minds the HyperTransport range. Spec: hw/i386/pc_q35.c, 7.0 machine options.
_MINDS_HYPERTRANSPORT = (7, 1)
# CPUs have no more. Spec: AMD64 APM volume 2 (24593), section 5.1.
_MAX_PHYS_BITS = 52
# Settings that move RAM, and are not modelled.
_MOVES_RAM = ("cxl", "max-ram-below-4g", "sgx-epc")

# What stage0 carves out. Spec: zero_page.rs fill_e820_table(); acpi/mod.rs EBDA, HIGH_MEM_SIZE; layout.ld.
_LEGACY_GAP = (0xA_0000, 0x5_0000)
_SMBIOS_AREA = (0xF_0000, 0x1_0000)
_LOW_ACPI = (0x8_0000, 0x2_0000)
_HIGH_ACPI_SIZE = MIB
_TOP_OF_VIRTUAL_MEMORY = GIB


class E820Type(IntEnum):
    """Kinds of memory. Spec: ACPI 6.5, table 15.4."""

    RAM = 1
    RESERVED = 2
    ACPI = 3


@dataclass(frozen=True)
class E820Range:
    """A range of the memory map.

    Attributes:
        address: of its first byte.
        size: bytes.
        source: where it comes from, for people.
    """

    address: int
    size: int
    type: E820Type
    source: str = field(default="", compare=False)

    @property
    def end(self) -> int:
        """The address behind its last byte."""
        return self.address + self.size

    def pack(self) -> bytes:
        """The 20 bytes of this entry."""
        return _ENTRY.pack(self.address, self.size, int(self.type))


def memory_map(machine: Stage0Machine) -> tuple[E820Range, ...]:
    """QEMU's memory map in order of addresses.

    Raises:
        MeasureError: no such machine can be, or it is not modelled.
    """
    chipset = checked_chipset(machine)
    low = below_4g(chipset, machine.memory)
    ranges = [E820Range(0, low, E820Type.RAM, "-m, below 4 GiB")]
    if machine.memory > low:
        ranges.append(E820Range(_ABOVE_4G, machine.memory - low, E820Type.RAM, "-m, above 4 GiB"))
    if machine.accelerator is Accelerator.KVM:
        ranges.append(E820Range(*_KVM_RESERVED, E820Type.RESERVED, "KVM: identity map and TSS"))
    if minds_hypertransport(machine):
        _check_relocation(machine)
        ranges.append(E820Range(*_HYPERTRANSPORT, E820Type.RESERVED, "HyperTransport range of AMD CPUs"))
    return tuple(sorted(ranges, key=lambda item: item.address))


def checked_chipset(machine: Stage0Machine) -> Stage0Chipset:
    """The machine's chipset.

    Raises:
        MeasureError: another kind of machine, an impossible amount of memory, or a setting that moves it.
    """
    chipset, memory = machine.chipset, machine.memory
    if chipset is None:
        raise MeasureError(f"machine {machine.type}: not modelled; use q35, pc-q35-N.M or microvm")
    if memory <= 0 or memory % _MEMORY_UNIT:
        what = f"{memory} bytes are not whole units of 8 KiB, which is what QEMU makes of it"
        raise MeasureError(f"memory: {what}; give a multiple of 8 KiB")
    bits = _MAX_PHYS_BITS if machine.phys_bits is None else machine.phys_bits
    if not 36 <= bits <= _MAX_PHYS_BITS:
        raise MeasureError(f"phys-bits: {bits} is not from 36 to {_MAX_PHYS_BITS}; give what the CPU has")
    if _end_of_addresses(chipset, memory) > 1 << bits:
        what = f"{format_size(memory)} and what lies behind need more than {bits} address bits"
        raise MeasureError(f"memory: {what}; give less, or a CPU with more bits")
    for key, _ in machine.settings:
        if key.partition(".")[0] in _MOVES_RAM:
            raise MeasureError(f"machine setting {key}: moves RAM and is not modelled; leave it out")
    return chipset


def minds_hypertransport(machine: Stage0Machine) -> bool:
    """Whether QEMU keeps RAM out of the HyperTransport range, and reserves it."""
    version = re.fullmatch(r"pc-q35-([0-9]+)\.([0-9]+)(\.[0-9]+)?", machine.type)
    old = version is not None and (int(version[1]), int(version[2])) < _MINDS_HYPERTRANSPORT
    few = machine.phys_bits is not None and machine.phys_bits < _HYPERTRANSPORT_BITS
    return machine.amd and machine.chipset is Stage0Chipset.Q35 and not old and not few


def stage0_map(ranges: Iterable[E820Range], generation: Stage0Generation) -> tuple[E820Range, ...]:
    """The memory map that stage0 measures: QEMU's, with its own areas taken out.

    Raises:
        MeasureError: there is no room for ACPI tables; stage0 stops.
    """
    table = _Table(sorted(ranges, key=lambda item: item.address))
    table.gap(*_LEGACY_GAP)
    table.insert(E820Range(*_SMBIOS_AREA, E820Type.RESERVED, "stage0: tables that the kernel scans for"))
    table.insert(E820Range(*_LOW_ACPI, E820Type.ACPI, "stage0: EBDA, RSDP"))
    if generation is not Stage0Generation.OAK_55607DD8:
        table.insert(_high_acpi(table.entries))
    return tuple(table.entries)


def pack_map(ranges: Iterable[E820Range]) -> bytes:
    """The bytes of a memory map, 20 for each range."""
    return b"".join(item.pack() for item in ranges)


def _high_acpi(entries: list[E820Range]) -> E820Range:
    """1 MiB at the end of what stage0 has mapped; the tables go there."""
    fit = [item for item in entries if _holds_high_acpi(item)]
    if not fit:
        raise MeasureError("memory: stage0 finds no 1 MiB for ACPI tables; give the machine 2 MiB or more")
    end = min(_TOP_OF_VIRTUAL_MEMORY, fit[-1].end)
    return E820Range(end - _HIGH_ACPI_SIZE, _HIGH_ACPI_SIZE, E820Type.ACPI, "stage0: ACPI tables")


def _holds_high_acpi(item: E820Range) -> bool:
    low_enough = item.address < _TOP_OF_VIRTUAL_MEMORY - _HIGH_ACPI_SIZE
    return item.type is E820Type.RAM and low_enough and item.size >= _HIGH_ACPI_SIZE


def _check_relocation(machine: Stage0Machine) -> None:
    """Checks that RAM stays where it is. Spec: hw/i386/pc.c pc_max_used_gpa()."""
    if _end_of_addresses(Stage0Chipset.Q35, machine.memory) <= _HYPERTRANSPORT[0]:
        return
    most = _HYPERTRANSPORT[0] - _PCI_HOLE64 - _ABOVE_4G + 2 * GIB
    what = f"with {format_size(machine.memory)} QEMU moves RAM above 1 TiB on AMD CPUs"
    raise MeasureError(f"memory: {what}, which is not modelled; give at most {format_size(most)}")


def _end_of_addresses(chipset: Stage0Chipset, memory: int) -> int:
    """Where RAM ends, and on q35 the PCI addresses behind it. Spec: hw/i386/pc.c pc_pci_hole64_start()."""
    end = _ABOVE_4G + memory - below_4g(chipset, memory)
    return align_up(end, GIB) + _PCI_HOLE64 if chipset is Stage0Chipset.Q35 else end


class _Table:
    """The E820 table of a zero page while stage0 edits it; ranges in order of addresses."""

    def __init__(self, entries: list[E820Range]) -> None:
        self.entries = entries

    def gap(self, start: int, size: int) -> None:
        """Removes what is in a range."""
        self.entries = [part for item in self.entries for part in _without(item, start, start + size)]

    def insert(self, new: E820Range) -> None:
        """Puts a range in: others give way, but what it touches of its own type becomes one with it."""
        merged = new
        kept: list[E820Range] = []
        for item in self.entries:
            touches = item.address <= merged.end and item.end >= merged.address
            if touches and item.type is new.type:
                address = min(merged.address, item.address)
                merged = replace(merged, address=address, size=max(merged.end, item.end) - address)
            else:
                kept += _without(item, new.address, new.end)
        self.entries = sorted([*kept, merged], key=lambda item: item.address)


def _without(item: E820Range, start: int, end: int) -> Iterator[E820Range]:
    """What is left of a range outside of another."""
    if item.end <= start or item.address >= end:
        yield item
        return
    if item.address < start:
        yield replace(item, size=start - item.address)
    if item.end > end:
        yield replace(item, address=end, size=item.end - end)
