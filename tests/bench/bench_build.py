"""How long a build takes: its packages unpacked, a disk laid out, all of it warm, and nothing to do.

Works on the default image as it stands in ``out/``; the whole builds run in a copy of the project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from recipes.sources import debs
from recipes.sources import lock as locks
from recipes.sources.apt import cached_path
from tests.bench.common import ROOT, Row, measure

HERE = "tests.bench.bench_build"
IMAGE = ROOT / "out" / "debian-cvm"
CACHE = ROOT / "out" / "cache" / "packages"


def rows() -> list[Row]:
    """The measured jobs; without a built image there is nothing to measure."""
    if not (IMAGE / "disk.raw").exists():
        return []
    return [*_unpacking(), *_building()]


def _unpacking() -> list[Row]:
    paths = _packages()
    size = sum(path.stat().st_size for path in paths)
    ours = measure("unpack the root's packages, 2 workers", size, f"{HERE}:job_unpack", runs=2)
    if shutil.which("dpkg-deb") is None:
        return [ours]
    loop = 'for deb in "$@"; do dpkg-deb --fsys-tarfile "$deb" >/dev/null; done'
    theirs = measure(
        "dpkg-deb --fsys-tarfile, one by one", size, ["/bin/sh", "-c", loop, "sh", *paths], runs=2
    )
    return [ours.against(theirs, "dpkg-deb"), theirs]


def _building() -> list[Row]:
    with tempfile.TemporaryDirectory(dir=ROOT / "out") as name:
        copy = Path(name) / "project"
        _copy_project(copy)
        doit: list[str | Path] = [sys.executable, "-m", "doit", "-f", copy / "dodo.py", "-d", copy]
        size = sum(path.stat().st_size for path in CACHE.iterdir())
        build = measure("whole build, downloads cached", size, doit)
        nothing = measure("build again: nothing to do", size, doit, runs=3)
        listing = measure("doit list", 0, [*doit[:3], "list", *doit[3:]], runs=3)
        return [build, nothing, listing]


def _copy_project(target: Path) -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in (os.fsdecode(item) for item in listed.split(b"\0") if item):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    cache = target / "out" / "cache" / "packages"
    cache.mkdir(parents=True)
    for path in CACHE.iterdir():
        os.link(path, cache / path.name)


def _packages() -> list[Path]:
    lock = locks.load(IMAGE / "resolved.lock")
    return [cached_path(CACHE, package) for package in lock.group("rootfs")]


def job_unpack() -> None:
    """Unpacks every package of the root file system."""
    with tempfile.TemporaryDirectory(dir=ROOT / "out") as spool:
        debs.unpack(_packages(), Path(spool), workers=2)
