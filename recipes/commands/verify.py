"""``goldsmith verify``: a boot report or an event log held against golden values."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import VerifyError
from .arguments import Commands, add_command, refuse_launch


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands, "verify", summary="hold a boot report or an event log against golden values"
    )
    parser.add_argument("golden", type=Path, help="golden.json")
    parser.add_argument("--machine", help="default: the only one")
    parser.add_argument("--disk", metavar="FORMAT", help="of the disk that it booted from; default: raw")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--report", type=Path, help="console log with a boot report")
    source.add_argument(
        "--event-log", type=Path, help="binary_bios_measurements of a machine; firmware's events only"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Says whether the machine measured what was predicted; 1 where it did not."""
    from ..golden.observe import observe_event_log
    from ..golden.report import parse_report
    from ..golden.verify import compare
    from .manifests import load_on, machine_of

    refuse_launch("verify", options.launch)
    manifest = load_on(options.golden, options.disk)
    machine = machine_of(manifest, options.machine, options.golden)
    if options.report:
        observation = parse_report(options.report.read_bytes(), options.report.name).observation
    else:
        machine, observation = observe_event_log(
            machine, options.event_log.read_bytes(), options.event_log.name
        )
    comparison = compare(machine, observation, wildcards=manifest.wildcards)
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
    print(
        f"{machine.name}: {len(comparison.results)} registers ({', '.join(banks)})"
        f" and {comparison.events} events as predicted"
    )
    for item in comparison.not_compared:
        print(f"{machine.name}: {item.register} {item.event} was not compared: {item.reason}")
    if options.event_log:
        print("the log is the machine's own claim: check its values against a quote", file=sys.stderr)
    return 0
