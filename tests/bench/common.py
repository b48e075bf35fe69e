"""What every bench shares: a job run in a process of its own and measured there, and the table of results.

A bench module has ``rows()``. A job is a module-level function named ``package.module:function`` with text
arguments, or the command line of another program; a fresh interpreter runs it either way, so that neither
the bench's own memory nor what it imported counts.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recipes.units import MIB, format_size

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Row:
    """One measured job.

    Attributes:
        size: bytes worked on.
        wall: seconds from start to end, without the interpreter's start.
        cpu: user and system seconds, of the job and the processes it started.
        rss: largest resident set of any of them, in MiB.
        label: what the ratio is of, or empty.
        ratio: this job's time by another's in the same run: below 1 is faster.
    """

    name: str
    size: int
    wall: float
    cpu: float
    rss: float
    label: str = ""
    ratio: float | None = None

    def against(self, other: Row, label: str, *, wall: bool = False) -> Row:
        """The row with the ratio of its CPU time (or wall time) to that of ``other``."""
        mine, theirs = (self.wall, other.wall) if wall else (self.cpu, other.cpu)
        unit = "wall" if wall else "CPU"
        return replace(self, label=f"{unit} / {label}", ratio=mine / theirs if theirs else None)


def measure(name: str, size: int, job: str | Sequence[str | Path], *arguments: object, runs: int = 1) -> Row:
    """The quickest of ``runs`` runs of a job, by CPU time.

    Args:
        job: ``package.module:function``, called with ``arguments`` as text, or an argv.
    """
    argv = [job, *map(str, arguments)] if isinstance(job, str) else ["--", *map(str, job)]
    best: Row | None = None
    for _ in range(runs):
        command = [sys.executable, "-m", "tests.bench.common", *argv]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {' '.join(argv)} failed\n{done.stderr}")
        row = Row(name, size, **json.loads(done.stdout.splitlines()[-1]))
        if best is None or row.cpu < best.cpu:
            best = row
    assert best is not None
    return best


def measure_in_turn(*jobs: tuple[str, int, Sequence[str | Path]], runs: int) -> list[Row]:
    """The median of ``runs`` rounds of short jobs, by CPU time; a job is a name, a size and an argv.

    A machine that becomes slower meets all of them, where one after the other would favour the first.
    """
    rounds = [[measure(*job) for job in jobs] for _ in range(runs)]
    return [sorted(rows, key=lambda row: row.cpu)[runs // 2] for rows in zip(*rounds, strict=True)]


def print_table(rows: Iterable[Row]) -> None:
    """Prints the rows under one heading."""
    heading = ("job", "size", "wall s", "CPU s", "RSS MiB", "ratio of", "ratio")
    table = [heading, *map(_cells, rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(heading))]
    for cells in table:
        text = [
            cell.ljust(width) if column in (0, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        print("  ".join(text).rstrip())


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    size = format_size(row.size)
    return (row.name, size, f"{row.wall:.2f}", f"{row.cpu:.2f}", f"{row.rss:.0f}", row.label, ratio)


def _usage() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def _peak() -> float:
    """Largest resident set in MiB, here or in a finished child.

    Our own is read from /proc: ru_maxrss would count the process that started this one.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    own = next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, child) * 1024 / MIB


def _main(argv: list[str]) -> None:
    """Runs one job and prints its figures as the last line."""
    if argv[0] == "--":
        started, before = time.perf_counter(), _usage()
        subprocess.run(argv[1:], check=True, stdout=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"})
    else:
        module, _, function = argv[0].partition(":")
        call = getattr(importlib.import_module(module), function)
        started, before = time.perf_counter(), _usage()
        call(*argv[1:])
    wall, cpu = time.perf_counter() - started, _usage() - before
    print(json.dumps({"wall": wall, "cpu": cpu, "rss": _peak()}))


if __name__ == "__main__":
    _main(sys.argv[1:])
