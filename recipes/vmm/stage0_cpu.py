"""The CPU of a machine with stage0, as its memory map and its tables see it: its maker and its address bits.

Spec: QEMU 10.0 target/i386/cpu.c x86_cpu_parse_featurestr(), x86_cpu_realizefn(), max_x86_cpu_initfn();
target/i386/host-cpu.c host_cpu_adjust_phys_bits(), host_cpu_max_instance_init(), host_cpu_instance_init().
"""

from __future__ import annotations

import re

from ..errors import MeasureError, suggestion
from ..machine.sev_cpus import CPU_MODELS, HOST_MODELS
from ..machine.stage0 import Stage0Chipset
from ..record import dataclass
from .sev_values import number

AMD, INTEL = "AuthenticAMD", "GenuineIntel"
_VENDORS = {"amd": AMD, "intel": INTEL, AMD: AMD, INTEL: INTEL}
# CPU models with long mode, which stage0 needs, by their maker to a TCG guest; KVM names the host's maker
# whatever the model. Each may have a version behind it, and those of Intel a word for what they lack.
# Spec: QEMU 10.0 target/i386/cpu.c builtin_x86_defs.
_AMD_MODELS = frozenset(
    ["max", "phenom", "qemu64", "Opteron_G1", "Opteron_G2", "Opteron_G3", "Opteron_G4", "Opteron_G5"]
)
_OTHER_MODELS = frozenset(
    [
        *("Broadwell", "Cascadelake-Server", "ClearwaterForest", "Conroe", "Cooperlake", "Denverton"),
        *("Dhyana", "GraniteRapids", "Haswell", "Icelake-Server", "IvyBridge", "KnightsMill", "Nehalem"),
        *("Penryn", "SandyBridge", "SapphireRapids", "SierraForest", "Skylake-Client", "Skylake-Server"),
        *("Snowridge", "Westmere", "YongFeng", "core2duo", "kvm64"),
    ]
)
_VARIANT = re.compile(r"((-noTSX)?(-IBRS)?|-v[1-9][0-9]?)$")
_ON, _OFF = frozenset(["on", "yes", "true", "y"]), frozenset(["off", "no", "false", "n"])
# Address bits of a CPU that none are given for. Spec: QEMU 10.0 target/i386/cpu.h TCG_PHYS_ADDR_BITS.
DEFAULT_PHYS_BITS = 40
_MIN_PHYS_BITS, _MAX_PHYS_BITS = 32, 52


@dataclass(frozen=True, kw_only=True)
class CpuWords:
    """What ``-cpu`` says.

    Attributes:
        text: as it was written.
        model: without its settings.
        settings: by the names that QEMU gives them: ``phys_bits`` is ``phys-bits``, ``-lm`` is ``lm=off``.
    """

    text: str
    model: str
    settings: dict[str, str]

    def switch(self, key: str, *, default: bool) -> bool:
        """Whether a setting is on.

        Raises:
            MeasureError: it is neither on nor off.
        """
        value = self.settings.get(key)
        if value is None:
            return default
        if value not in _ON | _OFF:
            raise MeasureError(f"-cpu {self.text}: {key}={value} is neither on nor off; write {key}=on")
        return value in _ON

    def bits(self, key: str) -> int | None:
        """A number of address bits; None where there is none, as QEMU takes 0.

        Raises:
            MeasureError: no CPU has so many.
        """
        value = self.settings.get(key, "0")
        return None if value == "0" else parse_phys_bits(f"-cpu {self.text}", value)


def read_cpu(text: str) -> CpuWords:
    """The words of ``-cpu``.

    Raises:
        MeasureError: no such model is known, a setting is given twice, or stage0 would not run on the CPU.
    """
    model, *parts = text.split(",")
    # QEMU skips what is empty between two commas.
    settings: dict[str, str] = {}
    for part in filter(None, parts):
        key, equals, value = part.partition("=")
        if part[0] in "+-":
            key, value = part[1:], "on" if part[0] == "+" else "off"
        elif not equals:
            value = "on"
        key = key.replace("_", "-")
        if key in settings:
            raise MeasureError(f"-cpu {text}: {key!r} is given twice; write each setting once")
        settings[key] = value
    cpu = CpuWords(text=text, model=model, settings=settings)
    if not _known(model):
        close = suggestion(model, {*HOST_MODELS, *CPU_MODELS, *_AMD_MODELS, *_OTHER_MODELS})
        how = close or "; use one such as host, max or EPYC-Milan"
        raise MeasureError(f"-cpu {text}: no CPU model of this name with 64 bits is known{how}")
    if not cpu.switch("lm", default=True):
        raise MeasureError(f"-cpu {text}: stage0 does not run without long mode; leave lm=off out")
    return cpu


