"""From what stage0 measures to an entry of the golden manifest, by the names of appraisal policies."""

from __future__ import annotations

from ..machine.stage0 import Stage0Machine
from ..measure.sev_launch import HashedFile
from ..measure.stage0 import LOG_LABELS, Stage0Prediction
from ..measure.trace import Established, HashAlgorithm, Step, Trace
from .manifest import GoldenMachine, Omitted, Policy, RegisterPolicy, RegisterRow

LAUNCH, ACPI_TABLE, COMMAND_LINE = "stage0_measurement", "acpi_table_sha256", "kernel_cmd_line_regex"
SYSTEM, CONTAINER = "system_image_sha256", "container_binary_sha256"
# What the registers cover. Spec: project-oak/oak d6f890b7 stage0/src/lib.rs rust64_start();
# oak_containers/stage1, oak_containers/orchestrator.
COVERS = {
    LAUNCH: "stage0, places of its SEV metadata, number and first registers of vCPUs (CPU signature)",
    "kernel_image_sha256": "the kernel behind its setup part",
    "kernel_setup_data_sha256": "the kernel's setup part, with place and size of the initrd zeroed",
    "init_ram_fs_sha256": "the initrd (stage1)",
    "memory_map_sha256": "memory map: size of RAM, machine type, accelerator, generation of stage0",
    ACPI_TABLE: "ACPI tables: QEMU version, machine type, vCPUs, RAM, PCI slots",
    SYSTEM: "system.tar.xz as stage1 receives it",
    CONTAINER: "the runtime bundle as the orchestrator receives it",
}
# What no register of such a machine covers.
UNMEASURED = (
    "guest policy, host data, ID block: attestation reports show them beside the launch digest",
    "vsock port, CID, MAC address, tap device, ports of the host: drawn or chosen at each launch",
    "which device sits in a PCI slot, and what it says to the guest",
    "network traffic, time, and everything that the workload loads by itself",
)
# Spec: project-oak/oak d6f890b7, oak_containers/stage1 and oak_containers/orchestrator: SHA-256 of the bytes.
_SPEC = "project-oak/oak oak_containers"


def golden_stage0(
    machine: Stage0Machine,
    prediction: Stage0Prediction,
    *,
    system: HashedFile,
    container: HashedFile,
    qemu: str,
    launch: str,
    regex: str,
    no_tables: str,
) -> GoldenMachine:
    """The manifest's entry of one VM.

    Args:
        qemu: version of QEMU, which the ACPI tables are of.
        launch: what starts it.
        regex: the expression that a policy judges the command line by.
        no_tables: why there is no digest of the ACPI tables, where there is none.
    """
    traces = (
        # The text is compared, and it holds a port that the launcher draws at each start.
        *(trace for trace in prediction.traces if trace.register != COMMAND_LINE),
        _whole(SYSTEM, system, "stage1 event"),
        _whole(CONTAINER, container, "orchestrator event"),
    )
    established = {**prediction.established, SYSTEM: Established.ORACLE, CONTAINER: Established.ORACLE}
    rows = tuple(_row(trace, established[trace.register]) for trace in traces)
    omitted = [Omitted(register=COMMAND_LINE, reason="no digest: text, which a policy's expression judges")]
    if prediction.acpi_table is None:
        omitted.append(Omitted(register=ACPI_TABLE, reason=no_tables))
    if prediction.amd_sev is None:
        omitted.append(Omitted(register=LAUNCH, reason="nothing vouches for this machine; it is for tests"))
    return GoldenMachine(
        name=machine.name,
        vmm=f"QEMU {qemu}, stage0 {machine.generation.value}",
        identity=machine.identity(),
        launch=launch,
        registers=rows,
        policies=(*(_policy(row.register) for row in rows), _text_policy(regex)),
        omitted=tuple(omitted),
        traces=traces,
    )


def _row(trace: Trace, established: Established) -> RegisterRow:
    algorithm = HashAlgorithm.SHA384 if trace.register == LAUNCH else HashAlgorithm.SHA256
    return RegisterRow(
        register=trace.register,
        algorithm=algorithm,
        value=trace.steps[-1].after,
        established=established,
    )


def _policy(register: str) -> RegisterPolicy:
    label = LOG_LABELS.get(register)
    covers = COVERS[register] + (f"; stage0 prints it as {label!r}" if label else "")
    machine = register in {LAUNCH, "memory_map_sha256", ACPI_TABLE}
    policy = Policy.MACHINE if machine else Policy.ENFORCE
    return RegisterPolicy(register=register, policy=policy, covers=covers)


def _text_policy(regex: str) -> RegisterPolicy:
    """What is said of the command line: it has no value to compare, and has to match."""
    label = LOG_LABELS[COMMAND_LINE]
    covers = f"the text that stage0 prints as {label!r}; it has to match {regex}"
    return RegisterPolicy(register=COMMAND_LINE, policy=Policy.ENFORCE, covers=covers)


def _whole(register: str, bundle: HashedFile, what: str) -> Trace:
    step = Step(
        register=register,
        operation="FILE",
        digests={HashAlgorithm.SHA256: bundle.sha256},
        size=bundle.size,
        source=bundle.name,
        description=what,
        spec=_SPEC,
        after=bundle.sha256,
    )
    return Trace(register, (step,))
