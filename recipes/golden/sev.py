"""From a replayed launch with AMD SEV to its entry in the golden manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..machine.sev import SevMachine, SevMode
from ..machine.snp import SnpMachine
from ..measure.boot import Prediction
from ..measure.sev import LAUNCH_DIGEST, SevLaunch, SevPrediction
from ..measure.trace import Step
from .manifest import GoldenMachine, Omitted, Policy, RegisterPolicy, RegisterRow
from .predict import POLICIES, DiskPrediction, golden_machine
from .unlock import MachinePolicy, UnlockPolicy
from .workload import with_workload

# What the digest covers, by what is part of the launch. Spec: AMD SEV-SNP ABI 56860, section 8.17.2; AMD SEV
# API 55766, section 6.5.
_FIRMWARE = "firmware"
_SECTIONS = "places of its SEV metadata"
_HASHES = "hashes of kernel, initrd and command line"
_VCPUS = "number and first registers of vCPUs (CPU signature, SEV_FEATURES)"

# A workload's register is predicted where the boot phases in this one are.
WORKLOAD_BESIDE = "PCR11"
HOST_TPM = "its TPM is a program of the host (swtpm); its PCRs prove nothing unless an SVSM provides the TPM"
# Why a TPM beside kernel hashes has no registers here.
NO_TPM_BOOT = f"what firmware measures of a UKI or kernel that QEMU hands over is not modelled; {HOST_TPM}"
# What no register of such a machine covers.
UNMEASURED = (
    "guest policy, host data, ID block: attestation reports show them beside the digest",
    "memory size, devices, ACPI tables, fw_cfg: the firmware gets them from the host while it runs",
    "content of disks, and of what the firmware loads without a hash of it in the table of kernel hashes",
    "the CPUID page and the secrets page: their places are measured, the AMD firmware checks or fills them",
)

# What holds for images with such machines; golden.json says it once.
SNP_UNMEASURED = (
    *(f"SEV-SNP: {text}" for text in UNMEASURED),
    "SEV-SNP without kernel hashes: the launch digest covers the firmware, and nothing of what it boots",
    f"SEV-SNP: {HOST_TPM}",
)


@dataclass(frozen=True, kw_only=True)
class SnpEvidence:
    """What is known of a launch.

    Attributes:
        boot: what a TPM measures of it; None without one, or where that is not modelled.
    """

    launch: SevLaunch
    prediction: SevPrediction
    boot: Prediction | None = None


def covers(machine: SevMachine, *, kernel: bool) -> str:
    """What the digest of a machine covers, in words.

    Args:
        kernel: a kernel's hashes are in the launch.
    """
    words = [_FIRMWARE]
    if machine.mode is SevMode.SEV_SNP:
        words.append(_SECTIONS)
    if kernel:
        words.append(_HASHES)
    if machine.mode is not SevMode.SEV:
        words.append(_VCPUS)
    return ", ".join(words)


def golden_sev(
    machine: SevMachine, prediction: SevPrediction, *, kernel: bool, launch: str = ""
) -> GoldenMachine:
    """The manifest's entry of one machine with SEV.

    Args:
        kernel: a kernel's hashes are in the launch.
        launch: the command line that starts it.
    """
    row = RegisterRow(
        register=LAUNCH_DIGEST,
        algorithm=prediction.algorithm,
        value=prediction.digest,
        established=prediction.established,
    )
    policy = RegisterPolicy(
        register=LAUNCH_DIGEST, policy=Policy.MACHINE, covers=covers(machine, kernel=kernel)
    )
    return GoldenMachine(
        name=machine.name,
        vmm=f"{machine.vmm.value}, {machine.mode.value}",
        identity=machine.identity(),
        launch=launch,
        registers=(row,),
        policies=(policy,),
        omitted=(),
        traces=(prediction.trace,),
    )


def golden_snp(
    machine: SnpMachine,
    found: SnpEvidence,
    *,
    firmware_version: str,
    launch: str,
    disks: Sequence[DiskPrediction] = (),
) -> GoldenMachine:
    """The manifest's entry of a recipe's machine with SEV-SNP.

    The registers of its TPM stand beside the launch digest for the record: what they are worth depends on who
    provides the TPM, and no boot of such a machine has been compared with them.

    Args:
        firmware_version: of its package.
        launch: the script that starts it.
        disks: TPM's boots from disks of other sizes.
    """
    hashed = found.launch.hashes is not None
    entry = golden_sev(found.launch.machine, found.prediction, kernel=hashed, launch=launch)
    entry = replace(entry, identity=_identity(machine, found.launch, firmware_version))
    if not hashed:
        what = f"{covers(found.launch.machine, kernel=False)}; nothing of what the firmware boots"
        policy = RegisterPolicy(register=LAUNCH_DIGEST, policy=Policy.MACHINE, covers=what)
        entry = replace(entry, policies=(policy,))
    if found.boot is None:
        names = POLICIES if machine.tpm is not None else ()
        return replace(entry, omitted=tuple(Omitted(register=name, reason=NO_TPM_BOOT) for name in names))
    tpm = golden_machine(machine.measured_boot(), found.boot, None, vmm=entry.vmm, launch=launch, disks=disks)
    return replace(
        entry,
        registers=(*entry.registers, *tpm.registers),
        policies=(*entry.policies, *(_recorded(item) for item in tpm.policies)),
        omitted=tpm.omitted,
        traces=(*entry.traces, *tpm.traces),
        disks=tpm.disks,
    )


def with_workload_of_host(machine: GoldenMachine, step: Step) -> GoldenMachine:
    """The entry with a workload's register, where the machine has a TPM that is predicted."""
    if machine.trace(WORKLOAD_BESIDE) is None:
        return machine
    added = with_workload(machine, step)
    policies = tuple(_recorded(item) for item in added.policies[len(machine.policies) :])
    return replace(added, policies=(*machine.policies, *policies))


def _recorded(policy: RegisterPolicy) -> RegisterPolicy:
    """The policy of a register in a TPM that the host runs."""
    return replace(policy, policy=Policy.RECORD, covers=f"{policy.covers}; the TPM is the host's")


def _identity(machine: SnpMachine, launch: SevLaunch, firmware_version: str) -> str:
    """Canonical JSON of the machine, of its firmware, and of the command line that is hashed."""
    value = json.loads(machine.identity())
    value["firmware"] |= {"version": firmware_version, "sha256": launch.firmware.sha256.hexdigest()}
    if launch.machine.cmdline is not None:
        value["cmdline"] = launch.machine.cmdline
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def without_keys(policy: UnlockPolicy, machines: Iterable[GoldenMachine]) -> UnlockPolicy:
    """A volume's policy that also says of machines with SEV-SNP that no key is sealed there."""
    added = (MachinePolicy(machine=machine.name, digest=None, reason=HOST_TPM) for machine in machines)
    return replace(policy, machines=(*policy.machines, *added))
