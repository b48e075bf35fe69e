"""``goldsmith stability``: which options of a realm's command line move its RIM."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

from ..errors import ImageError
from .arguments import Commands, add_command
from .measure import add_realm_options

# Ours: what takes longer than so many seconds says how far it is, and then so often.
_PATIENCE = 2.0
_INTERVAL = 0.2


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "stability",
        summary="which options of a realm's command line change its registers",
        usage="goldsmith stability [options] -- lkvm run ...",
        description="Computes the RIM for every combination of the values below, and says for each option "
        "whether it changes the RIM while the others stay as they are. By default vCPUs, memory, disks, "
        "network devices and consoles are combined around the given command line, and every other option is "
        "changed alone. NUMBERS: 1,2,4 or 0-4; SIZES: 256M,1G; WORDS with commas between: off,on. One value "
        "keeps an option fixed.",
    )
    parser.add_argument("--json", action="store_true", help="print every row as JSON")
    _add_axes(parser)
    add_realm_options(parser, captured=False)
    parser.set_defaults(command=run)


def _add_axes(parser: argparse.ArgumentParser) -> None:
    from ..golden.stability_axes import KINDS
    from ..golden.stability_values import numbers, sizes

    matrix = parser.add_argument_group("values of options")
    for kind in KINDS:
        matrix.add_argument(
            f"--{kind.name}",
            dest=_destination(kind.name),
            metavar="NUMBERS" if kind.words is numbers else "SIZES" if kind.words is sizes else "WORDS",
            help=f"of {kind.option}" + (", combined by default" if kind.in_matrix else ""),
        )


def _destination(name: str) -> str:
    return f"axis_{name}"


def run(options: argparse.Namespace) -> int:
    """Prints the report."""
    from ..golden.stability import examine
    from ..golden.stability_axes import KINDS, axis, axis_around
    from ..golden.stability_report import render, to_json
    from ..steps.measure_realm import open_realm
    from ..vmm.kvmtool_parse import is_kvmtool, parse_host

    if not options.launch:
        raise ImageError("stability: no command line; write it behind --, for example -- lkvm run ...")
    if not is_kvmtool(options.launch[0]):
        raise ImageError(f"stability: {options.launch[0]}: not kvmtool; it is for lkvm run ... alone")
    declared = {kind: getattr(options, _destination(kind.name)) for kind in KINDS}
    given = {kind: axis(kind.name, text) for kind, text in declared.items() if text is not None}
    realm = open_realm(options.launch, profile=options.profile, host=parse_host(options.host))
    if realm.dtb is not None:
        what = "a device tree of its own holds for one command line, not for a matrix; leave it out"
        raise ImageError(f"stability: --dtb: {what}")
    axes = [
        given.get(kind) or axis_around(kind, realm.machine)
        for kind in KINDS
        if kind in given or kind.in_matrix
    ]
    report = examine(realm.machine, realm.kernel, realm.initrd, axes, progress=_progress())
    for note in (*realm.notes, *report.notes):
        print(f"note: {note}", file=sys.stderr)
    print(json.dumps(to_json(report), indent=1) if options.json else render(report).rstrip("\n"))
    return 0


def _progress() -> Callable[[int, int], None] | None:
    """Writes how far the matrix is, on a terminal and only when it takes long."""
    if not sys.stderr.isatty():
        return None
    started = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - started < _PATIENCE or (now - last < _INTERVAL and done < total):
            return
        last = now
        end = "\r\033[K" if done == total else ""
        print(f"\r{done} of {total} machines{end}", end="", file=sys.stderr, flush=True)

    return show
