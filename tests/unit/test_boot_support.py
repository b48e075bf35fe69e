"""What the boot tests do where an image is not built; the boots themselves are in tests/boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.steps import disk, golden
from tests.boot import support


@pytest.fixture
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> support.Built:
    """The image where no disk was made."""
    monkeypatch.setattr(support, "OUT", tmp_path)
    monkeypatch.setattr(disk, "raw_disk", lambda image: tmp_path / image.folder / "disk.raw")
    monkeypatch.setattr(golden, "golden_path", lambda image: tmp_path / image.folder / "golden.json")
    return support.Built()


@pytest.mark.parametrize(("variable", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_an_image_that_is_not_built_is_missed_when_it_is_needed(
    unbuilt: support.Built, variable: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", variable)
    for name in ("image", "disk", "kernel_release"):
        with pytest.raises(outcome, match=r"^out/debian-cvm/golden\.json is not there; build it with"):
            getattr(unbuilt, name)
