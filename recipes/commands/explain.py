"""``goldsmith explain``: the steps behind golden values, or behind a realm's command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ImageError
from .arguments import Commands, add_command, refuse
from .measure import add_realm_options, realm_options
from .measure_sev import explain_sev
from .measure_stage0 import add_stage0_options, explain_stage0, stage0_options

# The registers that command lines decide: a realm's, and that of a machine with SEV.
_RIM = "RIM"
_LAUNCH_DIGEST = "LAUNCH_DIGEST"


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "explain",
        summary="the steps behind golden values or a command line; two command lines: what differs",
        usage="goldsmith explain GOLDEN [options]\n"
        "       goldsmith explain [options] -- lkvm run ... [-- lkvm run ...]\n"
        "       goldsmith explain [options] -- qemu-system-x86_64 -object sev-snp-guest,... [-- qemu...]\n"
        "       goldsmith explain [options] --machine vmm=ec2,firmware=F,vcpus=N\n"
        "       goldsmith explain --stage0 GENERATION [options] -- qemu-system-x86_64 ... [-- qemu...]",
        description="Prints every step that leads to a register, from golden.json or the command line of a "
        "realm or of a machine with AMD SEV. For a kvmtool command line also its device "
        "tree, each node with the option that caused it. For two of them: the first step that differs, the "
        "nodes that differ, and the option that caused it.",
    )
    parser.add_argument("golden", type=Path, nargs="?", help="golden.json")
    parser.add_argument(
        "--machine",
        help="of golden.json, by default the first one that has --register; or with SEV, vmm=ec2,...",
    )
    parser.add_argument("--disk", metavar="FORMAT", help="of golden.json, which it boots from; default: raw")
    parser.add_argument("--register", action="append", help="this register only; may be given again")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    add_realm_options(parser)
    add_stage0_options(parser, files=False)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Prints the steps."""
    from ..vmm.sev_parse import is_sev

    described = "vmm=" in (options.machine or "") and not options.golden
    if bool(options.golden) == bool(options.launch or described):
        raise ImageError("explain: give golden.json, or a command line behind --")
    if options.golden:
        misfits = [*realm_options(options), (options.stage0, "--stage0"), *stage0_options(options)]
        refuse("explain", misfits, "is for a command line, golden.json says it itself")
        return _golden(options)
    launches = list(_command_lines(options.launch)) if options.launch else [[]]
    if options.stage0:
        return _stage0(options, launches)
    refuse("explain", stage0_options(options), "is for machines with stage0, which --stage0 GENERATION says")
    if all(is_sev(launch) for launch in launches) or (described and not options.launch):
        return _sev(options, launches)
    _refuse_qemu(launches)
    refuse("explain", [(options.machine, "--machine")], "is for golden.json, a command line is one machine")
    refuse("explain", [(options.disk, "--disk")], "is for golden.json, a command line names its disks")
    others = sorted(set(options.register or ()) - {_RIM})
    refuse("explain", [(name, f"--register {name}") for name in others], "is not what a command line decides")
    if len(launches) > 2:
        raise ImageError(f"explain: {len(launches)} command lines; two can be held side by side")
    if len(launches) == 2 and options.dtb:
        raise ImageError(
            "explain: --dtb: a captured device tree holds for one command line, not for two; leave it out"
        )
    return _what_if(options, *launches) if len(launches) == 2 else _realm(options, launches[0])


def _refuse_qemu(launches: Sequence[Sequence[str]]) -> None:
    """Stops at QEMU command lines that are not for machines with SEV."""
    from ..vmm.sev_parse import is_qemu, is_sev

    for launch in launches:
        if launch and is_qemu(launch[0]):
            if is_sev(launch):
                raise ImageError(
                    "explain: one command line has SEV and the other has not; give two of a kind"
                )
            what = "a QEMU command line without SEV is not explained"
            raise ImageError(f"explain: {launch[0]}: {what}; give golden.json, or -object sev-snp-guest,...")


