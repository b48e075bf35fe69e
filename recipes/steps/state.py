"""Where doit keeps what it knows of earlier builds."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ..errors import ImageError


def state_file(out: Path) -> str:
    """Name of doit's database in ``out``, which exists and is sound.

    doit opens it before it loads any task, so what is wrong with it has to be found here. Where nothing can
    be written it is kept in memory: the task graph can still be looked at, and a build stops at its lock.

    Raises:
        ImageError: the database is damaged, or there is no space for one.
    """
    path = out / ".doit.db"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ":memory:"
    if not os.access(out, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        return ":memory:"
    try:
        with closing(sqlite3.connect(path)) as connection:
            if connection.execute("pragma page_count").fetchone() == (0,):
                connection.execute("pragma user_version = 1")
    except sqlite3.Error as error:
        damaged = error.sqlite_errorname in ("SQLITE_NOTADB", "SQLITE_CORRUPT")
        advice = "remove it, every step then runs again" if damaged else "free some space"
        raise ImageError(f"{path}: {error}; {advice}") from None
    return str(path)
