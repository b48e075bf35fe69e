"""What ``update:IMAGE`` makes before it captures."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.schema import DiskImage, load_project
from recipes.steps.update import capture_steps
from tests.support import ROOT

PROJECT = load_project(ROOT)


@pytest.mark.parametrize("image", [*PROJECT.images, *PROJECT.converted], ids=lambda image: image.name)
def test_nothing_is_needed_that_was_not_made_before(image: DiskImage) -> None:
    """In a fresh clone there is nothing below out/, neither of this image nor of firmware that it shares."""
    made: set[Path] = set()
    for step in capture_steps(image):
        assert {path for path in step.inputs if path.is_relative_to(ROOT / "out")} <= made, step.name
        made.update(step.products)
    assert {path.name for path in made} > {"resolved.lock"}
