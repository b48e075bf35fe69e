"""The table of hashes that a VMM hands to SEV firmware: what it may boot, fixed before the launch.

Spec: QEMU 10.0 target/i386/sev.c, SevHashTable and build_kernel_loader_hashes().
"""

from __future__ import annotations

import hashlib
import struct

from ..errors import MeasureError
from ..formats.guid import guid_bytes
from ..formats.ovmf_footer import Area
from ..record import dataclass
from ..units import PAGE_SIZE, pad

# Spec: QEMU 10.0 target/i386/sev.c: sev_hash_table_header_guid and the three behind it.
_TABLE = guid_bytes("9438d606-4f22-4cc9-b479-a793d411fd21")
_CMDLINE = guid_bytes("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
_INITRD = guid_bytes("44baf731-3a2f-4bd7-9af1-41e29169781d")
_KERNEL = guid_bytes("4de79437-abd2-427f-b835-d5b172d2045b")
# Spec: QEMU 10.0 target/i386/sev.c, PaddedSevHashTable.
_ALIGNMENT = 16


_HEADER = struct.Struct("<16sH")  # (0) GUID, (16) size of all
_ENTRY = struct.Struct("<16sH32s")  # (0) GUID, (16) size of this, (18) SHA-256
_SIZE = _HEADER.size + 3 * _ENTRY.size
TABLE_SIZE = len(pad(bytes(_SIZE), _ALIGNMENT))
"""Bytes of the padded table, 176."""


@dataclass(frozen=True, kw_only=True)
class KernelHashes:
    """SHA-256 of what the firmware loads.

    Attributes:
        kernel: of the kernel file as it is.
        initrd: of the initrd file, or of nothing.
        cmdline: of the command line with its NUL.
    """

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    @classmethod
    def of(cls, kernel: bytes, initrd: bytes | None, cmdline: str) -> KernelHashes:
        """The hashes of a direct boot.

        Args:
            kernel: SHA-256 of the kernel file.
            initrd: SHA-256 of the initrd file, None without one.
            cmdline: the command line without its NUL.
        """
        return cls(
            kernel=kernel,
            initrd=hashlib.sha256().digest() if initrd is None else initrd,
            # Bytes that are no UTF-8 reach a process as surrogates.
            cmdline=hashlib.sha256(cmdline.encode("utf-8", "surrogateescape") + b"\0").digest(),
        )

    @property
    def table(self) -> bytes:
        """The table, padded to 176 bytes."""
        items = ((_CMDLINE, self.cmdline), (_INITRD, self.initrd), (_KERNEL, self.kernel))
        entries = b"".join(_ENTRY.pack(name, _ENTRY.size, value) for name, value in items)
        return pad(_HEADER.pack(_TABLE, _SIZE) + entries, _ALIGNMENT)

    def page(self, area: Area, source: str) -> bytes:
        """The page with the table in it, where the firmware looks for it.

        Raises:
            MeasureError: the area does not hold the table, or not in one page.
        """
        check_area(area, source)
        start = area.base % PAGE_SIZE
        return (bytes(start) + self.table).ljust(PAGE_SIZE, b"\0")


def check_area(area: Area, source: str) -> None:
    """Checks that the table has room where the firmware looks for it.

    Raises:
        MeasureError: it has not.
    """
    if area.size < TABLE_SIZE or area.base % PAGE_SIZE + TABLE_SIZE > PAGE_SIZE:
        what = f"its hashes table at {area.base:#x} has {area.size:#x} bytes"
        raise MeasureError(f"{source}: {what}; {TABLE_SIZE:#x} in one page are needed")
