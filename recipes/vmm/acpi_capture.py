"""ACPI tables of a machine that never runs: QEMU starts paused, and we do what firmware does before it reads.

QEMU builds the tables at the moment they are selected, from what the chipset's registers hold. OVMF has set
a few of them by then; :func:`_prepare` sets those that QEMU looks at, each to OVMF's value. The result equals
the bytes a booted guest reads.

Spec: QEMU 7.2 hw/i386/acpi-build.c (acpi_build_update); PCR replay notes, section 2, "PCR 1 details".
"""

from __future__ import annotations

import hashlib

from ..errors import MeasureError
from ..machine import QemuMachine
from ..units import align_up
from .aperture import AddressLayout, CpuAddressing, aperture_base
from .bench import Flash, bench
from .captures import AcpiCapture, dump_captures, find, load_captures
from .fwcfg import FwCfgFiles, parse_e820, read_directory
from .launch import Qemu, qemu_version
from .pci import Bar64, Function, functions
from .qemu import PROGRAM
from .qtest import QTest

__all__ = ["AcpiCapture", "capture_acpi", "dump_captures", "find", "load_captures"]

ICH9_PMBASE = 0x600
PIIX4_PMBASE = 0xB000
"""ACPI port bases of OvmfPkg/Include/IndustryStandard/{Q35MchIch9,I440FxPiix4}.h."""

SMI_FEATURES = 0b111
"""Broadcast, CPU hotplug and CPU hot-unplug: what OVMF asks for (OvmfPkg/SmmControl2Dxe/SmiFeatures.c)."""


def capture_acpi(
    machine: QemuMachine, flash: Flash, layout: AddressLayout, *, binary: str = PROGRAM
) -> AcpiCapture:
    """The ACPI blobs the firmware of ``machine`` is given, from a paused QEMU; takes well under a second.

    Args:
        flash: the firmware; nothing in it is executed.
        layout: where the firmware build puts things in the address space.

    Raises:
        MeasureError: the machine has something whose set-up by the firmware is not modelled.
        ToolError: a program is missing or fails.
    """
    version = qemu_version(binary)
    with bench(machine, flash, "-S", channels=(("qtest", "-qtest"),), binary=binary) as qemu:
        port = QTest(qemu)
        try:
            files = read_directory(port)
            _prepare(machine, qemu, port, files, layout)
            return AcpiCapture(
                qemu_version=version,
                identity=machine.identity(),
                code_sha256=hashlib.sha256(flash.code.read_bytes()).digest(),
                table_loader=files.read("etc/table-loader"),
                rsdp=files.read("etc/acpi/rsdp"),
                tables=files.read("etc/acpi/tables"),
            )
        finally:
            port.close()


def _prepare(machine: QemuMachine, qemu: Qemu, port: QTest, files: FwCfgFiles, layout: AddressLayout) -> None:
    if machine.chipset == "q35":
        _set_up_q35(port, layout)
    else:
        _set_up_pc(port)
    if "etc/reserved-memory-end" in files:
        raise MeasureError(f"{machine.name}: room for memory hotplug is not modelled; leave maxmem out")
    memory = parse_e820(files.read("etc/e820"))
    _place_regions(machine, port, aperture_base(_addressing(qemu), memory, layout))
    if machine.firmware.smm:
        _negotiate_smi(machine, files)


def _set_up_q35(port: QTest, layout: AddressLayout) -> None:
    """What PlatformMiscInitialization does on q35 (OvmfPkg/Library/PlatformInitLib/Platform.c)."""
    host_bridge, lpc = Function(port, 0, 0), Function(port, 31, 0)
    # PCIEXBAR becomes the MCFG table and a reserved range of the DSDT. The enable bit goes last, so that no
    # half-written address is ever decoded.
    host_bridge.write(0x60, 0)
    host_bridge.write(0x64, layout.pciexbar >> 32)
    host_bridge.write(0x60, layout.pciexbar & 0xFFFFFFFF | 1)
    # PMBASE and ACPI_EN: the FADT holds the addresses of the timer and event blocks, which start here.
    lpc.write(0x40, ICH9_PMBASE | 1)
    lpc.set_bits(0x44, 0x80)


def _set_up_pc(port: QTest) -> None:
    """What PlatformMiscInitialization does on i440fx; the power management function is 00:01.3."""
    power = Function(port, 1, 3)
    power.write(0x40, PIIX4_PMBASE | 1)
    power.write(0x04, power.read(0x04) & 0xFFFF | 1)
    power.set_bits(0x80, 1)


def _addressing(qemu: Qemu) -> CpuAddressing:
    cpus = qemu.execute("query-cpus-fast")
    path = str(cpus[0]["qom-path"]) if isinstance(cpus, list) and cpus else ""
    vendor = qemu.property(path, "vendor")
    width = qemu.property(path, "phys-bits")
    gib_pages = qemu.property(path, "pdpe1gb")
    if not isinstance(width, int) or not width:
        raise qemu.error(f"the processor has phys-bits {width!r}, not a number of address bits")
    return CpuAddressing(vendor=str(vendor), width=width, gib_pages=gib_pages is True)


def _place_regions(machine: QemuMachine, port: QTest, base: int) -> None:
    """Gives every 64-bit prefetchable region its address, and lets its device decode it.

    OVMF's PCI bus driver places them from the start of its window, largest first. QEMU takes the lowest
    address for the start of the 64-bit hole in the DSDT's ``_CRS``, so with one virtio disk or twenty only
    the window's base shows; it ignores devices that do not decode memory (hw/pci/pci.c, pci_dev_get_w64).
    """
    regions: list[tuple[Function, Bar64]] = []
    other = False
    for function in functions(port):
        if function.is_bridge:
            place = f"{function.device:02x}.{function.function}"
            message = f"{machine.name}: PCI bridge {place}: bridges and root ports are not modelled"
            raise MeasureError(message)
        bars = function.bars64()
        regions += [(function, bar) for bar in bars if bar.prefetchable]
        other = other or any(not bar.prefetchable for bar in bars)
    if other and not regions:
        what = "only 64-bit regions that are not prefetchable; where firmware places them is not modelled"
        raise MeasureError(f"{machine.name}: {what}; add a virtio device")
    address = base
    for function, bar in sorted(regions, key=lambda region: -region[1].size):
        address = align_up(address, bar.size)
        function.place(bar, address)
        function.enable()
        address += bar.size


def _negotiate_smi(machine: QemuMachine, files: FwCfgFiles) -> None:
    """What SmmControl2Dxe does: with CPU hotplug by SMI agreed, the DSDT has methods that raise one."""
    supported = int.from_bytes(files.read("etc/smi/supported-features"), "little")
    files.write("etc/smi/requested-features", (supported & SMI_FEATURES).to_bytes(8, "little"))
    if files.read("etc/smi/features-ok") != b"\1":
        raise MeasureError(f"{machine.name}: QEMU refuses the SMI features that the firmware asks for")
