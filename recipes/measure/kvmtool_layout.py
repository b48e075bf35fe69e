"""Where kvmtool puts kernel, device tree and initramfs in a realm's memory, and which launches it refuses.

Spec: islet-project/3rd-kvmtool, branch kvmtool-rim-measurer/eac5, commit 3cac6a9, arm/kvm.c
(kvm__arch_load_kernel_image) and arm/aarch64/realm.c; the newer dialect: commit 61403e79, the same files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import MeasureError
from ..formats.arm64_image import Arm64Image
from ..machine import KvmtoolMachine
from ..machine.kvmtool_profiles import find_profile
from ..units import KIB, MIB, PAGE_SIZE, align_up, format_size
from .granules import Blob

# arm/include/arm-common/kvm-arch.h: ARM_MEMORY_AREA, below it are devices.
LOWEST_RAM = 0x8000_0000
# include/kvm/fdt.h: FDT_MAX_SIZE; all of it is measured, whatever the tree's size.
DTB_REGION = 64 * KIB
# arm/kvm.c: kernel, initramfs and device tree are kept below this, so that 32-bit kernels reach them.
LOW_MEMORY = 256 * MIB
# arm/kvm.c: FDT_ALIGN and INITRD_ALIGN.
_DTB_ALIGNMENT = 2 * MIB
_INITRD_ALIGNMENT = 4
# arm/aarch64/kvm.c, kvm__arch_get_kern_offset: for files without a usable arm64 header.
RAW_TEXT_OFFSET = 0x8_0000
# include/kvm/tpm-event-log.h of the newer dialect: EVENT_LOG_MAX_SIZE.
LOG_SIZE = 64 * KIB


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Guest addresses of what a launch puts in memory; an end is the address behind the last byte.

    Attributes:
        ram: where RAM begins.
        ram_end: where it ends.
        kernel: first byte of the kernel file, and where the first virtual CPU starts.
        kernel_end: behind the last byte of the file.
        kernel_memory_end: behind the kernel's bss, a multiple of 4096.
        dtb: the device tree's region of 64 KiB.
        initrd: first byte of the initramfs, or None.
        initrd_end: behind its last byte, or 0.
        log: the measurement log's region of 64 KiB, or None.
    """

    ram: int
    ram_end: int
    kernel: int
    kernel_end: int
    kernel_memory_end: int
    dtb: int
    initrd: int | None = None
    initrd_end: int = 0
    log: int | None = None

    @property
    def tail(self) -> tuple[int, int]:
        """The kernel's bss behind the pages of its file, from and to; empty where both are the same."""
        start = align_up(self.kernel_end, PAGE_SIZE)
        return start, max(start, self.kernel_memory_end)

    @property
    def initrd_is_in_bss(self) -> bool:
        """Whether the kernel clears a part of the initramfs when it starts."""
        return self.initrd is not None and self.initrd < self.kernel_memory_end

    @property
    def dtb_is_in_bss(self) -> bool:
        """Whether the kernel clears a part of the device tree when it starts."""
        return self.dtb < self.kernel_memory_end


def place(
    machine: KvmtoolMachine, kernel: Blob, header: Arm64Image | None, initrd: Blob | None = None
) -> Layout:
    """The layout of a launch.

    Args:
        machine: decides with memory, RAM base, dialect and measurement log.
        kernel: the file that ``-k`` names.
        header: its arm64 header, or None for a raw file.
        initrd: the file that ``-i`` names.

    Raises:
        MeasureError: kvmtool refuses the launch, or the realm could not be built of such pieces.

    Spec: arm/kvm.c, kvm__arch_load_kernel_image; arm/aarch64/realm.c, kvm_arm_realm_populate_kernel.
    """
    _check_memory(machine, initrd)
    offset, memory_size = _kernel_extent(kernel, header)
    start = machine.ram_base + offset
    base = machine.ram_base
    low_end = base + min(machine.memory, LOW_MEMORY)
    log = low_end - LOG_SIZE if machine.measurement_log else None
    # kvmtool counts from the last byte, not from behind it; this moves the device tree by 2 MiB at times.
    limit = (low_end if log is None else log) - 1
    layout = Layout(
        ram=base,
        ram_end=base + machine.memory,
        kernel=start,
        kernel_end=start + kernel.size,
        kernel_memory_end=align_up(start + memory_size, PAGE_SIZE),
        dtb=_place_dtb(machine, limit),
        log=log,
    )
    occupied = layout.kernel_end
    if find_profile(machine.profile).options == "rel0":
        # Spec: 61403e79, arm/kvm.c: the newer dialect counts the bss, in whole pages.
        occupied = max(layout.kernel_end, layout.kernel_memory_end)
    _check_kernel(machine, kernel, layout, occupied)
    if initrd is None:
        return layout
    return _with_initrd(machine, initrd, layout, occupied)


