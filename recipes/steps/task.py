"""From a build function to a doit task: temporary names, digests, up-to-date rules and one line of output.

A build function takes the paths to write, in the order of ``products``, and keyword arguments. It knows
neither doit nor where anything finally goes, so it can be tested, cached or run elsewhere as it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import stat
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache, partial
from pathlib import Path
from typing import Any

from doit.exceptions import TaskFailed
from doit.tools import config_changed

from ..errors import ImageError
from ..record import dataclass, items_of
from ..schema import Buildable
from ..units import format_size
from .digests import DIGESTS, ROOT, content, intact, sidecar, sidecar_text

OUT = ROOT / "out"
Task = dict[str, Any]

# What a user does about errors of the file system. Everything else the system refuses is a bug of ours.
ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EROFS: "make it writable",
    errno.EACCES: "correct its permissions",
    errno.EPERM: "correct its permissions",
    errno.EISDIR: "remove the folder in its place",
    errno.ENOTDIR: "remove the file in a folder's place",
    errno.EEXIST: "remove what is in its place",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One artefact of one image, or of a kernel that images share.

    Attributes:
        basename: the artefact: ``verity``.
        variant: which of several of one image: ``gce``.
        products: files it makes, and folders; each gets a digest sidecar.
        folders: those of the products that are folders.
        inputs: files it reads: sources, or products of other steps (doit then watches their sidecars).
        build: called with the paths to write and ``arguments``.
        arguments: keyword arguments for ``build``; part of what decides whether the step is up to date.
        fingerprint: further values that decide it.
        uptodate: further checks of doit's that decide it.
        doc: the line ``doit list`` shows.
    """

    basename: str
    image: Buildable
    products: tuple[Path, ...]
    inputs: tuple[Path, ...]
    build: Callable[..., None]
    arguments: dict[str, Any]
    doc: str
    folders: tuple[Path, ...] = ()
    fingerprint: object = None
    uptodate: tuple[Callable[[Any, Any], bool], ...] = ()
    variant: str = ""

    @property
    def name(self) -> str:
        """The task's whole name."""
        return f"{self.basename}:{self._subtask}"

    @property
    def _subtask(self) -> str:
        return f"{self.image.name}.{self.variant}" if self.variant else self.image.name

    def task(self) -> Task:
        """The doit task."""
        watched = [str(sidecar(path) if path.is_relative_to(OUT) else path) for path in self.inputs]
        return {
            "basename": self.basename,
            "name": self._subtask,
            "doc": self.doc,
            "file_dep": watched,
            "targets": [str(path) for product in self.products for path in (product, sidecar(product))],
            "uptodate": [
                config_changed(canonical([self.arguments, self.fingerprint, code_digest()])),
                intact(self.products),
                *self.uptodate,
            ],
            "actions": [(guarded, [self.run])],
            "clean": [(guarded, [partial(_clean, self.products, self.folders)])],
            "verbosity": 2,
        }

    def run(self) -> None:
        """Builds the products under temporary names, then puts them and their sidecars in place.

        Raises:
            ImageError: an input changed meanwhile. doit records inputs as they are after a step, so these
                products would pass for made from the new ones.
        """
        started = time.monotonic()
        inputs = _digests(self.inputs)
        temporaries = [product.with_name(f".{product.name}.tmp") for product in self.products]
        try:
            for product, temporary in zip(self.products, temporaries, strict=True):
                product.parent.mkdir(parents=True, exist_ok=True)
                sidecar(product).unlink(missing_ok=True)
                _remove(temporary)
            self.build(*temporaries, **self.arguments)
            self._check_unchanged(inputs)
            for product, temporary in zip(self.products, temporaries, strict=True):
                if product in self.folders:
                    _remove(product)  # a folder does not replace another
                temporary.replace(product)
        finally:
            for temporary in temporaries:
                _remove(temporary)
        for product in self.products:
            write_text(sidecar(product), sidecar_text(product))
        DIGESTS.save()
        report(self, time.monotonic() - started)

    def _check_unchanged(self, inputs: list[str]) -> None:
        for path, before, after in zip(self.inputs, inputs, _digests(self.inputs), strict=True):
            if before != after:
                name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
                raise ImageError(f"{name}: changed while it was being read; run the same command again")


def _digests(paths: Sequence[Path]) -> list[str]:
    return [DIGESTS.sha256(path) if path.exists() else "" for path in paths]


def guarded(action: Callable[[], None]) -> TaskFailed | None:
    """Runs an action; what a user can mend becomes doit's one-message failure, a bug keeps its traceback."""
    try:
        action()
    except ImageError as error:
        return TaskFailed(str(error))
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        # Of a renaming, the new name is the one a user knows.
        what = f"{error.filename2 or error.filename or OUT}: {str(error.strerror).lower()}"
        return TaskFailed(f"{what}; {ADVICE[error.errno]} and run the same command again")
    return None


def report(step: Step, seconds: float) -> None:
    """One line per product, as it is finished."""
    for product in step.products:
        size, digest = content(product)
        name = product.relative_to(OUT).as_posix()
        sys.stdout.write(f"  {name:<44} {format_size(size):>10}  sha256 {digest[:16]}…  {seconds:5.1f} s\n")
    sys.stdout.flush()


def write_text(path: Path, text: str, mode: int | None = None) -> None:
    """Writes a small file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    if mode is not None:
        temporary.chmod(mode)
    temporary.replace(path)


def source_files(*folders: Path) -> tuple[Path, ...]:
    """Every file below the folders, sorted: inputs that a person edits."""
    found = (
        path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    )
    return tuple(sorted(path for path in found if "__pycache__" not in path.parts))


def tree_fingerprint(*folders: Path) -> tuple[tuple[str, str, bool, str], ...]:
    """What decides about folders besides the bytes of their files: path, kind, executable bit, link target.

    Only the owner's executable bit counts, as in an overlay. A folder that is not there is one entry less.
    """
    entries = []
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            try:
                mode = path.lstat().st_mode
                target = str(path.readlink()) if stat.S_ISLNK(mode) else ""
            except FileNotFoundError:
                continue
            name = path.relative_to(folder.parent).as_posix()
            executable = stat.S_ISREG(mode) and bool(mode & stat.S_IXUSR)
            entries.append((name, stat.filemode(mode)[0], executable, target))
    return tuple(sorted(entries))


@cache
def code_digest() -> str:
    """Digest of the builder itself: any change to its Python rebuilds everything, which takes seconds.

    The libraries count too: another zstandard may compress otherwise.
    """
    state = hashlib.sha256()
    for path in (*sorted((ROOT / "recipes").rglob("*.py")), ROOT / "requirements.lock"):
        state.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return state.hexdigest()


def canonical(value: object) -> str:
    """Canonical text of dataclasses, enums, paths and plain values, for doit to compare."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: object) -> object:
    items = items_of(value)
    if items is not None:
        return {name: _plain(item) for name, item in items}
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Path):
        return value.relative_to(ROOT).as_posix() if value.is_relative_to(ROOT) else value.as_posix()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _clean(products: tuple[Path, ...], folders: tuple[Path, ...]) -> None:
    for product in products:
        sidecar(product).unlink(missing_ok=True)
        if product in folders:
            _remove(product)
        else:
            product.unlink(missing_ok=True)
    above = {folder for product in products for folder in product.parents if folder.is_relative_to(OUT)}
    for folder in sorted(above - {OUT}, reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def say(text: str) -> None:
    """A line for people, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
