"""A machine with SEV-SNP held against what an attestation report of its guest says.

Who signed the report is not looked at here: what stands in it is a claim until the chip's certificates have
verified it.

Spec: AMD 56860, SEV Secure Nested Paging Firmware ABI, section 7.3, ATTESTATION_REPORT.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import ImageError, VerifyError
from ..formats.snp_report import SnpReport
from ..measure.sev_pages import LAUNCH_DIGEST
from ..measure.trace import HashAlgorithm
from .manifest import GoldenMachine
from .verify import Comparison, Difference, RegisterResult

ALGORITHM = HashAlgorithm.SHA384


def measured_machine(machines: Sequence[GoldenMachine], report: SnpReport, source: str) -> GoldenMachine:
    """The machine whose launch digest a report shows.

    Args:
        source: name of the report, for messages.

    Raises:
        ImageError: no machine has a launch digest.
        VerifyError: no machine has this one.
    """
    known = [machine for machine in machines if machine.value(LAUNCH_DIGEST, ALGORITHM) is not None]
    if not known:
        raise ImageError(f"{source}: no machine has a launch digest to hold it against; add one with sev")
    for machine in known:
        if machine.value(LAUNCH_DIGEST, ALGORITHM) == report.measurement:
            return machine
    names = ", ".join(machine.name for machine in known)
    what = f"MEASUREMENT {report.measurement.hex()} is that of no machine ({names})"
    raise VerifyError(f"{source}: {what}; explain shows what each is made of")


def compare_report(machine: GoldenMachine, report: SnpReport) -> Comparison:
    """The launch digest and the guest policy of a machine against those of a report.

    Raises:
        ImageError: the machine has no launch digest.
    """
    expected = machine.value(LAUNCH_DIGEST, ALGORITHM)
    if expected is None:
        raise ImageError(f"{machine.name}: has no launch digest; name a machine with sev")
    result = RegisterResult(
        register=LAUNCH_DIGEST, algorithm=ALGORITHM, expected=expected, observed=report.measurement
    )
    differences = []
    if not result.equal:
        both = f"predicted {expected.hex()}, the report has {report.measurement.hex()}"
        differences.append(Difference(register=LAUNCH_DIGEST, message=f"{LAUNCH_DIGEST}: {both}"))
    policy = json.loads(machine.identity).get("policy")
    if policy != report.policy:
        # It is no part of the digest: a guest that may be debugged measures the same.
        asked = f"{policy:#x}" if isinstance(policy, int) else "none"
        what = f"guest policy: the machine has {asked}, the report {report.policy:#x}"
        differences.append(Difference(register=LAUNCH_DIGEST, message=what))
    return Comparison(machine=machine.name, results=(result,), differences=tuple(differences), events=0)
