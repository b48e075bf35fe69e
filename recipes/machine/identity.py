"""The canonical text of a machine, for what is keyed by the whole of it."""

from __future__ import annotations

import json
from dataclasses import Field, asdict
from enum import Enum
from typing import Any, ClassVar, Protocol


class Described(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def identity(machine: Described) -> str:
    """Canonical JSON of everything but the name."""
    value = asdict(machine, dict_factory=lambda items: {key: _plain(item) for key, item in items})
    del value["name"]
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else value
