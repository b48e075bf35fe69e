"""The canonical text of a machine, for what is keyed by the whole of it."""

from __future__ import annotations

import json
from enum import Enum

from ..record import items_of


def identity(machine: object) -> str:
    """Canonical JSON of everything but the name of a dataclass."""
    value = {name: _plain(item) for name, item in items_of(machine) or () if name != "name"}
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    items = items_of(value)
    return value if items is None else {name: _plain(item) for name, item in items}
