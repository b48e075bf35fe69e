"""A machine of QEMU's: an x86 virtual machine that boots by UEFI."""

from __future__ import annotations

from enum import Enum

from ..record import dataclass
from .identity import identity


class Accelerator(Enum):
    """What runs the guest's instructions (QEMU ``-accel``)."""

    TCG = "tcg"
    KVM = "kvm"


class TpmInterface(Enum):
    """The TPM device the guest sees (QEMU ``-device tpm-tis`` or ``tpm-crb``)."""

    TIS = "tis"
    CRB = "crb"


@dataclass(frozen=True, kw_only=True)
class UefiFirmware:
    """UEFI firmware in two flash units.

    Attributes:
        package: Debian package that ships it, or empty when the files were given by path.
        code: file name of the code flash, ``OVMF_CODE_4M.fd``.
        vars: file name of the variable store template, ``OVMF_VARS_4M.fd``.
        secure_boot: keys are enrolled and Secure Boot is enforced; the image brings its variable store.
        smm: built with SMM and needs ``smm=on`` and a secure flash.
    """

    package: str
    code: str
    vars: str
    secure_boot: bool = False
    smm: bool = False


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A disk of the guest, ``-device virtio-blk-pci``; the first one is the image.

    Attributes:
        bootindex: QEMU's boot order, or None where it is not given.
    """

    bootindex: int | None = None
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class QemuMachine:
    """A QEMU x86 machine that boots by UEFI.

    Attributes:
        name: what the recipe calls it; not part of its identity.
        type: versioned machine type, ``pc-q35-7.2``; an unversioned one only from a parsed command line.
        cpu: value of ``-cpu``.
        memory: bytes of RAM, whole MiB.
        devices: further ``-device`` values in order, verbatim.
        smbios_strings: SMBIOS type 11 strings.
    """

    name: str
    type: str
    accelerator: Accelerator
    cpu: str
    vcpus: int
    memory: int
    firmware: UefiFirmware
    tpm: TpmInterface | None
    disks: tuple[Disk, ...] = (Disk(bootindex=0),)
    devices: tuple[str, ...] = ()
    smbios_strings: tuple[str, ...] = ()

    @property
    def chipset(self) -> str:
        """``q35`` or ``pc``: the family the machine type belongs to."""
        return "q35" if "q35" in self.type else "pc"

    def identity(self) -> str:
        """Canonical JSON of everything but the name: what a capture is keyed by."""
        return identity(self)
