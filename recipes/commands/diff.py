"""``goldsmith diff``: which registers differ between two predictions, and why."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import ImageError
from .arguments import Commands, add_command, refuse_launch


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(commands, "diff", summary="which registers differ between two predictions, and why")
    parser.add_argument("before", type=Path, help="golden.json")
    parser.add_argument("after", type=Path, help="another golden.json, or the same one for two machines")
    parser.add_argument("--machine", help="default: every machine that both have")
    parser.add_argument(
        "--with", dest="other", metavar="MACHINE", help="compare with this machine of the second"
    )
    parser.add_argument("--disk", metavar="FORMAT", help="that both boot from; default: raw")
    parser.add_argument(
        "--with-disk", metavar="FORMAT", help="that the second boots from; default: as --disk"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Prints the registers that differ, and the words for those without a value; 1 where one does."""
    from ..golden.diff import moved_registers
    from .manifests import load_on, machine_of

    refuse_launch("diff", options.launch)
    before = load_on(options.before, options.disk)
    after = load_on(options.after, options.with_disk or options.disk)
    if options.machine or options.other:
        first = machine_of(before, options.machine, options.before, first=True)
        pairs = [(first, machine_of(after, options.other or first.name, options.after))]
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
        return 1 if moved else 0
    for one, other, item in moved:
        print(f"{one.name if one.name == other.name else f'{one.name} and {other.name}'}: {item}")
    if not moved:
        print("no register differs")
    return 1 if moved else 0
