"""A virtual machine with AMD SEV, as far as its launch digest depends on it."""

from __future__ import annotations

from enum import Enum

from ..record import dataclass
from .identity import identity
from .sev_cpus import CpuSignature

# SEV_FEATURES of a virtual CPU. Spec: AMD64 APM volume 2 (24593), table B-4, offset 0x3b0.
SEV_FEATURES = {
    "SNPActive": 1 << 0,
    "vTOM": 1 << 1,
    "ReflectVC": 1 << 2,
    "RestrictedInjection": 1 << 3,
    "AlternateInjection": 1 << 4,
    "DebugSwap": 1 << 5,
    "PreventHostIBS": 1 << 6,
    "BTBIsolation": 1 << 7,
    "VmplSSS": 1 << 8,
    "SecureTSC": 1 << 9,
}
# QEMU's defaults of `policy`. Spec: QEMU 10.0 target/i386/sev.c DEFAULT_GUEST_POLICY, DEFAULT_SEV_SNP_POLICY.
DEFAULT_POLICY = 0x1
DEFAULT_SNP_POLICY = 0x30000
# Policy bit of SEV guests that asks for encrypted register state. Spec: AMD SEV API 55766, table 2.
POLICY_ES = 1 << 2
# Bits of a policy of SEV guests. Spec: QEMU 10.0 qapi/qom.json SevGuestProperties, uint32.
MAX_POLICY = 0xFFFF_FFFF
# Bit of an SEV-SNP policy that is always one, and all that are defined; KVM takes no migration agent (18).
# Spec: AMD SEV-SNP ABI 56860 1.58, table 9; Linux 6.17 arch/x86/kvm/svm/sev.c KVM_SNP_POLICY_MASK_VALID.
SNP_POLICY_ONE = 1 << 17
SNP_POLICY_KNOWN = 0x3FF_FFFF & ~(1 << 18)


class SevMode(Enum):
    """Which generation of SEV protects the machine."""

    SEV = "sev"
    SEV_ES = "sev-es"
    SEV_SNP = "sev-snp"


class SevVmm(Enum):
    """Which VMM prepares the first register state, and puts pages in which order.

    ``svsm`` is QEMU of COCONUT-SVSM before IGVM files: the SVSM starts, and the firmware comes later.
    """

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"
    SVSM = "svsm"


@dataclass(frozen=True, kw_only=True)
class SevMachine:
    """A machine with SEV.

    Attributes:
        name: what the recipe calls it; not part of its identity.
        vcpus: those that are there at the start; each one is measured, but for plain SEV.
        cpu: its signature; None where no register holds it (plain SEV, VMMs that start with a fixed RDX).
        features: SEV_FEATURES, what KVM and the VMM have agreed on.
        kernel_hashes: the firmware gets hashes of kernel, initrd and command line, and they are measured.
        policy: guest policy; the digest does not depend on it, the ID block does.
        cmdline: the kernel's command line (``-append``); None where there is no kernel.
        variables_size: bytes of the variable store that lies between SVSM and firmware; 0 without SVSM.
        legacy_vm_type: of SEV-ES under QEMU, whether KVM is asked by KVM_SEV_ES_INIT, with which virtual CPUs
            start without x87 and SSE state; None where it is not known, which is measured as if not, and
            where it has no influence.
    """

    name: str
    mode: SevMode
    vmm: SevVmm = SevVmm.QEMU
    vcpus: int
    cpu: CpuSignature | None
    features: int
    kernel_hashes: bool = False
    policy: int = DEFAULT_SNP_POLICY
    cmdline: str | None = None
    variables_size: int = 0
    legacy_vm_type: bool | None = None

    def identity(self) -> str:
        """Canonical JSON of everything but the name."""
        return identity(self)
