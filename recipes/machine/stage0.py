"""A machine of QEMU's that starts in stage0, the firmware of Oak Containers and HATs.

stage0 measures what it loads into an event log: kernel, initrd, command line, memory map and ACPI tables.
What they depend on, beside the files, is this value.
"""

from __future__ import annotations

import json
import re
from enum import Enum

from ..record import dataclass
from .identity import identity
from .qemu import Accelerator
from .sev import SevMachine


class Stage0Chipset(Enum):
    """Which of QEMU's machines; the value is the word that its versions have in common."""

    Q35 = "q35"
    MICROVM = "microvm"

    @classmethod
    def of_type(cls, name: str) -> Stage0Chipset | None:
        """What a machine type belongs to; None where it is another of QEMU's machines."""
        if re.fullmatch(r"q35|pc-q35-[1-9][0-9]*\.[0-9]+(\.[0-9]+)?", name):
            return cls.Q35
        return cls.MICROVM if name == cls.MICROVM.value else None


class Stage0Generation(Enum):
    """Builds of stage0 that measure alike; the value names a commit of project-oak/oak.

    ``oak-d6f890b7`` (2025-08-01) is what HATs pins. ``oak-55607dd8`` comes before stage0 took 1 MiB below
    1 GiB for ACPI tables: HATs' offline tool and its policies of the key-value server go by it.
    """

    OAK_D6F890B7 = "oak-d6f890b7"
    OAK_55607DD8 = "oak-55607dd8"


@dataclass(frozen=True, kw_only=True)
class Stage0Machine:
    """A QEMU machine that boots a kernel by stage0.

    Attributes:
        name: what the recipe calls it; not part of its identity.
        type: as QEMU is told: ``q35``, ``pc-q35-9.2``, ``microvm``.
        vcpus: those that are there at the start.
        max_vcpus: those that the machine has room for (``maxcpus``).
        memory: bytes of RAM, whole KiB.
        amd: the guest sees a CPU of AMD; as every model of a TCG machine but those named for Intel.
        phys_bits: physical address bits of the CPU; None where they are not known to matter: from 40 on
            they do not, but for the DSDT of microvm.
        devices: ``-device`` values of PCI devices in the order of their slots.
        settings: further machine properties that reach ACPI, sorted: ``("smm", "off")``.
        sev: its SEV; None without, as HATs' CVMTYPE_DEFAULT.
        cmdline: the kernel's command line, ``-append``.
    """

    name: str
    type: str
    accelerator: Accelerator
    vcpus: int
    max_vcpus: int
    memory: int
    amd: bool
    phys_bits: int | None = None
    devices: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    sev: SevMachine | None = None
    cmdline: str = ""
    generation: Stage0Generation = Stage0Generation.OAK_D6F890B7

    @property
    def chipset(self) -> Stage0Chipset | None:
        """What the type belongs to; None where it is another of QEMU's machines."""
        return Stage0Chipset.of_type(self.type)

    def identity(self) -> str:
        """Canonical JSON of everything but the name."""
        return identity(self)

    def acpi_identity(self) -> str:
        """Canonical JSON of what QEMU's ACPI tables may depend on: what a capture is keyed by.

        How SEV changes the tables is told by ``settings`` (it turns SMM off).
        """
        value: dict[str, object] = json.loads(self.identity())
        for key in ("cmdline", "generation", "sev"):
            del value[key]
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
