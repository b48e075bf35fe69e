"""A machine of QEMU's with SEV-SNP: what starts it, and what of that its launch digest depends on."""

from __future__ import annotations

from enum import Enum

from ..record import dataclass
from .identity import identity
from .qemu import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from .sev import DEFAULT_SNP_POLICY, SEV_FEATURES, SevMachine, SevMode
from .sev_cpus import CPU_MODELS


class SnpBoot(Enum):
    """What the firmware boots.

    ``disk``: the UKI on the disk; the launch digest covers the firmware alone. ``uki``: the same UKI, given
    by ``-kernel`` and hashed into the launch digest. ``kernel``: its kernel, initramfs and command line,
    given one by one and hashed likewise.
    """

    DISK = "disk"
    UKI = "uki"
    KERNEL = "kernel"


@dataclass(frozen=True, kw_only=True)
class SnpFirmware:
    """Firmware in one file, which QEMU loads by ``-bios`` and measures as a whole.

    Attributes:
        package: Debian package that ships it.
        file: its name, ``OVMF.fd``.
        recipe: of the firmware that images share, which locks its package; empty where the image does.
    """

    package: str
    file: str
    recipe: str = ""


@dataclass(frozen=True, kw_only=True)
class SnpMachine:
    """A QEMU x86 machine with SEV-SNP; the first disk is the image.

    Attributes:
        name: what the recipe calls it; not part of its identity.
        type: versioned machine type, ``pc-q35-10.0``.
        cpu: one of QEMU's CPU models.
        memory: bytes of RAM, whole MiB.
        tpm: emulated by a program of the host; None for none.
        features: SEV_FEATURES, what KVM and QEMU have agreed on.
        policy: guest policy; reports show it, the digest does not depend on it.
        cbitpos: the C-bit's position on the host's CPUs, which QEMU checks; not measured.
        reduced_phys_bits: bits of a physical address that encryption takes, likewise.
    """

    name: str
    type: str
    cpu: str
    vcpus: int
    memory: int
    firmware: SnpFirmware
    boot: SnpBoot
    tpm: TpmInterface | None = None
    features: int = SEV_FEATURES["SNPActive"]
    policy: int = DEFAULT_SNP_POLICY
    cbitpos: int = 51
    reduced_phys_bits: int = 1

    @property
    def kernel_hashes(self) -> bool:
        """Whether what is booted is hashed into the launch digest."""
        return self.boot is not SnpBoot.DISK

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The image's disk."""
        return (Disk(bootindex=0 if self.boot is SnpBoot.DISK else None),)

    def measured(self, cmdline: str | None) -> SevMachine:
        """The machine as its launch digest sees it.

        Args:
            cmdline: of ``-append``; None where there is no ``-kernel``.
        """
        return SevMachine(
            name=self.name,
            mode=SevMode.SEV_SNP,
            vcpus=self.vcpus,
            cpu=CPU_MODELS[self.cpu],
            features=self.features,
            kernel_hashes=self.kernel_hashes,
            policy=self.policy,
            cmdline=cmdline,
        )

    def measured_boot(self) -> QemuMachine:
        """The machine as the boot of its disk sees it."""
        return QemuMachine(
            name=self.name,
            type=self.type,
            accelerator=Accelerator.KVM,
            cpu=self.cpu,
            vcpus=self.vcpus,
            memory=self.memory,
            firmware=UefiFirmware(package=self.firmware.package, code=self.firmware.file, vars=""),
            tpm=self.tpm,
            disks=self.disks,
        )

    def identity(self) -> str:
        """Canonical JSON of everything but the name."""
        return identity(self)
