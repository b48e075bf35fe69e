"""A machine with SEV-SNP as the QEMU command line that starts it.

Spec: QEMU 10.0 docs/system/i386/amd-memory-encryption.rst, qapi/qom.json (SevSnpGuestProperties).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MeasureError
from ..machine import SnpMachine
from ..units import MIB
from .qemu import PROGRAM, DriveFile, disk_words, tpm_words


@dataclass(frozen=True, kw_only=True)
class SnpFiles:
    """Where a launch reads and writes: everything of a command line that is not the machine.

    Attributes:
        kernel: what is booted and hashed; None where the firmware boots the disk.
        initrd: with a kernel that is no UKI.
        cmdline: likewise, ``-append``.
        tpm_socket: control socket of swtpm, for a machine with a TPM.
    """

    firmware: str
    disk: DriveFile
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None
    tpm_socket: str | None = None
    serial: str = "stdio"


def render_snp(machine: SnpMachine, files: SnpFiles) -> tuple[str, ...]:
    """The words of the command line that starts ``machine``.

    Raises:
        MeasureError: the files do not fit the machine.
    """
    if machine.kernel_hashes != (files.kernel is not None):
        raise MeasureError(f"{machine.name}: give a kernel where its hash is measured, and nowhere else")
    if (machine.tpm is None) != (files.tpm_socket is None):
        raise MeasureError(f"{machine.name}: give tpm_socket for a machine with a TPM, and for no other")
    memory = machine.memory // MIB
    words = [PROGRAM, "-nodefaults", "-no-user-config"]
    # SMM cannot work on encrypted registers, and QEMU refuses it. Spec: QEMU 10.0 target/i386/kvm/kvm.c.
    words += ["-machine", f"{machine.type},smm=off,confidential-guest-support=sev0,memory-backend=ram0"]
    words += ["-accel", "kvm", "-cpu", machine.cpu, "-m", str(memory), "-smp", str(machine.vcpus)]
    words += ["-object", f"memory-backend-memfd,id=ram0,size={memory}M,share=true,prealloc=false"]
    words += ["-object", _guest(machine)]
    words += ["-display", "none", "-no-reboot", "-serial", files.serial]
    words += ["-bios", files.firmware]
    for option, value in (("-kernel", files.kernel), ("-initrd", files.initrd), ("-append", files.cmdline)):
        if value is not None:
            words += [option, value]
    if machine.tpm is not None and files.tpm_socket is not None:
        words += tpm_words(machine.tpm, files.tpm_socket)
    words += disk_words(machine.disks, (files.disk,))
    return (*words, "-vga", "none", "-nic", "none")


def _guest(machine: SnpMachine) -> str:
    """The object that makes the machine one with SEV-SNP."""
    settings = f"cbitpos={machine.cbitpos},reduced-phys-bits={machine.reduced_phys_bits}"
    hashes = ",kernel-hashes=on" if machine.kernel_hashes else ""
    return f"sev-snp-guest,id=sev0,{settings},policy={machine.policy:#x}{hashes}"
