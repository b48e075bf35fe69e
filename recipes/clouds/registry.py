"""Which clouds there are."""

from __future__ import annotations

from ..errors import SpecError, suggestion
from .aws import Aws
from .azure import Azure
from .cloud import Cloud
from .gcp import Gcp

CLOUDS: tuple[Cloud, ...] = (Azure(), Gcp(), Aws())


def lookup(name: str) -> Cloud:
    """The cloud of that name.

    Raises:
        SpecError: there is none.
    """
    for cloud in CLOUDS:
        if cloud.name == name:
            return cloud
    raise SpecError(f"cloud {name!r} is not known{suggestion(name, [cloud.name for cloud in CLOUDS])}")
