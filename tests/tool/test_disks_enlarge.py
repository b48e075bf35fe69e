"""A disk that was enlarged to ship, judged by tools that complain about a backup in the wrong place."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.disks.enlarge import open_disk, shipped
from recipes.disks.format import lookup
from recipes.disks.source import RawDisk
from recipes.formats import gpt
from recipes.units import GIB, MIB
from tests.tool.test_gpt import DISK, PLANS, judge, write

pytestmark = pytest.mark.tool


@pytest.mark.parametrize("more", [512, 16 * 1024, MIB, GIB])
def test_other_tools_find_nothing_to_mend(tmp_path: Path, more: int) -> None:
    write(gpt.lay_out(DISK, PLANS), tmp_path / "raw")
    with (tmp_path / "raw").open("rb") as file, (tmp_path / "made").open("wb") as out:
        disk = RawDisk.of("raw", file)
        grown = shipped(disk, disk.size + more)
        lookup("raw").write(grown, out, seed=b"")
        table = gpt.read(open_disk(grown), "grown")
    assert (tmp_path / "made").stat().st_size == (tmp_path / "raw").stat().st_size + more
    judge(table, tmp_path / "made")


def test_they_do_complain_about_a_disk_that_was_merely_enlarged(tmp_path: Path) -> None:
    """Or else the test above would show nothing."""
    write(gpt.lay_out(DISK, PLANS), tmp_path / "raw")
    with (tmp_path / "raw").open("r+b") as file:
        file.truncate(file.seek(0, 2) + MIB)
        table = gpt.read(file, "raw")
    with pytest.raises(AssertionError):
        judge(table, tmp_path / "raw")
