"""``goldsmith``: measure, explain, compare and verify from the command line.

Data goes to standard output, words to standard error. Exit status 0: it matches or was computed; 1: it does
not match; 2: wrong use, or input that cannot be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ImageError, VerifyError

if TYPE_CHECKING:
    from .golden.manifest import GoldenMachine, GoldenManifest

USAGE = 2
MISMATCH = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    launch: list[str] | None = None
    if "--" in words:
        at = words.index("--")
        words, launch = words[:at], words[at + 1 :]
    options = _parser().parse_args(words)
    options.launch = launch
    try:
        return int(options.command(options))
    except VerifyError as error:
        print(f"goldsmith: {error}", file=sys.stderr)
        return MISMATCH
    except ImageError as error:
        print(f"goldsmith: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        # Whoever reads us has seen enough; nothing may be written to them while Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"goldsmith: {error.filename}: {str(error.strerror).lower()}", file=sys.stderr)
        return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="goldsmith",
        description="Computes what the hardware will measure when an image is launched, before the launch.",
        epilog="Exit status: 0 computed or equal, 1 different, 2 wrong use or unreadable input.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    measure = commands.add_parser(
        "measure",
        help="the registers of a VMM command line",
        usage="goldsmith measure [--json] [--captures FILE] -- qemu-system-x86_64 ...",
        description="Replays the boot of a QEMU command line: firmware, variable store and disk are read, "
        "nothing is started. Options without influence on the measurement are listed with -v.",
    )
    measure.add_argument("--json", action="store_true", help="print registers and trace as JSON")
    measure.add_argument("-v", "--verbose", action="store_true", help="say which options have no influence")
    measure.add_argument(
        "--captures", type=Path, metavar="FILE", action="append", help="captured ACPI tables, for PCR 1"
    )
    measure.set_defaults(command=_measure)
    explain = commands.add_parser("explain", help="the steps behind golden values")
    explain.add_argument("golden", type=Path, help="golden.json")
    explain.add_argument("--machine", help="default: the first one")
    explain.add_argument("--register", action="append", help="this register only; may be given again")
    explain.add_argument("--json", action="store_true")
    explain.set_defaults(command=_explain)
    diff = commands.add_parser("diff", help="which registers differ between two predictions, and why")
    diff.add_argument("before", type=Path, help="golden.json")
    diff.add_argument("after", type=Path, help="another golden.json, or the same one for two machines")
    diff.add_argument("--machine", help="default: every machine that both have")
    diff.add_argument(
        "--with", dest="other", metavar="MACHINE", help="compare with this machine of the second"
    )
    diff.add_argument("--json", action="store_true")
    diff.set_defaults(command=_diff)
    verify = commands.add_parser("verify", help="hold a boot report or an event log against golden values")
    verify.add_argument("golden", type=Path, help="golden.json")
    verify.add_argument("--machine", help="default: the only one")
    source = verify.add_mutually_exclusive_group(required=True)
    source.add_argument("--report", type=Path, help="console log with a boot report")
    source.add_argument(
        "--event-log", type=Path, help="binary_bios_measurements of a machine; firmware's events only"
    )
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(command=_verify)
    return parser


def _measure(options: argparse.Namespace) -> int:
    from .golden.manifest import trace_json
    from .golden.table import render_rows
    from .steps.measure_launch import measure_launch

    if not options.launch:
        raise ImageError(
            "measure: no command line; write it behind --, for example -- qemu-system-x86_64 ..."
        )
    result = measure_launch(options.launch, options.captures)
    for text in result.ignored if options.verbose else ():
        print(f"no influence: {text}", file=sys.stderr)
    for item in result.machine.omitted:
        print(f"omitted: {item.register}: {item.reason}", file=sys.stderr)
    if options.json:
        document = {
            "profile": result.profile,
            "registers": [row.to_json() for row in result.machine.registers],
            "trace": [trace_json(trace) for trace in result.machine.traces],
            "omitted": [
                {"register": item.register, "reason": item.reason} for item in result.machine.omitted
            ],
        }
        print(json.dumps(document, indent=1))
    else:
        print(f"profile {result.profile}")
        print(render_rows(result.machine.registers))
    return 0


def _explain(options: argparse.Namespace) -> int:
    from .golden.explain import explain
    from .golden.manifest import trace_json

    manifest = _load(options.golden)
    machine = _machine(manifest, options.machine, options.golden, first=True)
    traces = [trace for trace in machine.traces if not options.register or trace.register in options.register]
    missing = set(options.register or ()) - {trace.register for trace in traces}
    if missing:
        reasons = {item.register: item.reason for item in machine.omitted}
        name = min(missing)
        raise ImageError(
            f"{machine.name}: no {name}: {reasons.get(name, 'the prediction does not cover it')}"
        )
    if options.json:
        print(json.dumps([trace_json(trace) for trace in traces], indent=1))
    else:
        print(f"{manifest.image} {manifest.version} on {machine.name}\n\n{explain(traces)}", end="")
    return 0


def _diff(options: argparse.Namespace) -> int:
    from .golden.diff import moved_registers

    before, after = _load(options.before), _load(options.after)
    if options.machine or options.other:
        first = _machine(before, options.machine, options.before, first=True)
        pairs = [(first, _machine(after, options.other or first.name, options.after))]
    else:
        shared = [(machine, after.machine(machine.name)) for machine in before.machines]
        pairs = [(one, other) for one, other in shared if other is not None]
        if not pairs:
            raise ImageError(f"{options.before} and {options.after} have no machine in common; name two")
    moved = [(one, other, item) for one, other in pairs for item in moved_registers(one, other)]
    if options.json:
        rows = [
            {"machine": one.name, "with": other.name, "register": item.register, "difference": str(item)}
            for one, other, item in moved
        ]
        print(json.dumps(rows, indent=1))
    else:
        for one, other, item in moved:
            print(f"{one.name if one.name == other.name else f'{one.name} and {other.name}'}: {item}")
        if not moved:
            print("no register differs")
    return MISMATCH if moved else 0


def _verify(options: argparse.Namespace) -> int:
    from .golden.observe import observe_event_log
    from .golden.report import parse_report
    from .golden.verify import compare

    manifest = _load(options.golden)
    machine = _machine(manifest, options.machine, options.golden)
    if options.report:
        observation = parse_report(options.report.read_bytes(), options.report.name).observation
    else:
        machine, observation = observe_event_log(
            machine, options.event_log.read_bytes(), options.event_log.name
        )
    comparison = compare(machine, observation)
    enforced = comparison.enforced(machine)
    if options.json:
        document = {
            "machine": machine.name,
            "equal": comparison.equal,
            "enforced": [item.message for item in enforced],
            "differences": [item.message for item in comparison.differences],
        }
        print(json.dumps(document, indent=1))
        return MISMATCH if enforced else 0
    if enforced:
        raise VerifyError(f"{machine.name}: {enforced[0].message}")
    banks = sorted({result.algorithm.value for result in comparison.results})
    print(
        f"{machine.name}: {len(comparison.results)} registers ({', '.join(banks)})"
        f" and {comparison.events} events as predicted"
    )
    if options.event_log:
        print("the log is the machine's own claim: check its values against a quote", file=sys.stderr)
    return 0


def _load(path: Path) -> GoldenManifest:
    from .golden import manifest_reader

    return manifest_reader.load(path.read_text(encoding="utf-8", errors="replace"), str(path))


def _machine(manifest: GoldenManifest, name: str | None, path: Path, *, first: bool = False) -> GoldenMachine:
    from .reader import suggestion

    known = [machine.name for machine in manifest.machines]
    if name is None and known and (first or len(known) == 1):
        return manifest.machines[0]
    found = manifest.machine(name) if name else None
    if found is None:
        what = (
            f"no machine {name!r}{suggestion(name, known)}" if name else f"name a machine: {', '.join(known)}"
        )
        raise ImageError(f"{path}: {what}")
    return found


if __name__ == "__main__":
    sys.exit(main())
