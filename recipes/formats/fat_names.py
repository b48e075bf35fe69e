"""Names and times in FAT directories: 8.3 names, their case bits, and VFAT long names.

Spec: fatgen103, sections "FAT Directory Structure" and "FAT Long Directory Entries"; the case bits in byte 12
are those of Windows NT, read by edk2 (FatPkg/EnhancedFatDxe, FatGetFileNameViaCaseFlag) and Linux.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import FormatError
from .fat_layout import ATTRIBUTE_LONG_NAME, SPEC, LongNameEntry

CASE_LOWER_BASE = 0x08
CASE_LOWER_EXTENSION = 0x10
LONG_NAME_LIMIT = 255
_LAST_LONG = 0x40
_UNITS_PER_ENTRY = 13

# What neither kind of name can hold.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f"*/:<>?\\|]')
_SHORT = re.compile(r"([A-Za-z0-9$%'\-_@~`!(){}^#&]{1,8})(?:\.([A-Za-z0-9$%'\-_@~`!(){}^#&]{1,3}))?")
_NOT_SHORT = re.compile(r"[^A-Z0-9$%'\-_@~`!(){}^#&]")

# The first second and the last day that a FAT date can say.
_EPOCH_MIN = int(dt.datetime(1980, 1, 1, tzinfo=dt.UTC).timestamp())
_EPOCH_MAX = int(dt.datetime(2107, 12, 31, 23, 59, 59, tzinfo=dt.UTC).timestamp())


@dataclass(frozen=True)
class Timestamp:
    """A point in time as FAT stores it, in UTC; ``tenth`` counts 10 ms within two seconds."""

    date: int
    time: int
    tenth: int


@dataclass(frozen=True)
class StoredName:
    """A name as a directory stores it: 11 bytes, case bits, and the long name where those cannot say it."""

    short: bytes
    case: int
    long: str = ""

    def long_entries(self) -> list[bytes]:
        """The long name entries that stand before the short one, in that order."""
        if not self.long:
            return []
        encoded = self.long.encode("utf-16-le")
        units = len(encoded) // 2
        if units % _UNITS_PER_ENTRY:
            # A NUL ends the name unless it fills its last entry; all ones follow.
            encoded = (encoded + b"\0\0").ljust(-(-units // _UNITS_PER_ENTRY) * _UNITS_PER_ENTRY * 2, b"\xff")
        count = len(encoded) // (2 * _UNITS_PER_ENTRY)
        checksum = short_checksum(self.short)
        entries = []
        for number in range(count, 0, -1):
            part = encoded[(number - 1) * 26 : number * 26]
            entry = LongNameEntry(
                order=number | (_LAST_LONG if number == count else 0),
                name1=part[:10],
                attributes=ATTRIBUTE_LONG_NAME,
                type=0,
                checksum=checksum,
                name2=part[10:22],
                first_cluster=0,
                name3=part[22:],
            )
            entries.append(entry.pack())
        return entries


def timestamp(epoch: int) -> Timestamp:
    """A time in seconds since 1970; what lies before 1980 becomes 1980-01-01, the first day that FAT knows.

    Raises:
        FormatError: after 2107, the last year that FAT knows.
    """
    if epoch > _EPOCH_MAX:
        raise FormatError("fat", f"time {epoch} lies after 2107, the last year of a FAT date", spec=SPEC)
    when = dt.datetime.fromtimestamp(max(epoch, _EPOCH_MIN), tz=dt.UTC)
    return Timestamp(
        date=(when.year - 1980) << 9 | when.month << 5 | when.day,
        time=when.hour << 11 | when.minute << 5 | when.second // 2,
        tenth=when.second % 2 * 100,
    )


def check_name(name: str, where: str) -> None:
    """Refuses a path component that FAT or UEFI cannot hold.

    Raises:
        FormatError: empty, a dot name, too long, with forbidden characters or not Unicode text.
    """
    if not name or name in {".", ".."}:
        raise FormatError(where, f"name {name!r} is not a file name")
    found = _FORBIDDEN.search(name)
    if found:
        raise FormatError(
            where, f"name {name!r} has {found[0]!r}, which FAT cannot store; rename it", spec=SPEC
        )
    if name[-1] in ". " or name[0] == " ":
        raise FormatError(
            where, f"name {name!r} starts or ends with a space or ends with a dot; rename it", spec=SPEC
        )
    try:
        units = len(name.encode("utf-16-le")) // 2
    except UnicodeEncodeError:
        raise FormatError(where, f"name {name!r} is not Unicode text; rename it") from None
    if units > LONG_NAME_LIMIT:
        what = f"name of {units} UTF-16 units, at most {LONG_NAME_LIMIT} fit; shorten it"
        raise FormatError(where, what, spec=SPEC)


def store_names(names: Sequence[str]) -> list[StoredName]:
    """How the names of one directory are stored, in the order given.

    Names that fit 8.3 keep themselves; the others get a numbered alias that none of the former has.
    """
    stored: dict[str, StoredName] = {}
    for name in names:
        found = _fitting(name)
        if found:
            stored[name] = found
    # An alias must not be what another file is called either, in whatever case.
    taken = {_pad(match[1], match[2] or "") for name in names if (match := _SHORT.fullmatch(name))}
    for name in names:
        if name not in stored:
            short = _alias(name, taken)
            taken.add(short)
            stored[name] = StoredName(short, 0, name)
    return [stored[name] for name in names]


def _fitting(name: str) -> StoredName | None:
    match = _SHORT.fullmatch(name)
    if match is None:
        return None
    base, extension = match[1], match[2] or ""
    case = 0
    for part, bit in ((base, CASE_LOWER_BASE), (extension, CASE_LOWER_EXTENSION)):
        if part != part.upper():
            if part != part.lower():
                return None
            case |= bit
    return StoredName(_pad(base, extension), case)


def _alias(name: str, taken: set[bytes]) -> bytes:
    """The first free ``NAME~1.EXT``. Spec: fatgen103, "The Basis-Name Generation Algorithm"."""
    head, _, tail = name.lstrip(".").rpartition(".")
    base, extension = (head, tail) if head else (tail, "")
    base = _NOT_SHORT.sub("_", base.replace(" ", "").replace(".", "").upper()) or "_"
    extension = _NOT_SHORT.sub("_", extension.replace(" ", "").upper())[:3]
    number = 1
    while True:
        suffix = f"~{number}"
        short = _pad(base[: min(6, 8 - len(suffix))] + suffix, extension)
        if short not in taken:
            return short
        number += 1


def _pad(base: str, extension: str) -> bytes:
    return base.upper().encode("ascii").ljust(8) + extension.upper().encode("ascii").ljust(3)


def short_checksum(short: bytes) -> int:
    """The checksum that ties long entries to their short one: rotate right, add. Spec: fatgen103, ChkSum."""
    total = 0
    for byte in short:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total


def short_to_text(short: bytes, case: int) -> str:
    """The name that a short entry says, case bits applied; code page 437, which is Linux's default."""
    # 0x05 stands for 0xe5, which in the first place would mean a deleted entry.
    data = b"\xe5" + short[1:] if short[:1] == b"\x05" else short
    base = data[:8].decode("cp437").rstrip(" ")
    extension = data[8:].decode("cp437").rstrip(" ")
    if case & CASE_LOWER_BASE:
        base = base.lower()
    if case & CASE_LOWER_EXTENSION:
        extension = extension.lower()
    return f"{base}.{extension}" if extension else base


def join_long(entries: Sequence[LongNameEntry], short: bytes, fail: Callable[[str], FormatError]) -> str:
    """The long name of entries in the order they are stored.

    Raises:
        FormatError: made by ``fail``; they are out of order, belong to another short name, or are no text.
    """
    expected = [len(entries) | _LAST_LONG, *range(len(entries) - 1, 0, -1)]
    orders = [entry.order for entry in entries]
    if orders != expected:
        raise fail(f"long name entries are numbered {orders}, expected {expected}")
    checksum = short_checksum(short)
    if any(entry.checksum != checksum for entry in entries):
        raise fail(f"a long name entry does not belong to the short name {short!r}")
    encoded = b"".join(entry.name1 + entry.name2 + entry.name3 for entry in reversed(entries))
    units = [encoded[start : start + 2] for start in range(0, len(encoded), 2)]
    length = units.index(b"\0\0") if b"\0\0" in units else len(units)
    if any(unit != b"\xff\xff" for unit in units[length + 1 :]):
        raise fail("a long name goes on behind its end")
    try:
        return b"".join(units[:length]).decode("utf-16-le")
    except UnicodeDecodeError:
        raise fail("a long name is not UTF-16") from None
