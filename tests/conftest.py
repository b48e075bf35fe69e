"""What holds for every property-based test."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, judged by what comes out and not by the clock: a busy machine is no fault.
settings.load_profile("ci")
