"""Device-mapper tables of a JinDisk volume, for kernels that have that module; spec-only.

JinDisk is a target outside of Linux that encrypts, authenticates and keeps a volume fresh. Its on-disk format
is written by its module alone, so what is made here is a table for ``dmsetup create NAME`` and no volume. Key
and vector are not in it: whoever uses it puts them there, in a pipe and never in a file or an argument.

The module encrypts its superblock with the same key and vector each time that it writes it
(``superblock_write`` in ``kernel-module/c/src/metadata.c``). That is AES-GCM with a nonce used again: a host
that keeps two versions of the superblock can make a third (NIST SP 800-38D section 8).

Spec: jindisk (Linux 5.15 to 5.17) ``kernel-module/c/README.md`` and ``dm_jindisk_target_ctr``:
``jindisk <root_key> <root_iv> <dev> <action_flag>``. dmsetup passes over comments (LVM2 ``tools/dmsetup.c``,
``_parse_line``).
"""

from __future__ import annotations

from enum import IntEnum

from ..errors import FormatError

MODULE = "dm-jindisk"
KEY_SIZE = 16  # AES-128-GCM
IV_SIZE = 12
# What stands in the place of key and vector.
KEY_MARK, IV_MARK = "@KEY@", "@IV@"
_BLOCK_SECTORS = 8  # blocks of 4096 bytes


class Action(IntEnum):
    """What the target does with the device when it is made."""

    OPEN = 0
    FORMAT = 1


def table(sectors: int, device: str, action: Action) -> str:
    """The table, with words about it as comments.

    Args:
        sectors: of 512 bytes, that the mapped device has; whole blocks of 4096 bytes. The device under it
            needs more, for what the module keeps about the blocks.
        device: path of the device that holds the volume.

    Raises:
        FormatError: the size is wrong, or the path is none.
    """
    if sectors <= 0 or sectors % _BLOCK_SECTORS:
        raise FormatError("jindisk table", f"{sectors} sectors are not whole blocks of 4096 bytes")
    if not device.startswith("/") or any(letter.isspace() for letter in device):
        raise FormatError("jindisk table", f"{device!r} is no path of a device")
    does = "makes a new volume and wipes" if action is Action.FORMAT else "opens the volume on"
    return (
        "# spec-only: no kernel with the module was there to try it on\n"
        f"# it {does} {device}, which has to be larger than {sectors} sectors: write its sectors to\n"
        "# /sys/module/jindisk/calc_avail_sectors and read there what fits\n"
        f"# {KEY_MARK}: {2 * KEY_SIZE} hexadecimal digits, {IV_MARK}: {2 * IV_SIZE}; "
        "drawn for this volume and for no other\n"
        f"0 {sectors} jindisk {KEY_MARK} {IV_MARK} {device} {int(action)}\n"
    )
