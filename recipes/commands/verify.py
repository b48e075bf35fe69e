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
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Says whether the machine measured what was predicted; 1 where it did not."""
    from .manifests import load_on

    refuse_launch("verify", options.launch)
    manifest = load_on(options.golden, options.disk)
    machine, comparison = (_launch if options.snp_report else _boot)(options, manifest)
    enforced = comparison.enforced(machine)
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
    banks = sorted({result.algorithm.value for result in comparison.results})
    if options.snp_report:
        print(f"{machine.name}: launch digest and guest policy as predicted")
        print(
            "who signed the report is not checked here; the chip's certificates show it",
            file=sys.stderr,
        )
        return 0
    recorded = sorted({item.register for item in comparison.differences})
    print(
        f"{machine.name}: {len(comparison.results)} registers ({', '.join(banks)})"
        f" and {comparison.events} events as predicted"
        + (f", but for {', '.join(recorded)}, which decide nothing" if recorded else "")
    )
    for item in comparison.not_compared:
        print(f"{machine.name}: {item.register} {item.event} was not compared: {item.reason}")
    if options.event_log:
        print("the log is the machine's own claim: check its values against a quote", file=sys.stderr)
    return 0


def _boot(options: argparse.Namespace, manifest: GoldenManifest) -> tuple[GoldenMachine, Comparison]:
    """A machine and its boot, from a boot report or an event log."""
    from ..golden.observe import observe_event_log
    from ..golden.report import parse_report
    from ..golden.verify import compare, of_tpm
    from .manifests import machine_of

    machine = machine_of(manifest, options.machine, options.golden)
    tpm = of_tpm(machine)
    if tpm is not machine:
        print(f"{machine.name}: its TPM does not show the launch digest; give --snp-report", file=sys.stderr)
    if options.report:
        observation = parse_report(options.report.read_bytes(), options.report.name).observation
    else:
        tpm, observation = observe_event_log(tpm, options.event_log.read_bytes(), options.event_log.name)
    return tpm, compare(tpm, observation, wildcards=manifest.wildcards)


def _launch(options: argparse.Namespace, manifest: GoldenManifest) -> tuple[GoldenMachine, Comparison]:
    """A machine and its launch, from an attestation report."""
    from ..formats.snp_report import SnpReport, read_report
    from ..golden.verify_snp import compare_report, measured_machine
    from .manifests import machine_of

    refuse("verify", [(options.disk, "--disk")], "decides nothing of a launch digest")
    with options.snp_report.open("rb") as file:
        report = read_report(file.read(SnpReport.SIZE + 1), options.snp_report.name)
    if options.machine:
        machine = machine_of(manifest, options.machine, options.golden)
    else:
        machine = measured_machine(manifest.machines, report, options.snp_report.name)
    return machine, compare_report(machine, report)
