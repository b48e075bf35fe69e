"""What the attestation service says of itself, for the journal."""

from __future__ import annotations

import sys


def log(client: str, status: int, what: str) -> None:
    """One line, without anything that could steer a terminal."""
    sys.stderr.write(f"{client} {status or '-'} {ascii(what)[1:-1]}\n")
    sys.stderr.flush()
