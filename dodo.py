"""The task graph. `python3 dodo.py ARGS` prepares .venv and then is `doit ARGS`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
DEFAULT_IMAGE = "debian-cvm"

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from recipes.bootstrap import main

    main(sys.argv[1:], ROOT)

from doit.exceptions import InvalidDodoFile

from recipes.errors import ImageError
from recipes.schema import load_project
from recipes.steps import graph
from recipes.steps.digests import Sha256Checker
from recipes.steps.lock import hold_build_lock
from recipes.steps.reporter import Reporter
from recipes.steps.state import state_file

try:
    STATE = state_file(ROOT / "out")
except ImageError as error:
    raise InvalidDodoFile(str(error)) from None

DOIT_CONFIG = {
    "default_tasks": [DEFAULT_IMAGE],
    "backend": "sqlite3",
    "dep_file": STATE,
    "check_file_uptodate": Sha256Checker,
    "reporter": Reporter,
    "cleandep": True,
    "cleanall": graph.cleans_everything(sys.argv[1:]),
    "num_process": graph.processes(sys.argv[1:]),
    "forget_sub": True,
}


def task__images() -> Iterator[dict[str, Any]]:
    """Every task of every image under recipes/images."""
    try:
        hold_build_lock(ROOT / "out", sys.argv[1:])
        yield from graph.tasks(load_project(ROOT))
    except ImageError as error:
        raise InvalidDodoFile(str(error)) from None
