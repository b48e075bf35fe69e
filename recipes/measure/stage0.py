"""What stage0, the firmware of Oak Containers and HATs, measures of a boot.

    stage0_measurement         launch digest of SEV-SNP: stage0 itself and the virtual CPUs
    kernel_image_sha256        the kernel file behind its setup part
    kernel_setup_data_sha256   the setup part as QEMU hands it out, place and size of the initrd zeroed
    init_ram_fs_sha256         the initrd; 32 zero bytes without one
    memory_map_sha256          E820 table of the zero page
    acpi_table_sha256          ACPI loader script and the files that it loads
    kernel_cmd_line_regex      the command line itself, not hashed

The names are those of HATs' appraisal policies.

Spec: project-oak/oak stage0/src/lib.rs rust64_start() (021cdb06).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..machine.stage0 import Stage0Chipset, Stage0Generation, Stage0Machine
from ..units import GIB
from . import sev
from .direct_boot import RAMDISK_FIELDS, initrd_address, patched_setup
from .e820 import E820Range, checked_chipset, memory_map, minds_hypertransport, stage0_map
from .sev_launch import HashedFile
from .stage0_acpi import ACPI_TABLE, AcpiTables, acpi_trace
from .stage0_event import encode_event
from .stage0_launch import Stage0Kernel, Stage0Launch, measured_cmdline, sev_launch
from .trace import Established, HashAlgorithm, Step, Trace

__all__ = [
    "LOG_LABELS",
    "REGISTERS",
    "AcpiTables",
    "Stage0Kernel",
    "Stage0Launch",
    "Stage0Prediction",
    "replay",
]

STAGE0, KERNEL, SETUP, INITRD = (
    "stage0_measurement",
    "kernel_image_sha256",
    "kernel_setup_data_sha256",
    "init_ram_fs_sha256",
)
MEMORY_MAP, CMDLINE = "memory_map_sha256", "kernel_cmd_line_regex"
LOG_LABELS: Mapping[str, str] = {
    KERNEL: "Kernel image digest",
    SETUP: "Kernel setup data digest",
    INITRD: "Initial RAM disk digest",
    MEMORY_MAP: "E820 table digest",
    ACPI_TABLE: "ACPI table generation digest",
    CMDLINE: "Kernel command-line",
}
"""What stage0 prints before a value on the serial port. Spec: stage0/src/lib.rs (021cdb06)."""

REGISTERS = (STAGE0, KERNEL, SETUP, INITRD, MEMORY_MAP, ACPI_TABLE, CMDLINE)
"""Fields of an appraisal policy in its order. Spec: HATs 7d61840 tvs/proto/appraisal_policies.proto."""

_NO_INITRD = bytes(32)
_SOURCES = {
    "kernel.rs": "010feb4b",
    "zero_page.rs": "d88ccaf9",
    "initramfs.rs": "1c0c7956",
}


@dataclass(frozen=True, kw_only=True)
class Stage0Prediction:
    """What an appraisal policy holds of a boot, and how it comes about.

    Attributes:
        amd_sev: launch digest, 48 bytes; None without SEV-SNP, for a policy that says ``insecure``.
        acpi_table: None where the tables are not known, or their digest is not modelled.
        cmdline: what stage0 gets, which the policy's regular expression has to match.
        event: the encoded event of stage0; None where the digest of the tables is.
        traces: of each register that has a value.
        established: by the same names.
        notes: what a reader has to know.
    """

    amd_sev: bytes | None
    kernel_image: bytes
    kernel_setup_data: bytes
    init_ram_fs: bytes
    memory_map: bytes
    acpi_table: bytes | None
    cmdline: str
    event: bytes | None
    traces: tuple[Trace, ...]
    established: Mapping[str, Established]
    notes: tuple[str, ...] = ()

    @property
    def event_sha256(self) -> bytes | None:
        """What the certificate of layer 1 holds of the event."""
        return None if self.event is None else hashlib.sha256(self.event).digest()


def replay(launch: Stage0Launch) -> Stage0Prediction:
    """What stage0 measures of a boot.

    Raises:
        FormatError: kernel, firmware or ACPI files are damaged.
        MeasureError: QEMU or stage0 would not get through, or something is not modelled.
    """
    machine, kernel = launch.machine, launch.kernel
    chipset = checked_chipset(machine)
    text = measured_cmdline(machine)
    ranges = stage0_map(memory_map(machine), machine.generation)
    traces = {
        KERNEL: _kernel_trace(kernel),
        SETUP: _setup_trace(launch, chipset),
        INITRD: _initrd_trace(launch.initrd),
        MEMORY_MAP: _map_trace(ranges),
        CMDLINE: _cmdline_trace(text),
    }
    established = dict(_established(machine, ranges))
    launched = sev_launch(launch)
    if launched is not None:
        prediction = sev.replay(launched)
        traces[STAGE0] = _renamed(prediction.trace)
        established[STAGE0] = prediction.established
    if launch.acpi is not None and machine.generation is not Stage0Generation.OAK_55607DD8:
        traces[ACPI_TABLE] = acpi_trace(launch.acpi)
    values = {name: trace.steps[-1].after for name, trace in traces.items()}
    digests = [values.get(name) for name in (SETUP, KERNEL, INITRD, MEMORY_MAP, ACPI_TABLE)]
    known = [digest for digest in digests if digest is not None]
    return Stage0Prediction(
        amd_sev=values.get(STAGE0),
        kernel_image=values[KERNEL],
        kernel_setup_data=values[SETUP],
        init_ram_fs=values[INITRD],
        memory_map=values[MEMORY_MAP],
        acpi_table=values.get(ACPI_TABLE),
        cmdline=machine.cmdline,
        event=encode_event(digests=known, cmdline=text) if len(known) == len(digests) else None,
        traces=tuple(traces[name] for name in REGISTERS if name in traces),
        established={name: established[name] for name in REGISTERS if name in traces},
        notes=tuple(_notes(launch)),
    )


def _renamed(trace: Trace) -> Trace:
    return Trace(STAGE0, tuple(replace(step, register=STAGE0) for step in trace.steps))


def _kernel_trace(kernel: Stage0Kernel) -> Trace:
    size = kernel.size - len(kernel.setup)
    what = f"fw_cfg 0x11: from byte {len(kernel.setup):#x} on"
    return _single(KERNEL, "KERNEL_DATA", kernel.sha256, size, kernel.name, what, "kernel.rs")


def _setup_trace(launch: Stage0Launch, chipset: Stage0Chipset) -> Trace:
    kernel, initrd, machine = launch.kernel, launch.initrd, launch.machine
    header, place = kernel.header, None
    if initrd is not None:
        place = initrd_address(header, initrd.size, chipset, machine.memory), initrd.size
    setup, what = kernel.setup, "as in the file"
    if machine.sev is None:
        setup, what = (
            patched_setup(setup, initrd=place, cmdline=machine.cmdline),
            "as a boot loader fills it in",
        )
    data = bytearray(setup)
    data[RAMDISK_FIELDS] = bytes(RAMDISK_FIELDS.stop - RAMDISK_FIELDS.start)
    digest = hashlib.sha256(data).digest()
    what = f"fw_cfg 0x18: header {what}, bytes 0x218 to 0x220 zero"
    return _single(SETUP, "SETUP_DATA", digest, len(data), kernel.name, what, "zero_page.rs")


def _initrd_trace(initrd: HashedFile | None) -> Trace:
    # An empty file has size 0 in fw_cfg, which is how stage0 sees that there is none.
    if initrd is None or not initrd.size:
        return _single(INITRD, "NONE", _NO_INITRD, 0, "no initrd", "all zero", "initramfs.rs")
    what = "fw_cfg 0x12: the file"
    return _single(INITRD, "INITRD_DATA", initrd.sha256, initrd.size, initrd.name, what, "initramfs.rs")


def _map_trace(ranges: Iterable[E820Range]) -> Trace:
    state, steps = hashlib.sha256(), []
    for item in ranges:
        data = item.pack()
        state.update(data)
        step = Step(
            register=MEMORY_MAP,
            operation=f"E820_{item.type.name}",
            digests={HashAlgorithm.SHA256: hashlib.sha256(data).digest()},
            size=len(data),
            source=item.source,
            description=f"to {item.end:#x}",
            spec=_cited("zero_page.rs"),
            address=item.address,
            after=state.digest(),
        )
        steps.append(step)
    return Trace(MEMORY_MAP, tuple(steps))


def _cmdline_trace(text: bytes) -> Trace:
    what = "text, not hashed by stage0: " + repr(text.decode("utf-8"))
    digest = hashlib.sha256(text).digest()
    return _single(CMDLINE, "CMDLINE_DATA", digest, len(text), "-append", what, "kernel.rs")


def _single(
    register: str, operation: str, digest: bytes, size: int, source: str, description: str, file: str
) -> Trace:
    """A register that is one hash."""
    step = Step(
        register=register,
        operation=operation,
        digests={HashAlgorithm.SHA256: digest},
        size=size,
        source=source,
        description=description,
        spec=_cited(file),
        after=digest,
    )
    return Trace(register, (step,))


def _cited(file: str) -> str:
    return f"project-oak/oak stage0/src/{file} ({_SOURCES[file]})"


def _established(machine: Stage0Machine, ranges: Iterable[E820Range]) -> Iterator[tuple[str, Established]]:
    """How each field's rule is known: from published policies, evidence of real machines, runs of stage0."""
    yield KERNEL, Established.ORACLE
    yield INITRD, Established.ORACLE
    yield CMDLINE, Established.ORACLE
    # No kernel is published with the digest of its setup part under SEV-SNP.
    yield SETUP, Established.SPEC_ONLY if machine.sev else Established.ORACLE
    yield MEMORY_MAP, Established.ORACLE if _known_map(machine) else Established.SPEC_ONLY
    # Published digests are of tables that nobody names the QEMU of.
    yield ACPI_TABLE, Established.SPEC_ONLY


def _known_map(machine: Stage0Machine) -> bool:
    """Whether memory maps of machines like this are known from others."""
    if machine.memory < GIB:
        return False
    if machine.generation is Stage0Generation.OAK_55607DD8:
        return machine.sev is not None
    return machine.chipset is Stage0Chipset.MICROVM or minds_hypertransport(machine)


def _notes(launch: Stage0Launch) -> Iterator[str]:
    machine = launch.machine
    if machine.generation is Stage0Generation.OAK_55607DD8:
        what = "hashes its own buffers of ACPI tables, not the files; acpi_table_sha256 is not modelled"
        yield f"{machine.generation.value} {what}"
    elif launch.acpi is None:
        yield "no ACPI tables are given: acpi_table_sha256 and the event are left out"
    if machine.sev is None:
        yield "no SEV: nothing vouches for these values; only test set-ups accept such a policy (insecure)"
    if launch.initrd is not None and not launch.initrd.size:
        yield f"{launch.initrd.name} is empty, which stage0 takes for no initrd"
