"""What is known of firmware builds, from the data file to the values the replay takes."""

from __future__ import annotations

from pathlib import Path

from ..measure.firmware import FirmwareModel
from .digests import ROOT

MODELS = ROOT / "recipes" / "vmm" / "firmware.json"


def load_models(path: Path = MODELS) -> tuple[FirmwareModel, ...]:
    """Every known firmware build."""
    raise NotImplementedError(path)
