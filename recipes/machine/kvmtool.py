"""A machine of kvmtool's: an Arm CCA realm that ``lkvm run --realm`` starts, and the stack it runs on.

Spec: islet-project/3rd-kvmtool, branch kvmtool-rim-measurer/eac5, commit 3cac6a9.
"""

from __future__ import annotations

from enum import Enum

from ..record import dataclass
from .identity import identity


class Irqchip(Enum):
    """The interrupt controller (``--irqchip``); ``auto`` is ``gicv3-its`` on every host with CCA."""

    GICV2 = "gicv2"
    GICV2M = "gicv2m"
    GICV3 = "gicv3"
    GICV3_ITS = "gicv3-its"


class VirtioTransport(Enum):
    """How virtio devices are reached (``--virtio-transport``); legacy ones look alike in the device tree."""

    PCI = "pci"
    PCI_LEGACY = "pci-legacy"
    MMIO = "mmio"
    MMIO_LEGACY = "mmio-legacy"

    @property
    def is_pci(self) -> bool:
        """Whether the device is a PCI function, not a memory mapped one."""
        return self in (VirtioTransport.PCI, VirtioTransport.PCI_LEGACY)


class RecPolicy(Enum):
    """Which RECs the RMM measures: every one, or only those that are runnable at the start."""

    ALL = "all"
    RUNNABLE = "runnable"


class RipasPolicy(Enum):
    """What is measured of setting RIPAS to RAM.

    ``tail-pages``: the kernel's bss behind its file, in granules of 4 KiB, after the kernel.
    ``tail-blocks``: the same range, in the largest RTT blocks that fit.
    ``ram-blocks``: all of RAM in the largest blocks that fit, before any data.
    """

    TAIL_PAGES = "tail-pages"
    TAIL_BLOCKS = "tail-blocks"
    RAM_BLOCKS = "ram-blocks"


@dataclass(frozen=True, kw_only=True)
class KvmtoolProfile:
    """A stack of kvmtool, host kernel and RMM, as far as the RIM depends on it. Profiles are data.

    Attributes:
        summary: one line for people.
        rec_policy: see ``RecPolicy``.
        ripas: see ``RipasPolicy``.
        breakpoints: NUM_BPS and NUM_WPS of realms without ``--islet``, as numbers in the register's encoding;
            None where they follow from the host's hardware and must be given.
        breakpoints_encoding: what is subtracted from a number of breakpoints: 0, or 1 for RMM 1.0-rel0.
        options: ``eac5`` or ``rel0``: the dialect of the command line.
        device_tree: whether the tree this kvmtool generates is modelled; else a captured one is needed.
        established: ``oracle`` or ``spec-only``, the strongest label its values can carry.
        why: what the label rests on, or what is missing.
        s2sz: width of the IPA space in bits where the tool takes the same for every realm; None where it
            follows from the end of RAM.
        sve_vl: SVE vector length in bits of realms whose command line leaves it open, 0 for no SVE; None
            where it follows from the host's hardware.
    """

    name: str
    summary: str
    rec_policy: RecPolicy
    ripas: RipasPolicy
    breakpoints: int | None
    breakpoints_encoding: int
    options: str
    device_tree: bool
    established: str
    why: str
    s2sz: int | None = None
    sve_vl: int | None = 0


@dataclass(frozen=True, kw_only=True)
class HostFeatures:
    """What the host's hardware decides and no command line says (``--host KEY=VALUE``).

    Attributes:
        num_bps: number of hardware breakpoints; None: as the profile says.
        num_wps: number of hardware watchpoints; None: as the profile says.
        sve_vl: greatest SVE vector length of the host in bits; None: as the profile says.
        ipa_bits: greatest IPA size that the host supports in bits; None: no limit known.
        lpa2: 52-bit addresses with 4 KiB granules are in use.
    """

    num_bps: int | None = None
    num_wps: int | None = None
    sve_vl: int | None = None
    ipa_bits: int | None = None
    lpa2: bool = False


@dataclass(frozen=True, kw_only=True)
class KvmtoolNetwork:
    """A virtio network device (``-n``).

    Attributes:
        options: ``tapif=tap100,guest_mac=...`` as written, without ``trans=``; of no influence on the RIM.
        transport: this device's own transport (``trans=``), or None for the machine's.
    """

    options: str = ""
    transport: VirtioTransport | None = None


@dataclass(frozen=True, kw_only=True)
class KvmtoolMachine:
    """A realm under kvmtool.

    Attributes:
        name: what the recipe calls it; not part of its identity.
        profile: name of a ``KvmtoolProfile``.
        vcpus: 1 to 16.
        memory: bytes of RAM.
        ram_base: guest address of RAM.
        algorithm: hash algorithm of the realm, ``sha256`` or ``sha512``.
        islet: ``--islet``: no breakpoints and watchpoints, as Islet's RMM has it.
        parameters: text of ``-p``; None where it is not given, which is not the same as empty.
        nodefaults: ``--nodefaults``: the command line is ``parameters`` alone.
        console: value of ``--console``; it begins with ``serial``, ``virtio`` or ``hv``, or is unknown.
        networks: ``None`` is the one user-mode device that kvmtool adds; an empty tuple is ``-n mode=none``.
        shares: 9p shares as ``PATH,TAG``; their number counts.
        vsock: CID, or 0 for no such device.
        disks: number of disks, SCSI ones not counted.
        scsi_disks: ``-d scsi:...`` targets, as written.
        kaslr_seed: 64-bit value in the device tree.
        sve_vl: vector length in bits, or 0 for no SVE.
        disable_sve: ``--disable-sve`` was given.
        pmu: a PMU in the device tree.
        pmu_counters: in the realm's parameters.
        mpidrs: MPIDR of each vCPU, or empty for 0, 1, 2 ...
        flash: size of the flash file in bytes (``-F``), or 0.
        counter_frequency: ``--override-bad-firmware-cntfrq``, or 0.
        ipa_bits: ``--ipa-size`` of the newer dialect, or 0 for what kvmtool takes.
        measurement_log: ``--measurement-log`` of the newer dialect.
        restricted_memory: ``--restricted_mem`` of the newer dialect.
        personalization: realm personalization value, at most 64 bytes; not measured into the RIM.
        host: what the hardware decides.
    """

    name: str
    profile: str
    vcpus: int
    memory: int
    ram_base: int = 0x8000_0000
    algorithm: str = "sha256"
    islet: bool = False
    parameters: str | None = None
    nodefaults: bool = False
    console: str = "serial"
    irqchip: Irqchip = Irqchip.GICV3_ITS
    transport: VirtioTransport = VirtioTransport.PCI
    networks: tuple[KvmtoolNetwork, ...] | None = None
    shares: tuple[str, ...] = ()
    vsock: int = 0
    balloon: bool = False
    rng: bool = False
    disks: int = 0
    scsi_disks: tuple[str, ...] = ()
    kaslr_seed: int = 0
    sve_vl: int = 0
    disable_sve: bool = False
    pmu: bool = False
    pmu_counters: int = 0
    mpidrs: tuple[int, ...] = ()
    flash: int = 0
    counter_frequency: int = 0
    ipa_bits: int = 0
    measurement_log: bool = False
    restricted_memory: bool = False
    personalization: str = ""
    host: HostFeatures = HostFeatures()

    def identity(self) -> str:
        """Canonical JSON of everything but the name."""
        return identity(self)
