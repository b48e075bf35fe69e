"""VMSA pages: the registers that a virtual CPU starts with under SEV-ES and SEV-SNP, by VMM.

Spec: AMD64 APM volume 2 (24593) 3.42, table B-4; values: QEMU 10.0 x86_cpu_reset_hold() with KVM's additions,
and sev-snp-measure 0.0.13 vmsa.py for EC2, Google Compute Engine and SVSM.
"""

from __future__ import annotations

import struct

from ..machine.sev import SevVmm
from ..record import dataclass
from ..units import PAGE_SIZE

# Where x86 processors start. Spec: AMD64 APM volume 2, table 14-1.
RESET_EIP = 0xFFFF_FFF0
# Spec: AMD64 APM volume 2, section 7.8.2: the PAT after a reset.
_PAT_RESET = 0x0007_0406_0007_0406
# What a segment register is made of: selector, attributes, limit, base. Spec: APM volume 2, table B-1.
_SEGMENT = struct.Struct("<HHIQ")
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "gdtr", "ldtr", "idtr", "tr")

# Where each register stands, and how. Spec: AMD64 APM volume 2, table B-4.
_FIELDS = {
    **{name: (0x10 * index, "16s") for index, name in enumerate(_SEGMENTS)},
    "efer": (0xD0, "Q"),
    "cr4": (0x148, "Q"),
    "cr0": (0x158, "Q"),
    "dr7": (0x160, "Q"),
    "dr6": (0x168, "Q"),
    "rflags": (0x170, "Q"),
    "rip": (0x178, "Q"),
    "g_pat": (0x268, "Q"),
    "rdx": (0x310, "Q"),
    "sev_features": (0x3B0, "Q"),
    "xcr0": (0x3E8, "Q"),
    "mxcsr": (0x408, "I"),
    "x87_fcw": (0x410, "H"),
}


@dataclass(frozen=True, kw_only=True)
class VmsaProfile:
    """What a VMM puts into a VMSA; profiles are data.

    Attributes:
        protected: it starts in 32-bit protected mode with flat segments, at ``eip`` itself; else in real
            mode, with the upper half of ``eip`` as the base of CS.
        cs: attributes of CS of the first virtual CPU.
        cs_other: of the others.
        data: attributes of DS, ES and FS.
        ss: attributes of SS.
        tr: attributes of TR.
        rdx: a fixed value; None for the CPU's signature.
    """

    protected: bool = False
    cs: int = 0x9B
    cs_other: int = 0x9B
    data: int = 0x93
    ss: int = 0x93
    tr: int = 0x8B
    g_pat: int = _PAT_RESET
    rdx: int | None = None
    mxcsr: int = 0x1F80
    x87_fcw: int = 0x37F


# Spec: sev-snp-measure 0.0.13 vmsa.py. The SVSM's x87_fcw is zero there by a field name that does not exist.
PROFILES = {
    SevVmm.QEMU: VmsaProfile(),
    SevVmm.EC2: VmsaProfile(cs=0x9A, ss=0x92, tr=0x83, rdx=0x600, mxcsr=0, x87_fcw=0),
    SevVmm.GCE: VmsaProfile(g_pat=0x0007_0106, rdx=0x600, mxcsr=0, x87_fcw=0),
    SevVmm.SVSM: VmsaProfile(protected=True, cs=0xC9B, cs_other=0xC9B, data=0xC93, ss=0xC93, x87_fcw=0),
}
# Selectors and limit of flat segments; real mode has selector 0xf000 in CS, and 64 KiB.
_FLAT_CODE, _FLAT_DATA, _FLAT_LIMIT = 8, 16, 0xFFFF_FFFF
_REAL_CODE, _REAL_LIMIT = 0xF000, 0xFFFF


def vmsa_page(vmm: SevVmm, *, eip: int, signature: int, features: int, legacy: bool = False) -> bytes:
    """The 4096 bytes of a virtual CPU's first state.

    Args:
        eip: where it starts; the first virtual CPU of all but an SVSM starts at ``RESET_EIP``.
        signature: EAX of CPUID leaf 1.
        features: SEV_FEATURES.
        legacy: KVM is asked by KVM_SEV_ES_INIT, and leaves out x87 and SSE state: earlier kernels did.
            Spec: Linux 6.12 arch/x86/kvm/svm/sev.c sev_es_sync_vmsa().
    """
    profile = PROFILES[vmm]
    cs = profile.cs if eip == RESET_EIP else profile.cs_other
    if profile.protected:
        code = _SEGMENT.pack(_FLAT_CODE, cs, _FLAT_LIMIT, 0)
        data, stack = (_SEGMENT.pack(_FLAT_DATA, item, _FLAT_LIMIT, 0) for item in (profile.data, profile.ss))
    else:
        code = _SEGMENT.pack(_REAL_CODE, cs, _REAL_LIMIT, eip & 0xFFFF_0000)
        data, stack = (_SEGMENT.pack(0, item, _REAL_LIMIT, 0) for item in (profile.data, profile.ss))
    return _page(
        es=data,
        cs=code,
        ss=stack,
        ds=data,
        fs=data,
        # Flat segments end before GS: it stays as it is after a reset.
        gs=_SEGMENT.pack(0, 0x93, _REAL_LIMIT, 0),
        gdtr=_SEGMENT.pack(0, 0, _REAL_LIMIT, 0),
        ldtr=_SEGMENT.pack(0, 0x82, _REAL_LIMIT, 0),
        idtr=_SEGMENT.pack(0, 0, _REAL_LIMIT, 0),
        tr=_SEGMENT.pack(0, profile.tr, _REAL_LIMIT, 0),
        efer=0x1000,  # SVME, which KVM sets
        cr4=0x40,  # MCE, which KVM sets
        cr0=0x11 if profile.protected else 0x10,  # PE and ET
        dr7=0x400,
        dr6=0xFFFF_0FF0,
        rflags=2,
        rip=eip if profile.protected else eip & 0xFFFF,
        g_pat=profile.g_pat,
        rdx=signature if profile.rdx is None else profile.rdx,
        sev_features=features,
        xcr0=1,
        mxcsr=0 if legacy else profile.mxcsr,
        x87_fcw=0 if legacy else profile.x87_fcw,
    )


def _page(**registers: int | bytes) -> bytes:
    """A page with these registers; all others are zero."""
    page = bytearray(PAGE_SIZE)
    for name, value in registers.items():
        offset, code = _FIELDS[name]
        struct.pack_into(f"<{code}", page, offset, value)
    return bytes(page)
