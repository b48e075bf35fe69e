"""What is launched with stage0: a machine, the files it starts with, and what has to hold of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import MeasureError
from ..machine.qemu import Accelerator
from ..machine.sev import SevMode, SevVmm
from ..machine.stage0 import Stage0Machine
from ..units import KIB
from .direct_boot import HEADER_END, MAX_SETUP, LinuxKernel
from .sev_launch import HashedFile, SevFirmware, SevLaunch
from .stage0_acpi import AcpiTables

# Linux takes no more with its NUL. Spec: Linux 6.12 arch/x86/include/asm/setup.h COMMAND_LINE_SIZE.
_MAX_CMDLINE = 2048
# Spec: QEMU 10.0 hw/i386/x86-common.c x86_bios_rom_init().
_BIOS_UNIT = 64 * KIB


@dataclass(frozen=True, kw_only=True)
class Stage0Kernel:
    """A kernel file, read and hashed once; made by ``of``.

    Attributes:
        name: what people call it.
        size: bytes of the file.
        setup: its setup part, as it is in the file.
        sha256: of what follows the setup part.
    """

    name: str
    size: int
    setup: bytes
    sha256: bytes

    @classmethod
    def of(cls, name: str, windows: Iterable[bytes | memoryview]) -> Stage0Kernel:
        """The kernel whose content comes in pieces, each read before the next is asked for.

        Raises:
            FormatError: no bzImage, one that is too old, or damaged.
        """
        head, state, size, wanted = bytearray(), hashlib.sha256(), 0, HEADER_END
        for window in windows:
            rest = memoryview(window)
            size += len(rest)
            while rest and len(head) < wanted:
                taken = rest[: wanted - len(head)]
                rest = rest[len(taken) :]
                head += taken
                if len(head) == HEADER_END:
                    # The size of the file is not known yet; that it holds the setup part is checked below.
                    wanted = LinuxKernel.parse(bytes(head), MAX_SETUP, name).setup_size
            state.update(rest)
        LinuxKernel.parse(bytes(head), size, name)
        return cls(name=name, size=size, setup=bytes(head), sha256=state.digest())

    @property
    def header(self) -> LinuxKernel:
        """What its header says.

        Raises:
            FormatError: it has none, or an old one.
        """
        return LinuxKernel.parse(self.setup, self.size, self.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage0Launch:
    """A machine and the files that it starts with.

    Attributes:
        firmware: stage0; needed where the machine has SEV, and not looked at without.
        acpi: None where there is no capture; the digest of the tables and the event are not known then.
    """

    machine: Stage0Machine
    firmware: SevFirmware | None
    kernel: Stage0Kernel
    initrd: HashedFile | None
    acpi: AcpiTables | None


def measured_cmdline(machine: Stage0Machine) -> bytes:
    """The command line as stage0 reads it, UTF-8.

    Raises:
        MeasureError: stage0 or Linux would not take it.
    """
    what = ""
    try:
        text = machine.cmdline.encode("utf-8")
    except UnicodeEncodeError:
        text, what = b"", "is no UTF-8, and stage0 stops"
    if b"\0" in text:
        what = "holds a NUL, behind which QEMU sees nothing"
    elif len(text) >= _MAX_CMDLINE:
        what = f"has {len(text)} bytes, and Linux takes fewer than {_MAX_CMDLINE}"
    if what:
        raise MeasureError(f"kernel command line: {what}; change it")
    return text


def sev_launch(launch: Stage0Launch) -> SevLaunch | None:
    """The launch that the AMD firmware measures; None without SEV.

    Raises:
        MeasureError: no policy is for such a machine, or it does not start.
    """
    machine, protected = launch.machine, launch.machine.sev
    if protected is None:
        return None
    if protected.mode is not SevMode.SEV_SNP or protected.vmm is not SevVmm.QEMU:
        what = (
            f"{protected.mode.value} of {protected.vmm.value}; appraisal policies know sev-snp of QEMU alone"
        )
        raise MeasureError(f"sev: {what}; use sev-snp-guest, or none")
    if protected.kernel_hashes:
        what = f"{machine.generation.value} has no place for kernel hashes, and QEMU does not start"
        raise MeasureError(f"sev: {what}; leave out kernel-hashes=on")
    if protected.vcpus != machine.vcpus:
        raise MeasureError(f"sev: {protected.vcpus} vCPUs in a machine with {machine.vcpus}; give one number")
    if machine.accelerator is not Accelerator.KVM or not machine.amd:
        raise MeasureError("sev: needs KVM and a CPU of AMD; add -accel kvm -cpu host")
    if launch.firmware is None:
        raise MeasureError("sev: stage0 is measured itself; give its file (-bios)")
    if launch.firmware.size % _BIOS_UNIT:
        what = f"{launch.firmware.size} bytes, QEMU starts with a -bios of whole 64 KiB alone"
        raise MeasureError(f"{launch.firmware.name}: {what}; give the file that it loads")
    # Without kernel hashes, nothing of the kernel is part of the launch.
    return SevLaunch(machine=replace(protected, cmdline=None), firmware=launch.firmware)
