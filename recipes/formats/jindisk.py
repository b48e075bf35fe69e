"""The device-mapper table of a JinDisk volume, for kernels that have that module; spec-only.

JinDisk is a target outside of Linux that encrypts, authenticates and keeps a volume fresh. The images made
here use LUKS2; who has the module in a kernel of their own can write this line instead, for
``dmsetup create NAME``. Key and initialisation vector stand in it, so it belongs in a pipe and never in a
command line or a log.

Spec: jindisk (Linux 5.17 branch) dm target constructor: ``jindisk <root_key> <root_iv> <dev> <action_flag>``,
as the command ``jindisksetup`` of its demo calls it.
"""

from __future__ import annotations

from enum import IntEnum

from ..errors import FormatError

KEY_SIZE = 16  # AES-128-GCM
IV_SIZE = 12
_BLOCK_SECTORS = 8  # blocks of 4096 bytes


class Action(IntEnum):
    """What the target does with the device when it is made."""

    OPEN = 0
    FORMAT = 1


def table_line(sectors: int, key: bytes, vector: bytes, device: str, action: Action) -> str:
    """The table's only line, without an end of line.

    Args:
        sectors: of 512 bytes, that the mapped device has; whole blocks of 4096 bytes.
        key: 16 bytes, another one for each volume: the superblock is always written with the same vector.
        vector: 12 bytes.
        device: path of the device that holds the volume.

    Raises:
        FormatError: a size is wrong, or the path is none.
    """
    if sectors <= 0 or sectors % _BLOCK_SECTORS:
        raise FormatError("jindisk table", f"{sectors} sectors are not whole blocks of 4096 bytes")
    for name, value, size in (("key", key, KEY_SIZE), ("vector", vector, IV_SIZE)):
        if len(value) != size:
            raise FormatError("jindisk table", f"{name} of {len(value)} bytes, expected {size}")
    if not device.startswith("/") or any(letter.isspace() for letter in device):
        raise FormatError("jindisk table", f"{device!r} is no path of a device")
    return f"0 {sectors} jindisk {key.hex()} {vector.hex()} {device} {int(action)}"
