"""Where the values of a recipe stand, for problems that its reader cannot know of."""

from __future__ import annotations

from ..reader import Marks
from ..schema import Buildable
from .digests import ROOT


def marks(image: Buildable) -> Marks:
    """A place to note problems with an image's recipe, by line and column."""
    path = image.path
    where = (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()
    return Marks(where, places=dict(image.places))