def _check_memory(machine: KvmtoolMachine, initrd: Blob | None) -> None:
    if machine.memory <= 0:
        raise MeasureError(f"-m {machine.memory}: a realm needs memory; give for example -m 256")
    if machine.ram_base < LOWEST_RAM:
        raise MeasureError(
            f"-m: RAM at {machine.ram_base:#x} would lie among the devices, which end at {LOWEST_RAM:#x}; "
            f"give a size alone, or an address from {LOWEST_RAM:#x} on"
        )
    if machine.ram_base % PAGE_SIZE:
        raise MeasureError(
            f"-m: RAM at {machine.ram_base:#x} does not begin with a page; "
            f"give an address that is a multiple of {PAGE_SIZE}"
        )
    if initrd is not None and initrd.size == 0:
        raise MeasureError(f"{initrd.name}: the initramfs is empty; give a file with content, or no -i")


def _kernel_extent(kernel: Blob, header: Arm64Image | None) -> tuple[int, int]:
    """Offset of the kernel from the start of RAM, and how many bytes it takes with its bss."""
    if header is None or not header.image_size:
        return RAW_TEXT_OFFSET, kernel.size
    return header.text_offset, header.image_size


def _place_dtb(machine: KvmtoolMachine, limit: int) -> int:
    lowest = limit - (DTB_REGION + _DTB_ALIGNMENT)
    if lowest < machine.ram_base:
        needed = DTB_REGION + _DTB_ALIGNMENT + 1 + (LOG_SIZE if machine.measurement_log else 0)
        raise MeasureError(
            f"-m: {machine.memory:#x} bytes of memory have no room for the device tree, which alone takes "
            f"{needed:#x}; give at least -m 16"
        )
    return align_up(lowest, _DTB_ALIGNMENT)


def _check_kernel(machine: KvmtoolMachine, kernel: Blob, layout: Layout, occupied: int) -> None:
    if occupied > layout.dtb:
        raise MeasureError(
            f"{kernel.name}: the kernel ends at {occupied:#x}, behind the device tree at {layout.dtb:#x}; "
            + _more_memory(machine, "a smaller kernel")
        )
    if layout.kernel_memory_end > layout.ram_end:
        raise MeasureError(
            f"{kernel.name}: the kernel with its bss needs memory up to {layout.kernel_memory_end:#x}, RAM "
            f"ends at {layout.ram_end:#x}; give more memory with -m"
        )


def _with_initrd(machine: KvmtoolMachine, initrd: Blob, layout: Layout, occupied: int) -> Layout:
    start = align_up(layout.dtb - (initrd.size + _INITRD_ALIGNMENT), _INITRD_ALIGNMENT)
    if start < occupied:
        room = max(layout.dtb - occupied, 0)
        raise MeasureError(
            f"{initrd.name}: the initramfs of {format_size(initrd.size)} does not fit between the kernel's "
            f"end at {occupied:#x} and the device tree at {layout.dtb:#x}, {format_size(room)} apart; "
            + _more_memory(machine, "a smaller initramfs")
        )
    if start < align_up(layout.kernel_end, PAGE_SIZE):
        # Spec: RMM specification 1.0-rel0, RMI_DATA_CREATE: the granule must not have been assigned before.
        raise MeasureError(
            f"{initrd.name}: the initramfs at {start:#x} begins in the last page of the kernel, which ends "
            f"at {layout.kernel_end:#x}, and a realm's page is filled once; "
            + _more_memory(machine, "a smaller file")
        )
    return replace(layout, initrd=start, initrd_end=start + initrd.size)


def _more_memory(machine: KvmtoolMachine, otherwise: str) -> str:
    if machine.memory < LOW_MEMORY:
        return f"give more memory with -m (up to {LOW_MEMORY // MIB} it helps), or {otherwise}"
    return f"give {otherwise}; more memory does not help, all of it goes below {format_size(LOW_MEMORY)}"
