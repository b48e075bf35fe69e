"""What QEMU and KVM make of the VMSA page in an IGVM file.

QEMU does not hand the page over: it loads registers from it, and KVM writes its own page from those. A page
that would not come out as it went in is refused here, since it is not what would be measured.

Spec: QEMU 10.1 target/i386/sev.c check_vmsa_supported(), sev_apply_cpu_context(); Linux 6.12
arch/x86/kvm/svm/sev.c sev_es_sync_vmsa(); offsets: AMD64 APM volume 2 (24593) 3.42, table B-4.
"""

from __future__ import annotations

import struct

from ..errors import MeasureError
from ..machine.sev import SEV_FEATURES
from ..units import PAGE_SIZE

_SEGMENT_SIZE = 16
_LDTR, _TR = 0x70, 0x90
# GDTR and IDTR are a base and a limit; KVM leaves the rest of their places zero.
_TABLES = {"GDTR": 0x60, "IDTR": 0x80}
_SEV_FEATURES = 0x3B0
# Registers that QEMU loads: segments; EFER; CR4, CR3, CR0, DR7, DR6, RFLAGS, RIP; RSP; RAX; PAT; RCX, RDX,
# RBX; RBP to R15; SEV_FEATURES; XCR0; MXCSR; x87 control word. Anything else has to be zero.
_LOADED = (
    *(range(0xA0), range(0xD0, 0xD8), range(0x148, 0x180), range(0x1D8, 0x1E0), range(0x1F8, 0x200)),
    *(range(0x268, 0x270), range(0x308, 0x320), range(0x328, 0x380), range(_SEV_FEATURES, 0x3B8)),
    *(range(0x3E8, 0x3F0), range(0x408, 0x40C), range(0x410, 0x412)),
)
# Bits that QEMU or KVM sets in each guest, so a page without them is not what is measured.
_ALWAYS = {"EFER.SVME": (0xD0, 1 << 12), "CR4.MCE": (0x148, 1 << 6), "CR0.ET": (0x158, 1 << 4)}


def sev_features(page: bytes) -> int:
    """SEV_FEATURES of a VMSA page."""
    return _u64(page, _SEV_FEATURES)


def with_features(page: bytes, features: int) -> bytes:
    """The page with other SEV_FEATURES: KVM gives all virtual CPUs of a guest the same."""
    return page[:_SEV_FEATURES] + struct.pack("<Q", features) + page[_SEV_FEATURES + 8 :]


def check_vmsa(page: bytes, where: str) -> None:
    """Checks that a VMSA page is measured as it is.

    Args:
        page: 4096 bytes.
        where: what to call it.

    Raises:
        MeasureError: QEMU refuses it, or KVM makes another page of it.
    """
    rest = bytearray(page)
    for part in _LOADED:
        rest[part.start : part.stop] = bytes(len(part))
    extra = next((offset for offset in range(PAGE_SIZE) if rest[offset]), None)
    if extra is not None:
        what = f"the byte at {extra:#x} of its VMSA is not zero, and QEMU does not load it"
        raise MeasureError(f"{where}: {what}; make the file without it")
    if not sev_features(page) & SEV_FEATURES["SNPActive"]:
        what = f"SEV_FEATURES {sev_features(page):#x} of its VMSA lacks bit 0 (SNP active)"
        raise MeasureError(f"{where}: {what}, and QEMU does not start so; make the file for SEV-SNP")
    for name, (offset, bit) in _ALWAYS.items():
        if not _u64(page, offset) & bit:
            what = f"its VMSA has no {name}, which the host sets, so another page is measured"
            raise MeasureError(f"{where}: {what}; set it in the file")
    for name, offset in _TABLES.items():
        if any(page[offset : offset + 4]):
            what = f"{name} of its VMSA has a selector or attributes, which KVM leaves out"
            raise MeasureError(f"{where}: {what}, so another page is measured; clear them in the file")
    if _u64(page, _TR + 8) != _u64(page, _LDTR + 8):
        what = "TR and LDTR of its VMSA have different bases, and QEMU 10.1 gives TR that of LDTR"
        raise MeasureError(f"{where}: {what}; make them equal in the file")


def _u64(page: bytes, offset: int) -> int:
    return int.from_bytes(page[offset : offset + 8], "little")
