"""A file system that is full when a disk is written half way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.disks.format import registry
from recipes.units import MIB
from tests.support import ROOT, require_tool

pytestmark = pytest.mark.tool

WRITE = """
import os, signal, sys, threading
from recipes.disks.format import registry
from recipes.disks.source import RawDisk
signal.alarm(100)
made = os.path.join(sys.argv[2], "made")
for name, disk_format in registry().items():
    try:
        with open(sys.argv[1], "rb") as file, open(made, "wb") as out:
            disk_format.write(RawDisk.of("raw", file), out, seed=b"seed")
    except OSError as error:
        print(name, error.errno, threading.active_count())
    os.unlink(made)
"""


def test_every_format_says_so(tmp_path: Path) -> None:
    """A file system of 4 MiB in a namespace of its own, so that nothing outside of the test is touched."""
    raw, small = tmp_path / "raw", tmp_path / "small"
    raw.write_bytes(os.urandom(8 * MIB))
    small.mkdir()
    (tmp_path / "write.py").write_text(WRITE)
    script = 'mount -t tmpfs -o size=4m small "$1" && shift && exec "$@"'
    unshare = [require_tool("unshare"), "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody have a mount namespace")
    command = [sys.executable, str(tmp_path / "write.py"), str(raw), str(small)]
    done = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", str(small), *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{name} {errno.ENOSPC} 1" for name in registry()]
