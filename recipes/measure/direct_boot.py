"""A kernel that QEMU boots directly (``-kernel``): its two parts, its header and where its initrd goes.

    file = setup part ((setup_sects or 4) + 1 sectors) | kernel

A guest without SEV gets the setup part with a few fields filled in, as a boot loader would; with SEV it gets
the bytes of the file.

Spec: QEMU 10.0 hw/i386/x86-common.c x86_load_linux(); Linux 6.12 Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from ..errors import FormatError, MeasureError
from ..machine.stage0 import Stage0Chipset
from ..units import GIB, PAGE_SIZE, SECTOR_SIZE, format_size

# Fields of the setup header. Spec: boot.rst, "The Real-Mode Kernel Header".
_SETUP_SECTS, _VID_MODE, _MAGIC, _VERSION = 0x1F1, 0x1FA, 0x202, 0x206
_TYPE_OF_LOADER, _LOADFLAGS, _RAMDISK, _HEAP_END = 0x210, 0x211, 0x218, 0x224
_CMD_LINE_PTR, _INITRD_MAX, _XLOADFLAGS = 0x228, 0x22C, 0x236
HEADER_END = 0x238
"""Bytes of a kernel file that must be there to know how QEMU boots it."""

RAMDISK_FIELDS = slice(_RAMDISK, _RAMDISK + 8)
"""Where the setup part holds address and size of the initrd."""

# First version with `cmdline_size`; the oldest kernels that have it are of 2007. Spec: boot.rst.
OLDEST_PROTOCOL = 0x206
# First version with `xloadflags`. Spec: boot.rst.
_WITH_XLOADFLAGS = 0x20C
_LOADED_HIGH, _CAN_USE_HEAP = 0x01, 0x80
_CAN_BE_LOADED_ABOVE_4G = 0x02
_MAX_SETUP_SECTS = 0xFF
MAX_SETUP = (_MAX_SETUP_SECTS + 1) * SECTOR_SIZE
"""The longest setup part, 128 KiB."""

# What QEMU writes: "type B, revision 0", and where setup part and command line go. Spec: x86_load_linux().
_LOADER_QEMU = 0xB0
_REAL_ADDRESS, _CMDLINE_ADDRESS = 0x10000, 0x20000
# Room that QEMU leaves for ACPI tables at the end of RAM. Spec: hw/i386/pc.c pc_machine_class_init()
# acpi_data_size; hw/i386/microvm.c microvm_memory_init() passes 0.
_ACPI_DATA = {Stage0Chipset.Q35: 0x28000, Stage0Chipset.MICROVM: 0}


@dataclass(frozen=True, kw_only=True)
class LinuxKernel:
    """What the header of a kernel file says.

    Attributes:
        name: what people call the file.
        size: bytes of the file.
        setup_size: bytes of its setup part.
        protocol: version of the boot protocol, 0x206 or newer.
        initrd_max: greatest address of an initrd's last byte, as the kernel wants it.
        above_4g: the kernel may be loaded above 4 GiB, by which QEMU takes it that initrds may go anywhere.
    """

    name: str
    size: int
    setup_size: int
    protocol: int
    initrd_max: int
    above_4g: bool

    @classmethod
    def parse(cls, head: bytes, size: int, name: str) -> LinuxKernel:
        """The kernel whose file begins with ``head`` (at least ``HEADER_END`` bytes where it has them).

        Args:
            size: bytes of the whole file.

        Raises:
            FormatError: no bzImage, one that is too old, or damaged.
        """
        if len(head) < HEADER_END or head[_MAGIC : _MAGIC + 4] != b"HdrS":
            raise FormatError(name, _no_kernel(head, size))
        protocol, setup_sects = _u16(head, _VERSION), head[_SETUP_SECTS]
        if protocol < OLDEST_PROTOCOL:
            what = f"boot protocol {protocol >> 8}.{protocol & 0xFF:02}, a kernel before Linux 2.6.22"
            raise FormatError(name, f"{what}; give one with 2.06 or newer", offset=_VERSION)
        if not head[_LOADFLAGS] & _LOADED_HIGH:
            what = "a zImage, which is loaded below 1 MiB"
            raise FormatError(name, f"{what}; give a bzImage", offset=_LOADFLAGS)
        # Spec: boot.rst, setup_sects: 0 stands for 4, as before the field was there.
        setup_size = ((setup_sects or 4) + 1) * SECTOR_SIZE
        if setup_size > size:
            what = f"a setup part of {setup_size} bytes in a file of {size}"
            raise FormatError(name, f"{what}; the kernel is truncated, copy it again", offset=_SETUP_SECTS)
        xloadflags = _u16(head, _XLOADFLAGS) if protocol >= _WITH_XLOADFLAGS else 0
        return cls(
            name=name,
            size=size,
            setup_size=setup_size,
            protocol=protocol,
            initrd_max=_u32(head, _INITRD_MAX),
            above_4g=bool(xloadflags & _CAN_BE_LOADED_ABOVE_4G),
        )


def below_4g(chipset: Stage0Chipset, memory: int) -> int:
    """Bytes of RAM that are below 4 GiB; the rest begins there.

    Spec: QEMU 10.0 hw/i386/pc_q35.c pc_q35_init(), hw/i386/microvm.c microvm_memory_init().
    """
    if chipset is Stage0Chipset.MICROVM:
        return min(memory, 3 * GIB)
    # 2.75 GiB fit below the PCI hole, but with more than that RAM ends at a whole GiB.
    return memory if memory < 0xB000_0000 else 2 * GIB


def initrd_address(kernel: LinuxKernel, size: int, chipset: Stage0Chipset, memory: int) -> int:
    """Where QEMU puts an initrd of ``size`` bytes: as high as kernel and RAM allow.

    Raises:
        MeasureError: it does not fit; QEMU does not start.
    """
    end = below_4g(chipset, memory) - _ACPI_DATA[chipset]
    limit = 0xFFFF_FFFF if kernel.above_4g else kernel.initrd_max
    if limit >= end:
        limit = end - 1
    if limit <= 0 or size >= limit:
        what = f"{format_size(size)} do not fit below {max(limit, 0):#x}"
        fix = "give the machine more memory, or a smaller initrd"
        raise MeasureError(f"initrd: {what} in a machine with {format_size(memory)}; {fix}")
    return (limit - size) // PAGE_SIZE * PAGE_SIZE


def patched_setup(setup: bytes, *, initrd: tuple[int, int] | None, cmdline: str = "") -> bytes:
    """The setup part as a guest without SEV gets it.

    Args:
        setup: as it is in the file, of a kernel that :meth:`LinuxKernel.parse` takes.
        initrd: its address and its size in bytes.
        cmdline: the command line; ``vga=`` in it sets the video mode.

    Raises:
        MeasureError: ``vga=`` has no value that QEMU takes.
    """
    data = bytearray(setup)
    mode = _video_mode(cmdline)
    if mode is not None:
        struct.pack_into("<H", data, _VID_MODE, mode)
    data[_TYPE_OF_LOADER] = _LOADER_QEMU
    data[_LOADFLAGS] |= _CAN_USE_HEAP
    # The heap ends 0x200 bytes before the command line, counted from the setup part. Spec: boot.rst.
    struct.pack_into("<H", data, _HEAP_END, _CMDLINE_ADDRESS - _REAL_ADDRESS - 0x200)
    struct.pack_into("<I", data, _CMD_LINE_PTR, _CMDLINE_ADDRESS)
    if initrd is not None:
        struct.pack_into("<II", data, _RAMDISK, *initrd)
    return bytes(data)


def _video_mode(cmdline: str) -> int | None:
    """What ``vga=`` sets; QEMU looks for it anywhere, inside of other words too."""
    _, found, value = cmdline.partition("vga=")
    if not found:
        return None
    # Prefixes, as QEMU compares no more than their length. Spec: x86_load_linux(); boot.rst, "vga=<mode>".
    for word, mode in (("normal", 0xFFFF), ("ext", 0xFFFE), ("ask", 0xFFFD)):
        if value.startswith(word):
            return mode
    number = value.split(" ")[0]
    # C's strtoul() with base 0: 0x begins a hexadecimal number, 0 an octal one.
    for pattern, base in ((r"0[xX][0-9a-fA-F]+", 16), (r"0[0-7]*", 8), (r"[1-9][0-9]*", 10)):
        if re.fullmatch(pattern, number) and int(number, base) <= 0xFFFF_FFFF:
            return int(number, base) & 0xFFFF
    what = f"vga={number} is no video mode"
    raise MeasureError(f"kernel command line: {what}; write normal, ext, ask or a number")


def _no_kernel(head: bytes, size: int) -> str:
    if size < HEADER_END:
        return f"{size} bytes are no kernel; the file is truncated, copy it again"
    if head.startswith(b"\x7fELF"):
        return "an ELF file, QEMU would boot it by another path; give a bzImage (vmlinuz)"
    return "no Linux kernel for x86; give a bzImage (vmlinuz)"


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
