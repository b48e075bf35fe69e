"""Digests of files, remembered: the up-to-date checker that doit uses, and the sidecars of big products.

doit's own checker hashes a file once for every task that reads it, and a touched file again at every run
(specs of doit 0.37, ``doit/dependency.py`` MD5Checker). Here a digest is kept with the file's size, times and
inode and computed again only when one of them has changed.

A hard link is the same file: what is known of one name is known of the others. To make or remove one changes
the status of the file, and so one of the times, which is not asked for where the number of names differs.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from doit.dependency import FileChangedChecker

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / "out" / "cache"
# Size, time of the last change of the content, of the status, inode, number of names.
Stat = tuple[int, int, int, int, int]


class DigestCache:
    """SHA-256 of files by path, kept in one file under ``out/cache``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, tuple[Stat, str]] | None = None
        self._learnt: dict[str, tuple[Stat, str]] = {}

    def sha256(self, path: Path) -> str:
        """Hex digest of a file's content; hashed again only if size, times or inode changed."""
        entries = self._load()
        stat = _stat(path)
        known = entries.get(str(path))
        if known is not None and known[0] == stat:
            return known[1]
        digest = self._of_same_file(known, stat)
        if digest is None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not self._learnt:
            atexit.register(self.save)
        entries[str(path)] = self._learnt[str(path)] = (stat, digest)
        return digest

    def _of_same_file(self, known: tuple[Stat, str] | None, stat: Stat) -> str | None:
        """What is known of the file under the same name, or under another of several, if that still holds."""
        candidates = [] if known is None else [known]
        if stat[4] > 1:
            candidates += [entry for entry in self._load().values() if entry[0][3] == stat[3]]
        for before, digest in candidates:
            size, changed, status, inode, names = before
            unchanged = status == stat[2] or names != stat[4]
            if (size, changed, inode) == (stat[0], stat[1], stat[3]) and unchanged:
                return digest
        return None

    def save(self) -> None:
        """Adds what was learnt to the file; a cache that cannot be written is only slower.

        Steps run in processes of their own, which end without ``atexit``, so each saves when it is done; the
        lock keeps one from losing what another has just written.
        """
        if not self._learnt:
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(f".{self._path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                merged = {**self._read(), **self._learnt}
                rows = {
                    path: [*stat, digest] for path, (stat, digest) in merged.items() if Path(path).exists()
                }
                temporary.write_text(json.dumps(rows, sort_keys=True))
                temporary.replace(self._path)
            self._learnt.clear()
        with suppress(OSError):
            temporary.unlink(missing_ok=True)

    def _load(self) -> dict[str, tuple[Stat, str]]:
        if self._entries is None:
            self._entries = self._read()
        return self._entries

    def _read(self) -> dict[str, tuple[Stat, str]]:
        try:
            rows = json.loads(self._path.read_text())
            return {path: _entry(row) for path, row in rows.items()}
        except (OSError, ValueError, AttributeError, LookupError, TypeError):
            return {}


def _entry(row: list[Any]) -> tuple[Stat, str]:
    """A row of the file; one of another version, or damaged, does not have as many values."""
    size, changed, status, inode, names, digest = row
    if not isinstance(digest, str):
        raise TypeError("no digest")
    return (size, changed, status, inode, names), digest


def _stat(path: Path) -> Stat:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_nlink


DIGESTS = DigestCache(CACHE / "digests.json")


class Sha256Checker(FileChangedChecker):  # type: ignore[misc]
    """doit's ``check_file_uptodate``: a file has changed when its SHA-256 has."""

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: str) -> bool:
        """Whether the file differs from the state recorded when the task last ran, or cannot be read.

        What cannot be read is for the step to complain about.
        """
        try:
            return DIGESTS.sha256(Path(file_path)) != state
        except OSError:
            return True

    def get_state(self, dep: str, current_state: str | None) -> str | None:
        """The state to record: None leaves the recorded one, which is right when nothing changed."""
        digest = DIGESTS.sha256(Path(dep))
        return None if digest == current_state else digest


def sidecar(path: Path) -> Path:
    """``X.digest.json``: the small file that stands for a big product in the tasks that read it."""
    return path.with_name(path.name + ".digest.json")


def content(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a product: of a file's bytes, or of everything in a folder.

    A folder's digest is that of a line for each of its files, in order of their paths; links have no place
    in one.
    """
    if not path.is_dir():
        return path.stat().st_size, DIGESTS.sha256(path)
    files = sorted((item.relative_to(path).as_posix(), item) for item in path.rglob("*") if not item.is_dir())
    lines = "".join(f"{DIGESTS.sha256(item)}  {name}\n" for name, item in files)
    return sum(item.stat().st_size for _, item in files), hashlib.sha256(lines.encode()).hexdigest()


def sidecar_text(path: Path) -> str:
    """What the sidecar of a finished product says: its size and SHA-256."""
    size, digest = content(path)
    return json.dumps({"sha256": digest, "size": size}) + "\n"


def read_sidecar(path: Path) -> tuple[int, str]:
    """Size and SHA-256 that the sidecar of a product records."""
    value = json.loads(sidecar(path).read_text())
    return int(value["size"]), str(value["sha256"])


def intact(products: tuple[Path, ...]) -> Callable[[Any, Any], bool]:
    """An ``uptodate`` check: every product still has the size and the bytes its sidecar records."""

    def check(task: Any, values: Any) -> bool:  # noqa: ANN401 - doit's own calling convention
        try:
            return all(read_sidecar(product) == content(product) for product in products)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    return check
