from __future__ import annotations

import pytest

from recipes.errors import FormatError
from recipes.formats.jindisk import Action, table_line

KEY, VECTOR = bytes(range(16)), bytes(range(0xF0, 0xFC))


def test_the_line_is_the_one_of_the_module() -> None:
    # `0 SECTORS jindisk KEY IV DEVICE FLAG`, 32 and 24 hexadecimal digits, 1 to format and 0 to open.
    words = "jindisk 000102030405060708090a0b0c0d0e0f f0f1f2f3f4f5f6f7f8f9fafb /dev/vda3"
    assert table_line(2048, KEY, VECTOR, "/dev/vda3", Action.FORMAT) == f"0 2048 {words} 1"
    assert table_line(8, KEY, VECTOR, "/dev/vda3", Action.OPEN) == f"0 8 {words} 0"


@pytest.mark.parametrize(
    ("sectors", "key", "vector", "device", "message"),
    [
        (0, KEY, VECTOR, "/dev/a", "0 sectors are not whole blocks of 4096 bytes"),
        (2047, KEY, VECTOR, "/dev/a", "2047 sectors are not whole blocks of 4096 bytes"),
        (8, KEY[1:], VECTOR, "/dev/a", "key of 15 bytes, expected 16"),
        (8, KEY, KEY, "/dev/a", "vector of 16 bytes, expected 12"),
        (8, KEY, VECTOR, "dev/a", "'dev/a' is no path of a device"),
        (8, KEY, VECTOR, "/dev/a 1", "'/dev/a 1' is no path of a device"),
    ],
)
def test_what_is_no_line(sectors: int, key: bytes, vector: bytes, device: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        table_line(sectors, key, vector, device, Action.OPEN)
    assert str(caught.value) == f"jindisk table: {message}"
    assert key.hex() not in str(caught.value)
