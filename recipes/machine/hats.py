"""A confidential VM as HATs' launcher starts it: what of it reaches a measurement or the launcher.

Spec: private-compute-infra-toolkit/hats 7d61840, client/proto/launcher_config.proto and
client/launcher/qemu.cc; tvs/proto/appraisal_policies.proto.
"""

from __future__ import annotations

from enum import Enum

from ..record import dataclass
from ..units import KIB
from .sev_cpus import CpuSignature


class CvmType(Enum):
    """What protects the VM; ``CVMTYPE_DEFAULT`` is a test VM that nothing protects."""

    DEFAULT = "CVMTYPE_DEFAULT"
    SEVSNP = "CVMTYPE_SEVSNP"


class NetworkMode(Enum):
    """How the VM reaches the network; it stands in the measured command line."""

    INBOUND_ONLY = "inbound_only"
    INBOUND_AND_OUTBOUND = "inbound_and_outbound"
    VIRTUAL_BRIDGE = "virtual_bridge"


class RegexForm(Enum):
    """How the command line's end is judged.

    ``hats`` is the form of HATs' published policies: any text may follow the address of the launcher, so
    the host may add arguments for the kernel and for init. ``strict`` takes the port's digits alone.
    """

    HATS = "hats"
    STRICT = "strict"


@dataclass(frozen=True, kw_only=True)
class TcbVersion:
    """The lowest version of each part of AMD's firmware that a verifier takes."""

    boot_loader: int
    tee: int = 0
    snp: int
    microcode: int


@dataclass(frozen=True, kw_only=True)
class HatsNetwork:
    """A network mode with what the launcher has to know for it.

    Attributes:
        port: of the host, forwarded to port 8080 of the VM; 0 with a bridge.
        bridge: device of the host; empty without a bridge, as the next two.
        address: of the VM on the bridge, whose network is a /24.
        gateway: of that network.
    """

    mode: NetworkMode
    port: int = 0
    bridge: str = ""
    address: str = ""
    gateway: str = ""


@dataclass(frozen=True, kw_only=True)
class HatsShape:
    """One VM that the launcher can be told to start.

    Attributes:
        machine: what the recipe calls the kind of machine it is one of.
        cpu: signature of the host's processors, which the VM sees; None where no register holds it.
        tcb: what a verifier demands of the host's firmware; None for a test VM.
        memory: bytes of RAM, whole KiB.
        ramdrive: bytes of the RAM disk for the system image, whole KiB.
        vmm: path of QEMU on the host.
        microvm: SEV-SNP on QEMU's microvm (the launcher's ``--qemu_use_microvm``); a test VM always is one.
        debug_port: of telnet to the serial port, 0 for none; it is seen in the command line.
        guest_cid: of vsock; None lets the launcher draw one.
    """

    machine: str
    cvm_type: CvmType
    cpu: CpuSignature | None
    tcb: TcbVersion | None
    vcpus: int
    memory: int
    ramdrive: int
    network: HatsNetwork
    vmm: str
    microvm: bool = False
    debug_port: int = 0
    guest_cid: int | None = None

    @property
    def name(self) -> str:
        """What golden values call it: ``genoa-2cpu-8000000k-inbound_only``."""
        return f"{self.machine}-{self.vcpus}cpu-{self.memory // KIB}k-{self.network.mode.value}"

    @property
    def on_microvm(self) -> bool:
        """Whether QEMU's machine is microvm; q35 otherwise."""
        return self.microvm or self.cvm_type is CvmType.DEFAULT
