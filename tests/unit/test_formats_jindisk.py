from __future__ import annotations

import pytest

from recipes.errors import FormatError
from recipes.formats.jindisk import Action, table

COMMENTS = """\
# spec-only: no kernel with the module was there to try it on
# it {does} /dev/vda3, which has to be larger than 2048 sectors: write its sectors to
# /sys/module/jindisk/calc_avail_sectors and read there what fits
# @KEY@: 32 hexadecimal digits, @IV@: 24; drawn for this volume and for no other
"""


@pytest.mark.parametrize(
    ("action", "flag", "does"),
    [(Action.FORMAT, 1, "makes a new volume and wipes"), (Action.OPEN, 0, "opens the volume on")],
)
def test_the_line_is_the_one_of_the_module(action: Action, flag: int, does: str) -> None:
    # `0 SECTORS jindisk KEY IV DEVICE FLAG`: 1 to format and 0 to open.
    line = f"0 2048 jindisk @KEY@ @IV@ /dev/vda3 {flag}\n"
    assert table(2048, "/dev/vda3", action) == COMMENTS.format(does=does) + line


@pytest.mark.parametrize(
    ("sectors", "device", "message"),
    [
        (0, "/dev/a", "0 sectors are not whole blocks of 4096 bytes"),
        (2047, "/dev/a", "2047 sectors are not whole blocks of 4096 bytes"),
        (8, "dev/a", "'dev/a' is no path of a device"),
        (8, "/dev/a 1", "'/dev/a 1' is no path of a device"),
    ],
)
def test_what_is_no_table(sectors: int, device: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        table(sectors, device, Action.OPEN)
    assert str(caught.value) == f"jindisk table: {message}"
