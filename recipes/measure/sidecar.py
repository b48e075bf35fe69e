r"""The archives that systemd-stub makes of files beside a UKI: credentials and extensions.

Two folders count: ``<uki>.extra.d`` and, for credentials, ``\loader\credentials`` of the same file system.

Spec: systemd 257 src/boot/stub.c (generate_sidecar_initrds, generate_embedded_initrds), src/boot/cpio.c
(pack_cpio, pack_cpio_literal).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from stat import S_IFDIR, S_IFREG

from ..formats.cpio import CpioEntry, pack_entries
from .trace import Measured, measured

# Longest name the stub takes. Spec: systemd 257 src/boot/cpio.c pack_cpio.
_NAME_MAX = 255
_DIRECTORY_MODE = 0o555
_FILE_MODE = 0o444


@dataclass(frozen=True)
class SideFile:
    """A file of a folder that the stub looks into; its name is without the folder."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Archive:
    """One archive: how the log calls it, the PCR that records it, its bytes and their digests."""

    description: str
    pcr: int
    data: bytes
    content: Measured


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """Which files of a folder become one archive; suffixes count without regard to case."""

    description: str
    pcr: int
    suffix: str
    excluded: str | None = None
    directory: str
    directory_mode: int = _DIRECTORY_MODE
    file_mode: int = _FILE_MODE


# Spec: systemd 257 src/boot/stub.c generate_sidecar_initrds; PCR numbers: src/fundamental/tpm2-pcr.h.
_CREDENTIALS = _Rule(
    description="Credentials initrd",
    pcr=12,
    suffix=".cred",
    directory=".extra/credentials",
    directory_mode=0o500,
    file_mode=0o400,
)
_GLOBAL_CREDENTIALS = _Rule(
    description="Global credentials initrd",
    pcr=12,
    suffix=".cred",
    directory=".extra/global_credentials",
    directory_mode=0o500,
    file_mode=0o400,
)
_SYSTEM_EXTENSIONS = _Rule(
    description="System extension initrd",
    pcr=13,
    suffix=".raw",
    excluded=".confext.raw",
    directory=".extra/sysext",
)
_CONFIGURATION_EXTENSIONS = _Rule(
    description="Configuration extension initrd", pcr=12, suffix=".confext.raw", directory=".extra/confext"
)

# Sections that are handed on as files of /.extra, in the order of their archives. Spec: systemd 257
# src/boot/stub.c generate_embedded_initrds and the INITRD_* order.
_EMBEDDED = (
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
    (".osrel", "os-release"),
    (".profile", "profile"),
)


def archives(extra: Sequence[SideFile], global_credentials: Sequence[SideFile]) -> tuple[Archive, ...]:
    r"""The archives that are made, in the order they are measured and handed on; empty ones are not made.

    Args:
        extra: files of ``<uki>.extra.d``.
        global_credentials: files of ``\loader\credentials``.

    Raises:
        FormatError: a file is too large for an archive.
    """
    rules = (
        (_CREDENTIALS, extra),
        (_GLOBAL_CREDENTIALS, global_credentials),
        (_SYSTEM_EXTENSIONS, extra),
        (_CONFIGURATION_EXTENSIONS, extra),
    )
    chosen = ((rule, select(files, rule.suffix, rule.excluded)) for rule, files in rules)
    return tuple(_archive(rule, files) for rule, files in chosen if files)


def embedded_archives(sections: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """One archive for each of the sections ``.pcrsig .pcrpkey .osrel .profile`` that is there, in that order.

    They extend no PCR of their own but are part of the initrd that PCR 9 records.

    Args:
        sections: names and contents.
    """
    found = dict(sections)
    for section, name in _EMBEDDED:
        if section in found:
            yield _newc(".extra", _DIRECTORY_MODE, [SideFile(name, found[section])], _FILE_MODE)


def select(files: Iterable[SideFile], suffix: str, excluded: str | None = None) -> list[SideFile]:
    """The files the stub takes, sorted by name: hidden, non-ASCII and very long names are passed over."""
    return sorted(
        (
            file
            for file in files
            if file.name.lower().endswith(suffix)
            and not (excluded and file.name.lower().endswith(excluded))
            and not file.name.startswith(".")
            and file.name.isascii()
            and len(file.name) <= _NAME_MAX
        ),
        key=lambda file: file.name,
    )


def _archive(rule: _Rule, files: Sequence[SideFile]) -> Archive:
    data = _newc(rule.directory, rule.directory_mode, files, rule.file_mode)
    return Archive(rule.description, rule.pcr, data, measured(data))


def _newc(directory: str, directory_mode: int, files: Sequence[SideFile], file_mode: int) -> bytes:
    """Directories from the top, then the files; numbered from 1, owned by root, without times."""
    parts = directory.split("/")
    names = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    modes = [S_IFDIR | _DIRECTORY_MODE] * (len(names) - 1) + [S_IFDIR | directory_mode]
    members = [CpioEntry(name=name, mode=mode) for name, mode in zip(names, modes, strict=True)]
    members += [
        CpioEntry(name=f"{directory}/{each.name}", data=each.data, mode=S_IFREG | file_mode) for each in files
    ]
    return pack_entries([_numbered(member, number) for number, member in enumerate(members, start=1)])


def _numbered(entry: CpioEntry, number: int) -> CpioEntry:
    return CpioEntry(name=entry.name, data=entry.data, mode=entry.mode, ino=number)
