"""Kernel files that have the header of a bzImage and nothing that runs, put together by hand."""

from __future__ import annotations

import struct

from tests.unit.sev_firmware import stream


def bzimage(
    *,
    protocol: int = 0x20F,
    setup_sects: int = 4,
    xloadflags: int = 0x3,
    initrd_max: int = 0x7FFF_FFFF,
    loadflags: int = 0x1,
    body: int = 0x3001,
    magic: bytes = b"HdrS",
) -> bytes:
    """A file with ``body`` bytes behind its setup part; what is not said looks random."""
    setup = bytearray(stream("setup", ((setup_sects or 4) + 1) * 512))
    setup[0x1F1] = setup_sects
    setup[0x202:0x206] = magic
    struct.pack_into("<H", setup, 0x206, protocol)
    setup[0x211] = loadflags
    struct.pack_into("<I", setup, 0x22C, initrd_max)
    struct.pack_into("<H", setup, 0x236, xloadflags)
    # No list of further set-up data.
    struct.pack_into("<Q", setup, 0x250, 0)
    return bytes(setup) + stream("body", body)
