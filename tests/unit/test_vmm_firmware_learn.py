from __future__ import annotations

import hashlib
import json
import lzma
from functools import lru_cache

import pytest

from recipes.errors import MeasureError
from recipes.formats.ovmf import measured_volumes
from recipes.vmm.firmware_learn import REGION_SIZE, diff_volume
from tests.support import VECTORS

NAME = "ovmf-2025.02-8+deb13u1.OVMF_CODE_4M.fd"


@lru_cache
def volume() -> bytes:
    code = lzma.decompress((VECTORS / "firmware" / f"{NAME}.xz").read_bytes())
    return measured_volumes(code, NAME)[0]


def memory(at: int, *changes: tuple[int, bytes]) -> bytes:
    """16 MiB of guest memory with the volume at an offset, and words of it changed."""
    data = bytearray(REGION_SIZE)
    data[at : at + len(volume())] = volume()
    for offset, value in changes:
        data[at + offset : at + offset + len(value)] = value
    return bytes(data)


def test_the_word_the_timer_library_writes_gives_the_digest_a_tpm_recorded() -> None:
    patches = diff_volume(volume(), memory(0x20000, (0x6E50, b"\x08\x06\0\0")))
    assert patches == ((0x6E50, b"\x08\x06\0\0"),)
    patched = bytearray(volume())
    for offset, word in patches:
        patched[offset : offset + 4] = word
    record = json.loads((VECTORS / "pcr" / "q35-512m-1cpu.json").read_text())
    events = [event for event in record["events"] if event["type"] == "EV_EFI_PLATFORM_FIRMWARE_BLOB"]
    assert hashlib.sha256(patched).hexdigest() == events[0]["sha256"]


def test_words_at_the_ends_and_beside_page_borders() -> None:
    last = len(volume()) - 4
    changes = [(0x48, b"abcd"), (0x1FFC, b"efgh"), (0x2000, b"ijkl"), (last, b"mnop")]
    assert diff_volume(volume(), memory(0x20000, *changes)) == tuple(changes)


def test_one_changed_byte_gives_its_whole_word() -> None:
    byte = bytes([volume()[0x5002] ^ 1])
    (found,) = diff_volume(volume(), memory(0x20000, (0x5002, byte)))
    assert found == (0x5000, volume()[0x5000:0x5002] + byte + volume()[0x5003:0x5004])


def test_a_volume_that_nobody_writes_to() -> None:
    assert diff_volume(volume(), memory(0x20000)) == ()


def test_a_volume_that_newer_firmware_puts_elsewhere() -> None:
    assert diff_volume(volume(), memory(0x30000, (8, b"\0\0\0\0"))) == ()
    assert diff_volume(volume(), memory(0x30000, (0x100, b"wxyz"))) == ((0x100, b"wxyz"),)


def test_a_volume_that_is_not_there() -> None:
    with pytest.raises(MeasureError) as caught:
        diff_volume(volume(), bytes(REGION_SIZE))
    assert str(caught.value) == (
        "firmware volume of 917504 bytes: is not in memory; is it from this firmware file?"
    )
