"""From a replayed launch with AMD SEV to its entry in the golden manifest."""

from __future__ import annotations

from ..machine.sev import SevMachine, SevMode
from ..measure.sev import LAUNCH_DIGEST, SevPrediction
from .manifest import GoldenMachine, Policy, RegisterPolicy, RegisterRow

# What the digest covers, by what is part of the launch. Spec: AMD SEV-SNP ABI 56860, section 8.17.2; AMD SEV
# API 55766, section 6.5.
_FIRMWARE = "firmware"
_SECTIONS = "places of its SEV metadata"
_HASHES = "hashes of kernel, initrd and command line"
_VCPUS = "number and first registers of vCPUs (CPU signature, SEV_FEATURES)"

# What no register of such a machine covers.
UNMEASURED = (
    "guest policy, host data, ID block: attestation reports show them beside the digest",
    "memory size, devices, ACPI tables, fw_cfg: the firmware gets them from the host while it runs",
    "content of disks, and of what the firmware loads without a hash of it in the table of kernel hashes",
    "the CPUID page and the secrets page: their places are measured, the AMD firmware checks or fills them",
)


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
