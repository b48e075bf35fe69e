"""``test``, ``lint`` and ``bench``: what developers run, and what CI runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from doit.exceptions import TaskFailed

from .digests import ROOT
from .task import Task

# What boot tests start.
TESTED_IMAGE, TESTED_TPM, TESTED_REALM = "debian-cvm", "debian-tpm2", "islet-realm"
TESTED_CONVERSION, TESTED_WORKLOAD, TESTED_HATS = "jindisk-style", "debian-workload", "hats-snp"
PARAMETERS = [{"name": "arguments", "short": "k", "type": str, "default": "", "help": "pytest -k expression"}]


def tasks() -> Iterator[Task]:
    """The developers' tasks; none is up to date ever, so asking for one always runs it."""
    yield {
        "basename": "test",
        "doc": "run all tests: unit, vectors, tool, house and boot",
        "task_dep": [TESTED_IMAGE, TESTED_TPM, TESTED_REALM, TESTED_CONVERSION, TESTED_WORKLOAD, TESTED_HATS],
        "actions": [(test,)],
        "params": PARAMETERS,
        "verbosity": 2,
    }
    yield {
        "basename": "lint",
        "doc": "ruff and mypy --strict over everything",
        "actions": [(lint,)],
        "verbosity": 2,
    }
    yield {
        "basename": "bench",
        "doc": "time the builder against its peers and print the table",
        "actions": [(bench,)],
        "verbosity": 2,
    }


def test(arguments: str) -> TaskFailed | None:
    """Runs pytest with the project's settings."""
    return _run("pytest", *(["-k", arguments] if arguments else []))


def lint() -> TaskFailed | None:
    """Runs the linters, both, and fails if either does."""
    results = [_run("ruff", "check", "."), _run("ruff", "format", "--check", "."), _run("mypy")]
    return next((result for result in results if result is not None), None)


def bench() -> TaskFailed | None:
    """Runs the benchmarks."""
    return _run("tests.bench")


def _run(module: str, *arguments: str) -> TaskFailed | None:
    sys.stdout.flush()
    with subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT) as process:
        try:
            # The system may give a signal to any thread; Python acts on it when the main thread wakes.
            while process.poll() is None:
                time.sleep(0.1)
        except BaseException:
            process.send_signal(signal.SIGINT)  # pytest then ends what it has started, and is waited for
            raise
    return TaskFailed(f"{module} found something, see above") if process.returncode else None
