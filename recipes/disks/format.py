"""What a disk format is to the rest of the house, and which there are.

A format is one file of this folder with a tuple ``FORMATS``, or an object that another distribution names
under the entry point group ``goldsmith.disks``.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable
from uuid import UUID

from ..errors import FormatError, SpecError, suggestion
from ..units import align_up
from .source import Progress, RawDisk

GROUP = "goldsmith.disks"

# By the names that recipes use.
ANY_ARCHITECTURE = frozenset({"x86_64", "aarch64"})
ANY_FIRMWARE = frozenset({"uefi", "bios"})


@runtime_checkable
class DiskFormat(Protocol):
    """One way to write a disk."""

    @property
    def name(self) -> str:
        """As recipes say it, such as ``vhd``."""

    @property
    def suffix(self) -> str:
        """Of file names, with its dot."""

    @property
    def summary(self) -> str:
        """One line for people: what it is and who takes it."""

    @property
    def architectures(self) -> frozenset[str]:
        """Processors whose images its readers take."""

    @property
    def firmware(self) -> frozenset[str]:
        """``uefi`` and ``bios``: what boots from it where it is taken."""

    @property
    def max_size(self) -> int:
        """The largest disk, in bytes."""

    @property
    def alignment(self) -> int:
        """The disk is a multiple of this many bytes."""

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        """Writes the disk, grown to ``aligned_size``, to the empty seekable file ``out``.

        What is written depends on the bytes of the disk and on ``seed`` alone; zeros may be left as holes.

        Args:
            seed: a digest that is another one for another image; identifiers are derived from it.
            progress: called with bytes dealt with and bytes in all, now and then and at the end.

        Raises:
            FormatError: too large, or the raw image was changed while it was read.
        """


def registry() -> dict[str, DiskFormat]:
    """Every format there is by its name, in the order of the names.

    Raises:
        SpecError: an entry point cannot be loaded, is no format, or takes a name that is in use.
    """
    found: dict[str, DiskFormat] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)])):
        # Not by import statements: the formats import this module.
        loaded = importlib.import_module(f".{module}", __package__)
        found |= {item.name: item for item in getattr(loaded, "FORMATS", ())}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        if entry.name in found:
            raise SpecError(f"{_place(entry)}: there is a disk format of that name; choose another")
        found[entry.name] = _load(entry)
    return dict(sorted(found.items()))


def lookup(name: str) -> DiskFormat:
    """The format of that name.

    Raises:
        SpecError: there is none.
    """
    known = registry()
    if name not in known:
        raise SpecError(f"disk format {name!r} is not known{suggestion(name, known)}")
    return known[name]


def check_carries(disk_format: DiskFormat, *, architecture: str, firmware: str) -> None:
    """Returns if an image for that processor and firmware can be shipped in this format.

    Raises:
        SpecError: it cannot.
    """
    for what, asked, carried in (
        ("images for", architecture, disk_format.architectures),
        ("what boots with", firmware, disk_format.firmware),
    ):
        if asked not in carried:
            names = ", ".join(sorted(carried))
            text = f"disk format {disk_format.name}: does not carry {what} {asked}; it takes {names}"
            raise SpecError(f"{text}; choose another format")


def aligned_size(disk_format: DiskFormat, size: int) -> int:
    """Bytes of the disk that a raw image of ``size`` bytes becomes: rounded up to the format's alignment.

    Raises:
        FormatError: larger than the format can hold.
    """
    rounded = align_up(size, disk_format.alignment)
    if rounded > disk_format.max_size:
        what = f"a disk of {rounded} bytes is larger than {disk_format.max_size}, the most this format holds"
        raise FormatError(
            f"disk format {disk_format.name}", f"{what}; make it smaller or choose another format"
        )
    return rounded


def derived_bytes(seed: bytes, label: str, size: int) -> bytes:
    """Up to 32 bytes that are others for every seed and every label."""
    return hashlib.sha256(seed + b"\0goldsmith disk\0" + label.encode()).digest()[:size]


def derived_uuid(seed: bytes, label: str) -> UUID:
    """A UUID that is another one for every seed and every label. Spec: RFC 9562 section 5.8 (version 8)."""
    value = bytearray(derived_bytes(seed, label, 16))
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return UUID(bytes=bytes(value))


def _load(entry: EntryPoint) -> DiskFormat:
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise SpecError(f"{_place(entry)}: cannot be loaded ({error}); reinstall or remove it") from None
    if not isinstance(loaded, DiskFormat):
        what = f"{type(loaded).__name__} lacks a member of recipes.disks.format.DiskFormat"
        raise SpecError(f"{_place(entry)}: {what}; its author has to add it")
    if loaded.name != entry.name:
        what = f"the format calls itself {loaded.name!r}; both names have to be the same"
        raise SpecError(f"{_place(entry)}: {what}")
    return loaded


def _place(entry: EntryPoint) -> str:
    owner = f" of {entry.dist.name}" if entry.dist else ""
    return f"entry point {entry.name}{owner}"
