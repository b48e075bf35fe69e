"""``goldsmith verify --snp-report``: a guest's attestation report with SEV-SNP, but for its signature."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from ..errors import ImageError, VerifyError
from .arguments import refuse

if TYPE_CHECKING:
    from ..formats.snp_report import SnpReport
    from ..golden.manifest import GoldenMachine, GoldenManifest
    from ..golden.verify import Comparison

NOT_CHECKED = "not checked"


def verify_snp(options: argparse.Namespace, manifest: GoldenManifest) -> int:
    """Says whether a report shows a predicted launch; 1 where it does not.

    Raises:
        ImageError: there is no machine to hold it against.
        VerifyError: it shows another launch, or nobody can verify it.
    """
    from ..formats.snp_report import SnpReport, read_report
    from ..golden.verify_snp import check_signed, compare_report, measured_machines
    from .manifests import machine_of

    refuse("verify", [(options.disk, "--disk")], "decides nothing of a launch digest")
    name = options.snp_report.name
    with options.snp_report.open("rb") as file:
        report = read_report(file.read(SnpReport.SIZE + 1), name)
    check_signed(report, name)
    if options.machine:
        machines: tuple[GoldenMachine, ...] = (machine_of(manifest, options.machine, options.golden),)
    else:
        machines = measured_machines(manifest.machines, report, name)
    machine = machines[0]
    comparison = compare_report(machine, report, vmpl=options.vmpl or 0)
    if not comparison.decides(machine):
        what = "its launch digest is recorded only, so any would do; name another machine"
        raise ImageError(f"{machine.name}: {what}")
    if options.json:
        print(json.dumps(_document(machines, comparison, report), indent=1))
        return 0 if comparison.equal else 1
    if not comparison.equal:
        raise VerifyError(f"{machine.name}: {comparison.differences[0].message}")
    _show(machines, report)
    return 0


def _document(
    machines: tuple[GoldenMachine, ...], comparison: Comparison, report: SnpReport
) -> dict[str, object]:
    from ..golden.verify_snp import launch_covers, not_shown

    messages = [item.message for item in comparison.differences]
    return {
        "machine": machines[0].name,
        "machines": [machine.name for machine in machines],
        "equal": comparison.equal,
        "signature": NOT_CHECKED,
        "enforced": messages,
        "differences": messages,
        "measurement": report.measurement.hex(),
        "policy": f"{report.policy:#x}",
        "vmpl": report.vmpl,
        "report_data": report.report_data.hex(),
        "host_data": report.host_data.hex(),
        "covers": launch_covers(machines[0]),
        "not_shown": list(not_shown(machines[0])),
    }


def _show(machines: tuple[GoldenMachine, ...], report: SnpReport) -> None:
    """What a report that matches says, and what it leaves open."""
    from ..formats.snp_report import Policy
    from ..golden.verify_snp import launch_covers, not_shown

    names = ", ".join(machine.name for machine in machines)
    print(f"{names}: MEASUREMENT, guest policy and VMPL as predicted, if the report is genuine")
    print(f"  signature     {NOT_CHECKED}: verify the report with the certificates of the host's chip")
    if len(machines) > 1:
        print(f"  machines      {len(machines)}, which share digest and policy; the report cannot say which")
    print(f"  covers        {launch_covers(machines[0])}")
    hidden = not_shown(machines[0])
    if hidden:
        print(f"  not shown     {', '.join(hidden)}")
    print(f"  guest policy  {report.policy:#x}")
    print(f"  VMPL          {report.vmpl}")
    print(f"  REPORT_DATA   {report.report_data.hex()}")
    print(f"  HOST_DATA     {report.host_data.hex()}")
    if report.flags & Policy.DEBUG:
        print("the guest policy allows debugging: the host may read the guest's memory", file=sys.stderr)
    if report.flags & Policy.MIGRATE_MA:
        print("the guest policy allows a migration agent, which may copy the guest", file=sys.stderr)
