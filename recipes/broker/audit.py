"""The log of what was asked and what came of it: a JSON object a line, without any secret.

A key is released only after its line is written: whoever fills the disk gets no keys unseen.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ..errors import ImageError


class AuditError(ImageError):
    """A line that could not be written."""


@dataclass
class Facts:
    """What is known of a request so far; empty where it is not.

    Attributes:
        request: ``challenge``, ``activate``, ``attest`` or empty for another path.
        client: the address it came from.
        machine: that was asked for, and after a release the one whose values were quoted.
        ak: name of the attestation key: what it was enrolled as, or ``ek:`` or ``snp:`` and a digest.
        quote: SHA-256 of the quote's bytes, in hex.
    """

    request: str
    client: str
    session: str = ""
    volume: str = ""
    machine: str = ""
    ak: str = ""
    quote: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a request ended.

    Attributes:
        result: ``challenged``, ``activated``, ``released``, ``refused`` or ``failed``.
        field: that was refused.
        reason: in words; of a failure also what the client is not told.
    """

    result: str
    status: int
    field: str = ""
    reason: str = ""


class AuditLog:
    """Writes lines.

    Args:
        write: puts a line where it is kept, or raises OSError.
        close: ends writing.
    """

    def __init__(self, write: Callable[[str], object], close: Callable[[], None] = lambda: None) -> None:
        self._write, self.close = write, close

    @classmethod
    def append_to(cls, path: Path) -> AuditLog:
        """A log at the end of a file, which is made readable for its owner alone.

        Raises:
            AuditError: it cannot be opened.
        """
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(path, flags, 0o600)
        except OSError as error:
            raise AuditError(f"{path}: {error.strerror}; name a file that the broker may write") from None
        return cls(lambda line: _write_line(file, line.encode("ascii")), lambda: os.close(file))

    def write(self, time: datetime, facts: Facts, outcome: Outcome) -> None:
        """Writes one line: the time, then what is not empty.

        Raises:
            AuditError: it could not be written.
        """
        values = {"time": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **asdict(facts), **asdict(outcome)}
        line = json.dumps({key: value for key, value in values.items() if value != ""})
        try:
            self._write(f"{line}\n")
        except OSError as error:
            raise AuditError(f"audit log: {error.strerror}; make room for it, no key is released") from None


def _write_line(file: int, line: bytes) -> None:
    """One write for a line, so that the lines of two brokers do not mix."""
    written = os.write(file, line)
    if written != len(line):
        raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes were written")
