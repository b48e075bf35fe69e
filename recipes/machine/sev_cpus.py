"""CPUs as a launch digest sees them: the signature that CPUID leaf 1 gives in EAX, and QEMU's models by name.

A virtual CPU starts with its signature in RDX, and its first register state is measured; nothing else of a
CPU model is.

Spec: AMD publication 25481, CPUID Fn0000_0001_EAX; QEMU 11.0 target/i386/cpu.c, x86_cpu_reset_hold() and
builtin_x86_defs.
"""

from __future__ import annotations

from ..record import dataclass

# A nibble each for base family, base model and stepping, a nibble and a byte for what extends the first two.
_MAX_FAMILY = 0xF + 0xFF
_MAX_MODEL = 0xFF
_MAX_STEPPING = 0xF


@dataclass(frozen=True)
class CpuSignature:
    """Family, model and stepping as people write them: 25, 17, 1.

    Raises:
        ValueError: a number that the signature has no room for; the text says which.
    """

    family: int
    model: int
    stepping: int

    def __post_init__(self) -> None:
        limits = (("family", _MAX_FAMILY), ("model", _MAX_MODEL), ("stepping", _MAX_STEPPING))
        for name, limit in limits:
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"{name} {value} is not from 0 to {limit}")

    def __str__(self) -> str:
        return f"{self.family}/{self.model}/{self.stepping}"

    @property
    def eax(self) -> int:
        """EAX of CPUID leaf 1, 32 bits."""
        base = min(self.family, 0xF)
        extended = self.family - base
        return extended << 20 | (self.model >> 4) << 16 | base << 8 | (self.model & 0xF) << 4 | self.stepping

    @classmethod
    def of_eax(cls, eax: int) -> CpuSignature:
        """The signature that an EAX value holds; what is reserved in it is left out."""
        base = eax >> 8 & 0xF
        family = base + (eax >> 20 & 0xFF if base == 0xF else 0)
        return cls(family, (eax >> 16 & 0xF) << 4 | eax >> 4 & 0xF, eax & 0xF)


_NAPLES = CpuSignature(23, 1, 2)
_ROME = CpuSignature(23, 49, 0)
_MILAN = CpuSignature(25, 1, 1)
_GENOA = CpuSignature(25, 17, 0)
_TURIN = CpuSignature(26, 0, 0)

# QEMU's models of CPUs with SEV; versions of a model differ in features alone.
# Spec: QEMU 11.0 target/i386/cpu.c builtin_x86_defs.
CPU_MODELS = {
    "EPYC": _NAPLES,
    **{f"EPYC-v{version}": _NAPLES for version in range(1, 6)},
    "EPYC-IBPB": _NAPLES,
    "EPYC-Rome": _ROME,
    **{f"EPYC-Rome-v{version}": _ROME for version in range(1, 6)},
    "EPYC-Milan": _MILAN,
    **{f"EPYC-Milan-v{version}": _MILAN for version in range(1, 4)},
    "EPYC-Genoa": _GENOA,
    **{f"EPYC-Genoa-v{version}": _GENOA for version in range(1, 3)},
    "EPYC-Turin": _TURIN,
    "EPYC-Turin-v1": _TURIN,
}
# Models that are whatever CPU the host has. Spec: QEMU 11.0 target/i386/cpu.c max_x86_cpu_initfn().
HOST_MODELS = frozenset(["host", "max"])
