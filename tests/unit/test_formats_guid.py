"""GUIDs beside the standard library's."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.formats.guid import guid_bytes, guid_text


@settings(max_examples=100)
@given(st.uuids())
def test_same_bytes(value: UUID) -> None:
    assert guid_bytes(str(value)) == value.bytes_le
    assert guid_text(value.bytes_le) == str(value)
