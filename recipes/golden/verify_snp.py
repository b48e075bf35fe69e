"""A machine with SEV-SNP held against what an attestation report of its guest says.

Who signed the report is not looked at here: what stands in it is a claim until the chip's certificates have
verified it. Only a report that nobody could verify is refused.

Spec: AMD 56860, SEV Secure Nested Paging Firmware ABI, section 7.3, ATTESTATION_REPORT.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import ImageError, VerifyError
from ..formats.snp_report import SigningKey, SnpReport
from ..measure.trace import HashAlgorithm
from .manifest import GoldenMachine, RegisterRow
from .verify import LAUNCH_REGISTERS, Comparison, Difference, RegisterResult

ALGORITHM = HashAlgorithm.SHA384
# VMPL of a report that the host asked for. Spec: 56860 section 7.3.
_HOST_VMPL = 0xFFFFFFFF


def launch_row(machine: GoldenMachine) -> RegisterRow | None:
    """What reports of a machine show as MEASUREMENT; None where it has no launch digest."""
    rows = machine.registers
    return next(
        (row for row in rows if row.register in LAUNCH_REGISTERS and row.algorithm is ALGORITHM), None
    )


def guest_policy(machine: GoldenMachine) -> int | None:
    """The guest policy of a machine, which is no part of its digest; None where it has none."""
    identity = json.loads(machine.identity)
    # A machine with stage0 has what SEV measures of it in a part of its own.
    part = identity.get("sev", identity)
    policy = part.get("policy") if isinstance(part, dict) else None
    return policy if isinstance(policy, int) else None


def launch_covers(machine: GoldenMachine) -> str:
    """What a machine's launch digest covers, in the manifest's words."""
    return next((item.covers for item in machine.policies if item.register in LAUNCH_REGISTERS), "not said")


def not_shown(machine: GoldenMachine) -> tuple[str, ...]:
    """Registers of a machine that no report of SEV-SNP shows."""
    names = dict.fromkeys(row.register.partition(":")[0] for row in machine.registers)
    return tuple(name for name in names if name not in LAUNCH_REGISTERS)


def check_signed(report: SnpReport, source: str) -> None:
    """Returns if a chip's key can have signed a report.

    Raises:
        VerifyError: no key has.

    Spec: FIPS 186-5 section 6.4.2, step 1: R and S are from 1 to the order minus 1.
    """
    if report.signing_key is SigningKey.NONE or report.is_key_masked:
        field = "MASK_CHIP_KEY is set" if report.is_key_masked else "SIGNING_KEY is NONE"
        what = f"{field}, so no key has signed it and nobody can verify it"
        raise VerifyError(f"{source}: {what}; the host has to let its chip's key sign")
    # Read here: the commands that compare golden values need no signatures.
    from ..formats.p384 import ORDER

    for name, number in zip("RS", report.signature, strict=True):
        if not 0 < number < ORDER:
            kind = "0" if number == 0 else "not below the order of P-384"
            what = f"{name} of its signature is {kind}, so no key has signed it and nobody can verify it"
            raise VerifyError(f"{source}: {what}; take the report as the processor gave it")


def measured_machines(
    machines: Sequence[GoldenMachine], report: SnpReport, source: str
) -> tuple[GoldenMachine, ...]:
    """Every machine whose launch digest and guest policy a report shows, in the manifest's order.

    Machines that differ only in what is not measured, as memory, share a digest.

    Args:
        source: name of the report, for messages.

    Raises:
        ImageError: no machine has a launch digest.
        VerifyError: no machine has this one, or none with this policy.
    """
    known = {machine.name: row.value for machine in machines if (row := launch_row(machine)) is not None}
    if not known:
        raise ImageError(f"{source}: {_no_digest(machines)}")
    alike = [machine for machine in machines if known.get(machine.name) == report.measurement]
    if not alike:
        what = f"MEASUREMENT {report.measurement.hex()} is that of no machine ({', '.join(known)})"
        raise VerifyError(f"{source}: {what}; explain shows what each is made of")
    found = tuple(machine for machine in alike if guest_policy(machine) == report.policy)
    if not found:
        raise VerifyError(f"{source}: {alike[0].name}: {_policies(alike[0], report)}")
    return found


def _no_digest(machines: Sequence[GoldenMachine]) -> str:
    for machine in machines:
        for item in machine.omitted:
            if item.register in LAUNCH_REGISTERS:
                return f"no machine has a launch digest ({machine.name}: {item.reason})"
    what = "no machine of this golden.json has the launch digest of a guest with SEV-SNP"
    return f"{what}; give that of the image that was launched"


def _policies(machine: GoldenMachine, report: SnpReport) -> str:
    policy = guest_policy(machine)
    # It is no part of the digest: a guest that may be debugged measures the same.
    asked = "none" if policy is None else f"{policy:#x}"
    return f"guest policy: the machine has {asked}, the report {report.policy:#x}"


def compare_report(machine: GoldenMachine, report: SnpReport, *, vmpl: int = 0) -> Comparison:
    """Launch digest, guest policy and privilege level against those of a report.

    Args:
        vmpl: privilege level that has to have asked for the report.

    Raises:
        ImageError: the machine has no launch digest.
    """
    row = launch_row(machine)
    if row is None:
        reasons = [item.reason for item in machine.omitted if item.register in LAUNCH_REGISTERS]
        why = f" ({reasons[0]})" if reasons else ""
        raise ImageError(f"{machine.name}: has no launch digest{why}; name a machine with SEV-SNP")
    result = RegisterResult(
        register=row.register, algorithm=ALGORITHM, expected=row.value, observed=report.measurement
    )
    messages = []
    if not result.equal:
        both = f"predicted {row.value.hex()}, the report has {report.measurement.hex()}"
        messages.append(f"{row.register}: {both}")
    if guest_policy(machine) != report.policy:
        messages.append(_policies(machine, report))
    if report.vmpl != vmpl:
        whose = " (the host asked for the report)" if report.vmpl == _HOST_VMPL else ""
        messages.append(f"VMPL: it is {report.vmpl}{whose}, expected {vmpl}")
    return Comparison(
        machine=machine.name,
        results=(result,),
        differences=tuple(Difference(register=row.register, message=message) for message in messages),
        events=0,
    )