def _known(model: str) -> bool:
    return model in HOST_MODELS or model in CPU_MODELS or _family(model) in _AMD_MODELS | _OTHER_MODELS


def _family(model: str) -> str:
    return _VARIANT.sub("", model)


def made_by_amd(
    cpu: CpuWords, stated: bool | None, chipset: Stage0Chipset, *, kvm: bool, protected: bool
) -> bool:
    """Whether the guest sees a CPU of AMD.

    Args:
        stated: whether AMD made the host's; None where it is not said.
        protected: the machine has SEV.

    Raises:
        MeasureError: nothing says it, two things say it, or SEV is on a CPU of another maker.
    """
    vendor = cpu.settings.get("vendor")
    if not kvm and stated is not None:
        raise MeasureError(f"--host vendor: -cpu {cpu.model} says it with -accel tcg; leave it out")
    if vendor is not None:
        if vendor not in (AMD, INTEL):
            raise MeasureError(f"-cpu {cpu.text}: vendor={vendor} is not modelled; write {AMD} or {INTEL}")
        if stated is not None:
            raise MeasureError(f"--host vendor: -cpu {cpu.text} says what the guest sees; leave it out")
        if protected and vendor != AMD:
            raise MeasureError(f"-cpu {cpu.text}: SEV is AMD's; leave vendor={vendor} out")
        return vendor == AMD
    if protected:
        if stated is False:
            raise MeasureError("--host vendor=intel: SEV is AMD's; leave it out")
        return True
    if not kvm:
        return cpu.model in CPU_MODELS or _family(cpu.model) in _AMD_MODELS
    if stated is not None:
        return stated
    if chipset is Stage0Chipset.MICROVM:
        return True  # nothing of a microvm depends on it
    what = "the memory map depends on who made the host's CPU"
    raise MeasureError(f"-cpu {cpu.text}: {what}; give --host vendor=amd or --host vendor=intel")


def address_bits(cpu: CpuWords, stated: int | None, chipset: Stage0Chipset, *, kvm: bool) -> int | None:
    """Address bits of the guest's CPU; None where they are not known, or nothing depends on them.

    Args:
        stated: those of the host's; None where they are not said.

    Raises:
        MeasureError: two things say them, or one of them has no effect.
    """
    given, limit = cpu.bits("phys-bits"), cpu.bits("host-phys-bits-limit")
    from_host = cpu.switch("host-phys-bits", default=kvm and cpu.model in HOST_MODELS)
    where = f"-cpu {cpu.text}"
    if from_host and not kvm:
        raise MeasureError(f"{where}: host-phys-bits=on has no effect with -accel tcg; leave it out")
    if limit is not None and not from_host:
        raise MeasureError(
            f"{where}: host-phys-bits-limit has no effect without host-phys-bits; leave it out"
        )
    if given is not None and from_host:
        what = "host-phys-bits is on, and QEMU does not go by phys-bits"
        raise MeasureError(f"{where}: {what}; leave phys-bits out, or write host-phys-bits=off")
    if stated is not None and not from_host:
        raise MeasureError(f"--host phys-bits={stated}: -cpu {cpu.model} says it; leave it out")
    bits = stated if from_host else given or DEFAULT_PHYS_BITS
    if limit is not None:
        if bits is None:
            what = "the fewer of the host's address bits and the limit count"
            raise MeasureError(f"{where}: {what}; give --host phys-bits=N, as /proc/cpuinfo has it")
        bits = min(bits, limit)
    if chipset is Stage0Chipset.Q35 and bits is not None and bits >= DEFAULT_PHYS_BITS:
        return None
    return bits


def parse_vendor(where: str, text: str) -> bool:
    """Whether a maker of CPUs is AMD.

    Raises:
        MeasureError: there is no such maker.
    """
    if text not in _VENDORS:
        raise MeasureError(f"{where}: no such maker of CPUs; write vendor=amd or vendor=intel")
    return _VENDORS[text] == AMD


def parse_phys_bits(where: str, text: str) -> int:
    """A number of address bits.

    Raises:
        MeasureError: no CPU has so many, or QEMU would read another number.
    """
    if re.fullmatch(r"0[0-9]+", text):
        raise MeasureError(f"{where}: QEMU takes {text} for an octal number; write it without the 0")
    bits = number(where, text)
    if not _MIN_PHYS_BITS <= bits <= _MAX_PHYS_BITS:
        what = f"a CPU has {_MIN_PHYS_BITS} to {_MAX_PHYS_BITS} address bits"
        raise MeasureError(f"{where}: {what}; take the number from /proc/cpuinfo")
    return bits
