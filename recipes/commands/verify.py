"""``goldsmith verify``: a boot report, an event log or an attestation report held against golden values."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import VerifyError
from .arguments import Commands, add_command, refuse, refuse_launch
from .verify_snp import verify_snp

if TYPE_CHECKING:
    from ..golden.manifest import GoldenMachine, GoldenManifest
    from ..golden.verify import Comparison


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands, "verify", summary="hold a boot, event log or attestation report against golden values"
    )
    parser.add_argument("golden", type=Path, help="golden.json")
    parser.add_argument("--machine", help="default: the only one, or the one that a report is of")
    parser.add_argument("--disk", metavar="FORMAT", help="of the disk that it booted from; default: raw")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--report", type=Path, help="console log with a boot report")
    source.add_argument(
        "--event-log", type=Path, help="binary_bios_measurements of a machine; firmware's events only"
    )
    source.add_argument(
        "--snp-report", type=Path, help="attestation report of a guest with SEV-SNP, 1184 bytes"
    )
    parser.add_argument(
        "--vmpl", type=int, choices=range(4), help="that asked for the --snp-report; default: 0"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Says whether the machine measured what was predicted; 1 where it did not."""
    from .manifests import load_on

    refuse_launch("verify", options.launch)
    manifest = load_on(options.golden, options.disk)
    if options.snp_report:
        return verify_snp(options, manifest)
    refuse("verify", [(options.vmpl is not None, "--vmpl")], "is for --snp-report")
    machine, comparison = _boot(options, manifest)
    enforced = comparison.enforced(machine)
    if not enforced and not comparison.decides(machine):
        raise VerifyError(f"{machine.name}: nothing was compared that is enforced; give more of its boot")
    if options.json:
        document: dict[str, Any] = {
            "machine": machine.name,
            "equal": comparison.equal,
            "enforced": [item.message for item in enforced],
            "differences": [item.message for item in comparison.differences],
        }
        if comparison.not_compared:
            document["not_compared"] = [asdict(item) for item in comparison.not_compared]
        print(json.dumps(document, indent=1))
        return 1 if enforced else 0
    if enforced:
        raise VerifyError(f"{machine.name}: {enforced[0].message}")
    _show(comparison)
    if options.event_log:
        print("the log is the machine's own claim: check its values against a quote", file=sys.stderr)
    return 0


def _show(comparison: Comparison) -> None:
    """What is as predicted, and what need not be."""
    equal = comparison.equal_results
    banks = ", ".join(sorted({result.algorithm.value for result in equal}))
    recorded = sorted({item.register for item in comparison.differences})
    print(
        f"{comparison.machine}: {len(equal)} registers ({banks})"
        f" and {comparison.equal_events} events as predicted"
        + (f"; not so, which decides nothing: {', '.join(recorded)}" if recorded else "")
    )
    for item in comparison.not_compared:
        print(f"{comparison.machine}: {item.register} {item.event} was not compared: {item.reason}")


def _boot(options: argparse.Namespace, manifest: GoldenManifest) -> tuple[GoldenMachine, Comparison]:
    """A machine and its boot, from a boot report or an event log."""
    from ..golden.observe import observe_event_log
    from ..golden.report import parse_report
    from ..golden.verify import check_tpm_decides, compare, of_tpm
    from .manifests import machine_of

    machine = machine_of(manifest, options.machine, options.golden)
    check_tpm_decides(machine)
    tpm = of_tpm(machine)
    if tpm is not machine:
        print(f"{machine.name}: its TPM does not show the launch digest; give --snp-report", file=sys.stderr)
    if options.report:
        observation = parse_report(options.report.read_bytes(), options.report.name).observation
    else:
        tpm, observation = observe_event_log(tpm, options.event_log.read_bytes(), options.event_log.name)
    return tpm, compare(tpm, observation, wildcards=manifest.wildcards)