def _sev(options: argparse.Namespace, launches: list[list[str]]) -> int:
    misfits = [(options.disk, "--disk"), (options.profile, "--profile"), (options.dtb, "--dtb")]
    misfits += [
        (name, f"--register {name}") for name in sorted(set(options.register or ()) - {_LAUNCH_DIGEST})
    ]
    misfits += [(options.machine, "--machine")] if options.launch else []
    refuse("explain", misfits, "is not for command lines with SEV")
    if len(launches) > 2:
        raise ImageError(f"explain: {len(launches)} command lines; two can be held side by side")
    return explain_sev(options, launches)


def _stage0(options: argparse.Namespace, launches: list[list[str]]) -> int:
    misfits = [(options.disk, "--disk"), (options.profile, "--profile"), (options.dtb, "--dtb")]
    refuse("explain", [*misfits, (options.machine, "--machine")], "is not for machines with stage0")
    if len(launches) > 2:
        raise ImageError(f"explain: {len(launches)} command lines; two can be held side by side")
    return explain_stage0(options, launches)


def _golden(options: argparse.Namespace) -> int:
    from ..golden.explain import explain, explain_unlock
    from ..golden.manifest import trace_json
    from .manifests import load_on, machine_of

    manifest = load_on(options.golden, options.disk)
    machine = machine_of(manifest, options.machine, options.golden, first=True)
    if options.machine is None and options.register:
        having = (each for each in manifest.machines if all(map(each.trace, options.register)))
        machine = next(having, machine)
    traces = [trace for trace in machine.traces if not options.register or trace.register in options.register]
    missing = set(options.register or ()) - {trace.register for trace in traces}
    if missing:
        reasons = {item.register: item.reason for item in machine.omitted}
        name = min(missing)
        what = reasons.get(name, "the prediction does not cover it")
        raise ImageError(f"{machine.name}: no {name}: {what}")
    if options.json:
        print(json.dumps([trace_json(trace) for trace in traces], indent=1))
    else:
        where = machine.name if options.disk is None else f"{machine.name}, disk {options.disk}"
        print(f"{manifest.image} {manifest.version} on {where}\n\n{explain(traces)}", end="")
        if manifest.unlock and not options.register:
            print(f"\n{explain_unlock(manifest.unlock, machine.name)}", end="")
    return 0


def _command_lines(words: Sequence[str]) -> Iterator[list[str]]:
    """The command lines that ``--`` stands between; one inside a command line is its own."""
    from ..vmm.kvmtool_parse import is_kvmtool
    from ..vmm.sev_parse import is_qemu

    line: list[str] = []
    for index, word in enumerate(words):
        if word == "--" and any(
            is_kvmtool(next_word) or is_qemu(next_word) for next_word in words[index + 1 : index + 2]
        ):
            yield line
            line = []
        else:
            line.append(word)
    yield line


def _realm(options: argparse.Namespace, argv: list[str]) -> int:
    from ..formats.fdt_source import to_dts
    from ..golden.explain import explain
    from ..golden.manifest import trace_json
    from ..steps.measure_realm import measure_realm
    from ..vmm.kvmtool_parse import parse_host

    result = measure_realm(argv, profile=options.profile, host=parse_host(options.host), dtb=options.dtb)
    prediction = result.prediction
    for note in prediction.notes:
        print(f"note: {note}", file=sys.stderr)
    source = to_dts(prediction.device_tree)
    if options.json:
        document = {
            "profile": prediction.profile,
            "trace": [trace_json(prediction.trace)],
            "device_tree": source,
        }
        print(json.dumps(document, indent=1))
    else:
        print(f"profile {prediction.profile}\n\n{explain([prediction.trace])}\n{source}", end="")
    return 0


def _what_if(options: argparse.Namespace, first: list[str], second: list[str]) -> int:
    from ..golden.whatif import compare
    from ..steps.measure_realm import measure_realm
    from ..vmm.kvmtool_parse import parse_host

    host = parse_host(options.host)
    before, after = (
        measure_realm(argv, profile=options.profile, host=host, dtb=options.dtb) for argv in (first, second)
    )
    difference = compare(
        before.prediction,
        after.prediction,
        (before.machine, after.machine),
        (before.ignored, after.ignored),
    )
    for note in dict.fromkeys((*before.prediction.notes, *after.prediction.notes)):
        print(f"note: {note}", file=sys.stderr)
    if options.json:
        print(json.dumps(difference.to_json(), indent=1))
    else:
        print(difference, end="")
    return 0 if difference.equal else 1
