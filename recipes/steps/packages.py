"""``packages:IMAGE``: every locked package in the cache, checked against the lock."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..schema import Image
from .digests import CACHE
from .task import OUT, Step

if TYPE_CHECKING:
    from ..sources.lock import Lock

RESOLVED = "resolved.lock"


def resolved_lock(image: Image) -> Path:
    """Path of the lock the build really uses: the committed one unless the mirror has dropped versions."""
    return OUT / image.name / RESOLVED


def step(image: Image) -> Step:
    """The step that fetches packages."""
    return Step(
        basename="packages",
        image=image,
        products=(resolved_lock(image),),
        inputs=(image.lock_path,),
        build=build,
        arguments={"lock": image.lock_path, "image": image.name, "locked_only": locked_only()},
        doc="download the locked packages and check each against the lock",
    )


def locked_only() -> bool:
    """Whether ``--locked`` was given: another version than the locked one is then refused."""
    return os.environ.get("GOLDSMITH_LOCKED", "") not in ("", "0")


def build(target: Path, *, lock: Path, image: str, locked_only: bool) -> None:
    """Fills the cache and writes the lock that was used."""
    from ..sources import apt
    from ..sources import lock as locks

    if not lock.is_file():
        raise SpecError(f"{lock.name}: there is no lock; run `python3 dodo.py update:{image}` and commit it")
    wanted = locks.load(lock)
    work = target.parent / ".apt"
    try:
        used = apt.fetch(
            wanted,
            CACHE / "packages",
            work,
            image=image,
            locked_only=locked_only,
            notify=_warn,
            progress=_progress,
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    target.write_text(locks.dump(used), encoding="utf-8")


def package_files(lock: Lock, group: str) -> list[Path]:
    """The cached archives of one group of the lock, in the lock's order."""
    return [CACHE / "packages" / f"{package.sha256}.deb" for package in lock.group(group)]


def _warn(text: str) -> None:
    sys.stderr.write(f"\nWARNING: {text}\n\n")
    sys.stderr.flush()


def _progress(text: str) -> None:
    sys.stdout.write(f"  {text}\n")
    sys.stdout.flush()
