"""All private keys of the project, for steps that check that no product holds one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import broker_keys, keys, operator_keys, unlock_keys, volume_keys
from .hats import keys as hats_keys
from .realm import keys as realm_keys

if TYPE_CHECKING:
    from ..sources.secrets import OwnKey


def own_keys() -> tuple[OwnKey, ...]:
    """Our private keys, which must not be found in any product."""
    from ..sources.secrets import OwnKey

    roles = (keys.key_path(role) for role in keys.ROLES)
    paths = (*roles, unlock_keys.PRIVATE, *broker_keys.PRIVATE, operator_keys.KEY)
    ours = tuple(OwnKey(f"keys/{path.name}", path.read_bytes()) for path in paths if path.exists())
    return (*ours, *realm_keys.own_keys(), *volume_keys.own_keys(), *hats_keys.own_keys())
