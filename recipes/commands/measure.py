"""``goldsmith measure``: the registers of a VMM command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..errors import ImageError
from ..record import TYPE_CHECKING
from .arguments import Commands, LateHelp, add_command, refuse
from .measure_sev import add_sev_options, run_sev, sev_options
from .measure_stage0 import add_stage0_options, run_stage0, stage0_options

if TYPE_CHECKING:
    from ..golden.manifest import GoldenMachine


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "measure",
        summary="the registers of a VMM command line",
        usage="goldsmith measure [options] -- qemu-system-x86_64 ... | lkvm run ...\n"
        "       goldsmith measure [options] --machine vmm=ec2,firmware=F,vcpus=N\n"
        "       goldsmith measure --stage0 GENERATION [options] -- qemu-system-x86_64 ...",
        description="Replays a launch from its command line: the files it names are read, nothing is "
        "started. Paths are relative to the working directory. Options without influence are listed with -v.",
    )
    parser.add_argument("--json", action="store_true", help="print registers and trace as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="say which options have no influence")
    qemu = parser.add_argument_group("QEMU")
    qemu.add_argument(
        "--captures", type=Path, metavar="FILE", action="append", help="captured ACPI tables, for PCR 1"
    )
    add_realm_options(parser)
    add_sev_options(parser)
    add_stage0_options(parser)
    parser.set_defaults(command=run)


def add_realm_options(parser: argparse.ArgumentParser, *, captured: bool = True) -> None:
    """Adds what a kvmtool command line does not say of the realm's stack.

    Args:
        captured: whether a captured device tree can take the place of the generated one.
    """
    realm = parser.add_argument_group("kvmtool")
    realm.add_argument("--profile", metavar="NAME", help=LateHelp(_profile_help))
    realm.add_argument(
        "--host",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="what the hardware decides: num_bps, num_wps, sve_vl, ipa_bits, lpa2; "
        "with SEV sev-features, family, model, stepping; with stage0 also vendor, phys-bits; "
        "may be given again",
    )
    if captured:
        realm.add_argument("--dtb", type=Path, metavar="FILE", help="a device tree captured with --dump-dtb")


def _profile_help() -> str:
    from ..machine.kvmtool_profiles import PROFILES

    names = "; ".join(f"{profile.name}: {profile.summary}" for profile in PROFILES)
    return f"the stack it runs on ({names})"


def realm_options(options: argparse.Namespace) -> list[tuple[object, str]]:
    """What was given of ``add_realm_options``, each with its name."""
    return [(options.profile, "--profile"), (options.host, "--host"), (options.dtb, "--dtb")]


def run(options: argparse.Namespace) -> int:
    """Prints the registers."""
    from ..vmm.sev_parse import is_sev

    if options.stage0:
        misfits = [(options.profile, "--profile"), (options.dtb, "--dtb"), (options.captures, "--captures")]
        refuse("measure", [*misfits, *sev_options(options)], "is not for machines with stage0")
        return run_stage0(options)
    refuse("measure", stage0_options(options), "is for machines with stage0, which --stage0 GENERATION says")
    if options.machine or is_sev(options.launch or ()):
        misfits = [(options.profile, "--profile"), (options.dtb, "--dtb"), (options.captures, "--captures")]
        refuse("measure", misfits, "is not for machines with SEV")
        return run_sev(options)
    if not options.launch:
        raise ImageError(
            "measure: no command line; write it behind --, such as -- qemu-system-x86_64 ... or "
            "-- lkvm run ..., or describe a machine with SEV by --machine"
        )
    from ..vmm.kvmtool_parse import is_kvmtool

    refuse("measure", sev_options(options), "is for machines with SEV")
    return _realm(options) if is_kvmtool(options.launch[0]) else _qemu(options)


def _qemu(options: argparse.Namespace) -> int:
    from ..steps.measure_launch import measure_launch

    refuse("measure", realm_options(options), "is for kvmtool command lines")
    result = measure_launch(options.launch, options.captures)
    _print(options, result.profile, result.machine, result.ignored)
    return 0


def _realm(options: argparse.Namespace) -> int:
    from ..golden.realm import golden_realm
    from ..steps.measure_realm import measure_realm
    from ..vmm.kvmtool_parse import parse_host

    refuse("measure", [(options.captures, "--captures")], "is for QEMU command lines")
    result = measure_realm(
        options.launch, profile=options.profile, host=parse_host(options.host), dtb=options.dtb
    )
    for note in result.prediction.notes:
        print(f"note: {note}", file=sys.stderr)
    machine = golden_realm(result.machine, result.prediction, launch="")
    _print(options, result.prediction.profile, machine, result.ignored)
    return 0


def _print(
    options: argparse.Namespace, profile: str, machine: GoldenMachine, ignored: tuple[str, ...]
) -> None:
    from ..golden.manifest import trace_json
    from ..golden.table import render_rows

    for text in ignored if options.verbose else ():
        print(f"no influence: {text}", file=sys.stderr)
    for item in machine.omitted:
        print(f"omitted: {item.register}: {item.reason}", file=sys.stderr)
    if not options.json:
        print(f"profile {profile}")
        print(render_rows(machine.registers))
        return
    document = {
        "profile": profile,
        "registers": [row.to_json() for row in machine.registers],
        "trace": [trace_json(trace) for trace in machine.traces],
    }
    print(json.dumps(document, indent=1))
