"""The machines of a recipe as stage0 measures them, read from the command line that HATs' launcher writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...machine.hats import HatsShape
from ...machine.sev import SEV_FEATURES
from ...machine.stage0 import Stage0Generation, Stage0Machine
from ...record import dataclass

if TYPE_CHECKING:
    from ...vmm.stage0_parse import Stage0Host


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """What the recipe says of the host, beside its processor.

    Attributes:
        qemu: version of QEMU.
        phys_bits: physical address bits of the processor.
        debug_swap: KVM offers SEV-SNP guests debug registers of their own.
    """

    qemu: str
    phys_bits: int
    debug_swap: bool


def stage0_machine(shape: HatsShape, generation: Stage0Generation, facts: HostFacts) -> Stage0Machine:
    """The machine that a shape is launched as.

    Raises:
        MeasureError: it is one that is not modelled.
    """
    from ...hats.launcher import qemu_line
    from ...vmm.stage0_parse import parse

    argv = ("qemu-system-x86_64", *qemu_line(shape)[1:])
    return parse(argv, generation=generation, name=shape.name, host=_host(shape, facts)).machine


def _host(shape: HatsShape, facts: HostFacts) -> Stage0Host:
    from ...vmm.sev_values import SevHost
    from ...vmm.stage0_parse import Stage0Host

    features = SEV_FEATURES["SNPActive"] | (SEV_FEATURES["DebugSwap"] if facts.debug_swap else 0)
    cpu = shape.cpu
    sev = SevHost()
    if cpu is not None:
        sev = SevHost(features=features, family=cpu.family, model=cpu.model, stepping=cpu.stepping)
    return Stage0Host(phys_bits=facts.phys_bits, sev=sev)
