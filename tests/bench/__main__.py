"""``python3 dodo.py bench``: every benchmark in one table, each beside its peer or its hashing limit."""

from __future__ import annotations

import importlib
import os
import platform
from pathlib import Path

from tests.bench.common import print_table


def main() -> None:
    """Prints what machine this is, then the table."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    found = [row for name in names for row in importlib.import_module(f"tests.bench.{name}").rows()]
    print(f"{_processor()}, {len(os.sched_getaffinity(0))} processors, Python {platform.python_version()}")
    print("a ratio below 1 is faster than what it is compared with\n")
    print_table(found)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


if __name__ == "__main__":
    main()
