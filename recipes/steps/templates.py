"""Templates of ``templates/``, rendered: everything textual that follows from a recipe."""

from __future__ import annotations

from pathlib import Path


def render(path: Path, **values: object) -> str:
    """The text of a template. Nothing is escaped: who hands in words has quoted them for where they stand.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not among ``values``; a bug of ours.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - scripts, YAML, JSON and lines for a terminal, never HTML
    )
    return environment.from_string(path.read_text(encoding="utf-8")).render(**values)
