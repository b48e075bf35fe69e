"""QEMU's fw_cfg device: its directory, its DMA commands and the memory map in it.

Spec: QEMU 7.2 docs/specs/fw_cfg.txt; hw/i386/e820_memory_layout.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Annotated, Protocol

from ..binary import Struct, raw, u16, u32, u64
from ..errors import FormatError

FILE_DIRECTORY = 0x19
"""Selector of the list of files (FW_CFG_FILE_DIR)."""

MAX_FILES = 4096
MAX_FILE = 16 << 20
E820_RAM = 1


class DmaControl(IntFlag):
    """Bits of the control word; the upper half is the selector when SELECT is set."""

    ERROR = 1
    READ = 2
    SKIP = 4
    SELECT = 8
    WRITE = 16


class DmaAccess(Struct, endian=">"):
    """A DMA command (FWCfgDmaAccess)."""

    control: u32
    length: u32
    address: u64


class FileEntry(Struct, endian=">"):
    """An entry of the directory (FWCfgFile)."""

    size: u32
    select: u16
    reserved_0x06: u16
    name: Annotated[bytes, raw(56)]


class E820Entry(Struct):
    """A range of the memory map (struct e820_entry)."""

    address: u64
    length: u64
    type: u32


class FwCfg(Protocol):
    """Access to the device, by whatever reaches it."""

    def read(self, selector: int, size: int) -> bytes:
        """The first ``size`` bytes of an item."""

    def write(self, selector: int, data: bytes) -> None:
        """Overwrites the beginning of an item."""


@dataclass(frozen=True)
class FwCfgFiles:
    """The files of a fw_cfg device, by name."""

    device: FwCfg
    entries: tuple[tuple[str, FileEntry], ...]

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FormatError: there is none of that name, or it is unbelievably large.
        """
        entry = self._entry(name)
        return self.device.read(entry.select, entry.size)

    def write(self, name: str, data: bytes) -> None:
        """Overwrites a file that the guest may write; ``data`` has the file's size.

        Raises:
            FormatError: there is none of that name, or its size differs.
        """
        entry = self._entry(name)
        if entry.size != len(data):
            raise FormatError("fw_cfg", f"{name} holds {entry.size} bytes, not {len(data)}")
        self.device.write(entry.select, data)

    def __contains__(self, name: str) -> bool:
        return any(name == known for known, _ in self.entries)

    def _entry(self, name: str) -> FileEntry:
        for known, entry in self.entries:
            if known == name:
                if entry.size > MAX_FILE:
                    raise FormatError("fw_cfg", f"{name} has {entry.size} bytes; at most {MAX_FILE} are read")
                return entry
        raise FormatError("fw_cfg", f"there is no file {name}; this QEMU does not offer it")


def read_directory(device: FwCfg) -> FwCfgFiles:
    """The files the device offers.

    Raises:
        FormatError: the directory is malformed.
    """
    count = int.from_bytes(device.read(FILE_DIRECTORY, 4), "big")
    if count > MAX_FILES:
        raise FormatError("fw_cfg", f"{count} files in the directory; at most {MAX_FILES} are read")
    data = device.read(FILE_DIRECTORY, 4 + count * FileEntry.SIZE)
    entries = []
    for number in range(count):
        entry = FileEntry.unpack(data, 4 + number * FileEntry.SIZE, source="fw_cfg directory")
        name, end, _ = entry.name.partition(b"\0")
        if not end or not name.isascii():
            raise FormatError(
                "fw_cfg directory", f"entry {number} has no ASCII name that ends in a zero byte"
            )
        entries.append((name.decode("ascii"), entry))
    return FwCfgFiles(device, tuple(entries))


def parse_e820(data: bytes) -> tuple[E820Entry, ...]:
    """The memory map of ``etc/e820``.

    Raises:
        FormatError: not a whole number of entries.
    """
    if len(data) % E820Entry.SIZE:
        raise FormatError("etc/e820", f"{len(data)} bytes are not a multiple of {E820Entry.SIZE}")
    return tuple(
        E820Entry.unpack(data, offset, source="etc/e820") for offset in range(0, len(data), E820Entry.SIZE)
    )
